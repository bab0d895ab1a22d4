"""Everything that a GPU is for, in one program of under eight minutes.

Without a GPU it says so and ends with status 0. With one it first checks that results are those of the CPU in
float32, that no level of a search waits for the host and that a search is one CUDA graph; then it measures
decoding and training against transformers on the same device, with memory and the share of the device's
matrix-product rate; at the end it runs a small chain of GMC and one of UTGRec. It prints a table and writes
JSON. In CI `checks` run on a fake device.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.decoding import (
    HISTORY,
    LEVELS,
    agreement,
    decoding_operations,
    peer_search,
    random_codes,
    random_histories,
)
from benchmarks.measuring import MEGABYTE, Check, Comparison, Options, compare, main, same_items
from benchmarks.training import BATCH, codes_of, scientific, train_ours, train_peer, training_operations
from genrec_lab.codes import ItemCodes
from genrec_lab.data import leave_one_out
from genrec_lab.data.batches import PairBatches
from genrec_lab.decoding import CodeTrie, Ranked, beam_search, exact_top_k
from genrec_lab.decoding.beam import descend
from genrec_lab.models import Recommender, T5Config
from genrec_lab.models.recommenders.causal import CausalConfig, CausalRecommender
from genrec_lab.models.tokenizers import RQVAE
from genrec_lab.training import TrainingConfig, computing_on, device, fit

SECONDS = 460  # of the whole program
SMALL: dict[str, Any] = {"d_model": 32, "d_kv": 8, "heads": 2, "d_ff": 64, "dropout": 0.0}
LAYERS = {"T5": {"encoder_layers": 1, "decoder_layers": 1}, "causal": {"layers": 1}}
CHAINS = ("smoke.yaml", "utgrec_smoke.yaml")
PEER, GRAPH = "transformers, float32", "float32, decoder as a CUDA graph"


def recommender(kind: str, items: int, **sizes: Any) -> Any:
    """A T5 or a causal recommender with random weights over random identifiers, on the CPU."""
    torch.manual_seed(0)
    size = 16 if items < 1000 else 256
    codes = ItemCodes(random_codes(items, LEVELS, size), (size,) * LEVELS)
    made = (
        Recommender(codes, T5Config(**sizes))
        if kind == "T5"
        else CausalRecommender(codes, CausalConfig(**sizes))
    )
    return made.eval()


# --- results are those of the CPU


def checks(where: torch.device) -> Iterator[Check]:
    """Compare decoding, training and tokenising on a device with the CPU, in float32."""
    histories = random_histories(8, 500, 6)
    for kind in ("T5", "causal"):
        model = recommender(kind, 500, **SMALL, **LAYERS[kind])
        there, trie = copy.deepcopy(model).to(where), CodeTrie(model.codes)
        for what, search in (
            ("beam search", lambda m, t=trie: beam_search(m, histories, t, 20, 10)),
            (
                "without what users have",
                lambda m, t=trie: beam_search(m, histories, t, 20, 10, hidden=histories),
            ),
            ("over legal codes", lambda m, t=trie: beam_search(m, histories, t, 20, 10, normalise="legal")),
            ("exact top 10", lambda m, t=trie: exact_top_k(m, histories[:2], t, 10)),
        ):
            yield from equal(f"{kind}, {what}", search(there), search(model))
    yield from of_training(where)
    rng = np.random.default_rng(0)
    content = (rng.normal(size=(20, 16))[np.arange(200) % 20] + rng.normal(size=(200, 16)) / 20).astype(
        np.float32
    )
    codes = []
    for place in (torch.device("cpu"), where):
        config = RQVAE.Config(kind="rqvae", hidden=(32,), levels=2, dimension=8, codebook_size=8, epochs=5)
        with computing_on(place):
            codes.append(RQVAE(config).fit(content).encode(content))
    same = float((codes[0] == codes[1]).mean())
    yield Check(f"RQ-VAE: {same:.1%} of the codes are the CPU's, at least 95%", same >= 0.95)


def equal(what: str, ours: Ranked, theirs: Ranked) -> Iterator[Check]:
    """Compare two rankings whose scores may differ in the last digits."""
    gap = float(np.abs(ours.scores - theirs.scores).max())
    common, enough = same_items(ours.items, theirs.items, 0.98)
    yield Check(
        f"{what}: {common:.1%} of the CPU's items, scores to {gap:.0e} (1e-3)", enough and gap <= 1e-3
    )


def of_training(where: torch.device) -> Iterator[Check]:
    """Train the T5 for two epochs on both."""
    losses = []
    for place in (torch.device("cpu"), where):
        model = recommender("T5", 300, **SMALL, **LAYERS["T5"])
        pairs = pl.DataFrame(
            {"user": range(64), "history": random_histories(64, 300, 5), "target": range(64)},
            schema_overrides={"user": pl.Int64},
        )
        config = TrainingConfig(epochs=2, batch_size=16, learning_rate=1e-3, precision="fp32")
        with computing_on(place):
            losses.append(fit(model, PairBatches(pairs, 16), config).history[-1].loss)
    gap = abs(losses[0] / losses[1] - 1)
    yield Check(f"training: a loss of {losses[1]:.5f}, the CPU's {losses[0]:.5f} (0.1 %)", gap <= 1e-3)


def without_waiting(where: torch.device) -> Iterator[Check]:
    """Search while CUDA refuses to wait, then as one CUDA graph."""
    model = recommender("T5", 500, **SMALL, **LAYERS["T5"]).to(where)
    trie, histories = CodeTrie(model.codes), random_histories(8, 500, 6)
    expected = beam_search(model, histories, trie, 20, 20)
    replay = as_graph(model, histories, trie, 20)
    with refusing_to_wait():
        found = replay()
    ranked = Ranked.best(*(part.cpu().numpy() for part in found), 20)
    yield from equal("a search as one CUDA graph", ranked, expected)


@contextmanager
def refusing_to_wait() -> Iterator[None]:
    """Let CUDA raise where the program would wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def as_graph(
    model: Any, histories: Any, trie: CodeTrie, beams: int
) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    """Capture the search for these histories; what is returned replays it."""
    with torch.inference_mode():
        memory = model.remember(histories)
        roots = torch.zeros(len(histories), 1, dtype=torch.long, device=model.item_tokens.device)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(2):  # libraries allocate at their first calls
                descend(model, memory, roots, trie, beams)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = descend(model, memory, roots, trie, beams)

    def replay(
        read: Any = (memory, roots),
    ) -> tuple[torch.Tensor, torch.Tensor]:  # the graph keeps no input alive
        graph.replay()
        return found

    return replay


