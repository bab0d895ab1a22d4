"""How the time of decoding and the trie grow with the catalogue: 1,000 to 10,000,000 items.

The same T5 and the same users search tries of ever more items. A user's time may grow by 1.5 times; the trie
of 10,000,000 items is built within 20 s and takes less than 250 MB. What is found is scored once more, whole.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.decoding import LEVELS, SIZE, random_codes, random_histories, random_recommender
from benchmarks.measuring import MEGABYTE, Check, Comparison, Options, compare, main, timed
from genrec_lab.decoding import CodeTrie, Ranked, beam_search
from genrec_lab.models import Recommender

MOST_GROWTH, MOST_SECONDS, MOST_MEGABYTES = 1.5, 20.0, 250.0


@torch.inference_mode()
def scores_of(model: Recommender, history: list[int], codes: np.ndarray) -> np.ndarray:
    """Log-probabilities (E,) of whole identifiers (E, L) after one history, without beams and cache."""
    memory = model.remember([history]).of_users(torch.zeros(len(codes), dtype=torch.long))
    total = torch.zeros(len(codes))
    for level in range(codes.shape[1]):
        log_probs = model.continuations(memory, torch.from_numpy(codes[:, :level]))
        total += log_probs.gather(1, torch.from_numpy(codes[:, level : level + 1]))[:, 0]
    return total.numpy()


def measure(options: Options) -> list[Comparison]:
    """One search a catalogue size, in turns."""
    sizes = (200, 2_000) if options.small else (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
    users, beams = (2, 5) if options.small else (32, 50)
    model, histories = random_recommender(sizes[0]), random_histories(users, sizes[0])
    tables, tries, notes = {}, {}, {}
    for items in sizes:
        table = random_codes(items, LEVELS, SIZE)
        tries[items], seconds, *_ = timed(lambda table=table: CodeTrie(table))
        tables[items] = table
        notes[f"seconds to build the trie of {items:,}"] = seconds
        notes[f"megabytes of the trie of {items:,}"] = tries[items].nbytes / MEGABYTE

    def searching(trie: CodeTrie) -> Callable[[], Ranked]:
        return lambda: beam_search(model, histories, trie, beams, beams)

    def agree(results: Mapping[str, Any]) -> Iterator[Check]:
        for items, table in tables.items():
            found = results[f"{items:,} items"]
            again = scores_of(model, histories[0], table[found.items[0]])
            gap = float(np.abs(again - found.scores[0]).max())
            yield Check(f"{items:,} items: scored anew they differ by {gap:.1e}, allowed 1e-3", gap <= 1e-3)

    compared = compare(
        f"Growth of decoding: {users} users a batch, {beams} beams",
        {f"{items:,} items": searching(trie) for items, trie in tries.items()},
        agree,
        options,
        unit="users",
        amount=users,
        notes=notes,
    )
    first, last = (compared.timings[f"{items:,} items"].median for items in (sizes[0], sizes[-1]))
    compared.notes[f"growth of a user's time (target below {MOST_GROWTH})"] = last / first
    return [compared]


if __name__ == "__main__":
    sys.exit(main(measure))
