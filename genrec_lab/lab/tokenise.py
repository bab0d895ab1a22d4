"""Stage 02: from item texts to vectors, codes and unique identifiers, for every generative row of the run.

For each row and scope (all domains, or one) a tokenizer is fitted, and for each row the codes of all items
are put together and made unique. Rows with the same settings share both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from genrec_lab.codes import CONFLICT_POLICIES, IdentifierConfig, ItemCodes, PrefixCodewords
from genrec_lab.codes.identified import Identified, of_domains, read_identified
from genrec_lab.data import Dataset
from genrec_lab.encoders import ENCODERS, TEXT_ENCODERS, encode_texts, text_encoder
from genrec_lab.encoders.content import content_of
from genrec_lab.encoders.given import VECTOR_FILES, read_vectors
from genrec_lab.encoders.picture_features import encode_pictures
from genrec_lab.lab.files import RunError, require_known, safe_name
from genrec_lab.lab.prepare import data_files
from genrec_lab.lab.results import differences, listed, read_records, write_records
from genrec_lab.lab.rows import ALL, Facts, facts_of, lead_row, pretrained_on, scopes, served
from genrec_lab.lab.store import Run, Task, Work, existing_run
from genrec_lab.models.recommenders.base import with_accepted
from genrec_lab.models.tokenizers import ItemContent, Tokenizer, checked_codes, find_tokenizer
from genrec_lab.models.tokenizers.base import require_codes
from genrec_lab.presets import MethodConfig
from genrec_lab.training import processes

TOKENIZING = "02_tokenizer_training"
_VECTORS, _FOUND, _EPOCHS = "vectors.safetensors", "found.safetensors", "codes_by_epoch.safetensors"
# What must be equal, for the weights of a pre-trained run to fit into another one's.
_OF_THE_WEIGHTS = {"content", "tokenizer", "recommender"}


def tokenizing_tasks(facts: Facts) -> list[Task]:
    """What stage 02 makes: text vectors, every row's tokenizers, and its codes."""
    tasks = [text_task(facts)] if facts.reads_text_vectors else []
    for row in facts.generative:
        tasks += [*tokenizer_tasks(facts, row).values(), codes_task(facts, row)]
    return list({task.place: task for task in tasks}.values())


def text_task(facts: Facts) -> Task:
    """The vectors of all item texts as a task."""
    text = facts.config.text
    read = _read_files(facts, getattr(text, "file", None), getattr(text, "keys", None))
    components = (TEXT_ENCODERS.find(text.kind),)
    return Task(TOKENIZING, "text", _encode, {"text": text, **read}, {"data": facts.data}, components)


def _read_files(facts: Facts, *named: object) -> dict[str, Any]:
    """What files that settings name hold, as an argument of a task; nothing if they name none."""
    paths = {
        f"{place} {domain}": name.replace("{domain}", domain)
        for place, name in enumerate(named)
        if isinstance(name, str) and name
        for domain in facts.domains
    }
    files = data_files(paths, facts.run.base)
    return {"files": files} if files else {}


def tokenizer_tasks(facts: Facts, row: str) -> dict[str, Task]:
    """The tokenizers of a row as tasks, by scope: "all", or a domain."""
    return _listed(facts)[row][0]


def codes_task(facts: Facts, row: str) -> Task:
    """The codes of all items by a row's tokenizers as a task."""
    return _listed(facts)[row][1]


def _listed(facts: Facts) -> dict[str, tuple[dict[str, Task], Task]]:
    """By row its tokenizers and its codes; rows with the same settings share those of the first one."""
    if TOKENIZING not in facts.tasks:
        known: list[Task] = []
        found = {}
        for row, config in facts.generative.items():
            tasks = _tokenizers_of(facts, row, config)
            fitted = {scope: task.first_equal(known) for scope, task in tasks.items()}
            identifiers = config.identifiers
            if config.tokenizer_class.keeps_identifiers:
                kept: dict[str, Any] = {"policy": getattr(config.tokenizer, "policy", "none"), "options": {}}
                identifiers = identifiers.model_copy(update=kept)
            given = {"identifiers": identifiers, "seed": facts.run.seed}
            policy = CONFLICT_POLICIES.find(identifiers.policy)
            inputs = {"data": facts.data, "tokenizers": fitted}
            codes = Task(TOKENIZING, f"{row}/codes", _identify, given, inputs, (policy,), row)
            found[row] = fitted, codes.first_equal(known)
        facts.tasks[TOKENIZING] = found
    return dict(facts.tasks[TOKENIZING])


