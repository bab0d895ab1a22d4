"""Items as text for RecFormer: key and value of each attribute, and the tokens that they become.

Letters: B histories, S tokens, N items, W tokens of an item.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from genrec_lab.data.item_text import as_text
from genrec_lab.data.rules import ITEM_TYPES

START, KEY, VALUE = 0, 1, 2  # the kinds of tokens; padding has no kind that matters


class Tokens(NamedTuple):
    """A batch for the encoder; all (B, S), padded at the right."""

    ids: Tensor
    kinds: Tensor  # START, KEY or VALUE
    items: Tensor  # 0 for the start, 1 for the tokens of the most recent item, 2 for the one before, …
    real: Tensor  # bool


def key_values(items: pl.DataFrame, most: int) -> list[list[tuple[str, str]]]:
    """Return each item's attributes as (key, value): title, then the further text columns, the first `most`.

    Empty values and the columns description and key are left out; where nothing is left, the text stands in.
    """
    further = [name for name in items.columns if name not in (*ITEM_TYPES, "description")]
    names = [name for name in ("title", *further) if name in items.columns]
    texts = {name: as_text(items[name]).to_list() for name in names}
    whole = items["text"].to_list() if "text" in items.columns else [""] * items.height
    rows = []
    for row in range(items.height):
        found = [(name, texts[name][row]) for name in names if texts[name][row]]
        rows.append(found[:most] or [("text", whole[row])])
    return rows


class ItemLanguage:
    """A tokenizer, and how items and histories are written in its tokens."""

    def __init__(self, tokenizer: Any) -> None:
        """Take a transformers tokenizer with a start, a padding and a mask token."""
        self.tokenizer = tokenizer

    @classmethod
    def learnt(cls, items: pl.DataFrame, most: int, vocabulary: int) -> ItemLanguage:
        """Learn byte-pair encoding of at most `vocabulary` tokens from all that the items say."""
        from transformers import RobertaTokenizer

        texts = [f"{key} {value}" for row in key_values(items, most) for key, value in row]
        blank: Any = RobertaTokenizer()  # Longformer's own
        return cls(blank.train_new_from_iterator(texts, vocabulary, show_progress=False))

    @classmethod
    def read(cls, folder: str | Path) -> ItemLanguage:
        """Read a tokenizer from a folder, or from the hub under its name."""
        from transformers import AutoTokenizer

        return cls(AutoTokenizer.from_pretrained(folder))

    def write(self, folder: Path) -> None:
        """Write the tokenizer into a folder."""
        self.tokenizer.save_pretrained(folder)

    def of_items(self, items: pl.DataFrame, most: int, tokens: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return each item's token ids and kinds, (W,) int64 each; an attribute has at most `tokens`."""
        written = []
        for row in key_values(items, most):
            ids: list[int] = []
            kinds: list[int] = []
            for key, value in row:
                # With the blank before it a word is the same token as in the middle of a text.
                key_ids, value_ids = self._ids(f" {key}"), self._ids(f" {value}")
                ids += (key_ids + value_ids)[:tokens]
                kinds += ([KEY] * len(key_ids) + [VALUE] * len(value_ids))[:tokens]
            written.append((np.array(ids, dtype=np.int64), np.array(kinds, dtype=np.int64)))
        return written

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def batch(
        self,
        items: Sequence[tuple[np.ndarray, np.ndarray]],
        histories: Sequence[Sequence[int]],
        max_tokens: int,
        multiple: int,
    ) -> Tokens:
        """Write histories (places in `items`, oldest first) as the start token and the items, newest first.

        What goes past `max_tokens` is cut off at the old end; S is a multiple of `multiple`.
        """
        rows = []
        for history in histories:
            newest = [items[place] for place in reversed(history)]
            ids = np.concatenate([[self.tokenizer.bos_token_id], *(ids for ids, _ in newest)])[:max_tokens]
            kinds = np.concatenate([[START], *(kinds for _, kinds in newest)])[:max_tokens]
            lengths = [1, *(len(ids) for ids, _ in newest)]
            rows.append((ids, kinds, np.repeat(np.arange(len(lengths)), lengths)[:max_tokens]))
        width = -(-max(len(ids) for ids, _, _ in rows) // multiple) * multiple
        made = np.zeros((4, len(rows), width), dtype=np.int64)
        made[0] = self.tokenizer.pad_token_id
        for line, row in enumerate(rows):
            made[:3, line, : len(row[0])] = row
            made[3, line, : len(row[0])] = 1
        ids, kinds, of, real = torch.from_numpy(made)
        return Tokens(ids, kinds, of, real.bool())
