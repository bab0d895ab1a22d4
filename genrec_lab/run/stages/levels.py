"""What each level of a tokenizer quantises and leaves over, for the notebooks 02 and 03."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import polars as pl

from genrec_lab.run.stages.mapping import Atlas, codeword_sums, comparable_codes
from genrec_lab.run.stages.preparing import load_prepared
from genrec_lab.run.stages.rows import is_universal
from genrec_lab.run.stages.tokenizing import Identified
from genrec_lab.run.store import Run
from genrec_lab.viz.figures import quantisation_errors, residual_energy, residual_stepper


def item_levels(own: Identified, item: int = 0) -> pl.DataFrame:
    """How each level chose an item's code: frame `level, code, norm, to_nearest, to_second`, a row a level.

    norm: of what the level quantised; to_nearest, to_second: its distances to the two nearest codewords.
    """
    books = own.codebooks_of(str(own.raw.domain_names[own.raw.domain_index[item]]))
    rows = []
    for level, (book, vector) in enumerate(zip(books, own.residuals[item], strict=True)):
        distances = np.sort(np.linalg.norm(book - vector, axis=1))
        second = float(distances[1]) if len(distances) > 1 else None
        norm, code = float(np.linalg.norm(vector)), int(own.raw.codes[item, level])
        rows.append((level + 1, code, norm, float(distances[0]), second))
    columns = ("level", "code", "norm", "to_nearest", "to_second")
    return pl.DataFrame(rows, schema=columns, orient="row").with_columns(pl.selectors.float().round(3))


def chosen_codewords(own: Identified) -> np.ndarray:
    """The codeword that each level chose for each item: (N, L, d) float32."""
    chosen = np.zeros_like(own.residuals)
    for domain in own.raw.domain_names:
        items = own.raw.domain_items(domain)
        for level, book in enumerate(own.codebooks_of(domain)):
            chosen[items, level] = book[own.raw.codes[items, level]]
    return chosen


def step_through(run: Run, own: Identified, atlas: Atlas) -> go.Figure:
    """`residual_stepper` of a run's own tokenizer, on the map by t-SNE."""
    items, codes = load_prepared(run).dataset.items, comparable_codes(own).codes
    return residual_stepper(
        atlas.tsne,
        own.residuals,
        chosen_codewords(own),
        codes,
        items["domain"].to_list(),
        items["title"].to_list(),
    )


def what_levels_leave(run: Run, own: Identified) -> go.Figure:
    """`residual_energy` where each level quantises what the one before it left over.

    UTGRec's levels quantise their increments independently (Eqs 3 and 4), so that nothing is handed on: for
    them `quantisation_errors`.
    """
    domains = load_prepared(run).dataset.items["domain"].to_list()
    if is_universal(run.config):
        return quantisation_errors(own.residuals, chosen_codewords(own), domains, seed=run.seed)
    return residual_energy(own.residuals, codeword_sums(own), domains, seed=run.seed)