def _tokenizers_of(facts: Facts, row: str, config: MethodConfig) -> dict[str, Task]:
    start, components = pretrained_run(facts.run, config), components_of(config)
    asked = {name: getattr(config, name) for name in config.tokenizer_class.settings}
    given: dict[str, Any] = {"tokenizer": config.tokenizer, "settings": asked}
    inputs: dict[str, Any] = {"data": facts.data}
    if start is not None and config.transfer.pretrain_tokenizer:
        inputs["of_start"] = tokenizer_tasks(facts_of(start), start.config.name)[ALL].belonging_to(start)
        return {ALL: Task(TOKENIZING, f"{row}/tokenizers/{ALL}", _take_over, given, inputs, components, row)}
    if facts.has_texts:
        inputs["text"] = text_task(facts)
    trained_on = _trained_on(config, facts)
    covered = {domain for domains in trained_on.values() for domain in domains}
    # items of no scope are named by the first one
    others = tuple(domain for domain in facts.domains if domain not in covered)
    given |= {"pictures": config.pictures, "seed": facts.run.seed}
    given |= _read_files(facts, getattr(config.tokenizer, "file", None), config.pictures)
    found: dict[str, Task] = {}
    for scope, domains in trained_on.items():
        name = f"{row}/tokenizers/{scope if scope == ALL else safe_name(scope)}"
        own = {**given, "domains": domains, "others": others if not found else ()}
        found[scope] = Task(TOKENIZING, name, _fit, own, inputs, components, row, scope)
    return found


def components_of(config: MethodConfig) -> tuple[Any, ...]:
    """What a row's tokenizer looks up by name: its class, and the encoder that it reads content by."""
    tokenizer = config.tokenizer_class
    encoders = (ENCODERS.find(config.content.kind),) if "content" in tokenizer.settings else ()
    return (tokenizer, *encoders)


def _trained_on(config: MethodConfig, facts: Facts) -> dict[str, tuple[str, ...]]:
    """Over which domains a row's tokenizers are trained, by scope."""
    transfers = config.tokenizer_class.transfers
    if transfers and config.transfer.pretrain_tokenizer:
        return {ALL: pretrained_on(config, facts.domains)}
    if transfers or config.codebooks == "separate":
        return scopes(served(config, facts.domains), separate=True)
    return scopes(facts.domains, separate=False)


def train_tokenizers(run: Run) -> dict[str, Identified]:
    """Encode the texts, train each row's tokenizers, resolve conflicts, write all; return it by row."""
    facts = facts_of(run)
    for row, config in facts.generative.items():
        check_items_suffice(config, facts, row)  # before the texts are encoded, which takes long
    for task in tokenizing_tasks(facts):
        run.make(task)
    return {row: load_identified(run, row) for row in facts.generative}


def load_identified(run: Run, row: str | None = None) -> Identified:
    """Read a row's identifiers, by default those of the row that is looked at when none is named."""
    facts, name = facts_of(run), row or lead_row(run)
    require_known(name, facts.generative, f"Run {run.name!r} has no tokenizer for row", "it has those of")
    tasks = tokenizer_tasks(facts, name)
    epochs = {scope: read_records(run.read(task), "epochs") for scope, task in tasks.items()}
    return read_identified(run.read(codes_task(facts, name)), epochs)


def load_codes_by_epoch(run: Run, row: str | None = None) -> dict[int, ItemCodes]:
    """Read the codes that a row's items had after some epochs of training, as in `comparable_codes`.

    Of several tokenizers, only the epochs that all of them kept; empty if one of them kept none. Items that
    no tokenizer was trained on have their final codes.
    """
    name, facts = row or lead_row(run), facts_of(run)
    files = [run.read(task) / _EPOCHS for task in tokenizer_tasks(facts, name).values()]
    if not all(file.is_file() for file in files):
        return {}
    own, parts = load_identified(run, name), [load_file(file) for file in files]
    trained = np.concatenate([part["items"] for part in parts])
    found = {}
    for epoch in sorted(set.intersection(*(set(part) for part in parts)) - {"items"}, key=int):
        codes = own.raw.codes.copy()
        kept = [{"items": part["items"], "codes": part[epoch]} for part in parts]
        codes[trained] = _assembled(kept, len(codes))[0][trained]
        found[int(epoch)] = replace(own, raw=replace(own.raw, codes=codes)).comparable_codes()
    return found


