"""Points with intervals, told apart by whether the interval leaves out zero; shared by several figures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from genrec_lab.viz import theme
from genrec_lab.viz.layout import label

FloatArray = npt.NDArray[np.float64]


def add_intervals(
    figure: go.Figure,
    middle: FloatArray,
    low: FloatArray,
    high: FloatArray,
    *,
    above: str,
    below: str,
    customdata: npt.NDArray[np.object_],
    hovertemplate: str,
) -> None:
    """Draw (N,) points with their intervals, a line each from the top, and a line at zero.

    above, below: what the legend calls intervals wholly above and below zero; the others are undecided.
    """
    kinds = {
        above: (low > 0, theme.GOOD, "circle"),
        below: (high < 0, theme.BAD, "square"),
        "undecided": ((low <= 0) & (high >= 0), theme.MUTED, "circle-open"),
    }
    for kind, (chosen, colour, symbol) in kinds.items():
        if not chosen.any():
            continue
        places = np.flatnonzero(chosen)
        figure.add_scatter(
            x=middle[places],
            y=places,
            mode="markers",
            name=label(kind),
            showlegend=True,
            marker={"color": colour, "size": 11, "symbol": symbol, "line": {"width": 2, "color": colour}},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": (high - middle)[places],
                "arrayminus": (middle - low)[places],
                "thickness": 2.5,
                "width": 5,
            },
            customdata=customdata[places],
            hovertemplate=hovertemplate,
        )
    figure.add_vline(x=0, line_color=theme.REFERENCE, line_width=1.5, line_dash="dash")
