"""Constrained beam search against transformers' `generate` with the same weights.

25,000 items of 4 levels of 256 codes, the T5 of TIGER (128/64x6/1,024, 4 + 4 layers) with random weights,
histories of 20 items, a batch of 32 users, 50 beams. The peer's `prefix_allowed_tokens_fn` walks a trie of
dictionaries, as most public code does. Both must give the same top 50; in bfloat16 98 % of it.

Then two such batches on two cores, in float32: with two threads, and as two shares in two processes with one
thread each, which return the results of one thread to the bit.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import Check, Comparison, Measured, Options, compare, main, same_items, timed
from genrec_lab.codes import ItemCodes
from genrec_lab.decoding import CodeTrie, Ranked, beam_search
from genrec_lab.models import Recommender, T5Config

LEVELS, SIZE, HISTORY = 4, 256, 20
FLOAT, HALF, PEER = "genrec_lab, float32", "genrec_lab, bfloat16", "transformers generate"
ONE, TWO, SHARES = "one thread", "two threads", "two processes"


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


def peer_search(
    model: Recommender, histories: list[list[int]], beams: int, theirs: Any = None
) -> Callable[[], Ranked]:
    """Return the peer: transformers' T5 with the same weights, its beams held to a trie of dictionaries.

    `theirs` is another network with the same weights and transformers' `generate`.
    """
    theirs = (theirs or model.to_transformers()).to(model.item_tokens.device)
    tokens = model.codes.tokens()
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
    """Ours in float32 and in bfloat16 against the peer, then on two cores."""
    return [against_transformers(options), on_two_cores(options)]


def against_transformers(options: Options) -> Comparison:
    """Ours in float32 and in bfloat16 against transformers' `generate`."""
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
    return compare(
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


Search = Callable[[list[list[int]], int], Ranked]  # of histories, in batches of so many users
_search: Search  # that of a process which serves a share of the users


def _searching(items: int, beams: int) -> Search:
    model = random_recommender(items)
    trie = CodeTrie(model.codes)
    return lambda histories, batch: beam_search(model, histories, trie, beams, beams, batch_size=batch)


def _start(items: int, beams: int) -> None:
    global _search
    torch.set_num_threads(1)
    _search = _searching(items, beams)


def _share(histories: list[list[int]]) -> tuple[Ranked, float]:
    found, _, processor, _ = timed(lambda: _search(histories, len(histories)))
    return found, processor


def on_two_cores(options: Options) -> Comparison:
    """Two batches of users, by one thread, by two threads, and one in each of two processes."""
    items, users, beams = (500, 4, 10) if options.small else (25_000, 32, 50)
    histories, search = random_histories(2 * users, items), _searching(items, beams)
    threads = torch.get_num_threads()

    def with_threads(count: int) -> Callable[[], Ranked]:
        def run() -> Ranked:
            torch.set_num_threads(count)
            try:
                return search(histories, users)
            finally:
                torch.set_num_threads(threads)

        return run

    def in_processes() -> Measured:
        wall = time.perf_counter()
        shares = list(pool.map(_share, (histories[:users], histories[users:])))
        wall = time.perf_counter() - wall
        processor = sum(seconds for _, seconds in shares)
        return Measured(Ranked.concatenate([found for found, _ in shares]), wall, processor, None)

    def equal(results: Mapping[str, Any]) -> Iterator[Check]:
        one = results[ONE]
        same = all(np.array_equal(ours, its) for ours, its in zip(results[SHARES], one, strict=True))
        yield Check(f"{SHARES}: the items and scores of {ONE}, to the bit", same)
        common, enough = same_items(results[TWO].items, one.items, 0.998)
        yield Check(f"{TWO}: {common:.2%} of the top items of {ONE}, at least 99.8%", enough)

    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), _start, (items, beams)) as pool:
        return compare(
            f"Two cores: {items:,} items, two batches of {users} users, {beams} beams",
            {SHARES: in_processes, TWO: with_threads(2), ONE: with_threads(1)},
            equal,
            options,
            unit="users",
            amount=2 * users,
            peer=ONE,
            targets={SHARES: 1.85},
        )


if __name__ == "__main__":
    sys.exit(main(measure))
