"""Stage 03: maps of the residuals, and how alike the codes of similar items are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from joblib import Parallel, cpu_count, delayed

from genrec_lab.codes import ItemCodes
from genrec_lab.evaluation import neighbour_code_overlap
from genrec_lab.lab.stages.preparing import PREPARATION, load_prepared
from genrec_lab.lab.stages.rows import generative_rows, tokenizer_owners
from genrec_lab.lab.stages.tokenizing import TOKENIZING, Identified, load_identified, load_vectors
from genrec_lab.lab.store import Run
from genrec_lab.viz.layout import MAX_POINTS
from genrec_lab.viz.projection import Method, Projection, project_residuals

MAPPING = "03_residual_atlas"
_MAPS: tuple[Method, ...] = ("tsne", "umap")
_MOST_ITEMS = 5_000  # t-SNE takes about 25 s a level for these
_NEIGHBOURS = (1, 2, 5, 10, 20, 50)
_QUERIES = 2_000  # items a domain whose neighbours are looked up


@dataclass(frozen=True)
class Atlas:
    """What stage 03 found out about the run's own tokenizer, and about the others beside it."""

    tsne: Projection
    umap: Projection
    overlap: pl.DataFrame  # tokenizer, domain, k, overlap, items: GMC Figure 4


def map_residuals(run: Run) -> Atlas:
    """Map the residuals of every level by t-SNE and UMAP, compare tokenizers by Figure 4, write all of it."""
    with run.stage(MAPPING, inputs=(PREPARATION, TOKENIZING), uses=("compare", "seed")) as stage:
        if not stage.is_finished:
            dataset, own = load_prepared(run).dataset, load_identified(run)
            size = min(_MOST_ITEMS, MAX_POINTS // own.raw.levels)
            domains = dataset.items["domain"].to_list()
            # Side by side: UMAP compiles and runs on one core for about as long as t-SNE takes.
            seen = what_is_mapped(run, own)
            maps = Parallel(n_jobs=min(len(_MAPS), cpu_count()))(
                delayed(project_residuals)(
                    seen, domains, method=method, size=size, seed=run.seed, cache=stage.scratch
                )
                for method in _MAPS
            )
            if own.geometry == "none":  # one map of the texts, the same for every level
                maps = [replace(one, coordinates=one.coordinates.repeat(own.raw.levels, 1)) for one in maps]
            for method, projection in zip(_MAPS, maps, strict=True):
                projection.write(stage.folder / f"{method}.parquet")
            neighbour_overlaps(run).write_parquet(stage.folder / "neighbour_overlap.parquet")
        return _read(stage.folder)


def what_is_mapped(run: Run, own: Identified) -> npt.NDArray[np.float32]:
    """What stage 03 maps: what each level quantised (N, L, d), or the texts where nothing was (N, 1, D)."""
    return load_vectors(run)[:, None] if own.geometry == "none" else own.residuals


def mapped_things(own: Identified) -> str:
    """Say what the maps of stage 03 show, for a figure's note."""
    return {
        "residual": "the residuals that each level quantises",
        "prefix": "the residuals that each level quantises, from the centres of their clusters",
        "parts": "the part of each item's vector that each level quantises by itself",
        "none": "the text vectors, for these codes quantise nothing",
    }[own.geometry]


def load_atlas(run: Run) -> Atlas:
    """Read what stage 03 wrote."""
    return _read(run.read_stage(MAPPING))


def neighbour_overlaps(run: Run, ks: tuple[int, ...] = _NEIGHBOURS) -> pl.DataFrame:
    """Codes that items share with their nearest items, by tokenizer, domain and k (GMC 5.4.2, Figure 4).

    Codes are those before the conflict policy, of the first levels that all tokenizers have: an appended
    level or a longer identifier would change the share for reasons that have nothing to do with similarity.
    Every k below a domain's number of items is measured.
    """
    vectors, rows = load_vectors(run), generative_rows(run)
    raw = {name: load_identified(run, name).raw for name in dict.fromkeys(tokenizer_owners(rows).values())}
    levels = min(codes.levels for codes in raw.values())
    parts = []
    for name, codes in raw.items():
        for domain in codes.domain_names:
            items = codes.domain_items(domain)
            if possible := [k for k in ks if k < len(items)]:
                names, compared = [domain] * len(items), codes.codes[items, :levels]
                found = neighbour_code_overlap(vectors[items], compared, possible, names, _QUERIES, run.seed)
                parts.append(found.select(pl.lit(name).alias("tokenizer"), pl.all()))
    return pl.concat(parts)


def codeword_sums(own: Identified) -> npt.NDArray[np.float32]:
    """The quantised vectors of all items before any conflict policy, (N, d): what their codes add up to.

    Of levels that hand on what they leave over: geometry "residual" or "prefix".
    """
    sums: npt.NDArray[np.float32] = own.residuals[:, 0] - own.remainder()
    return sums


def comparable_codes(own: Identified) -> ItemCodes:
    """The codes before any conflict policy, numbered so that equal codes are the same codeword.

    Tokenizers that were trained a domain each have codebooks of their own; their codes get a range a domain.
    """
    return own.raw if own.tokenizers == 1 else own.raw.with_separate_vocabularies()


def _read(folder: Path) -> Atlas:
    maps = {method: Projection.read(folder / f"{method}.parquet") for method in _MAPS}
    return Atlas(maps["tsne"], maps["umap"], pl.read_parquet(folder / "neighbour_overlap.parquet"))
