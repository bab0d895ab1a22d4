"""How long the explorer takes for each step, on generated codes: `python benchmarks/explorer.py [ITEMS …]`.

By default 100,000 items (at most 100 ms a step) and 1,000,000 (at most 300 ms): 4 levels of 256 codes, 3
domains, codes as skewed as a trained tokenizer's, titles of eight words, 32-dimensional residuals and
384-dimensional vectors where memory allows. A step is a request of the page with all that it sends back: page
of a code, colours of the map, open tab. Prints a line per step: the median and the worst of the repeats in
CPU time, which other work on the machine does not lengthen, the median by the clock, and the largest answer;
each after another selection, so that nothing is answered from memory. Exits with 1 where a step is too slow,
or where a step or opening sends more than 5 MB for 100,000 items.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import comm
import numpy as np
import polars as pl

from genrec_lab.codes import ItemCodes
from genrec_lab.viz.explorer import (
    EXPLORER_VIEWS,
    CodedCatalogue,
    ExplorerState,
    RunRecords,
    policy_effects,
)
from genrec_lab.viz.explorer.widget import Explorer
from genrec_lab.viz.layout import MAX_POINTS
from genrec_lab.viz.projection import Projection

LEVELS, SIZE, REPEATS, USERS = 4, 256, 7, 20_000
DOMAINS = ("Garden", "Kitchen", "Studio")
LIMITS = {100_000: 100.0, 1_000_000: 300.0}
MOST_SENT = {100_000: 5e6}


def made_up(items: int, seed: int, dimensions: int = 32) -> CodedCatalogue:
    """Return a catalogue whose codes are skewed and whose later codes depend on the first."""
    rng = np.random.default_rng(seed)
    shares = np.sort(rng.dirichlet(np.full(SIZE, 0.8)))[::-1]
    codes = np.stack([rng.choice(SIZE, items, p=shares) for _ in range(LEVELS)], axis=1)
    codes[:, 1:] = (codes[:, 1:] + codes[:, :1] * 7) % SIZE
    vocabulary = np.array([f"word{number}" for number in range(20_000)])
    drawn = np.minimum(rng.zipf(1.3, (items, 7)) - 1, len(vocabulary) - 1)
    titles = [
        " ".join([*row, f"kind{code}"]) for row, code in zip(vocabulary[drawn], codes[:, 0], strict=True)
    ]
    wide = 384 if items <= 100_000 else 64
    return CodedCatalogue(
        f"{items:,} items",
        ItemCodes(codes, (SIZE,) * LEVELS, np.array(DOMAINS)[rng.integers(0, 3, items)].tolist()),
        titles,
        traffic=rng.zipf(1.5, items).clip(max=10_000),
        residuals=rng.normal(size=(items, LEVELS, dimensions)).astype(np.float32),
        codewords=[rng.normal(size=(SIZE, dimensions)) for _ in range(LEVELS)],
        vectors=rng.normal(size=(items, wide)).astype(np.float32),
    )


def steps(view: Explorer, turn: int) -> dict[str, Callable[[], object]]:
    """Return what is timed; `turn` changes the selection, so that no answer comes from memory."""
    state, rng = view.state, np.random.default_rng(turn)
    code = int(np.argsort(-np.bincount(state.catalogue.codes.codes[:, 0]))[turn])
    gathered = rng.choice(state.catalogue.n_items, state.catalogue.n_items // 10, replace=False)
    few = np.sort(gathered).astype(np.int32).tobytes()

    def ask(act: str, *buffers: bytes, **content: Any) -> Callable[[], object]:
        return lambda: view.handle({"act": act} | content, buffers)

    domain = DOMAINS[turn % len(DOMAINS)]
    return {
        "a large code": ask("select", prefix=[code]),
        "an item": ask("select", item=turn),
        "a code under any prefix": ask("select", everywhere=[2, turn]),
        "a domain": ask("select", prefix=[], domain=domain, level=turn % LEVELS),
        **{f"{tab}, of a domain": ask("tab", name=tab) for tab in EXPLORER_VIEWS},
        "everything": ask("select", prefix=[], domain=None, level=turn % LEVELS),
        **{f"{tab}, of everything": ask("tab", name=tab) for tab in EXPLORER_VIEWS},
        "no tab": ask("tab", name=""),
        "a lasso of a tenth": ask("lasso", few),
        "Sharing, of a lasso": ask("tab", name="Sharing"),
        "no lasso": lambda: (view.show_view(""), state.select(lasso=None, level=0)),
        "colour by popularity": ask("colour", by="popularity"),
        "colour by distance": ask("colour", by="distance"),
        "colour by code": ask("colour", by="code"),
        "search a title": ask("search", text=f"word{turn} word"),
        "search a code": ask("search", text=f"{turn} › 3"),
        "hover": ask("hover", item=turn),
        "policies of a group": lambda: policy_effects(state.catalogue, state.collisions().group(turn)),
        "data of a level": ask("csv"),
    }


class Counted(comm.DummyComm):  # type: ignore[misc]
    """A connection to no browser that counts what would be sent, in `sent`."""

    sent = 0

    def publish_msg(self, msg_type: str, data: Any = None, buffers: Any = None, **_: Any) -> None:
        """Count a message as the JSON that it becomes, and its buffers as they are."""
        Counted.sent += len(json.dumps(data)) + sum(memoryview(part).nbytes for part in buffers or ())


def measure(items: int) -> bool:
    """Print the table for so many items; return whether all steps were fast and small enough."""
    catalogue, other, rng = made_up(items, 0), made_up(items, 1, dimensions=2), np.random.default_rng(2)
    lists = rng.integers(0, items, (USERS, 10))
    users = pl.DataFrame({"target": rng.integers(0, items, USERS), "history": lists[:, :5]})
    users = users.with_columns(pl.col("history").arr.to_list(), domain=pl.lit(DOMAINS[0]))
    records = RunRecords(recommended={"made up": lists}, users=users)
    comm.create_comm = lambda *given, **named: Counted(*given, **named)
    started = time.process_time()
    state = ExplorerState(catalogue, other, records=records)
    print(f"\n{items:,} items: opened in {time.process_time() - started:.1f} s of CPU time")
    shown = np.sort(rng.choice(items, min(MAX_POINTS, items), replace=False))
    points = rng.normal(size=(len(shown), LEVELS, 2)).astype(np.float32)
    Counted.sent, started = 0, time.process_time()
    state.maps["made up"] = Projection(points, shown, "tsne", 3, items)
    view = Explorer(state)
    view.handle({"act": "start", "dark": False})
    opened, limit = Counted.sent, LIMITS.get(items, float("inf"))
    print(f"  sent to open {opened / 1e6:.2f} MB, in {time.process_time() - started:.1f} s of CPU time")
    for tab in EXPLORER_VIEWS:
        view.show_view(tab)  # imports what it needs
    view.show_view("")
    taken: dict[str, list[tuple[float, float, int]]] = {}
    for turn in range(REPEATS):
        for name, step in steps(view, turn).items():
            Counted.sent, started, clock = 0, time.process_time(), time.perf_counter()
            step()
            spent = (1000 * (time.process_time() - started), 1000 * (time.perf_counter() - clock))
            taken.setdefault(name, []).append((*spent, Counted.sent))
    heavy = MOST_SENT.get(items, float("inf"))
    fine = opened <= heavy
    for name, repeats in taken.items():
        spent, waited, _ = np.median(repeats, axis=0)
        worst, _, most = np.max(repeats, axis=0)
        late = ("  TOO SLOW" if spent > limit else "") + ("  TOO MUCH" if most > heavy else "")
        fine &= not late
        print(
            f"  {name:26} {spent:6.1f} ms, at worst {worst:6.1f} ms; {waited:6.1f} ms by the clock; "
            f"{most / 1e3:6.0f} kB{late}"
        )
    return fine


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("items", nargs="*", type=int, default=list(LIMITS), help="sizes of the catalogue")
    in_time = [measure(size) for size in parser.parse_args().items]
    sys.exit(0 if all(in_time) else 1)
