"""UTGRec's prompt for item content (Section 2.2.1), as token numbers in Qwen2-VL's chat format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_TEXT = "<TEXT>"
_PICTURE = "<|image_pad|>"
# The paper's words; the picture stands before them.
_WITH_PICTURE = (
    'This is an image of an item. The item\'s information also includes: "<TEXT>". Compress the image and '
    "text information into {levels} tokens, representing content from coarse to fine granularity."
)
# The paper has no words for an item without a picture; its code has a second prompt that says so.
_WITHOUT_PICTURE = (
    'The image of this item is missing. The item\'s information includes: "<TEXT>". Compress the text '
    "information into {levels} tokens, representing content from coarse to fine granularity."
)


class ItemPrompt:
    """The fixed parts of both prompts, tokenised once; the code tokens follow the assistant's header.

    The text of an item is tokenised on its own, so that it can be cut at its budget, and so that words in it
    that look like special tokens stay words.
    """

    def __init__(self, tokenizer: Any, levels: int) -> None:
        self._tokenizer, self._levels = tokenizer, levels
        self.picture_id = int(tokenizer.convert_tokens_to_ids(_PICTURE))
        shown = self._rendered([{"type": "image"}], _WITH_PICTURE)
        before, rest = shown.split(_PICTURE)
        self._shown = tuple(self._ids(part) for part in (before, *rest.split(_TEXT)))
        self._missing = tuple(self._ids(part) for part in self._rendered([], _WITHOUT_PICTURE).split(_TEXT))

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, uncut."""
        # verbose: no warning about length; what is cut is counted elsewhere.
        return self._tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False
        )["input_ids"]

    def ids(self, text: Sequence[int], picture_tokens: int) -> list[int]:
        """The whole prompt of an item; 0 stands at the places of the L code tokens, which are the last.

        `picture_tokens` is 0 for an item without a picture.
        """
        codes = [0] * self._levels
        if not picture_tokens:
            before, after = self._missing
            return [*before, *text, *after, *codes]
        before, between, after = self._shown
        return [*before, *[self.picture_id] * picture_tokens, *between, *text, *after, *codes]

    def length(self, text_tokens: int, picture_tokens: int) -> int:
        """Return how many tokens `ids` gives for so many of the text and of the picture."""
        fixed = self._shown if picture_tokens else self._missing
        return sum(map(len, fixed)) + text_tokens + picture_tokens + self._levels

    def _rendered(self, picture: list[dict[str, str]], words: str) -> str:
        content = [*picture, {"type": "text", "text": words.format(levels=self._levels)}]
        return self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )

    def _ids(self, part: str) -> list[int]:
        return self._tokenizer(part, add_special_tokens=False)["input_ids"]
