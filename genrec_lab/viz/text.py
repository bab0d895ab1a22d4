"""Text that is safe to draw and easy to read: escaped, shortened, wrapped, and numbers with their nouns.

plotly interprets a subset of HTML in every text, and TeX between dollar signs. Titles of items and names of
domains are data, so they are passed through `escape` (or a function here that calls it) before drawing.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence, Sized

_PERCENT = "\N{NO-BREAK SPACE}%"
# Whitespace at which a line may break; this does not include the no-break space.
_BLANKS = re.compile(r"[ \t\n\r\f\v]+")
# Numeric references, because plotly supports only a few named ones. A dollar sign would start TeX.
_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", '"': "&#34;", "'": "&#39;", "\n": " ", "\r": " "}
)


def escape(text: object) -> str:
    """Return text that plotly draws literally: no markup, no TeX, no line break."""
    return str(text).translate(_ESCAPES)


def shorten(text: str, limit: int) -> str:
    """Return the text cut to at most `limit` characters, with an ellipsis at the end if it was cut."""
    flat = _BLANKS.sub(" ", text).strip()
    return flat if len(flat) <= limit else flat[: max(limit - 1, 1)].rstrip() + "…"


def label(text: object, limit: int = 40) -> str:
    """Return a short, safe label for a legend or a tick."""
    return escape(shorten(str(text), limit))


def wrapped(text: str, width: int, most_lines: int | None = None) -> tuple[str, int]:
    """Return the escaped text in lines of at most `width` characters, joined by <br>, and their number.

    The lines have about equal length, so that the last line is not a single word.
    """
    flat = _BLANKS.sub(" ", text).strip()
    lines = textwrap.wrap(flat, width, break_on_hyphens=False) or [""]
    if most_lines is not None and len(lines) > most_lines:
        lines = [*lines[: most_lines - 1], shorten(" ".join(lines[most_lines - 1 :]), width)]
    else:
        longest_word = max(map(len, flat.split(" ")))
        while len(lines) > 1 and width > longest_word:
            narrower = textwrap.wrap(flat, width - 1, break_on_hyphens=False)
            if len(narrower) > len(lines):
                break
            width, lines = width - 1, narrower
    return "<br>".join(escape(line) for line in lines), len(lines)


def written(codes: Sequence[int]) -> str:
    """Return codes in the explorer's notation: "12 › 4"."""
    return " › ".join(str(int(code)) for code in codes)


def percent(share: float) -> str:
    """Return a share as a percentage that never rounds a positive share to 0 or a share below 1 to 100."""
    if not math.isfinite(share):
        return "n/a"
    value = 100 * share
    if value == 0 or value == 100:
        return f"{value:.0f}{_PERCENT}"
    if 0 < value < 0.1:
        return f"under 0.1{_PERCENT}"
    if 99.9 < value < 100:
        return f"over 99.9{_PERCENT}"
    return f"{value:.1f}{_PERCENT}" if abs(value) < 10 or 99 <= value < 100 else f"{value:.0f}{_PERCENT}"


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun: "1 item", "4,344 items"."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def of_domains(number: int, domains: Sized, what: str = "item") -> str:
    """Return a number of things with the number of their domains: "40 items of 3 domains"."""
    return f"{counted(number, what)} of {counted(len(domains), 'domain')}"


def listed(names: Sequence[str]) -> str:
    """Return a list of names for a sentence: "A, B and C", or "A, B and 4 more" if there are many."""
    short = [shorten(name, 34) for name in names]
    if len(short) > 3:
        return f"{', '.join(short[:2])} and {len(short) - 2} more"
    return short[0] if len(short) == 1 else f"{', '.join(short[:-1])} and {short[-1]}"


def noted(*clauses: str, seed: int | None = None) -> str:
    """Return a figure's note: its non-empty clauses separated by semicolons, and the seed."""
    return "; ".join([*filter(None, clauses), *([] if seed is None else [f"seed {seed}"])])
