"""What each level of a tokenizer quantises and leaves over, for the notebooks 02 and 03."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import polars as pl

from genrec_lab.lab.stages.mapping import Atlas, codeword_sums, comparable_codes
from genrec_lab.lab.stages.preparing import load_prepared
from genrec_lab.lab.stages.tokenizing import Identified
from genrec_lab.lab.store import Run
from genrec_lab.viz.figures import (
    nothing_quantised,
    quantisation_errors,
    residual_energy,
    residual_stepper,
)


def item_levels(own: Identified, item: int = 0) -> pl.DataFrame:
    """How each level chose an item's code: frame `level, code, norm, to_nearest, to_second`, a row a level.

    norm: of what the level quantised; to_nearest, to_second: its distances to the two nearest codewords. What
    is not known is null: all three for codes that quantise nothing, the last where codewords differ from
    prefix to prefix.
    """
    domain = str(own.raw.domain_names[own.raw.domain_index[item]])
    rows: list[tuple[int, int, float | None, float | None, float | None]] = []
    for level in range(own.raw.levels):
        vector, code = own.residuals[item, level], int(own.raw.codes[item, level])
        if own.geometry == "none":
            rows.append((level + 1, code, None, None, None))
        elif own.geometry == "prefix":
            left = own.remainder()[item] if level + 1 == own.raw.levels else own.residuals[item, level + 1]
            rows.append((level + 1, code, _norm(vector), _norm(left), None))
        else:
            distances = np.sort(np.linalg.norm(own.codebooks_of(domain)[level] - vector, axis=1))
            second = float(distances[1]) if len(distances) > 1 else None
            rows.append((level + 1, code, _norm(vector), float(distances[0]), second))
    floats = dict.fromkeys(("norm", "to_nearest", "to_second"), pl.Float64)
    schema = {"level": pl.Int64, "code": pl.Int64} | floats
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.selectors.float().round(3))


def chosen_codewords(own: Identified) -> np.ndarray:
    """The codeword that each level chose for each item: (N, L, d) float32."""
    chosen = np.zeros_like(own.residuals)
    for domain in own.raw.domain_names:
        items = own.raw.domain_items(domain)
        for level, book in enumerate(own.codebooks_of(domain)):
            chosen[items, level] = book[own.raw.codes[items, level]]
    return chosen


def step_through(run: Run, own: Identified, atlas: Atlas) -> go.Figure:
    """`residual_stepper` of a run's tokenizer on the map by t-SNE; `nothing_quantised` where nothing is."""
    if own.geometry == "none":
        return nothing_quantised(own.raw.levels, own.raw.n_items)
    if own.geometry == "prefix":
        remainders = np.concatenate([own.residuals[:, 1:], own.remainder()[:, None]], axis=1)
    else:
        remainders = own.residuals - chosen_codewords(own)
    items = load_prepared(run).dataset.items
    return residual_stepper(
        atlas.tsne,
        own.residuals,
        remainders,
        comparable_codes(own).codes,
        items["domain"].to_list(),
        items["title"].to_list(),
    )


def what_levels_leave(run: Run, own: Identified) -> go.Figure:
    """`residual_energy` where each level quantises what the one before it left over.

    Levels that hand nothing on, as the increments of UTGRec's (Eqs 3 and 4) and the sub-vectors of product
    quantisation, have `quantisation_errors` instead; codes that quantise nothing a figure that says so.
    """
    domains = load_prepared(run).dataset.items["domain"].to_list()
    if own.geometry == "parts":
        return quantisation_errors(own.residuals, chosen_codewords(own), domains, seed=run.seed)
    if own.geometry == "none":
        return nothing_quantised(own.raw.levels, own.raw.n_items)
    return residual_energy(own.residuals, codeword_sums(own), domains, seed=run.seed)


def _norm(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector))
