"""Allow lists inside the search against filtering afterwards: 1, 10 and 100 % of 25,000 items allowed.

Inside, a trie of the allowed items is built for the call and the search is exact for that catalogue. Filtered
afterwards, the beam holds what is not allowed too, so that fewer than top-k items are left; the share of the
places that it still fills is noted beside the time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.decoding import random_histories, random_recommender
from benchmarks.measuring import Check, Comparison, Options, compare, main, timed
from genrec_lab.decoding import CodeTrie, Ranked, beam_search

TOP_K = 10
INSIDE, AFTERWARDS, UNFILTERED = "inside the search", "filtered afterwards", "unfiltered"


def measure(options: Options) -> list[Comparison]:
    """One comparison a size of the allow list, and one of what a user has already."""
    items, users, beams = (300, 3, 12) if options.small else (25_000, 128, 50)
    model, histories = random_recommender(items), random_histories(users, items)
    trie = model.trie("all")

    def unfiltered() -> Ranked:
        return beam_search(model, histories, trie, beams, beams)

    found = []
    for share in (0.01, 0.1, 1.0):
        allowed = np.random.default_rng(2).permutation(items)[: max(TOP_K, int(items * share))]

        def inside(allowed: np.ndarray = allowed) -> Ranked:
            return model.recommend(histories, TOP_K, allow=allowed, beams=beams)

        def afterwards(allowed: np.ndarray = allowed) -> Ranked:
            ranked = unfiltered()
            scores = np.where(np.isin(ranked.items, allowed), ranked.scores, -np.inf)
            return Ranked.best(ranked.items, scores, TOP_K)

        def agree(results: Mapping[str, Any], allowed: np.ndarray = allowed) -> Iterator[Check]:
            ours = results[INSIDE]
            yield Check("only allowed items", bool(np.isin(ours.items, allowed).all()))
            alone = beam_search(model, histories, CodeTrie(model.codes.codes[allowed], allowed), beams, TOP_K)
            gap = float(np.abs(ours.scores - alone.scores).max())
            yield Check(f"scores of a trie of the allowed alone differ by {gap:.1e}", gap <= 1e-4)

        _, building, *_ = timed(lambda allowed=allowed: CodeTrie(model.codes.codes[allowed], allowed))
        left = float((afterwards().items >= 0).mean())
        notes = {"seconds to build the trie": building, "places filled when filtered afterwards": left}
        runs: dict[str, Callable[[], Ranked]] = {INSIDE: inside, AFTERWARDS: afterwards}
        found.append(_compared(f"{share:.0%} of {items:,} items allowed", runs, agree, users, options, notes))

    def seen() -> Ranked:
        return model.recommend(histories, TOP_K, exclude_seen=True, beams=beams)

    def without(results: Mapping[str, Any]) -> Iterator[Check]:
        had = [
            np.isin(row, history).any() for row, history in zip(results[INSIDE].items, histories, strict=True)
        ]
        yield Check("no item that the user has", not any(had))

    runs = {INSIDE: seen, UNFILTERED: unfiltered}
    found.append(_compared("what a user has is left out", runs, without, users, options, {}))
    return found


def _compared(
    work: str, runs: Mapping[str, Callable[[], Any]], agree: Any, users: int, options: Options, notes: Any
) -> Comparison:
    peer = next(name for name in runs if name != INSIDE)
    return compare(work, runs, agree, options, unit="users", amount=users, peer=peer, notes=notes)


if __name__ == "__main__":
    sys.exit(main(measure))
