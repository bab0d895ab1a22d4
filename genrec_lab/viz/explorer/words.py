"""Words that are over-represented in some titles, by log-odds with an informative Dirichlet prior.

The score is a word's log-odds ratio with this prior, divided by its standard deviation, as in Monroe,
Colaresi and Quinn (2008), "Fightin' Words", Political Analysis 16(4). Counts are numbers of titles that
contain a word, so repetitions in a title do not count. English function words are left out.
Shapes: N titles, V words, C groups of titles.
"""

from __future__ import annotations

from copy import copy
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from genrec_lab.viz import FloatArray, IntArray

# Letters and digits of any script, joined by apostrophes and hyphens within a word.
_WORD = r"[\p{L}\p{M}\p{N}]+(?:['’\-][\p{L}\p{M}\p{N}]+)*"
# These words depend on the phrasing of a title, not on its subject.
_FUNCTION_WORDS = (
    "a", "an", "and", "as", "at", "by", "for", "from", "in", "into", "is", "it", "its", "of", "on", "or",
    "the", "to", "with",
)  # fmt: skip
# Single letters and numbers do not count as words.
_TELLS_NOTHING = r"^(?:\p{Latin}|\p{N}+)$"
_PRIOR_WORDS = 100.0
"""The weight of the prior, in words: as if every group had held 100 words of the whole catalogue before."""
_LABEL_WORDS = 2_000
_TITLE_CHARACTERS = 1_000
"""The part of a title whose words count: a title of 10,000 characters is no title."""


class Word(NamedTuple):
    """A characteristic word: the number of titles with it, and the z-score of its log-odds."""

    word: str
    titles: int
    score: float


class TitleWords:
    """The words of N titles as a sparse matrix of titles and words.

    length: 1 for words, 2 for pairs of adjacent words that occur in at least two titles.
    """

    def __init__(self, titles: pl.Series, length: int = 1) -> None:
        frame = pl.DataFrame({"title": titles}).with_row_index("row")
        word = pl.col("title")
        distinctive = ~word.is_in(_FUNCTION_WORDS) & ~word.str.contains(_TELLS_NOTHING)
        terms = (
            frame.lazy()
            .with_columns(word.str.slice(0, _TITLE_CHARACTERS).str.to_lowercase().str.extract_all(_WORD))
            .explode("title")
            .drop_nulls()
            .with_columns(distinctive=distinctive)
        )
        single = terms.filter("distinctive").select("row", "title").unique(maintain_order=True)
        tokens = _pairs(terms.collect()) if length == 2 else single.collect()
        names = tokens["title"].unique().sort()
        self.words: list[str] = names.to_list()
        place = pl.DataFrame({"title": names}).with_row_index("word")
        found = tokens.join(place, on="title", how="left", maintain_order="left")
        numbers, lengths = found["word"].to_numpy(), np.bincount(found["row"], minlength=len(titles))
        starts, shape = np.concatenate([[0], np.cumsum(lengths)]), (len(titles), len(self.words))
        self._held = csr_array((np.ones(numbers.size, np.int32), numbers, starts), shape=shape)
        self.totals: IntArray = np.bincount(numbers, minlength=len(self.words))
        # A second matrix of only the most common words, from which labels are taken.
        self._common = np.argsort(-self.totals, kind="stable")[:_LABEL_WORDS]
        self._short = self._held[:, self._common]

    def reordered(self, places: IntArray) -> TitleWords:
        """Return the words of the same titles in another order: row i is that of the title `places[i]`."""
        found = copy(self)
        found._held, found._short = self._held[places], self._short[places]
        return found

    def counts(self, places: IntArray) -> IntArray:
        """Return the number of titles with each word, (V,), among these rows of the series."""
        return np.bincount(self._held[places].indices, minlength=len(self.words))

    def telling(self, places: IntArray, top: int = 10, against: IntArray | None = None) -> list[Word]:
        """Return the `top` words that are over-represented in these titles, highest score first.

        against: the titles to compare with, including these; by default all.
        """
        inside = self.counts(places)
        whole = self.totals if against is None else self.counts(against)
        # Only words in these titles can be over-represented, and there are few of them.
        own = np.flatnonzero(inside)
        n_one, n_all = int(inside.sum()), int(whole.sum())
        if n_one in (0, n_all):
            return []
        alpha = _PRIOR_WORDS * whole[own] / n_all
        scores = _scores(inside[own], whole[own] - inside[own], n_one, n_all - n_one, alpha)
        best = np.argsort(-scores, kind="stable")[:top]
        found = [(own[place], float(scores[place])) for place in best if scores[place] > 0]
        return [Word(self.words[word], int(inside[word]), score) for word, score in found]

    def labels(self, borders: IntArray, places: IntArray | None = None) -> list[list[str]]:
        """Return three characteristic words of each of C consecutive ranges of titles, compared with all.

        borders: (C + 1,) starts and end of the ranges, in rows or in `places` (rows in another order). Only
        the 2,000 most common words are candidates.
        """
        n_groups = len(borders) - 1
        if n_groups < 2 or not self.words:
            return [[] for _ in range(n_groups)]
        rows = np.arange(borders[0], borders[-1]) if places is None else places[borders[0] : borders[-1]]
        shape = (n_groups, self._held.shape[0])
        gathered = csr_array((np.ones(rows.size, np.int32), rows, borders - borders[0]), shape=shape)
        table = (gathered @ self._short).tocoo()
        inside, whole, (rows, columns) = table.data, table.sum(axis=0), table.coords
        # Words that are not candidates also count in the totals of the log-odds.
        lengths = gathered @ np.diff(self._held.indptr).astype(np.int64)
        total = int(lengths.sum())
        prior = whole[columns] / max(total, 1) * _PRIOR_WORDS
        scores = _scores(inside, whole[columns] - inside, lengths[rows], total - lengths[rows], prior)
        order = np.lexsort((columns, -scores, rows))
        found: list[list[str]] = [[] for _ in range(n_groups)]
        rows, columns, scores = rows[order], columns[order], scores[order]
        rank = np.arange(rows.size) - np.searchsorted(rows, rows)
        for place in np.flatnonzero((rank < 3) & (scores > 0)).tolist():
            found[rows[place]].append(self.words[self._common[columns[place]]])
        return found