def tokenizer_owners(run: Run) -> dict[str, str]:
    """Return for each generative row the first one whose codes it shares, having the same settings."""
    facts = facts_of(run)
    return {row: codes_task(facts, row).row for row in facts.generative}


def load_row_tokenizer(run: Run, row: str, scope: str) -> Tokenizer:
    """Read a row's tokenizer of a scope: "all", or a domain."""
    facts = facts_of(run)
    folder = run.read(tokenizer_tasks(facts, row)[scope])
    return facts.generative[row].load_tokenizer(folder / "tokenizer")


def load_vectors(run: Run) -> np.ndarray:
    """Read the text vectors (N, D) of all items; raises RunError if stage 02 had none to encode."""
    facts = facts_of(run)
    if not facts.reads_text_vectors:
        raise RunError(f"Run {run.name!r} has no text vectors: no item has a text, or no row reads them.")
    return load_file(run.read(text_task(facts)) / _VECTORS)["vectors"]


def compare_policies(run: Run, own: Identified) -> pl.DataFrame:
    """What each conflict policy would make of a tokenizer's codes, one row per policy.

    Frame `policy, moved, cost, displaced, left_by_sinkhorn, levels, vocabulary, collision_rate`: the first
    four and `left_by_sinkhorn`, its `unsolved`, come from `Resolution`, the others from the identifiers
    afterwards. Sinkhorn uses the run's settings.
    """
    rows = []
    for policy in CONFLICT_POLICIES:
        config = run.config.identifiers.model_copy(update={"policy": policy, "options": {}})
        found = own.raw.resolve_with_cost(config, own.residuals, own.last_codewords, run.seed)
        rows.append({
            "policy": policy, "moved": found.moved, "cost": float(found.cost), "displaced": found.displaced,
            "left_by_sinkhorn": found.unsolved, "levels": found.codes.levels,
            "vocabulary": found.codes.vocabulary_size, "collision_rate": found.codes.collision_rate(),
        })  # fmt: skip
    return pl.DataFrame(rows)


def pretrained_run(run: Run, config: MethodConfig) -> Run | None:
    """The run that `transfer.start` names, by its name beside this one or by its folder; None where unnamed.

    Raises RunError if there is none, its tokenizer cannot be transferred, or a size differs.
    """
    named = config.transfer.start
    if named is None:
        return None
    if not find_tokenizer(config.tokenizer.kind).transfers:
        if config.name != run.config.name:
            return None
        raise RunError(
            f"transfer.start is {named!r}, but the tokenizer of preset {config.name!r} cannot encode the "
            "items of other runs; leave it out."
        )
    folder = run.base / Path(named).expanduser() if "/" in named else run.folder.parent / named
    if not (folder / "manifest.json").is_file():
        raise RunError(f"transfer.start is {named!r}, but there is no run in {folder}; run that one first.")
    if folder.resolve() == run.folder.resolve():
        raise RunError(f"transfer.start is {named!r}, which is this run; name the run that was pre-trained.")
    start = existing_run(folder.name, folder.parent)
    ours, theirs = (one.model_dump(mode="json", include=_OF_THE_WEIGHTS) for one in (config, start.config))
    if found := differences(theirs, ours):
        raise RunError(
            f"{config.name} cannot start from run {named!r}, whose weights have other sizes "
            f"({listed(found)}). Give both runs the same preset and overrides."
        )
    return start


def check_items_suffice(config: MethodConfig, facts: Facts, row: str) -> None:
    """Raise ValueError if a row has more codes a level to place than there are items."""
    size = config.tokenizer_class.least_items(config.tokenizer)
    for scope, domains in _trained_on(config, facts).items():
        items = sum(facts.items[domain] for domain in domains)
        if size > items:
            raise ValueError(
                f"tokenizer.codebook_size of {row!r} is {size}, but {scope!r} has only {items} items; "
                f"set overrides={{'tokenizer.codebook_size': {items}}} or less"
            )


# -- the tasks -----------------------------------------------------------------------------------------------


def _encode(work: Work, text: Any, data: Path, files: Mapping[str, Any] | None = None) -> None:
    """Turn the texts of all items into vectors, or read vectors that were given; files: what is read."""
    items = Dataset.read(data / "dataset").items
    if hasattr(TEXT_ENCODERS.find(text.kind), "of_items"):
        vectors = text_encoder(text).of_items(items)
    else:
        with processes.first_one_first():
            vectors = encode_texts(items["text"].to_list(), text, cache=work.cache / "text")
    save_file({"vectors": vectors}, work.folder / _VECTORS)


