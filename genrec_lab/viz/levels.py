"""What each level of a tokenizer quantises and leaves over, as figures."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import polars as pl

from genrec_lab.codes.identified import Identified
from genrec_lab.viz.figures import nothing_quantised, quantisation_errors, residual_energy, residual_stepper
from genrec_lab.viz.projection import Projection


def mapped_things(own: Identified) -> str:
    """Say what the maps of stage 03 show, for a figure's note."""
    if not own.quantises:
        return "the text vectors, for these codes quantise nothing"
    if own.prefixed is not None:
        return "the residuals that each level quantises, from the centres of their clusters"
    if own.refines:
        return "the residuals that each level quantises"
    return "the part of each item's vector that each level quantises by itself"


def step_through(own: Identified, tsne: Projection, items: pl.DataFrame) -> go.Figure:
    """`residual_stepper` of a tokenizer on the map by t-SNE; `nothing_quantised` where nothing is."""
    if not own.quantises:
        return nothing_quantised(own.raw.levels, own.raw.n_items)
    if own.prefixed is not None:
        remainders = np.concatenate([own.residuals[:, 1:], own.remainder()[:, None]], axis=1)
    else:
        remainders = own.residuals - own.chosen_codewords()
    return residual_stepper(
        tsne,
        own.residuals,
        remainders,
        own.comparable_codes().codes,
        items["domain"].to_list(),
        items["title"].to_list(),
    )


def what_levels_leave(own: Identified, domains: list[str], seed: int = 0) -> go.Figure:
    """`residual_energy` where each level quantises what the one before it left over.

    Levels that hand nothing on, as the increments of UTGRec's (Eqs 3 and 4) and the sub-vectors of product
    quantisation, have `quantisation_errors` instead; codes that quantise nothing a figure that says so.
    """
    if own.quantises and not own.refines and own.prefixed is None:
        return quantisation_errors(own.residuals, own.chosen_codewords(), domains, seed=seed)
    if not own.quantises:
        return nothing_quantised(own.raw.levels, own.raw.n_items)
    return residual_energy(own.residuals, own.codeword_sums(), domains, seed=seed)
