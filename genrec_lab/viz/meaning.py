"""The meaning of codes: words and pictures that decoders reconstruct from an item's first codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import plotly.graph_objects as go
import polars as pl
import torch
from torch import Tensor

from genrec_lab.models.tokenizers import Tokenizer
from genrec_lab.viz import Float32Array, IntArray
from genrec_lab.viz.explorer import Decoded
from genrec_lab.viz.figures import kept_by_codes
from genrec_lab.viz.figures.pictures import words_of

WORDS = 8  # shown for a prefix
_DRAWS = 16  # pictures per prefix; their mean shows what they have in common


@dataclass(frozen=True)
class Kept:
    """The content of n items that their codes keep, level by level."""

    items: pl.DataFrame  # of the dataset, one row per item
    codes: IntArray  # (n, L), before any conflict policy
    words: tuple[tuple[tuple[str, ...], ...], ...]  # by item and level: the characteristic words, best first
    # (n, L, S, S, 3) in 0..1, or None if the tokenizer was trained without pictures.
    pictures: Float32Array | None
    means: Float32Array | None  # same shape as pictures: the means of 16 draws

    def figure(self, seed: int | None = None) -> go.Figure:
        """Draw the items next to what their codes keep."""
        return kept_by_codes(self.items, self.codes, self.words, self.pictures, self.means, seed=seed)


@dataclass(frozen=True)
class Decoder:
    """A tokenizer whose decoders turn a prefix into words and pictures."""

    tokenizer: Tokenizer
    codes: Tensor  # (n, L) of training items, for the average word probabilities
    texts: pl.Series  # of all items; only words in these texts are used

    def keep(self, items: pl.DataFrame, codes: IntArray, seed: int) -> Kept:
        """Decode the first 1, 2, ... L codes (n, L) of some items.

        For each prefix, return its most characteristic words (UTGRec Eq. 8), a picture drawn by diffusion
        (Eq. 9), and the mean of several such pictures, all from the same noise. The score of a word is
        p log(p / q), where p is its probability under the prefix and q the mean over prefixes of that length.
        Words that are not in any text of the data set, such as subwords, are left out.
        """
        prefixes = [torch.from_numpy(codes[:, :levels]) for levels in range(1, codes.shape[1] + 1)]
        by_item = tuple(zip(*map(self.words, prefixes), strict=True))
        single, mean = self.pictures(prefixes, seed), self.pictures(prefixes, seed, _DRAWS)
        return Kept(items, codes, by_item, single, mean)

    def describe(self, prefix: Sequence[int], seed: int) -> Decoded:
        """Decode one prefix; its picture is always drawn from the same noise."""
        asked = torch.tensor([list(prefix)])
        pictures = self.pictures([asked], seed)
        return Decoded(self.words(asked)[0], None if pictures is None else pictures[0, 0])

    def words(self, prefixes: Tensor) -> list[tuple[str, ...]]:
        """Return the most characteristic words of each prefix (B, l), without repetition."""
        scores = self.tokenizer.decode_words(prefixes).cpu()
        typical = scores.exp() * (scores - self._usual[prefixes.shape[1] - 1])
        chosen = []
        for places in typical.argsort(descending=True).tolist():
            known = (word for word in map(self._names.__getitem__, places) if word in self._known)
            chosen.append(tuple(islice(dict.fromkeys(known), WORDS)))
        return chosen

    @cached_property
    def _usual(self) -> list[Tensor]:
        """The logs of the words' mean probabilities over prefixes of 1, 2, ... L codes, each (V,)."""
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

    def pictures(self, prefixes: Sequence[Tensor], seed: int, draws: int = 1) -> Float32Array | None:
        """Return the mean of `draws` pictures of each prefix (n, l), for each length: (n, L, S, S, 3)."""
        by_length = []
        for prefix in prefixes:
            # Prefixes are decoded one by one from the same noise, so that equal prefixes give equal pictures.
            means = []
            for one in prefix.split(1):
                noise = torch.Generator().manual_seed(seed)
                drawn = self.tokenizer.decode_pictures(one.expand(draws, -1), noise)
                if drawn is None:
                    return None
                means.append(drawn.mean(dim=0))
            by_length.append(torch.stack(means))
        pictures: Float32Array = torch.stack(by_length, dim=1).permute(0, 1, 3, 4, 2).cpu().numpy()
        return pictures
