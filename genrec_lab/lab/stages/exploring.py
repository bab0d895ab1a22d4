"""What the codebook explorer shows of a run: everything that its finished stages hold, and a user's beam."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import polars as pl
import torch

from genrec_lab.data import Dataset
from genrec_lab.lab.files import RunError
from genrec_lab.lab.stages.adapting import load_adapted
from genrec_lab.lab.stages.evaluating import EVALUATION, load_rankings, ranked_users
from genrec_lab.lab.stages.mapping import MAPPING, comparable_codes, load_atlas
from genrec_lab.lab.stages.meaning import teller
from genrec_lab.lab.stages.preparing import PREPARATION, load_prepared
from genrec_lab.lab.stages.rows import generative_rows, has_texts, lead_row
from genrec_lab.lab.stages.stories import watch_beams
from genrec_lab.lab.stages.tokenizing import TOKENIZING, Identified, load_identified, load_vectors
from genrec_lab.lab.store import Run
from genrec_lab.models.recommenders.code_recommender import CodeRecommender
from genrec_lab.viz import theme
from genrec_lab.viz.explorer import (
    BeamTree,
    CodedCatalogue,
    ExplorerState,
    RunRecords,
    beam_tree,
    code_survey,
    collisions,
)
from genrec_lab.viz.explorer.widget import Explained, Explorer, still
from genrec_lab.viz.live import has_front_end, in_kernel

EXPLORING = "04_codebook_explorer"
_BETWEEN_CODES = " · "


def explorer_state(
    run: Run, method: str | None = None, other: Run | None = None, other_method: str | None = None
) -> ExplorerState:
    """Open a method's tokenizer, by default the run's own, beside another's where one is named.

    other: a second run, or None for the same one; other_method: a method of it. Only the data and the
    tokenizers must be there; what other stages have not written yet is left out, and the views say so.
    Raises RunError naming the notebook to run.
    """
    second = None
    given = [f"existing_run({run.name!r})", repr(method)]
    if other is not None or other_method is not None:
        second = coded_catalogue(other or run, other_method)
        given += [f"existing_run({other.name!r})" if other is not None else "None", repr(other_method)]
    source = (
        "from genrec_lab.lab import existing_run\n"
        "from genrec_lab.lab.stages import explorer_state, watched_beam\n\n"
        f"state = explorer_state({', '.join(given)})"
    )
    own = load_identified(run, method)
    records = RunRecords(
        epochs=own.epochs,
        sizes=own.raw.sizes,
        neighbours=load_atlas(run).overlap if run.state(MAPPING).usable else None,
        recommended=dict(load_rankings(run).items) if run.state(EVALUATION).usable else {},
        folder=run.folder,
        decode=teller(run, method),
    )
    return ExplorerState(coded_catalogue(run, method), second, records=records, source=source)


def explore(
    run: Run,
    other: Run | None = None,
    *,
    method: str | None = None,
    other_method: str | None = None,
    mode: theme.Mode | None = None,
) -> Explorer | go.Figure | Explained:
    """Open the explorer on a run, or on two to compare; as the last line of a cell it shows itself.

    In a kernel that nobody looks at (papermill, nbval) it says so, and the figure of its first view takes its
    place. Where somebody looks, a run that cannot be opened yet is a sentence that names the notebook to run;
    else that is a RunError, so that a chain stops. Arguments as of `explorer_state`; mode: None follows the
    theme of the page.
    """
    try:
        state = explorer_state(run, method, other, other_method)
    except RunError as error:
        if in_kernel() and has_front_end():
            return Explained(str(error))
        raise
    if in_kernel() and not has_front_end():
        print(f"Nobody looks at this kernel, so the explorer of {state.catalogue.name} stands still.")
        return still(state, mode or "light")
    own = method in (None, lead_row(run))
    atlas = load_atlas(run) if own and run.state(MAPPING).usable else None
    ready = run.state(EVALUATION).usable

    def watch(chosen: str, row: int) -> tuple[BeamTree, str]:
        source = f"state.watch_beam(watched_beam(existing_run({run.name!r}), {chosen!r}, {row!r}))"
        return watched_beam(run, chosen, row), source

    return Explorer(
        state,
        maps={} if atlas is None else {"t-SNE": atlas.tsne, "UMAP": atlas.umap},
        watch=watch if ready else None,
        methods=list(generative_rows(run)) if ready else [],
        mode=mode,
    )


def survey_codes(run: Run) -> pl.DataFrame:
    """Write every code of the run's own tokenizer with its use, and every ambiguous identifier.

    Returns the codes, a frame as of `code_survey`.
    """
    with run.stage(EXPLORING, inputs=(PREPARATION, TOKENIZING), uses=("seed",)) as stage:
        if not stage.is_finished:
            catalogue = coded_catalogue(run)
            code_survey(catalogue).write_parquet(stage.folder / "codes.parquet")
            collisions(catalogue).frame().write_parquet(stage.folder / "collisions.parquet")
        return pl.read_parquet(stage.folder / "codes.parquet")


def coded_catalogue(run: Run, method: str | None = None) -> CodedCatalogue:
    """Read the items of a run with the codes that a method's tokenizer gave them before any policy."""
    dataset, own = load_prepared(run).dataset, load_identified(run, method)
    items = dataset.items
    return CodedCatalogue(
        f"{run.name} · {method or lead_row(run)}",
        comparable_codes(own),
        items["title"].to_list(),
        traffic=interactions(dataset),
        residuals=None if own.geometry == "none" else own.residuals,
        codewords=_codewords(own),
        vectors=load_vectors(run) if has_texts(dataset) else None,
        images=items["image"].to_list() if "image" in items.columns else None,
        keys=items["key"].to_list() if "key" in items.columns else None,
        books=own.tokenizers,
        seed=run.seed,
    )


