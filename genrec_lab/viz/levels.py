"""What each level of a tokenizer quantises and leaves over, as figures."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import polars as pl

from genrec_lab.codes.identified import Identified
from genrec_lab.viz.figures import residual_stepper, what_levels_leave
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
    """`residual_stepper` on the map by t-SNE; `what_levels_leave` where it quantises nothing."""
    if not own.quantises:
        return what_levels_leave(own, items["domain"].to_list())
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
