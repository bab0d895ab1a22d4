"""The appearance of all figures: colours, fonts, margins, and a light and a dark plotly template.

Figures set no foreground or background colours, so `themed` can switch them between light and dark. The
category colours are those of Okabe and Ito (2008), which remain distinct under every common type of colour
blindness, without their black and yellow, invisible on one background, but with Tol's olive and a grey.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from typing import Any, Literal

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

Mode = Literal["light", "dark"]

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999933", "#7F8791")
"""Blue, orange, green, purple, vermilion, sky blue, olive, grey: the order in which categories take them."""

ACCENT = "#0072B2"
MUTED = "#8C96A3"
GOOD = "#009E73"
BAD = "#D55E00"
# Partly transparent, so that it looks light grey on white and dark grey on black.
TRACK = "rgba(128,138,150,0.28)"
REFERENCE = "rgba(128,138,150,0.9)"
# PuOr without its ends, which are invisible on a dark background, and with a grey middle that differs from an
# empty cell on a light background.
LEAN = ((0.0, "#5E3C99"), (0.3, "#9A8CC2"), (0.5, "#B8BDC4"), (0.7, "#E0A35A"), (1.0, "#E66101"))

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
TEXT_SIZE = 12
TITLE_SIZE = 17
NOTE_SIZE = 12
PANEL_TITLE_SIZE = 13

CONFIG = {"displaylogo": False, "plotlyServerURL": "", "showSendToCloud": False}
"""The settings with which a page draws our figures: no advertisement, and no button that uploads the data."""
CLOUD_BUTTON = "sendcharttocloud"
"""plotly's button that uploads a figure; the template removes it, whatever page shows the figure."""

_TITLE_PLACE = {"x": 0, "xref": "container", "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top"}
_LEGEND_PLACE = {"x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"}
_PATTERNS = ("", "/", "x", ".")
_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")

_SURFACES: dict[str, dict[str, str]] = {
    "light": {
        "page": "#FFFFFF", "text": "#1F2933", "quiet": "#52606D", "line": "#E4E7EB", "axis": "#9AA5B1",
        "button": "#F5F7FA", "pressed": "#E4E7EB", "accent": ACCENT,
    },
    "dark": {
        "page": "#14181D", "text": "#E4E7EB", "quiet": "#A7B1BC", "line": "#2C343D", "axis": "#66717D",
        # The blue of the figures is too dark for text on a dark page.
        "button": "#1B2127", "pressed": "#2C343D", "accent": PALETTE[5],
    },
}  # fmt: skip


@dataclass(frozen=True)
class Style:
    """The style of one category: a colour, a bar pattern, a line dash and a marker symbol."""

    colour: str
    pattern: str
    dash: str
    symbol: str

    @property
    def bar(self) -> dict[str, Any]:
        """The `marker` of a bar in this style."""
        pattern = {"shape": self.pattern, "fillmode": "overlay", "solidity": 0.25}
        return {"color": self.colour, "pattern": pattern, "line": {"width": 0}}

    @property
    def line(self) -> dict[str, Any]:
        """The `line` of a line in this style."""
        return {"color": self.colour, "dash": self.dash, "width": 2}


def mark(colour: str, symbol: str, size: float, width: float = 2) -> dict[str, Any]:
    """Return the `marker` of points, outlined in their colour so that open symbols have the same size."""
    return {"color": colour, "symbol": symbol, "size": size, "line": {"width": width, "color": colour}}


def category_styles(names: Iterable[str]) -> dict[str, Style]:
    """Return a style for each category, in the order given.

    The first eight differ in colour. After that, the colours repeat with another pattern, dash and symbol.
    """
    styles: dict[str, Style] = {}
    for place, name in enumerate(dict.fromkeys(names)):
        round_, colour = divmod(place, len(PALETTE))
        pattern, dash = _PATTERNS[round_ % len(_PATTERNS)], _DASHES[round_ % len(_DASHES)]
        styles[name] = Style(PALETTE[colour], pattern, dash, _SYMBOLS[(place + round_) % len(_SYMBOLS)])
    return styles


