"""The explorer's data: a tokenizer's codes for a catalogue, and other data of a run about its items.

Shapes: N items, L levels, K codes per level, d dimensions of the codebook space, D of the content vectors.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from copy import copy
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from genrec_lab.codes import ItemCodes, row_ids
from genrec_lab.data.item_text import without_entities
from genrec_lab.evaluation import CodeHealth, code_health
from genrec_lab.viz import Float32Array, IntArray, kept
from genrec_lab.viz.explorer.sharing import PairSums, group_similarity, pair_sums, unit_vectors
from genrec_lab.viz.explorer.words import TitleWords
from genrec_lab.viz.text import written

# Number of residuals that are converted to distances at once: about 100 MB at 32 dimensions.
_ITEMS_AT_ONCE = 200_000
_DRAWS, _LARGEST_DRAW = 40, 256


class PrefixOrder:
    """The items sorted by their codes, in which a prefix is a contiguous range.

    items: (N,) item indices in lexicographic order of codes; ties by index. columns: (L, N) codes, and
    domain_index: (N,), in that order. starts[l]: the starts of the prefixes of l + 1 codes, followed by N.
    """

    def __init__(self, codes: ItemCodes) -> None:
        self.sizes = codes.sizes
        self.items: IntArray = np.lexsort(codes.codes.T[::-1])
        self.columns = np.ascontiguousarray(codes.codes[self.items].T.astype(np.int32))
        self.domain_index = codes.domain_index[self.items].astype(np.int32)
        new = np.zeros(len(self.items), dtype=bool)
        new[0] = True
        self.starts: tuple[IntArray, ...] = ()
        for column in self.columns:
            new[1:] |= column[1:] != column[:-1]
            self.starts += (np.append(np.flatnonzero(new), len(self.items)),)

    def span(self, prefix: Sequence[int]) -> tuple[int, int]:
        """Return the range [low, high) of a prefix in the order; low == high if no item has it.

        Raises ValueError for more codes than levels.
        """
        if len(prefix) > len(self.columns):
            raise ValueError(f"prefix: {len(prefix)} codes, identifiers have {len(self.columns)}")
        low, high = 0, self.items.size
        for column, code in zip(self.columns, prefix, strict=False):
            part = column[low:high]
            # The code has the column's type, because numpy would otherwise copy the column.
            if not 0 <= code <= np.iinfo(np.int32).max:
                return low, low
            first, last = (int(np.searchsorted(part, np.int32(code), side)) for side in ("left", "right"))
            low, high = low + first, low + last
        return low, high

    def members(self, prefix: Sequence[int], domain: int | None = None) -> IntArray:
        """Return the items of a prefix in the order of their codes, optionally of one domain (by number)."""
        span = slice(*self.span(prefix))
        items = self.items[span]
        return items if domain is None else items[self.domain_index[span] == domain]

    def with_code(self, level: int, code: int) -> IntArray:
        """Return the positions in the order, ascending, of items with a code at a level under any prefix."""
        order, starts = self.by_code(level)
        known = 0 <= code < self.sizes[level]
        return order[starts[code] : starts[code + 1]] if known else order[:0]

    @kept
    def by_code(self, level: int) -> tuple[IntArray, IntArray]:
        """Return the positions sorted by the code of a level, (N,), and the start of each code, (K + 1,)."""
        counts = np.bincount(self.columns[level], minlength=self.sizes[level])
        return np.argsort(self.columns[level], kind="stable"), np.concatenate([[0], np.cumsum(counts)])

    def groups_below(self, prefix: Sequence[int], length: int) -> tuple[int, int]:
        """Return the range of the prefixes of `length` codes below a prefix, among all of this length."""
        if not length:
            return 0, 1
        first, last = np.searchsorted(self.starts[length - 1], self.span(prefix)).tolist()
        return first, last

    def group_numbers(self, length: int) -> IntArray:
        """Return for each item, (N,), the number of its prefix among those of `length` codes."""
        if not length:
            return np.zeros(self.items.size, dtype=np.int64)
        starts = self.starts[length - 1]
        numbers = np.empty(self.items.size, dtype=np.int64)
        numbers[self.items] = np.repeat(np.arange(starts.size - 1), np.diff(starts))
        return numbers


class CodedCatalogue:
    """The items of a catalogue with their codes, titles, traffic and, if known, their vectors.

    codes: before any conflict policy. titles: (N,). traffic: (N,) interactions, zeros if unknown. residuals:
    (N, L, d), the input of each level. codewords: L arrays (K, d). vectors: (N, D) content vectors, which
    `alike` describes. images: (N,) paths or None. keys: (N,) ids of the source, used to match two catalogues;
    by default the item numbers. books: number of consecutive codebooks in each level, 1 or, for tokenizers
    trained separately, one per domain. attributes: N rows of other columns, such as brand or price.
    Raises ValueError, which names what does not match.
    """

    def __init__(
        self,
        name: str,
        codes: ItemCodes,
        titles: Sequence[str],
        *,
        traffic: ArrayLike | None = None,
        residuals: ArrayLike | None = None,
        codewords: Sequence[ArrayLike] | None = None,
        vectors: ArrayLike | None = None,
        images: Sequence[str | None] | None = None,
        keys: Sequence[object] | None = None,
        books: int = 1,
        attributes: pl.DataFrame | None = None,
        alike: str = "content vectors",
        seed: int = 0,
    ) -> None:
        self.n_items, self.levels, self.domains = codes.n_items, codes.levels, codes.domain_names
        n_items, sizes = codes.n_items, codes.sizes
        self.name, self.codes, self.seed, self.books = name, codes, seed, books
        self.alike, self._keys_given, self.sizes_known = alike, keys is not None, not codes.unknown_levels
        self.titles = without_entities(pl.Series("title", list(titles), dtype=pl.String).fill_null(""))
        self.attributes = pl.DataFrame() if attributes is None else attributes
        counts = np.zeros(n_items) if traffic is None else np.asarray(traffic)
        self.images = None if images is None else list(images)
        self.keys = list(range(n_items)) if keys is None else list(keys)
        self.residuals = None if residuals is None else np.asarray(residuals, dtype=np.float32)
        self.vectors = None if vectors is None else np.asarray(vectors, dtype=np.float32)
        self.codewords = None
        if codewords is not None:
            self.codewords = tuple(np.asarray(book, dtype=np.float32) for book in codewords)
        given: dict[str, Sized | None]
        given = {"titles": self.titles, "traffic": counts, "keys": self.keys, "images": self.images}
        given |= {"residuals": self.residuals, "vectors": self.vectors, "attributes": attributes}
        for what, values in given.items():
            if values is not None and len(values) != n_items:
                raise ValueError(f"{what}: {len(values)} values for {n_items} items, expected one per item")
        if counts.ndim != 1 or (counts < 0).any():
            raise ValueError(f"traffic: shape {counts.shape} with least {counts.min()}; expected counts (N,)")
        self.traffic: IntArray = counts.astype(np.int64)
        if self.residuals is not None and self.residuals.shape[1:-1] != (self.levels,):
            raise ValueError(f"residuals: shape {self.residuals.shape}, expected (N, {self.levels}, d)")
        if self.codewords is not None and (found := tuple(map(len, self.codewords))) != sizes:
            raise ValueError(f"codewords: levels of {found} codes, the identifiers have {sizes}")
        if books < 1 or any(size % books for size in sizes):
            raise ValueError(f"books: {books} do not divide the sizes {sizes} of the levels")

    @cached_property
    def order(self) -> PrefixOrder:
        """The items sorted by their codes."""
        return PrefixOrder(self.codes)

    @cached_property
    def stem_ids(self) -> IntArray:
        """(N,) numbers of the items' domains and codes except the last one."""
        return row_ids(np.column_stack([self.codes.domain_index, self.codes.codes[:, :-1]]))

    @cached_property
    def health(self) -> CodeHealth:
        """The use of each level, and the collisions."""
        return code_health(self.codes.codes, self.codes.known_sizes, self.codes.domains)

    @cached_property
    def ambiguous(self) -> NDArray[np.bool_]:
        """(N,) whether another item of the same domain has the same codes."""
        ids = self.codes.identifier_ids
        several: NDArray[np.bool_] = np.bincount(ids) > 1
        return several[ids]

    @cached_property
    def by_popularity(self) -> IntArray:
        """(N,) the items by descending traffic; ties by index."""
        return np.argsort(-self.traffic, kind="stable")

    @cached_property
    def words(self) -> TitleWords:
        """The words of the titles, in the order of the codes."""
        return TitleWords(self.titles.gather(self.order.items))

    @cached_property
    def searched(self) -> pl.Series:
        """The texts for the search: titles, keys and text attributes in lower case."""
        texts = [self.titles]
        if self._keys_given:  # a text search should not match item numbers
            texts.append(pl.Series([str(key) for key in self.keys], dtype=pl.String))
        texts += [one.fill_null("") for one in self.attributes if one.dtype == pl.String]
        frame = pl.DataFrame([text.alias(str(place)) for place, text in enumerate(texts)])
        return frame.select(pl.concat_str(pl.all(), separator="\n").str.to_lowercase()).to_series()

    @cached_property
    def valued(self) -> dict[str, tuple[list[str], IntArray]]:
        """By text attribute: its values and (N,) the index of each item's value, -1 for none."""
        found = {}
        for column in self.attributes:
            if column.dtype == pl.String:
                names, places = np.unique(column.fill_null("").to_numpy().astype(str), return_inverse=True)
                numbers = np.where(names == "", -1, np.arange(names.size))
                found[column.name] = (names.tolist(), numbers[places])
        return found

    @kept
    def prefix_pairs(self, length: int) -> PairSums:
        """Return the similarities of pairs with the same first `length` codes."""
        return pair_sums(self.known_unit, self.order.group_numbers(length), self.codes.domain_index)

    @kept
    def code_pairs(self, level: int) -> PairSums:
        """Return the similarities of pairs with the same code of a level."""
        codes, size = self.codes.codes[:, level], self.codes.sizes[level]
        return pair_sums(self.known_unit, codes, self.codes.domain_index, size)

    @property
    def known_unit(self) -> Float32Array:
        """(N, D) `unit`; raises ValueError without vectors."""
        if self.unit is None:
            raise ValueError(f"{self.name}: no content vectors, so the similarity of items is not known")
        return self.unit

    @kept
    def chance(self, size: int) -> tuple[float, float, float]:
        """Return the coherence of `size` random items: 5th percentile, mean over all pairs, 95th percentile.

        The percentiles are from 40 samples of at most 256 items, so the range is too wide for larger groups.
        """
        if self.unit is None:
            return (float("nan"),) * 3
        generator, drawn = np.random.default_rng(self.seed), min(size, _LARGEST_DRAW, self.n_items)
        sets = [generator.choice(self.n_items, drawn, replace=False) for _ in range(_DRAWS)]
        found = group_similarity(self.unit, np.concatenate(sets), np.repeat(np.arange(_DRAWS), drawn), _DRAWS)
        low, high = np.quantile(found, [0.05, 0.95])
        return float(low), self.coherence, float(high)

    @cached_property
    def coherence(self) -> float:
        """The mean cosine similarity of all pairs of items, as expected by chance; NaN without vectors."""
        return float("nan") if self.unit is None else float(self.prefix_pairs(0).by_group()[0])

    @cached_property
    def phrases(self) -> TitleWords:
        """The pairs of adjacent words in the titles, in the order of the codes."""
        return TitleWords(self.titles.gather(self.order.items), length=2)

    @cached_property
    def unit(self) -> Float32Array | None:
        """(N, D) the content vectors scaled to length 1, or None if unknown."""
        return None if self.vectors is None else unit_vectors(self.vectors)

    @cached_property
    def distances(self) -> Float32Array | None:
        """(N, L) Euclidean distances of each level's residual to its codeword, or None if unknown."""
        if self.residuals is None or self.codewords is None:
            return None
        distances = np.empty(self.residuals.shape[:2], dtype=np.float32)
        for level, book in enumerate(self.codewords):
            for start in range(0, self.n_items, _ITEMS_AT_ONCE):
                part = slice(start, start + _ITEMS_AT_ONCE)
                left = self.residuals[part, level] - book[self.codes.codes[part, level]]
                distances[part, level] = np.sqrt(np.einsum("nd,nd->n", left, left))
        return distances

    @kept
    def labels(self, prefix: tuple[int, ...]) -> dict[int, list[str]]:
        """Return the words that distinguish each used child of a prefix from the others."""
        if len(prefix) == self.levels:
            return {}
        first, last = self.order.groups_below(prefix, len(prefix) + 1)
        borders = self.order.starts[len(prefix)][first : last + 1]
        codes = self.order.columns[len(prefix)][borders[:-1]].tolist()
        return dict(zip(codes, self.words.labels(borders), strict=True))

    @kept
    def words_everywhere(self, level: int) -> dict[int, list[str]]:
        """Return the words of each used code of a level, under any prefix."""
        places, starts = self.order.by_code(level)
        used = np.flatnonzero(np.diff(starts))
        borders = np.append(starts[used], places.size)
        return dict(zip(used.tolist(), self.words.labels(borders, places=places), strict=True))

    def nearest_codes(self, level: int, code: int) -> list[tuple[int, float]]:
        """Return the five codes of the same codebook with the nearest codewords, and their distances."""
        if self.codewords is None:
            return []
        width = self.codes.sizes[level] // self.books
        first = code // width * width
        book = self.codewords[level][first : first + width].astype(np.float64)
        distance = np.linalg.norm(book - book[code - first], axis=1)
        distance[code - first] = np.inf
        order = np.argsort(distance, kind="stable")[: min(5, width - 1)]
        return [(int(first + place), float(distance[place])) for place in order]

    def prepare(self) -> CodedCatalogue:
        """Compute in advance what would slow down the first answers: order, words, distances and means."""
        _ = self.words, self.phrases, self.searched, self.distances, self.by_popularity, self.coherence
        _ = self.stem_ids, self.health, self.ambiguous
        for level in range(self.levels):
            self.words_everywhere(level)
            if self.unit is not None:
                _ = self.prefix_pairs(level + 1), self.code_pairs(level)
        return self

    def with_codes(self, name: str, codes: ItemCodes) -> CodedCatalogue:
        """Return the same items with other codes of the same sizes, whose residuals are not known."""
        if codes.sizes != self.codes.sizes or codes.n_items != self.n_items:
            expected = f"expected {self.n_items} items, {self.codes.sizes}"
            raise ValueError(f"codes: {codes.n_items} items, sizes {codes.sizes}; {expected}")
        found = copy(self)
        for derived in ("order", "stem_ids", "health", "ambiguous", "words", "phrases", "distances", "_kept"):
            vars(found).pop(derived, None)
        found.name, found.codes, found.residuals, found.codewords = name, codes, None, None
        places = np.empty(self.n_items, dtype=np.int64)
        places[self.order.items] = np.arange(self.n_items)
        reordered = places[found.order.items]
        found.words, found.phrases = self.words.reordered(reordered), self.phrases.reordered(reordered)
        return found

    def domain_number(self, domain: str | None) -> int | None:
        """Return a domain's number, or None for None; raises ValueError, which names the known domains."""
        if domain is None:
            return None
        if domain not in self.domains:
            raise ValueError(f"domain: {domain!r}, expected one of {list(self.domains)} or None for all")
        return self.domains.index(domain)

    def cards(self, items: ArrayLike) -> pl.DataFrame:
        """Return a frame `item, title, domain, codes, interactions, image`, in the order of `items`."""
        chosen = np.asarray(items, dtype=np.int64)
        names = np.array(self.domains, dtype=object)[self.codes.domain_index[chosen]]
        columns = {
            "item": chosen,
            "title": self.titles.gather(chosen),
            "domain": names.tolist(),
            "codes": [written(row) for row in self.codes.codes[chosen].tolist()],
            "interactions": self.traffic[chosen],
            "image": [self.images[item] if self.images else None for item in chosen],
        }
        texts = dict.fromkeys(("domain", "codes", "image"), pl.String)
        return pl.DataFrame(columns, schema_overrides=texts)