def _pairs(terms: pl.DataFrame) -> pl.DataFrame:
    """Return the pairs of adjacent words of each row that occur in at least two rows."""
    words = terms["title"]
    names, numbers = words.unique().sort(), words.rank("dense").to_numpy().astype(np.int64) - 1
    rows, distinctive = terms["row"].to_numpy(), terms["distinctive"].to_numpy()
    kept = (rows[:-1] == rows[1:]) & distinctive[:-1] & distinctive[1:]
    pairs = numbers[:-1][kept] * len(names) + numbers[1:][kept]
    found = pl.DataFrame({"row": rows[:-1][kept], "pair": pairs}).unique(maintain_order=True)
    found = found.filter(pl.len().over("pair") > 1)
    first, second = (names.gather(part) for part in np.divmod(found["pair"].to_numpy(), max(len(names), 1)))
    return pl.DataFrame({"row": found["row"], "title": first + " " + second})


def telling_terms(words: TitleWords, pairs: TitleWords, places: IntArray, top: int = 10) -> list[Word]:
    """Return the most characteristic words and pairs of adjacent words of these titles, highest score first.

    A word is left out if a pair with it occurs in the same number of titles. A pair is left out if one of its
    words is in more titles and scores at least as high. places: as in `TitleWords.telling`.
    """
    found = [*words.telling(places, 3 * top), *pairs.telling(places, 3 * top)]
    by_name = {term.word: term for term in found}
    kept = set(by_name)
    for pair in (term for term in found if " " in term.word):
        parts = [by_name[part] for part in pair.word.split(" ") if part in by_name]
        if any(part.titles > pair.titles and part.score >= pair.score for part in parts):
            kept.discard(pair.word)
        else:
            kept -= {part.word for part in parts if part.titles == pair.titles}
    chosen = [by_name[name] for name in kept]
    return sorted(chosen, key=lambda term: (-term.score, term.word))[:top]


def _scores(
    one: ArrayLike, other: ArrayLike, n_one: ArrayLike, n_other: ArrayLike, alpha: FloatArray
) -> FloatArray:
    """Return z-scores of words with counts `one` of `n_one` inside and `other` of `n_other` outside."""
    first, second = np.asarray(one) + alpha, np.asarray(other) + alpha
    all_first, all_second = np.asarray(n_one) + _PRIOR_WORDS, np.asarray(n_other) + _PRIOR_WORDS
    # In a catalogue of one word, there are no other words to compare with.
    rest_first = np.maximum(all_first - first, np.finfo(float).tiny)
    rest_second = np.maximum(all_second - second, np.finfo(float).tiny)
    difference = np.log(first) - np.log(rest_first) - np.log(second) + np.log(rest_second)
    return difference / np.sqrt(1 / first + 1 / second)