def _fit(
    work: Work,
    tokenizer: Any,
    settings: Mapping[str, Any],
    pictures: str,
    domains: Sequence[str],
    others: Sequence[str],
    seed: int,
    data: Path,
    text: Path | None = None,
    files: Mapping[str, Any] | None = None,  # what the tokenizer reads, by its content
) -> None:
    """Fit a tokenizer on the items of some domains, and write their codes and those of `others`."""
    dataset = Dataset.read(data / "dataset")
    vectors = load_file(text / _VECTORS)["vectors"] if text is not None else None
    if pictures != "none":
        beside = picture_vectors(dataset, pictures, work.cache)
        vectors = beside if vectors is None else np.concatenate([vectors, beside], axis=1)
    content = ItemContent.from_dataset(dataset, vectors, cache=work.cache, title=work.title)
    names = dataset.items["domain"].to_numpy()
    own = np.flatnonzero(np.isin(names, list(domains)))
    model = find_tokenizer(tokenizer.kind)(tokenizer, **settings)
    with work.curves(work.title, len(own)) as curves:
        with_accepted(model.fit, content.select(own), seed=seed, on_epoch=curves, checkpoint=work.scratch)
    model.save(work.folder / "tokenizer")
    write_records(work.folder, "epochs", [dict(record) for record in model.epochs])
    if model.codes_by_epoch:
        source = f"{type(model).__name__} kept of an epoch the"
        kept = {
            str(int(epoch)): require_codes(np.asarray(codes), own, model.sizes, source).astype(np.int32)
            for epoch, codes in model.codes_by_epoch.items()
        }
        _save({"items": own, **kept}, work.folder / _EPOCHS)
    _write_found(work, model, content, own, np.flatnonzero(np.isin(names, list(others))))


def _take_over(work: Work, tokenizer: Any, settings: Mapping[str, Any], data: Path, of_start: Path) -> None:
    """Let the tokenizer that another run pre-trained name all items; its training's records come with it."""
    dataset = Dataset.read(data / "dataset")
    model = find_tokenizer(tokenizer.kind).load(of_start / "tokenizer", **settings)
    model.save(work.folder / "tokenizer")
    write_records(work.folder, "epochs", read_records(of_start, "epochs"))
    content = ItemContent.from_dataset(dataset, None, cache=work.cache, title=work.title)
    _write_found(work, model, content, np.arange(dataset.n_items), np.empty(0, dtype=np.int64))


def _write_found(
    work: Work, model: Tokenizer, content: ItemContent, own: np.ndarray, others: np.ndarray
) -> None:
    """Write the codes and residuals of a tokenizer's items, of others that it names, and its codebooks."""
    transfers = bool(len(others)) and model.transfers
    items = np.sort(np.concatenate([own, others])) if transfers else own
    codes, residuals = checked_codes(model, content.select(items))[:2]
    if len(others) and not transfers:
        print(
            f"{work.title}: also gives codes to items of domains in which nothing is recommended", flush=True
        )
        more = model.tokenize_unserved(content.select(others))
        items, codes = np.concatenate([items, others]), np.concatenate([codes, more.codes])
        if residuals is not None:
            residuals = np.concatenate([residuals, more.residuals])
    tensors = {"items": items, "codes": codes, "sizes": np.asarray(model.sizes, dtype=np.int64)}
    if residuals is not None:
        tensors["residuals"] = residuals.astype(np.float32)
    tensors |= _tensors(model.codebooks, "codebooks/", "")
    # safetensors writes several entries in an order drawn by chance, and equal results are equal files
    flags = {"alike": list(model.alike), "refines": bool(model.refines)}
    flags["unknown_levels"] = list(model.unknown_levels)
    _save(tensors, work.folder / _FOUND, {"flags": json.dumps(flags)})


