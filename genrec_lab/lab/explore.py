"""Stages 03 and 04: maps of the residuals, how alike the codes of similar items are, and the explorer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
import torch
from joblib import Parallel, cpu_count, delayed
from safetensors.numpy import load_file

from genrec_lab.codes import CodesError, IndexFile, ItemCodes, read_index_files
from genrec_lab.codes.identified import Identified, read_identified
from genrec_lab.data import Dataset
from genrec_lab.decoding import score_items
from genrec_lab.evaluation import code_health, neighbour_code_overlap
from genrec_lab.evaluation.significance import per_user
from genrec_lab.lab.adapt import load_adapted
from genrec_lab.lab.chain import tasks_of
from genrec_lab.lab.evaluate import EVALUATION, interactions, load_rankings, ranked_users
from genrec_lab.lab.files import RunError
from genrec_lab.lab.prepare import load_prepared
from genrec_lab.lab.rows import ALL, Facts, decodes_in_steps, facts_of, lead_row, pretrained_on, served
from genrec_lab.lab.store import Run, Task, Work, existing_run
from genrec_lab.lab.tokenise import (
    codes_task,
    load_codes_by_epoch,
    load_identified,
    load_row_tokenizer,
    load_vectors,
    text_task,
    tokenizer_owners,
    tokenizer_tasks,
)
from genrec_lab.models.tokenizers import find_tokenizer
from genrec_lab.viz import theme
from genrec_lab.viz.explorer import (
    BeamTree,
    CodedCatalogue,
    Decoded,
    Exactly,
    ExplorerState,
    RunRecords,
    beam_tree,
    code_survey,
    collisions,
)
from genrec_lab.viz.explorer.published import Codes, Items, Vectors, open_codes
from genrec_lab.viz.explorer.widget import Explained, Explorer, still
from genrec_lab.viz.layout import MAX_POINTS
from genrec_lab.viz.live import has_front_end, in_kernel
from genrec_lab.viz.meaning import Decoder, Kept
from genrec_lab.viz.projection import Method, Projection, project_residuals, stratified_sample
from genrec_lab.viz.stories import watch_beams

_MOST_SCORED = 50_000  # items that are all scored for one user in a moment
MAPPING, EXPLORING = "03_residual_atlas", "04_codebook_explorer"
_MAPS: tuple[Method, ...] = ("tsne", "umap")
_MOST_ITEMS = 5_000  # t-SNE takes about 25 s a level for these
_NEIGHBOURS = (1, 2, 5, 10, 20, 50)
_QUERIES = 2_000  # items of a domain whose neighbours are looked up
_BETWEEN_CODES = " · "
_USUAL = 256  # items whose prefixes say how likely a word is anyway


@dataclass(frozen=True)
class Atlas:
    """What stage 03 found out about the run's own tokenizer, and about the others."""

    tsne: Projection
    umap: Projection
    overlap: pl.DataFrame  # tokenizer, domain, k, overlap, items: GMC Figure 4


def atlas_tasks(facts: Facts) -> list[Task]:
    """What stage 03 makes: a map by t-SNE, one by UMAP, and code overlaps of near items."""
    return list(_atlas(facts).values()) if facts.generative and facts.has_texts else []


def _atlas(facts: Facts) -> dict[str, Task]:
    row = next(iter(facts.generative))
    inputs = {"data": facts.data, "codes": codes_task(facts, row), "text": text_task(facts)}
    found = {"maps": Task(MAPPING, "maps", _map, {"seed": facts.run.seed}, inputs)}
    owners = dict.fromkeys(codes_task(facts, name).row for name in facts.generative)
    all_codes = {name: codes_task(facts, name) for name in owners}
    overlap_inputs = {"text": inputs["text"], "codes": all_codes}
    overlap = {"ks": _NEIGHBOURS, "seed": facts.run.seed}
    found["overlap"] = Task(MAPPING, "overlap", _overlap, overlap, overlap_inputs)
    return found


def map_residuals(run: Run) -> Atlas:
    """Map the residuals of every level by t-SNE and UMAP, compare tokenizers by Figure 4, write all of it."""
    for task in atlas_tasks(facts_of(run)):
        run.make(task)
    return load_atlas(run)