def ordered_styles(count: int) -> list[Style]:
    """Return styles for `count` ordered categories, such as identifier levels: viridis, dark to light."""
    # The ends of viridis are invisible on a dark or a light background.
    places = [0.3 + 0.48 * (index / max(count - 1, 1)) for index in range(count)]
    colours = zip(sample_colorscale("Viridis", places), cycle(_DASHES), cycle(_SYMBOLS), strict=False)
    return [Style(colour, "", dash, symbol) for colour, dash, symbol in colours]


def page_colours(mode: Mode) -> dict[str, str]:
    """Return a page's colours by their use; raises ValueError for a mode other than "light" or "dark"."""
    if mode not in _SURFACES:
        raise ValueError(f"mode: {mode!r}, expected one of {sorted(_SURFACES)}")
    return dict(_SURFACES[mode])


@cache
def template(mode: Mode = "light") -> go.layout.Template:
    """Return the plotly template of a mode; raises ValueError for a mode other than "light" or "dark"."""
    colours = page_colours(mode)
    text, quiet, line = colours["text"], colours["quiet"], colours["line"]
    clear, font = "rgba(0,0,0,0)", {"family": FONT, "size": TEXT_SIZE, "color": text}
    axis: dict[str, Any] = {"automargin": True, "zeroline": False, "showline": True}
    axis |= {"separatethousands": True}
    axis |= {"gridcolor": line, "linecolor": colours["axis"], "tickcolor": colours["axis"]}
    axis |= {"ticks": "outside", "ticklen": 4, "tickfont": {"size": TEXT_SIZE - 1, "color": quiet}}
    axis |= {"title": {"font": {"size": TEXT_SIZE, "color": quiet}, "standoff": 8}}
    title = {"pad": {"l": 16, "t": 8}, "font": {"size": TITLE_SIZE, "color": text}}
    title |= {"subtitle": {"font": {"size": NOTE_SIZE, "color": quiet}}}
    legend = {"orientation": "h", "traceorder": "normal", "bgcolor": clear, "itemsizing": "constant"}
    hover = {"bgcolor": colours["button"], "bordercolor": colours["axis"], "font": font}
    buttons = {"bgcolor": clear, "color": colours["axis"], "activecolor": text}
    layout = go.Layout(
        font=font,
        title=_TITLE_PLACE | title,
        paper_bgcolor=colours["page"],
        plot_bgcolor=colours["page"],
        colorway=PALETTE,
        colorscale={"sequential": "Viridis", "diverging": "PuOr"},
        margin={"l": 56, "r": 24, "t": 80, "b": 16},
        xaxis=axis,
        yaxis=axis,
        legend=_LEGEND_PLACE | legend | {"font": {"size": TEXT_SIZE}},
        hoverlabel={"align": "left", "namelength": -1, **hover},
        modebar={"remove": ["select", "lasso", "zoomin", "zoomout", "autoscale", CLOUD_BUTTON], **buttons},
        bargap=0.25,
        uniformtext={"minsize": 9, "mode": "show"},
    )
    made = go.layout.Template(layout=layout)
    # By default, error bars are dark grey on both backgrounds.
    made.data.bar = [go.Bar(error_x={"color": text}, error_y={"color": text})]
    head, cells = (
        {"fill": {"color": fill}, "line": {"color": line}, "font": {"size": TEXT_SIZE, "color": text}}
        for fill in (colours["pressed"], colours["page"])
    )
    made.data.table = [go.Table(header=head, cells=cells)]
    return made


def themed(figure: go.Figure, mode: Mode) -> go.Figure:
    """Return a copy of the figure in the light or dark template; the original is unchanged."""
    return go.Figure(figure).update_layout(template=template(mode))


LIGHT = template("light")
"""The template in which figures are made; `themed` turns them dark."""
