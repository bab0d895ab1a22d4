"""The look of figures: safe text that fits its place, and colours that stand out in light and in dark."""

from __future__ import annotations

import html
import json

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_lab.viz import figures, theme
from genrec_lab.viz.layout import domains_of, untitled
from genrec_lab.viz.text import escape, percent, shorten, wrapped

# --- text


@given(st.text())
def test_escape_leaves_no_markup_and_loses_no_character(text: str) -> None:
    escaped = escape(text)
    assert not set("<>$\n\r") & set(escaped)
    assert html.unescape(escaped) == text.replace("\n", " ").replace("\r", " ")


@given(st.text(alphabet="ab <&$-", min_size=1, max_size=120), st.integers(4, 40))
def test_wrapped_lines_fit_and_keep_the_words(text: str, width: int) -> None:
    joined, count = wrapped(text, width)
    lines = [html.unescape(line) for line in joined.split("<br>")]
    assert len(lines) == count
    assert all(len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_wrapping_balances_instead_of_leaving_a_lone_word() -> None:
    joined, count = wrapped("Level 1 separates the domains: its codes are shared at level 2", 58)
    assert count == 2
    assert min(len(line) for line in joined.split("<br>")) > 20


@pytest.mark.parametrize(
    "share, text",
    [
        (0, "0 %"),
        (0.0004, "under 0.1 %"),
        (0.031, "3.1 %"),
        (0.25, "25 %"),
        (0.9996, "over 99.9 %"),
        (1, "100 %"),
    ],
)
def test_percent_never_rounds_some_to_none_or_to_all(share: float, text: str) -> None:
    assert percent(share).replace("\N{NO-BREAK SPACE}", " ") == text


def test_shorten_keeps_the_limit() -> None:
    assert shorten("a long  title\nof an item", 10) == "a long ti…"
    assert shorten("short", 10) == "short"


def test_a_wrong_number_of_domains_is_refused() -> None:
    with pytest.raises(ValueError, match="2 values for 3 items"):
        domains_of(["a", "b"], expected=3)


# --- theme


def luminance(colour: str) -> float:
    if colour.startswith("rgb"):
        values = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    else:
        values = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("mode, least", [("light", 1.8), ("dark", 2.5)])
def test_every_colour_stands_out_on_both_backgrounds(mode: theme.Mode, least: float) -> None:
    background = luminance(theme.template(mode).layout.paper_bgcolor)
    for colour in [
        *theme.PALETTE,
        *(style.colour for style in theme.ordered_styles(4)),
        theme.ACCENT,
        theme.MUTED,
    ]:
        bright, dim = sorted([luminance(colour), background], reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= least, colour


def test_dark_is_a_copy_and_the_figures_name_no_colour_of_a_surface() -> None:
    codes = np.random.default_rng(0).integers(0, 8, (40, 2))
    light = figures.code_usage(codes, (8, 8), ["Garden"] * 30 + ["Kitchen"] * 10)
    dark = theme.themed(light, "dark")
    assert light.layout.template.layout.paper_bgcolor == "#FFFFFF"
    assert dark.layout.template.layout.paper_bgcolor == theme.template("dark").layout.paper_bgcolor
    own = light.to_plotly_json()
    del own["layout"]["template"]
    text = json.dumps(own, default=str)
    for mode in ("light", "dark"):
        layout = theme.template(mode).layout
        assert layout.paper_bgcolor not in text
        assert layout.font.color not in text


def test_many_categories_stay_different() -> None:
    styles = theme.category_styles([f"method {number}" for number in range(20)])
    assert len({(style.colour, style.pattern) for style in styles.values()}) == 20
    assert len({(style.colour, style.dash) for style in styles.values()}) == 20


def test_an_untitled_copy_gives_its_title_as_text_and_is_as_much_lower() -> None:
    codes = np.random.default_rng(0).integers(0, 8, (40, 2))
    figure = figures.code_usage(codes, (8, 8), ["A < B"] * 30 + ["Kitchen"] * 10, seed=3)
    bare, title, note = untitled(figure)
    assert html.unescape(figure.layout.title.text.replace("<br>", " ")) == title
    assert note.endswith("seed 3")
    layout = go.Figure(bare).layout
    assert layout.title.text == "" and figure.layout.title.text
    assert figure.layout.height - layout.height == round(figure.layout.margin.t - layout.margin.t)
    assert layout.margin.t > 0


def test_an_unknown_mode_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'dark', 'light'"):
        theme.template("sepia")  # type: ignore[arg-type]
