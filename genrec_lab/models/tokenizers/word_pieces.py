"""A vocabulary of word pieces for textual ids: T5's, or one learned from the catalogue's texts.

Tokens are numbered as in T5: 0 is padding, 1 ends a text, 2 is unknown, and word pieces follow.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any, Self

import numpy as np

_WORD = re.compile(r"\w+")
_BEGINNING = "\u2581"  # T5's mark for the beginning of a word
FIRST_PIECE = 3


class WordPieces:
    """A T5 tokenizer for plain words: lower case, no punctuation."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        """Wrap transformers' T5 tokenizer; `size` is V, the rows of the embedding, at least the pieces.

        Raises ValueError if its first three tokens are not T5's.
        """
        special = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
        if special != (0, 1, 2):
            raise ValueError(
                f"the tokenizer numbers padding, end and unknown {special}; expected T5's (0, 1, 2)"
            )
        self.tokenizer, self.size = tokenizer, size

    @classmethod
    def learnt(cls, texts: Sequence[str], vocabulary: int) -> Self:
        """Learn at most `vocabulary` tokens from texts, deterministically."""
        from transformers import T5Tokenizer

        # The trainers of the tokenizers library break ties randomly, so a resumed run would differ.
        counted = pieces_of_words(Counter(word for text in texts for word in words_of(text)), vocabulary - 3)
        total = 1 + sum(counted.values())
        special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -100.0)]
        pieces = [(piece, log(count / total)) for piece, count in counted.items()]
        return cls(T5Tokenizer(vocab=[*special, *pieces], extra_ids=0), vocabulary)

    @classmethod
    def read(cls, folder: str | Path, size: int) -> Self:
        """Read a tokenizer from a folder, or from the hub by its name."""
        from transformers import AutoTokenizer

        return cls(AutoTokenizer.from_pretrained(folder), size)

    def write(self, folder: Path) -> None:
        """Write the tokenizer into a folder."""
        self.tokenizer.save_pretrained(folder)

    def tokens(self, words: Sequence[str], most: int) -> list[int]:
        """Return the first `most` pieces of some words, without an end token."""
        found = self.tokenizer(" ".join(words), add_special_tokens=False, verbose=False)["input_ids"]
        return found[:most]

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of pieces."""
        return str(self.tokenizer.decode([token for token in tokens if token >= FIRST_PIECE]))

    def in_ids(self) -> np.ndarray:
        """Return which pieces an id may contain, (V,) bool: those made only of letters and digits."""
        allowed = np.zeros(self.size, dtype=bool)
        special = set(self.tokenizer.all_special_ids)
        names = self.tokenizer.convert_ids_to_tokens(list(range(min(len(self.tokenizer), self.size))))
        for number, name in enumerate(names):
            piece = name.removeprefix(_BEGINNING)
            allowed[number] = number not in special and piece.isalnum()
        return allowed


def pieces_of_words(words: Counter[str], most: int) -> dict[str, int]:
    """Return at most `most` pieces with their counts: letters, whole words, then parts of the other words.

    Letters take at most a quarter of the pieces and words three quarters of the rest, the most frequent
    first. Beginnings and ends of the other words are ranked by the letters that they cover in all texts.
    """
    letters: Counter[str] = Counter()
    for word, count in words.items():
        for place, letter in enumerate(word):
            letters[letter if place else _BEGINNING + letter] += count
    found = dict(_first(letters, most // 4))
    whole = {_BEGINNING + word: count for word, count in words.items() if len(word) > 1 and count > 1}
    found |= _first(whole, (most - len(found)) * 3 // 4)
    parts: Counter[str] = Counter()
    for word, count in words.items():
        if _BEGINNING + word not in found:
            for cut in range(1, len(word)):
                parts[_BEGINNING + word[:cut]] += count
                parts[word[cut:]] += count
    new = {part: count * len(part) for part, count in parts.items() if part not in found}
    return found | {part: parts[part] for part, _ in _first(new, most - len(found))}


def _first(counts: dict[str, int], most: int) -> list[tuple[str, int]]:
    """Return the `most` largest counts; ties in alphabetical order."""
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:most]


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return _WORD.findall(text.lower())


def distinctive_words(texts: Sequence[str], most: int) -> list[list[str]]:
    """Return for each text at most `most` words that distinguish it from others, in text order.

    Words are ranked by count times the logarithm of the inverse share of texts (tf-idf). Words that occur in
    only one text are used only if a text has no others, because no other item could share them.
    """
    rows = [words_of(text) for text in texts]
    spread = Counter(word for row in rows for word in set(row))
    found = []
    for row in rows:
        shared = [word for word in row if spread[word] > 1] or row
        counts = Counter(shared)
        # Sorting is stable, so ties go to the earlier word.
        best = sorted(counts, key=lambda word: -counts[word] * log((1 + len(rows)) / spread[word]))[:most]
        found.append([word for word in dict.fromkeys(row) if word in set(best)])
    return found