def load_atlas(run: Run) -> Atlas:
    """Read what stage 03 wrote."""
    tasks = _atlas(facts_of(run))
    folder = run.read(tasks["maps"])
    maps = {method: Projection.read(folder / f"{method}.parquet") for method in _MAPS}
    overlap = pl.read_parquet(run.read(tasks["overlap"]) / "neighbour_overlap.parquet")
    return Atlas(maps["tsne"], maps["umap"], overlap)


def _map(work: Work, seed: int, data: Path, codes: Path, text: Path) -> None:
    own = read_identified(codes, {})
    seen = own.residuals if own.quantises else load_file(text / "vectors.safetensors")["vectors"][:, None]
    domains = Dataset.read(data / "dataset").items["domain"].to_list()
    size = min(_MOST_ITEMS, MAX_POINTS // own.raw.levels)
    # Side by side: UMAP compiles and runs on one core for about as long as t-SNE takes.
    maps = Parallel(n_jobs=min(len(_MAPS), cpu_count()))(
        delayed(project_residuals)(seen, domains, method=method, size=size, seed=seed, cache=work.scratch)
        for method in _MAPS
    )
    if not own.quantises:  # one map of the texts, the same for every level
        maps = [replace(one, coordinates=one.coordinates.repeat(own.raw.levels, 1)) for one in maps]
    for method, projection in zip(_MAPS, maps, strict=True):
        projection.write(work.folder / f"{method}.parquet")


def _overlap(work: Work, ks: tuple[int, ...], seed: int, text: Path, codes: Mapping[str, Path]) -> None:
    vectors = load_file(text / "vectors.safetensors")["vectors"]
    raw = {name: ItemCodes.read(folder / "raw_codes.parquet") for name, folder in codes.items()}
    neighbour_overlaps(vectors, raw, seed, tuple(ks)).write_parquet(work.folder / "neighbour_overlap.parquet")


def neighbour_overlaps(
    vectors: np.ndarray, raw: Mapping[str, ItemCodes], seed: int = 0, ks: tuple[int, ...] = _NEIGHBOURS
) -> pl.DataFrame:
    """Codes that items share with their nearest items, by tokenizer, domain and k (GMC 5.4.2, Figure 4).

    Codes are those before the conflict policy, of the first levels that all tokenizers have: an appended
    level or a longer identifier would change the share for reasons that have nothing to do with similarity.
    Every k below a domain's number of items is measured.
    """
    levels = min(codes.levels for codes in raw.values())
    parts = []
    for name, codes in raw.items():
        for domain in codes.domain_names:
            items = codes.domain_items(domain)
            if possible := [k for k in ks if k < len(items)]:
                names, compared = [domain] * len(items), codes.codes[items, :levels]
                found = neighbour_code_overlap(vectors[items], compared, possible, names, _QUERIES, seed)
                parts.append(found.select(pl.lit(name).alias("tokenizer"), pl.all()))
    return pl.concat(parts)


def explorer_state(
    run: Run, method: str | None = None, other: Run | None = None, other_method: str | None = None
) -> ExplorerState:
    """Open a method's tokenizer, by default the run's own, and compare it with another if one is named.

    other: a second run, or None for the same one; other_method: a method of it. Only the data and the
    tokenizers must exist; the views say what other stages have not written yet. Raises RunError naming the
    notebook to run.
    """
    second = None
    given = [f"existing_run({run.name!r})", repr(method)]
    if other is not None or other_method is not None:
        second = coded_catalogue(other or run, other_method)
        given += [f"existing_run({other.name!r})" if other is not None else "None", repr(other_method)]
    source = (
        "from genrec_lab.lab import existing_run, explorer_state, watched_beam\n\n"
        f"state = explorer_state({', '.join(given)})"
    )
    own, rankings = load_identified(run, method), load_rankings(run) if _is_made(run, EVALUATION) else None
    atlas = load_atlas(run) if _is_made(run, MAPPING) else None
    records = RunRecords(
        epochs=own.epochs,
        codes_by_epoch=partial(load_codes_by_epoch, run, method),
        sizes=own.raw.sizes,
        neighbours=None if atlas is None else atlas.overlap,
        recommended={} if rankings is None else dict(rankings.items),
        users=None if rankings is None else rankings.users,
        settings=_settings(run, method),
        others=lru_cache(partial(_measured, run)),
        run={"run": run.name, **run.parameters},
        folder=run.folder,
        decode=describer(run, method),
    )
    state = ExplorerState(coded_catalogue(run, method), second, records=records, source=source)
    if atlas is not None and method in (None, lead_row(run)):
        state.maps = {"t-SNE": atlas.tsne, "UMAP": atlas.umap}
    if rankings is not None:

        def watch(chosen: str, row: int) -> tuple[BeamTree, str]:
            line = f"state.watch_beam(watched_beam(existing_run({run.name!r}), {chosen!r}, {row!r}))"
            return watched_beam(run, chosen, row), line

        state.watcher = watch
        state.watchable = tuple(row for row in facts_of(run).generative if decodes_in_steps(run, row))
    return state


def explore(
    run_or_codes: Run | Codes | ExplorerState,
    items: Items | Run | None = None,
    vectors: Vectors | None = None,
    *,
    other: Run | Codes | None = None,
    sizes: Sequence[int] | None = None,
    method: str | None = None,
    other_method: str | None = None,
    mode: theme.Mode | None = None,
) -> Explorer | go.Figure | Explained:
    """Open the explorer on a run or on anybody's codes, or on two to compare; a cell's last line shows it.

    run_or_codes: a run, its name, a state of `explorer_state`, or codes as of `open_codes`, to which items,
    vectors and sizes belong. other: a second run, or beside codes a second set of codes of the same items;
    a second run may also be given as `items`. Without a front end (papermill, nbval) it returns the figure of
    its first view. With one, a run that cannot be opened yet becomes a sentence that names the notebook to
    run, otherwise a RunError, so that a chain stops. The other arguments are those of `explorer_state`; mode:
    None follows the theme of the page.

    >>> from genrec_lab.lab import open_run, prepare_data, train_tokenizers
    >>> small, random = {"name": "bazaar", "items": 300}, {"tokenizer.kind": "random"}
    >>> run = open_run("random", dataset=small, preset="gmc_tiny", overrides=random)
    >>> data, codes = prepare_data(run), train_tokenizers(run)
    gmc_tiny: collision rate ...
    >>> explorer = explore(run)
    """
    if isinstance(items, Run):
        other, items = items, None
    try:
        rows = {"method": method, "other": other, "other_method": other_method}
        state, notes = opened_state(run_or_codes, items, vectors, sizes, **rows)
    except RunError as error:
        if in_kernel() and has_front_end():
            return Explained(str(error))
        raise
    for note in notes:
        print(f"NOTE: {note}")
    if in_kernel() and not has_front_end():
        print(f"This kernel has no front end, so a figure replaces the explorer of {state.catalogue.name}.")
        return still(state, mode or "light")
    return Explorer(state, mode=mode)


def opened_state(
    run_or_codes: Run | Codes | ExplorerState,
    items: Items | None = None,
    vectors: Vectors | None = None,
    sizes: Sequence[int] | None = None,
    **rows: Any,
) -> tuple[ExplorerState, Sequence[str]]:
    """Return the state of a run or of anybody's codes, and notes on what was left out; see `explore`."""
    if isinstance(run_or_codes, ExplorerState):
        return run_or_codes, ()
    if isinstance(run_or_codes, str) and not Path(run_or_codes).is_file() and not Path(run_or_codes).suffix:
        run_or_codes = existing_run(run_or_codes)
    other = rows.get("other")
    if other is not None and isinstance(other, Run) != isinstance(run_or_codes, Run):
        raise ValueError(f"other is a {type(other).__name__}; compare a run with a run, and codes with codes")
    if isinstance(run_or_codes, Run):
        given = {"items": items, "vectors": vectors, "sizes": sizes}
        if unused := [name for name, value in given.items() if value is not None]:
            raise ValueError(f"{unused[0]} is given with a run, which has its own; leave it out")
        return explorer_state(run_or_codes, **rows), ()
    if rows.get("method"):
        raise ValueError(f"row {rows['method']!r} is given with codes; only a run has rows, so leave it out")
    found = open_codes(run_or_codes, items, vectors, sizes=sizes, other=other)
    return found.state, found.notes


def _settings(run: Run, method: str | None) -> dict[str, Any]:
    """The settings of the run's own tokenizer and identifiers by their keys in `overrides`."""
    if method not in (None, run.config.name):
        return {}
    parts = {"tokenizer": run.config.tokenizer, "identifiers": run.config.identifiers}
    return {f"{name}.{key}": one for name, part in parts.items() for key, one in part.model_dump().items()}


def _measured(run: Run) -> dict[str, tuple[dict[str, Any], dict[str, float]]]:
    """For each run on the same data in the same folder: its settings, and measures of codes and rankings."""
    found = {}
    for folder in sorted(run.folder.parent.iterdir()):
        try:
            other = existing_run(folder.name, run.folder.parent)
            if other.dataset != run.dataset:
                continue
            codes = load_identified(other, None).raw
            health = code_health(codes.codes, codes.known_sizes, codes.domains)
            measures = {"collisions": health.collision_rate}
            if not codes.unknown_levels:
                measures["dead codes"] = float(sum(health.dead))
            if _is_made(other, EVALUATION):
                rankings, row = load_rankings(other), other.config.name
                measures["NDCG@10"] = float(per_user(rankings, row, "ndcg", 10).mean())
        except (RunError, ValueError, KeyError):  # not a run, not far enough yet, or it cannot be opened
            continue
        found[other.name] = (_settings(other, None), measures)
    return found


def survey_tasks(facts: Facts) -> list[Task]:
    """What stage 04 makes: every code of the run's own tokenizer with its use, and all collisions."""
    rows = facts.generative
    if not rows:
        return []
    row = next(iter(rows))
    inputs: dict[str, Any] = {"data": facts.data, "codes": codes_task(facts, row)}
    if facts.has_texts:
        inputs["text"] = text_task(facts)
    given = {"books": len(tokenizer_tasks(facts, row)), "seed": facts.run.seed}
    return [Task(EXPLORING, "survey", _survey, given, inputs)]


def survey_codes(run: Run) -> pl.DataFrame:
    """Write every code of the run's own tokenizer with its use, and every ambiguous identifier.

    Returns the codes, a frame as of `code_survey`.
    """
    (task,) = survey_tasks(facts_of(run))
    return pl.read_parquet(run.make(task) / "codes.parquet")


def _survey(work: Work, books: int, seed: int, data: Path, codes: Path, text: Path | None = None) -> None:
    vectors = None if text is None else load_file(text / "vectors.safetensors")["vectors"]
    own = read_identified(codes, {str(number): [] for number in range(books)})
    catalogue = _catalogue("survey", Dataset.read(data / "dataset"), own, vectors, seed)
    code_survey(catalogue).write_parquet(work.folder / "codes.parquet")
    collisions(catalogue).frame().write_parquet(work.folder / "collisions.parquet")


def _is_made(run: Run, stage: str) -> bool:
    tasks = tasks_of(run, stage) or []
    return bool(tasks) and all(run.state(task).usable for task in tasks)


def coded_catalogue(run: Run, method: str | None = None) -> CodedCatalogue:
    """Read the items of a run with the codes that a method's tokenizer gave them before any policy."""
    vectors = load_vectors(run) if facts_of(run).has_texts else None
    name = f"{run.name} · {method or lead_row(run)}"
    return _catalogue(name, load_prepared(run).dataset, load_identified(run, method), vectors, run.seed)


def _catalogue(
    name: str, dataset: Dataset, own: Identified, vectors: np.ndarray | None, seed: int
) -> CodedCatalogue:
    items = dataset.items
    return CodedCatalogue(
        name,
        own.comparable_codes(),
        items["title"].to_list(),
        traffic=interactions(dataset.sequences, dataset),
        residuals=own.residuals if own.quantises else None,
        codewords=_codewords(own),
        vectors=vectors,
        images=items["image"].to_list(),
        keys=items["key"].to_list(),
        books=own.tokenizers,
        seed=seed,
    )


def watched_beam(run: Run, method: str, row: int, beams: int = 10) -> BeamTree:
    """Search for one test user, by row of `ranked_users`, and keep what the beam held at each level."""
    users = ranked_users(run)
    if not 0 <= row < users.height:
        raise ValueError(f"row: {row}, the test part has users 0..{users.height - 1}")
    user = users.row(row, named=True)
    model = load_adapted(run, method, user["domain"])
    dataset = load_prepared(run).dataset
    steps = watch_beams(model, dataset, user["history"], user["domain"], beams)
    steps = steps.with_columns(pl.col("prefix").str.split(_BETWEEN_CODES).cast(pl.List(pl.Int64)))
    levels = steps.partition_by("level", maintain_order=True)
    prefixes, scores = ([one[name].to_list() for one in levels] for name in ("prefix", "log_probability"))
    examples = {tuple(prefix): title for prefix, title in steps.select("prefix", "example").iter_rows()}
    target = model.codes.codes[user["target"]].tolist()
    tree = beam_tree(prefixes, scores, target, _way_of(model, user["history"], target), examples)
    own = model.codes.domain_items(user["domain"])
    named = dict(zip(map(tuple, model.codes.codes[own].tolist()), own.tolist(), strict=True))
    last = tree.nodes.filter(pl.col("level") == model.codes.levels).sort("rank")
    results = tuple(named[tuple(map(int, prefix.split()))] for prefix in last["prefix"])
    exactly = _exactly(model, user, tree.target, results)
    history = tuple(user["history"])
    return replace(tree, history=history, target_item=user["target"], results=results, exactly=exactly)


def _exactly(
    model: Any, user: Mapping[str, Any], target: tuple[int, ...], results: Sequence[int]
) -> Exactly | None:
    """Rank all items of a user's domain, where that takes a moment; see `Exactly`."""
    trie, codes = model.trie(user["domain"]), model.codes.codes
    if len(trie.items) > _MOST_SCORED:
        return None
    items, scores = np.sort(trie.items), score_items(model, [user["history"]], trie)[0]
    # Items with one identifier are one place, so identifiers are compared.
    best = list(map(tuple, codes[items[np.argsort(-scores, kind="stable")]].tolist()))
    found = {*best[: len(results)]}.intersection(map(tuple, codes[list(results)].tolist()))
    return Exactly(best.index(target) + 1, len(best), len(found), len(results))


@torch.inference_mode()
def _way_of(model: Any, history: list[int], target: list[int]) -> list[float]:
    """The log-probabilities of a target's prefixes of 1, 2, … codes."""
    memory, sums, total = model.remember([history]), [], 0.0
    for level, code in enumerate(target):
        total += float(model.continuations(memory, torch.tensor([target[:level]], dtype=torch.long))[0, code])
        sums.append(total)
    return sums


def _codewords(own: Identified) -> list[np.ndarray] | None:
    """By level (K, d); the codebooks of tokenizers trained a domain each one below the other.

    None if a code has no one codeword: the codes quantise nothing, or differ from prefix to prefix.
    """
    if not own.quantises or own.prefixed is not None:
        return None
    if own.tokenizers == 1:
        return list(next(iter(own.codebooks.values())))
    stacked = [own.codebooks[domain] for domain in own.raw.domain_names]
    return [np.concatenate(of_level) for of_level in zip(*stacked, strict=True)]


def has_decoders(run: Run) -> bool:
    """Whether the run's own tokenizer can restore content from codes, as UTGRec's can."""
    return find_tokenizer(run.config.tokenizer.kind).decodes


def told_items(run: Run, number: int = 4) -> list[int]:
    """A seeded choice of items, stratified by domain, that the tokenizer of stage 02 knows from training."""
    dataset, config = load_prepared(run).dataset, run.config
    known = pretrained_on if config.transfer.pretrain_tokenizer else served
    items = dataset.items.filter(pl.col("domain").is_in(known(config, dataset.domains)))
    chosen = stratified_sample(items["domain"].to_list(), number, run.seed)
    return [int(item) for item in items["item"].gather(chosen)]


def what_codes_keep(run: Run, items: Sequence[int], seed: int) -> Kept:
    """Decode the first 1, 2, ... L codes of some items with the run's own tokenizer; see `Decoder.keep`.

    Raises ValueError for a tokenizer without decoders, and for items of domains that it does not serve.
    """
    if not has_decoders(run):
        raise ValueError(
            f"{run.config.name} has a tokenizer of kind {run.config.tokenizer.kind!r}, which has no decoder "
            "of words and pictures; use a preset of UTGRec's"
        )
    config, dataset, chosen = run.config, load_prepared(run).dataset, np.asarray(items, dtype=np.int64)
    scope, targets = ALL, served(config, dataset.domains)
    if not config.transfer.pretrain_tokenizer:
        domains = sorted(set(dataset.items["domain"].gather(chosen.tolist())))
        if len(domains) != 1 or domains[0] not in targets:
            raise ValueError(
                f"items: they belong to {domains}, but this run trains a tokenizer for each of "
                f"{list(targets)} alone; choose items of one of these"
            )
        scope = domains[0]
    codes = load_identified(run, config.name).raw.codes[chosen]
    return _decoder(run, scope).keep(dataset.items[chosen], codes, seed)


def describer(run: Run, method: str | None = None) -> Callable[[tuple[int, ...]], Decoded] | None:
    """A function that tells what a prefix means to a row's decoders; None for a row without decoders.

    Prefixes are those of `Identified.comparable_codes`. Tokenizers are read on first use.
    """
    if method not in (None, run.config.name) or not has_decoders(run):
        return None
    own = load_identified(run, method)
    scopes = list(own.epochs) if own.tokenizers == 1 else own.raw.domain_names
    of_scope = lru_cache(partial(_decoder, run))

    def describe(prefix: tuple[int, ...]) -> Decoded:
        # Tokenizers that were trained apart have a range of codes each.
        place = prefix[0] // own.raw.sizes[0] if own.tokenizers > 1 else 0
        within = [code - place * size for code, size in zip(prefix, own.raw.sizes, strict=False)]
        return of_scope(scopes[place]).describe(within, run.seed)

    return describe


def _decoder(run: Run, scope: str) -> Decoder:
    """The decoders of the run's own tokenizer of all domains, or of one."""
    dataset, config = load_prepared(run).dataset, run.config
    domains = pretrained_on(config, dataset.domains) if scope == ALL else (scope,)
    known = np.flatnonzero(dataset.items["domain"].is_in(list(domains)).to_numpy())
    if len(known) > _USUAL:
        known = np.random.default_rng(run.seed).choice(known, _USUAL, replace=False)
    codes = torch.from_numpy(load_identified(run, config.name).raw.codes[known])
    return Decoder(load_row_tokenizer(run, config.name, scope), codes, dataset.items["text"])


def codes_of_same_items(run: Run) -> dict[str, ItemCodes]:
    """The codes of each tokenizer of a run before any policy, and those of `reference_codes`, where named.

    Without references: of all items of the run. With them: of the domain whose items the files name, by the
    items' own keys; its tokenizers are called "this run: …". Raises CodesError if no domain fits.
    """
    own = {name: load_identified(run, name) for name in dict.fromkeys(tokenizer_owners(run).values())}
    if not run.config.reference_codes:
        return {name: one.comparable_codes() for name, one in own.items()}
    dataset, references = load_prepared(run).dataset, read_index_files(run.config.reference_codes)
    domain = _domain_named(dataset, references)
    items = dataset.domain_items(domain)
    keys = dataset.items["key"].gather(items).to_list()
    found = {name: one.of_items(keys) for name, one in references.items()}
    # A domain's own numbers: ranges of codes that only other domains can have would all be dead here.
    return found | {f"this run: {name}": one.raw.select(items) for name, one in own.items()}


def _domain_named(dataset: Dataset, references: Mapping[str, IndexFile]) -> str:
    """The domain with just the items of all files, or else the only one whose items are all among them."""
    named = [set(one.keys) for one in references.values()]
    keys = {domain: set(dataset.items.filter(domain=domain)["key"]) for domain in dataset.domains}
    equal = [domain for domain, own in keys.items() if all(own == there for there in named)]
    within = [domain for domain, own in keys.items() if all(own <= there for there in named)]
    for domains in (equal, within):
        if len(domains) == 1:
            return domains[0]
    there = {name: len(one.keys) for name, one in references.items()}
    here = {domain: len(own) for domain, own in keys.items()}
    raise CodesError(
        f"reference_codes: files of {there} items fit none of the domains {here}, or fit several equally "
        "well; give identifiers of all items of one domain, under the ids of its data files"
    )
