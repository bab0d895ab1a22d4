"""Words that are over-represented in some titles, by log-odds with an informative Dirichlet prior.

The score is the log-odds ratio of a word with that prior over its standard deviation, as in Monroe, Colaresi
and Quinn (2008), "Fightin' Words", Political Analysis 16(4). A word that comes twice in a title counts once:
what counts is how many titles hold it. English function words are left out.
Shapes: N titles, V words, C groups of titles.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

# Letters and digits of any script, joined by apostrophes and hyphens within a word.
_WORD = r"[\p{L}\p{M}\p{N}]+(?:['’\-][\p{L}\p{M}\p{N}]+)*"
# They come and go with the wording of a title and tell nothing of what it is about.
_FUNCTION_WORDS = (
    "a", "an", "and", "as", "at", "by", "for", "from", "in", "into", "is", "it", "its", "of", "on", "or",
    "the", "to", "with",
)  # fmt: skip
_PRIOR_WORDS = 100.0
"""The weight of the prior, in words: as if every group had held 100 words of the whole catalogue before."""
_LABEL_WORDS = 2_000
_TITLE_CHARACTERS = 1_000
"""The part of a title whose words count: a title of 10,000 characters is no title."""


class Word(NamedTuple):
    """A telling word: how many of the titles hold it, and the z-score of its log-odds against the others."""

    word: str
    titles: int
    score: float


class TitleWords:
    """The words of N titles as one list with borders, so that a stretch of titles is a stretch of words."""

    def __init__(self, titles: pl.Series) -> None:
        frame = pl.DataFrame({"title": titles}).with_row_index("row")
        tokens = (
            frame.lazy()
            .with_columns(pl.col("title").str.slice(0, _TITLE_CHARACTERS).str.to_lowercase())
            .select("row", pl.col("title").str.extract_all(_WORD).list.unique(maintain_order=True))
            .explode("title")
            .drop_nulls()
            .filter(~pl.col("title").is_in(_FUNCTION_WORDS))
            .collect()
        )
        names = tokens["title"].unique().sort()
        self.words: list[str] = names.to_list()
        place = pl.DataFrame({"title": names}).with_row_index("word")
        found = tokens.join(place, on="title", how="left", maintain_order="left")
        self.numbers: npt.NDArray[np.int32] = found["word"].cast(pl.Int32).to_numpy()
        lengths = np.bincount(found["row"].to_numpy(), minlength=len(titles))
        self.starts: IntArray = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.totals: IntArray = np.bincount(self.numbers, minlength=len(self.words))
        # The commonest words again by low numbers and without the rest: labels are taken from these.
        self._common = np.argsort(-self.totals, kind="stable")[:_LABEL_WORDS]
        short = np.full(len(self.words), -1, dtype=np.int32)
        short[self._common] = np.arange(self._common.size)
        tokens_short = short[self.numbers]
        is_common = tokens_short >= 0
        self._short = tokens_short[is_common]
        self._short_starts: IntArray = np.concatenate([[0], np.cumsum(is_common)])[self.starts]

    def counts(self, places: IntArray) -> IntArray:
        """(V,) titles among these places (rows of the series) that hold each word."""
        tokens = stretches(self.starts[places], np.diff(self.starts)[places])
        return np.bincount(self.numbers[tokens], minlength=len(self.words))

    def telling(self, places: IntArray, top: int = 10, against: IntArray | None = None) -> list[Word]:
        """The `top` words that these titles hold more often than the others, most telling first.

        against: the titles to compare with, these among them; by default all. Words that are not
        over-represented are left out, and so is everything where there are no other titles.
        """
        inside = self.counts(places)
        whole = self.totals if against is None else self.counts(against)
        scores = log_odds(inside, whole - inside, whole)
        best = np.argsort(-scores, kind="stable")[:top]
        return [
            Word(self.words[place], int(inside[place]), float(scores[place]))
            for place in best
            if scores[place] > 0 and inside[place] > 0
        ]

    def labels(self, borders: IntArray, top: int = 3) -> list[list[str]]:
        """The `top` telling words of each of C neighbouring stretches of titles, against them all together.

        borders: (C + 1,) rows where the stretches begin, and the end. Taken from the 2,000 commonest words.
        """
        n_groups = len(borders) - 1
        if n_groups < 2 or not self.words:
            return [[] for _ in range(n_groups)]
        edges, width = self._short_starts[borders], self._common.size
        cells = np.repeat(np.arange(n_groups) * width, np.diff(edges))
        cells += self._short[edges[0] : edges[-1]]
        table = np.bincount(cells, minlength=n_groups * width).reshape(n_groups, width)
        whole = table.sum(axis=0)
        # The words outside the short list count towards the sums of the log-odds all the same.
        lengths, (rows, columns) = np.diff(self.starts[borders]), np.nonzero(table)
        scores = _scores(
            table[rows, columns],
            whole[columns] - table[rows, columns],
            lengths[rows],
            lengths.sum() - lengths[rows],
            whole[columns] / max(int(lengths.sum()), 1) * _PRIOR_WORDS,
        )
        order = np.lexsort((columns, -scores, rows))
        found: list[list[str]] = [[] for _ in range(n_groups)]
        rows, columns, scores = rows[order], columns[order], scores[order]
        rank = np.arange(rows.size) - np.searchsorted(rows, rows)
        for place in np.flatnonzero((rank < top) & (scores > 0)).tolist():
            found[rows[place]].append(self.words[self._common[columns[place]]])
        return found


def stretches(starts: IntArray, lengths: IntArray) -> IntArray:
    """Return all places of the stretches that begin at `starts`, one after another."""
    ends = np.cumsum(lengths)
    return np.arange(int(lengths.sum())) + np.repeat(starts - (ends - lengths), lengths)


def log_odds(inside: npt.ArrayLike, outside: npt.ArrayLike, prior: npt.ArrayLike) -> FloatArray:
    """(V,) z-scores of the words' log-odds inside against outside; 0 where one of the two has no words.

    inside, outside: (V,) counts. prior: (V,) counts that give the prior its shape; it weighs 100 words.
    """
    one, other = np.asarray(inside, dtype=np.float64), np.asarray(outside, dtype=np.float64)
    shape = np.asarray(prior, dtype=np.float64)
    n_one, n_other = one.sum(), other.sum()
    scores = np.zeros(len(one))
    known = shape > 0
    if n_one == 0 or n_other == 0 or not known.any():
        return scores
    alpha = _PRIOR_WORDS * shape[known] / shape.sum()
    scores[known] = _scores(one[known], other[known], n_one, n_other, alpha)
    return scores


def _scores(
    one: npt.ArrayLike, other: npt.ArrayLike, n_one: npt.ArrayLike, n_other: npt.ArrayLike, alpha: FloatArray
) -> FloatArray:
    """The z-scores of words with counts `one` of `n_one` inside and `other` of `n_other` outside."""
    first, second = np.asarray(one) + alpha, np.asarray(other) + alpha
    all_first, all_second = np.asarray(n_one) + _PRIOR_WORDS, np.asarray(n_other) + _PRIOR_WORDS
    # A catalogue of one word leaves no other words to compare with.
    rest_first = np.maximum(all_first - first, np.finfo(float).tiny)
    rest_second = np.maximum(all_second - second, np.finfo(float).tiny)
    difference = np.log(first) - np.log(rest_first) - np.log(second) + np.log(rest_second)
    return difference / np.sqrt(1 / first + 1 / second)