def interactions(dataset: Dataset) -> np.ndarray:
    """Return how often each item stands in the sequences, (N,)."""
    seen = dataset.sequences["items"].explode().drop_nulls().to_numpy()
    return np.bincount(seen, minlength=dataset.n_items)


def watched_beam(run: Run, method: str, row: int, beams: int = 10) -> BeamTree:
    """Search for one test user, by row of `ranked_users`, and keep what the beam held at each level."""
    users = ranked_users(run)
    if not 0 <= row < users.height:
        raise ValueError(f"row: {row}, the test part has users 0..{users.height - 1}")
    user = users.row(row, named=True)
    model = load_adapted(run, method, user["domain"])
    dataset = load_prepared(run).dataset
    steps = watch_beams(model, dataset, user["history"], user["domain"], beams)
    prefixes, scores = [], []
    for level in range(1, model.codes.levels + 1):
        kept = steps.filter(pl.col("level") == level)
        prefixes.append([_codes(text) for text in kept["prefix"]])
        scores.append(kept["log_probability"].to_list())
    examples = {_codes(text): title for text, title in steps.select("prefix", "example").iter_rows()}
    target = model.codes.codes[user["target"]].tolist()
    tree = beam_tree(prefixes, scores, target, _way_of(model, user["history"], target), examples)
    own = model.codes.domain_items(user["domain"])
    named = dict(zip(map(tuple, model.codes.codes[own].tolist()), own.tolist(), strict=True))
    last = tree.nodes.filter(pl.col("level") == model.codes.levels).sort("rank")
    results = tuple(named[tuple(map(int, prefix.split()))] for prefix in last["prefix"])
    return replace(tree, history=tuple(user["history"]), target_item=user["target"], results=results)


@torch.inference_mode()
def _way_of(model: CodeRecommender, history: list[int], target: list[int]) -> list[float]:
    """The log-probabilities of a target's prefixes of 1, 2, … codes."""
    memory, sums, total = model.remember([history]), [], 0.0
    for level, code in enumerate(target):
        total += float(model.continuations(memory, torch.tensor([target[:level]], dtype=torch.long))[0, code])
        sums.append(total)
    return sums


def _codewords(own: Identified) -> list[np.ndarray] | None:
    """By level (K, d); the codebooks of tokenizers trained a domain each one below the other.

    None where a code has no one codeword: the codes quantise nothing, or differ from prefix to prefix.
    """
    if own.geometry in ("none", "prefix"):
        return None
    if own.tokenizers == 1:
        return list(next(iter(own.codebooks.values())))
    stacked = [own.codebooks[domain] for domain in own.raw.domain_names]
    return [np.concatenate(of_level) for of_level in zip(*stacked, strict=True)]


def _codes(text: str) -> tuple[int, ...]:
    return tuple(int(code) for code in text.split(_BETWEEN_CODES))
