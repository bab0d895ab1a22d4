"""What a code means: words and pictures that decoders restore from an item's first codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl
import torch
from torch import Tensor

from genrec_lab.models.tokenizers import Tokenizer
from genrec_lab.viz.explorer import Told
from genrec_lab.viz.figures import kept_by_codes
from genrec_lab.viz.figures.pictures import words_of

WORDS = 8  # shown for a prefix
_DRAWS = 16  # pictures of a prefix, of which the mean shows what they agree in


@dataclass(frozen=True)
class Kept:
    """What the codes of n items keep of them, level by level."""

    items: pl.DataFrame  # of the dataset, one row per item
    codes: npt.NDArray[np.int64]  # (n, L), before any conflict policy
    words: tuple[tuple[tuple[str, ...], ...], ...]  # by item and level: the telling words, best first
    # (n, L, S, S, 3) in 0..1, or None of a tokenizer that has not seen a picture in training.
    pictures: npt.NDArray[np.float32] | None
    means: npt.NDArray[np.float32] | None  # as pictures: the means of 16 draws

    def figure(self, seed: int | None = None) -> go.Figure:
        """The items beside what their codes keep."""
        return kept_by_codes(self.items, self.codes, self.words, self.pictures, self.means, seed=seed)


@dataclass(frozen=True)
class Decoder:
    """A tokenizer whose decoders are asked what a prefix means."""

    tokenizer: Tokenizer
    codes: Tensor  # (n, L) of items that it was trained on, for what is usual
    texts: pl.Series  # of all items: a word is one that they have

    def keep(self, items: pl.DataFrame, codes: npt.NDArray[np.int64], seed: int, words: int = WORDS) -> Kept:
        """Decode the first 1, 2, ... L codes (n, L) of some items.

        For each prefix: its telling words (UTGRec Eq. 8) and a picture drawn by diffusion (Eq. 9), every one
        from the same noise, beside the mean of more such pictures. A word scores p log(p / q), where p is its
        probability under the prefix and q the one under an average prefix of that length, so a word that
        every text has scores nothing. Words that no text of the data set has, such as pieces of words, are
        left out.
        """
        prefixes = [torch.from_numpy(codes[:, :levels]) for levels in range(1, codes.shape[1] + 1)]
        found = [self.words(prefix, words) for prefix in prefixes]
        by_item = tuple(tuple(level[place] for level in found) for place in range(len(codes)))
        return Kept(
            items, codes, by_item, self.pictures(prefixes, seed), self.pictures(prefixes, seed, _DRAWS)
        )

    def describe(self, prefix: Sequence[int], seed: int) -> Told:
        """Decode one prefix; it is always drawn from the same noise."""
        asked = torch.tensor([list(prefix)])
        pictures = self.pictures([asked], seed)
        return Told(self.words(asked, WORDS)[0], None if pictures is None else pictures[0, 0])

    def words(self, prefixes: Tensor, most: int) -> list[tuple[str, ...]]:
        """Of each prefix (B, l) the words that tell most, without repetition."""
        usual = self._usual[prefixes.shape[1] - 1]
        scores = self.tokenizer.decode_words(prefixes).cpu()
        told = []
        for row in scores.exp() * (scores - usual):
            found: dict[str, None] = {}
            for place in row.argsort(descending=True).tolist():
                word = self._names[place]
                if word in self._known:
                    found.setdefault(word)
                if len(found) == most:
                    break
            told.append(tuple(found))
        return told

    @cached_property
    def _usual(self) -> list[Tensor]:
        """The logs of the words' mean probabilities over the prefixes of 1, 2, ... L codes, each (V,)."""
        usual = []
        for levels in range(1, self.codes.shape[1] + 1):
            prefixes, times = self.codes[:, :levels].unique(dim=0, return_counts=True)
            weights = times.div(times.sum()).log()[:, None]
            usual.append((weights + self.tokenizer.decode_words(prefixes).cpu()).logsumexp(dim=0))
        return usual

    @cached_property
    def _names(self) -> list[str]:
        return [name.strip().lower() for name in self.tokenizer.words()]

    @cached_property
    def _known(self) -> set[str]:
        return set().union(*map(words_of, self.texts))

    def pictures(
        self, prefixes: Sequence[Tensor], seed: int, draws: int = 1
    ) -> npt.NDArray[np.float32] | None:
        """The mean of so many pictures of each of (n, l) prefixes, for each length: (n, L, S, S, 3)."""
        by_length = []
        for prefix in prefixes:
            # One by one: every prefix is drawn from the same noise, so that equal prefixes have equal
            # pictures.
            means = []
            for one in prefix.split(1):
                noise = torch.Generator().manual_seed(seed)
                drawn = self.tokenizer.decode_pictures(one.expand(draws, -1), noise)
                if drawn is None:
                    return None
                means.append(drawn.mean(dim=0))
            by_length.append(torch.stack(means))
        pictures: npt.NDArray[np.float32] = torch.stack(by_length, dim=1).permute(0, 1, 3, 4, 2).cpu().numpy()
        return pictures