# --- how fast


def measured(notes: dict[str, float], name: str, run: Callable[[], Any]) -> Callable[[], Any]:
    """Wait for the device at the end, and note the most memory that was held on it."""

    def once() -> Any:
        torch.accelerator.reset_peak_memory_stats()
        result = run()
        torch.accelerator.synchronize()
        notes[f"MB on the device, {name}"] = torch.accelerator.max_memory_allocated() / MEGABYTE
        return result

    return once


def of_decoding(where: torch.device, users: int, options: Options) -> Comparison:
    """Beam search at the size of benchmarks.decoding, against `generate` on the same device."""
    items, beams = (500, 10) if options.small else (25_000, 50)
    model = recommender("T5", items).to(where)
    trie, histories = CodeTrie(model.codes), random_histories(users, items)
    graph = as_graph(model, histories, trie, beams)

    def ours(precision: torch.dtype) -> Ranked:
        with torch.autocast(where.type, torch.bfloat16, enabled=precision is torch.bfloat16):
            return beam_search(model, histories, trie, beams, beams)

    def replayed() -> Ranked:
        return Ranked.best(*(part.cpu().numpy() for part in graph()), beams)

    notes: dict[str, float] = {}
    runs = {
        "float32": lambda: ours(torch.float32),
        "bfloat16": lambda: ours(torch.bfloat16),
        GRAPH: replayed,
        PEER: peer_search(model, histories, beams),
    }

    shares = {"float32": 0.998, "bfloat16": 0.98, GRAPH: 0.998}
    count = decoding_operations(model.config, users, beams, HISTORY * LEVELS + 1, model.codes.vocabulary_size)
    return compare(
        f"Decoding on {torch.cuda.get_device_name(where)}: {items:,} items, {users} users, {beams} beams",
        {name: measured(notes, name, run) for name, run in runs.items()},
        lambda results: agreement(results, PEER, shares),
        options,
        unit="users",
        amount=users,
        peer=PEER,
        operations={"float32": (count, torch.float32), "bfloat16": (count, torch.bfloat16)},
        notes=notes,
        device=where,
    )


