"""The look of every figure: colours, fonts, margins, and a light and a dark plotly template.

Figures name no foreground or background colour of their own, so `themed` can turn any of them dark and back.
The category colours are those of Okabe and Ito (2008), which stay apart for every common colour blindness;
their black and yellow are left out, since each vanishes on one of the two backgrounds, and Tol's olive and a
grey come after them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go
import plotly.io as pio
from plotly.colors import sample_colorscale

Mode = Literal["light", "dark"]

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999933", "#7F8791")
"""Blue, orange, green, purple, vermilion, sky blue, olive, grey: the order in which categories take them."""

ACCENT = "#0072B2"
MUTED = "#8C96A3"
GOOD = "#009E73"
BAD = "#D55E00"
# Half transparent, so that they read as a light grey on white and as a dark grey on black.
TRACK = "rgba(128,138,150,0.28)"
REFERENCE = "rgba(128,138,150,0.9)"
# PuOr without its ends, which vanish on a dark background, and with a grey middle that stays apart from an
# empty place on a light one.
LEAN = ((0.0, "#5E3C99"), (0.3, "#9A8CC2"), (0.5, "#B8BDC4"), (0.7, "#E0A35A"), (1.0, "#E66101"))

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
TEXT_SIZE = 12
TITLE_SIZE = 17
NOTE_SIZE = 12
PANEL_TITLE_SIZE = 13

_PATTERNS = ("", "/", "x", ".")
_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")


@dataclass(frozen=True)
class Style:
    """How one category is drawn: a colour, a bar pattern, a line dash and a marker symbol."""

    colour: str
    pattern: str
    dash: str
    symbol: str

    @property
    def bar(self) -> dict[str, object]:
        """The `marker` of a bar in this style."""
        pattern = {"shape": self.pattern, "fillmode": "overlay", "solidity": 0.25}
        return {"color": self.colour, "pattern": pattern, "line": {"width": 0}}


@dataclass(frozen=True)
class _Surface:
    paper: str
    text: str
    quiet_text: str
    grid: str
    line: str
    stripe: str
    header: str


_SURFACES: dict[str, _Surface] = {
    "light": _Surface("#FFFFFF", "#1F2933", "#52606D", "#E4E7EB", "#9AA5B1", "#F5F7FA", "#E4E7EB"),
    "dark": _Surface("#14181D", "#E4E7EB", "#A7B1BC", "#2C343D", "#66717D", "#1B2127", "#2C343D"),
}


def category_styles(names: Iterable[str]) -> dict[str, Style]:
    """Give each category a style, in the order given.

    The first eight differ in colour; further rounds repeat the colours with another pattern, dash and symbol.
    """
    styles: dict[str, Style] = {}
    for name in names:
        if name in styles:
            continue
        position = len(styles)
        round_ = position // len(PALETTE)
        styles[name] = Style(
            colour=PALETTE[position % len(PALETTE)],
            pattern=_PATTERNS[round_ % len(_PATTERNS)],
            dash=_DASHES[round_ % len(_DASHES)],
            symbol=_SYMBOLS[(position + round_) % len(_SYMBOLS)],
        )
    return styles


def ordered_styles(count: int) -> list[Style]:
    """Styles for `count` ordered things, as the levels of an identifier: viridis from dark to light."""
    if count < 1:
        raise ValueError(f"count: {count}, expected at least 1 ordered category")
    # The ends of viridis vanish on a dark and on a light background.
    places = [0.3 + 0.48 * (index / max(count - 1, 1)) for index in range(count)]
    colours: Sequence[str] = sample_colorscale("Viridis", places)
    return [
        Style(colour, "", _DASHES[index % len(_DASHES)], _SYMBOLS[index % len(_SYMBOLS)])
        for index, colour in enumerate(colours)
    ]


def template(mode: Mode = "light") -> go.layout.Template:
    """The lab's plotly template; raises ValueError for a mode that is neither "light" nor "dark"."""
    if mode not in _SURFACES:
        raise ValueError(f"mode: {mode!r}, expected one of {sorted(_SURFACES)}")
    surface = _SURFACES[mode]
    axis = {
        "automargin": True,
        "gridcolor": surface.grid,
        "linecolor": surface.line,
        "tickcolor": surface.line,
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "separatethousands": True,
        "title": {"font": {"size": TEXT_SIZE, "color": surface.quiet_text}, "standoff": 8},
        "tickfont": {"size": TEXT_SIZE - 1, "color": surface.quiet_text},
    }
    layout = go.Layout(
        font={"family": FONT, "size": TEXT_SIZE, "color": surface.text},
        title={
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"l": 16, "t": 8},
            "font": {"size": TITLE_SIZE, "color": surface.text},
            "subtitle": {"font": {"size": NOTE_SIZE, "color": surface.quiet_text}},
        },
        paper_bgcolor=surface.paper,
        plot_bgcolor=surface.paper,
        colorway=PALETTE,
        colorscale={"sequential": "Viridis", "diverging": "PuOr"},
        margin={"l": 56, "r": 24, "t": 80, "b": 16},
        xaxis=axis,
        yaxis=axis,
        legend={
            "orientation": "h",
            "traceorder": "normal",
            "x": 0,
            "xanchor": "left",
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
            "bgcolor": "rgba(0,0,0,0)",
            "itemsizing": "constant",
            "font": {"size": TEXT_SIZE},
        },
        hoverlabel={
            "align": "left",
            "namelength": -1,
            "bgcolor": surface.stripe,
            "bordercolor": surface.line,
            "font": {"family": FONT, "size": TEXT_SIZE, "color": surface.text},
        },
        modebar={
            "bgcolor": "rgba(0,0,0,0)",
            "color": surface.line,
            "activecolor": surface.text,
            "remove": ["select", "lasso", "zoomin", "zoomout", "autoscale"],
        },
        bargap=0.25,
        uniformtext={"minsize": 9, "mode": "show"},
    )
    made = go.layout.Template(layout=layout)
    # By default an error bar is dark grey on either background.
    made.data.bar = [go.Bar(error_x={"color": surface.text}, error_y={"color": surface.text})]
    made.data.table = [
        go.Table(
            header={
                "fill": {"color": surface.header},
                "line": {"color": surface.grid},
                "font": {"size": TEXT_SIZE, "color": surface.text},
            },
            cells={
                "fill": {"color": surface.paper},
                "line": {"color": surface.grid},
                "font": {"size": TEXT_SIZE, "color": surface.text},
            },
        )
    ]
    return made


def page_colours(mode: Mode) -> dict[str, str]:
    """The colours of a page around the figures: of the page, text, quiet text, lines, buttons and links."""
    surface = _SURFACES[mode]
    return {
        "page": surface.paper,
        "text": surface.text,
        "quiet": surface.quiet_text,
        "line": surface.grid,
        "button": surface.stripe,
        "pressed": surface.header,
        # The blue of the figures is too dark for letters on a dark page.
        "accent": ACCENT if mode == "light" else PALETTE[5],
    }


def themed(figure: go.Figure, mode: Mode) -> go.Figure:
    """A copy of the figure in the light or the dark template; the figure itself stays as it is."""
    copy = go.Figure(figure)
    copy.update_layout(template=template(mode))
    return copy


def use(mode: Mode) -> None:
    """Draw the figures that are made from now on in this mode."""
    pio.templates[_TEMPLATE_NAME] = template(mode)


def current() -> go.layout.Template:
    """The template of the mode in use: light until `use` says otherwise."""
    return pio.templates[_TEMPLATE_NAME]


_TEMPLATE_NAME = "genrec_lab"
use("light")