def _identify(
    work: Work, identifiers: IdentifierConfig, seed: int, data: Path, tokenizers: Mapping[str, Path]
) -> None:
    """Put the codes of a row's tokenizers together, make them unique, and write everything."""
    names = Dataset.read(data / "dataset").items["domain"].to_list()
    found = {scope: load_file(folder / _FOUND) for scope, folder in tokenizers.items()}
    with safe_open(next(iter(tokenizers.values())) / _FOUND, framework="numpy") as file:
        flags = json.loads(file.metadata()["flags"])
    codes, residuals = _assembled(list(found.values()), len(names))
    sizes = _sizes(list(found.values()), codes)
    nowhere = [np.zeros((size, 0), dtype=np.float32) for size in sizes]  # of codes without codewords
    books = {scope: _books(of_scope) or nowhere for scope, of_scope in found.items()}
    if ALL not in books:
        books = {name: books.get(name, next(iter(books.values()))) for name in dict.fromkeys(names)}
    levels = len(sizes)
    # Levels that all mean the same stay so where identifiers of one scope are longer than those of another.
    all_alike = len(flags["alike"]) == len(next(iter(found.values()))["sizes"])
    alike = range(levels) if all_alike else flags["alike"]
    raw = ItemCodes(codes, sizes, names, alike, flags["unknown_levels"])
    resolution = raw.resolve_with_cost(identifiers, residuals, of_domains(books, raw), seed)
    # By domain: what a domain's own tokenizer makes of other domains' items says nothing of it.
    rates = (f"{name} {raw.subset(name).collision_rate():.2%}" for name in raw.domain_names)
    print(f"{work.title}: collision rate {', '.join(rates)}; {resolution}", flush=True)
    raw.write(work.folder / "raw_codes.parquet")
    resolution.codes.write(work.folder / "codes.parquet")
    tensors = {"residuals": residuals}
    for scope, of_scope in books.items():
        tensors |= _tensors(of_scope, f"codebooks/{scope}/", f"prefixed/{scope}/")
    _save(tensors, work.folder / "quantised.safetensors")
    cost = {key: getattr(resolution, key) for key in ("policy", "moved", "cost", "displaced", "unsolved")}
    content = {**cost, "summary": str(resolution), "refines": flags["refines"]}
    (work.folder / "resolution.json").write_text(json.dumps(content, indent=2))


def _tensors(books: Any, of_levels: str, of_prefixes: str) -> dict[str, np.ndarray]:
    """Codebooks as tensors by name, those that differ from prefix to prefix under another one."""
    if isinstance(books, PrefixCodewords):
        return {f"{of_prefixes}paths": books.paths, f"{of_prefixes}vectors": books.vectors}
    return {f"{of_levels}{level}": book for level, book in enumerate(books)}


def _save(tensors: Mapping[str, np.ndarray], file: Path, about: dict[str, str] | None = None) -> None:
    save_file({name: np.ascontiguousarray(one) for name, one in tensors.items()}, file, about)


def picture_vectors(dataset: Dataset, model: Any, cache: Path) -> np.ndarray:
    """Return the vectors (N, D) of all items' pictures by a model, zeros without one, or those of a file."""
    if str(model).endswith(VECTOR_FILES):
        return read_vectors(model, dataset.items)
    with processes.first_one_first():
        return encode_pictures(content_of(dataset), model, cache=cache / "pictures")


def _books(found: Mapping[str, np.ndarray]) -> list[np.ndarray] | PrefixCodewords:
    if "paths" in found:
        return PrefixCodewords(found["paths"], found["vectors"], int(found["sizes"][-1]))
    levels = [name for name in found if name.startswith("codebooks/")]
    return [found[f"codebooks/{level}"] for level in range(len(levels))]


def _assembled(parts: Sequence[Mapping[str, np.ndarray]], n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N, L) and residuals (N, L, d) of all items, from those of the items of each scope.

    Where identifiers of one scope are shorter than those of another, as P5-CID's may be, they get codes of 0
    before their last one, which is their number among the items of a cluster.
    """
    levels = max(part["codes"].shape[1] for part in parts)
    widths = [part["residuals"].shape[2] for part in parts if "residuals" in part]
    codes = np.zeros((n_items, levels), dtype=np.int64)
    residuals = np.zeros((n_items, levels, max(widths, default=0)), dtype=np.float32)
    for part in parts:
        items, of_scope = part["items"], part["codes"]
        codes[items, : of_scope.shape[1] - 1] = of_scope[:, :-1]
        codes[items, -1] = of_scope[:, -1]
        if "residuals" in part:
            residuals[items, : part["residuals"].shape[1]] = part["residuals"]
    return codes, residuals


def _sizes(parts: Sequence[Mapping[str, np.ndarray]], codes: np.ndarray) -> tuple[int, ...]:
    """The number of codes of each level: the largest of all scopes, or of the codes in use."""
    sizes = codes.max(axis=0) + 1
    for part in parts:
        own = part["sizes"]
        sizes[: len(own) - 1] = np.maximum(sizes[: len(own) - 1], own[:-1])
        sizes[-1] = max(sizes[-1], own[-1])
    return tuple(sizes.tolist())
