"""Text of shop pages as published data keep it: entities, tags and scripts taken out, lists joined."""

from __future__ import annotations

import html
import re
from typing import Any

from genrec_lab.data.rules import DataError

# Only names of HTML: "x <y and z> w" is text, and stays.
_TAG_NAMES = (
    ""
    ""
    "a|abbr|area|article|aside|audio|b|big|blockquote|body|br|button|canvas|caption|center|cite|code|col|dd|del|"
    ""
    ""
    "details|div|dl|dt|em|embed|fieldset|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|"
    ""
    ""
    "ins|label|legend|li|link|main|map|meta|nav|noscript|object|ol|option|p|param|pre|q|s|section|select|small|"
    ""
    ""
    "source|span|strike|strong|style|sub|summary|sup|svg|table|tbody|td|template|textarea|tfoot|th|thead|title|"
    "tr|tt|u|ul|var|video|wbr"
)
_TAG = re.compile(rf"</?(?:{_TAG_NAMES})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_HIDDEN = re.compile(
    r"<(script|style)\b[^<>]*>.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)", re.IGNORECASE | re.DOTALL
)
_BLANKS = re.compile(r"\s+")
# Half of a surrogate pair and control characters, which no encoder reads and parquet or HTML may not hold.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def plain_text(text: str) -> str:
    """Text without scripts, tags, entities and control characters, its blanks single.

    Entities are read twice, for the published files hold "&amp;amp;"; tags written as entities go as well.
    """
    if "<" in text:
        text = _TAG.sub(" ", _HIDDEN.sub(" ", text))
    if "&" in text:
        text = _TAG.sub(" ", _HIDDEN.sub(" ", html.unescape(html.unescape(text))))
    return _BLANKS.sub(" ", _UNPRINTABLE.sub(" ", text)).strip()


def flat_text(value: Any, separator: str, where: str) -> str:
    """Text, numbers, and lists of these however deep, as one plain text; a text twice in a list is once.

    Raises DataError naming `where` for an object inside.
    """
    parts: dict[str, None] = {}
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list | tuple):
            waiting.extend(reversed(part))
        elif isinstance(part, str | int | float) and not isinstance(part, bool):
            parts[plain_text(str(part))] = None
        elif part is not None:
            raise DataError(
                f"{where} holds {str(part)[:80]!r}, a {type(part).__name__}; expected text or a list of texts"
            )
    return separator.join(part for part in parts if part)
