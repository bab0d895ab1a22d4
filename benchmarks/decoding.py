"""Constrained beam search against transformers' `generate` with the same weights.

25,000 items of 4 levels of 256 codes, the T5 of TIGER (128/64x6/1,024, 4 + 4 layers) with random weights,
histories of 20 items, a batch of 32 users, 50 beams. The peer's `prefix_allowed_tokens_fn` walks a trie of
dictionaries, as most public code does. Both must give the same top 50; in bfloat16 98 % of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import Check, Comparison, Options, compare, main, same_items
from genrec_lab.codes import ItemCodes
from genrec_lab.decoding import CodeTrie, Ranked, beam_search
from genrec_lab.models import Recommender, T5Config

LEVELS, SIZE, HISTORY = 4, 256, 20
FLOAT, HALF, PEER = "genrec_lab, float32", "genrec_lab, bfloat16", "transformers generate"


def random_codes(items: int, levels: int, size: int, seed: int = 0) -> np.ndarray:
    """(N, L) different random identifiers."""
    rng = np.random.default_rng(seed)
    numbers = np.empty(0, dtype=np.int64)
    while len(numbers) < items:
        numbers = np.unique(np.append(numbers, rng.integers(0, size**levels, items - len(numbers) + 1000)))
    chosen = rng.permutation(numbers)[:items]
    return np.stack(np.unravel_index(chosen, (size,) * levels), axis=1)


def random_recommender(items: int, config: T5Config | None = None) -> Recommender:
    """A T5 with random weights over random identifiers."""
    torch.manual_seed(0)
    codes = ItemCodes(random_codes(items, LEVELS, SIZE), (SIZE,) * LEVELS)
    return Recommender(codes, config or T5Config()).eval()


def random_histories(users: int, items: int, length: int = HISTORY) -> list[list[int]]:
    """So many histories of so many items each."""
    return np.random.default_rng(1).integers(0, items, (users, length)).tolist()


def decoding_operations(config: T5Config, users: int, beams: int, places: int, vocabulary: int) -> float:
    """Floating-point operations of a search: two for each weight and row, and those of attention."""
    inner = config.heads * config.d_kv
    feed_forward = config.d_model * config.d_ff * (3 if config.feed_forward == "gated-gelu" else 2)
    read = users * places
    encoder = config.encoder_layers * (
        read * (4 * config.d_model * inner + feed_forward) + 2 * read * places * inner
    )
    remembered = config.decoder_layers * read * 2 * config.d_model * inner
    rows = [users] + [users * beams] * (LEVELS - 1)
    decoder = config.decoder_layers * sum(
        row * (6 * config.d_model * inner + feed_forward + 2 * inner * (places + level + 1))
        for level, row in enumerate(rows)
    )
    return 2.0 * (encoder + remembered + decoder + sum(rows) * config.d_model * vocabulary)


def peer_search(model: Recommender, histories: list[list[int]], beams: int) -> Callable[[], Ranked]:
    """Return the peer: transformers' T5 with the same weights, its beams held to a trie of dictionaries."""
    theirs, tokens = model.to_transformers().to(model.item_tokens.device), model.codes.tokens()
    root: dict[int, Any] = {}
    for item, row in enumerate(tokens.tolist()):
        node = root
        for token in row[:-1]:
            node = node.setdefault(token, {})
        node[row[-1]] = item
    inputs = model.inputs(histories)

    def allowed(_: int, written: torch.Tensor) -> list[int]:
        node = root
        for token in written.tolist()[1:]:
            node = node[token]
        return list(node)

    @torch.inference_mode()
    def run() -> Ranked:
        found = theirs.generate(
            **inputs,
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=LEVELS,
            do_sample=False,
            length_penalty=0.0,
            prefix_allowed_tokens_fn=allowed,
            return_dict_in_generate=True,
            output_scores=True,
        )
        items = []
        for written in found.sequences[:, 1 : LEVELS + 1].tolist():
            node: Any = root
            for token in written:
                node = node[token]
            items.append(node)
        shape = (len(histories), beams)
        return Ranked(np.array(items).reshape(shape), found.sequences_scores.cpu().numpy().reshape(shape))

    return run


def agreement(results: Mapping[str, Any], peer: str, shares: Mapping[str, float]) -> Iterator[Check]:
    """Check that each result by name has at least a share of the peer's top items."""
    # If two items are nearly equal at the last place, either of them can be there.
    for name, share in shares.items():
        common, enough = same_items(results[name].items, results[peer].items, share)
        yield Check(f"{name}: {common:.2%} of the peer's top items, at least {share:.1%}", enough)


def _agree(results: Mapping[str, Any]) -> Iterator[Check]:
    peer = results[PEER]
    yield from agreement(results, PEER, {FLOAT: 0.998, HALF: 0.98})
    gap = float(np.abs(results[FLOAT].scores - peer.scores).max())
    yield Check(f"{FLOAT}: scores differ by at most {gap:.1e}, allowed 1e-3", gap <= 1e-3)


def measure(options: Options) -> list[Comparison]:
    """Ours in float32 and in bfloat16 against the peer."""
    items, users, beams = (500, 4, 10) if options.small else (25_000, 32, 50)
    model = random_recommender(items)
    histories = random_histories(users, items)
    trie = CodeTrie(model.codes)

    def ours() -> Ranked:
        return beam_search(model, histories, trie, beams, beams)

    def in_half() -> Ranked:
        with torch.autocast("cpu", torch.bfloat16):
            return ours()

    operations = decoding_operations(
        model.config, users, beams, HISTORY * LEVELS + 1, model.codes.vocabulary_size
    )
    return [
        compare(
            f"Decoding: {items:,} items, {users} users a batch, {beams} beams",
            {FLOAT: ours, HALF: in_half, PEER: peer_search(model, histories, beams)},
            _agree,
            options,
            unit="users",
            amount=users,
            peer=PEER,
            targets={FLOAT: 12.0, HALF: 20.0},
            operations={FLOAT: (operations, torch.float32), HALF: (operations, torch.bfloat16)},
        )
    ]


if __name__ == "__main__":
    sys.exit(main(measure))