def of_training_rate(where: torch.device, options: Options) -> Comparison:
    """An epoch of the T5 over every prefix, against transformers' T5 on the same device."""
    dataset = scientific(small=True)
    pairs, codes = leave_one_out(dataset, HISTORY).train, codes_of(dataset, small=True)
    torch.manual_seed(0)
    start = Recommender(
        codes, T5Config(d_model=192, d_kv=64, heads=6, d_ff=1536, encoder_layers=2, decoder_layers=2)
    )
    start = start.to(where)
    notes: dict[str, float] = {}
    runs = {
        "genrec_lab": lambda: train_ours(copy.deepcopy(start), PairBatches(pairs, BATCH)),
        PEER: lambda: train_peer(copy.deepcopy(start), pairs),
    }

    def agree(results: Mapping[str, Any]) -> Iterator[Check]:
        for name, model in results.items():
            finite = all(bool(weight.isfinite().all()) for weight in model.parameters())
            yield Check(f"{name}: all weights are finite", finite)

    return compare(
        f"Training on {torch.cuda.get_device_name(where)}: {pairs.height:,} samples, batches of {BATCH}",
        {name: measured(notes, name, run) for name, run in runs.items()},
        agree,
        options,
        unit="samples",
        amount=pairs.height,
        peer=PEER,
        operations={"genrec_lab": (training_operations(start, pairs), torch.bfloat16)},
        notes=notes,
        device=where,
    )


# --- the chains


def of_chains(until: float) -> Iterator[Check]:
    """Run a small chain of GMC and one of UTGRec, as long as there is time."""
    runs = Path(__file__).parents[1] / "papermill_runs"
    for name in CHAINS:
        left = until - time.monotonic()
        with TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "genrec_lab.run", str(runs / name)]
            environment = {**os.environ, "GENREC_RUNS": folder}
            try:
                done = subprocess.run(
                    command,
                    capture_output=True,
                    text=True,
                    timeout=max(left, 1),
                    check=False,
                    env=environment,
                )
            except subprocess.TimeoutExpired:
                yield Check(f"{name}: not finished in the {left:.0f} s that were left", False)
                continue
        said = (done.stderr.strip().splitlines() or [""])[-1]
        yield Check(f"{name}: {'runs to its end' if done.returncode == 0 else said}", done.returncode == 0)


def measure(options: Options) -> list[Comparison]:
    """Check, then measure, then run the chains."""
    where, until = device(), time.monotonic() + SECONDS
    options = Options(options.small, min(options.repeats, 3))
    found = [*checks(where), *without_waiting(where)]
    rates = [of_decoding(where, users, options) for users in (1, 32, 256)]
    rates.append(of_training_rate(where, options))
    found += of_chains(until)
    return [*rates, Comparison("Results on the GPU", "checks", len(found), {}, found)]


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the program; 0 where there is no GPU, 1 where a check fails."""
    if device().type != "cuda":
        print("No CUDA device was found, so nothing was measured.")
        return 0
    return main(measure, arguments)


if __name__ == "__main__":
    sys.exit(run())
