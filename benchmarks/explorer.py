"""How long the explorer takes for each answer, on generated codes: `python benchmarks/explorer.py [ITEMS …]`.

By default 100,000 items (at most 100 ms an answer) and 1,000,000 (at most 300 ms): 4 levels of 256 codes, 3
domains, codes as skewed as a trained tokenizer's, titles of eight words, 32-dimensional residuals and
384-dimensional vectors where memory allows. Prints a line an answer: the median and the worst of the repeats
in CPU time, which other work on the machine does not lengthen, and the median by the clock; each after
another selection, so that nothing is answered from memory. Then what the widget sends to the browser, counted
in its messages: opening it, at most 10 MB for 100,000 items, and opening each tab, the map with its 20,000
points. Exits with 1 where an answer is too slow or the page too large.
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

from genrec_lab.codes import ItemCodes
from genrec_lab.viz.explorer import (
    EXPLORER_VIEWS,
    CodedCatalogue,
    ExplorerState,
    RunRecords,
    policy_effects,
)
from genrec_lab.viz.explorer.answers import selected
from genrec_lab.viz.explorer.widget import Explorer
from genrec_lab.viz.layout import MAX_POINTS
from genrec_lab.viz.projection import Projection

LEVELS, SIZE, REPEATS = 4, 256, 7
DOMAINS = ("Garden", "Kitchen", "Studio")
LIMITS = {100_000: 100.0, 1_000_000: 300.0}
MOST_SENT = 10_000_000


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


def answers(state: ExplorerState, turn: int) -> dict[str, Callable[[], object]]:
    """Return what is timed; `turn` changes the selection, so that no answer comes from memory."""
    codes = state.catalogue.codes.codes
    commonest = int(np.bincount(codes[:, 0]).argmax())
    state.select(prefix=(), domain=None, item=None)
    return {
        "codes of all": state.numbers,
        "words of all codes": lambda: (state._labels.cache_clear(), state.labels()),
        "code page, largest code": lambda: (state.select(prefix=(commonest,)), selected(state)),
        "code page, any prefix": lambda: (state.select(everywhere=(2, turn)), selected(state)),
        "select an item": lambda: (state.select(item=turn), selected(state)),
        "search a title": lambda: state.search(f"word{turn} word"),
        "search a code": lambda: state.search(f"{turn} › 3"),
        "collisions": lambda: (state.select(prefix=()), state.collisions(), state.collisions().frame(50)),
        "policies of a group": lambda: policy_effects(state.catalogue, state.collisions().group(turn)),
        "exposure": lambda: state.exposure("made up"),
    }


def measure(items: int) -> bool:
    """Print the table for so many items; return whether all answers were fast enough."""
    catalogue, other = made_up(items, 0), made_up(items, 1, dimensions=2)
    lists = np.random.default_rng(2).integers(0, items, (20_000, 10))
    started = time.perf_counter()
    state = ExplorerState(catalogue, other, records=RunRecords(recommended={"made up": lists}))
    print(f"\n{items:,} items: opened in {time.perf_counter() - started:.1f} s")
    limit = LIMITS.get(items, float("inf"))
    times: dict[str, list[float]] = {}
    waited: dict[str, list[float]] = {}
    for turn in range(REPEATS):
        for name, answer in answers(state, turn).items():
            started, clock = time.process_time(), time.perf_counter()
            answer()
            times.setdefault(name, []).append(1000 * (time.process_time() - started))
            waited.setdefault(name, []).append(1000 * (time.perf_counter() - clock))
    for name, taken in times.items():
        late = "  TOO SLOW" if np.median(taken) > limit else ""
        print(
            f"  {name:28} {np.median(taken):7.1f} ms, at worst {max(taken):7.1f} ms; "
            f"{np.median(waited[name]):7.1f} ms by the clock{late}"
        )
    little = measure_sent(state)
    return little and all(np.median(taken) <= limit for taken in times.values())


class Counted(comm.DummyComm):  # type: ignore[misc]
    """A connection to no browser that counts what would be sent, in `sent`."""

    sent = 0

    def publish_msg(self, msg_type: str, data: Any = None, buffers: Any = None, **_: Any) -> None:
        """Count a message as the JSON that it becomes, and its buffers as they are."""
        Counted.sent += len(json.dumps(data)) + sum(memoryview(part).nbytes for part in buffers or ())


def measure_sent(state: ExplorerState) -> bool:
    """Print what the browser gets when the explorer opens and with each tab; return whether it is little."""
    n_items, rng = state.catalogue.n_items, np.random.default_rng(3)
    shown = np.sort(rng.choice(n_items, min(MAX_POINTS, n_items), replace=False))
    points = rng.normal(size=(len(shown), LEVELS, 2)).astype(np.float32)
    comm.create_comm = lambda *given, **named: Counted(*given, **named)
    state.select(prefix=(), level=0, domain=None, item=None)
    Counted.sent, started = 0, time.perf_counter()
    view = Explorer(state, maps={"made up": Projection(points, shown, "tsne", 3, n_items)})
    view.hear({"act": "start", "dark": False})
    opened = Counted.sent
    late = "  TOO MUCH" if opened > MOST_SENT else ""
    print(f"  sent to open {opened / 1e6:.2f} MB, in {time.perf_counter() - started:.1f} s{late}")
    print("  sent for a tab, CPU time of the first drawing (which loads what it needs) and of the next:")
    for tab in EXPLORER_VIEWS:
        sent, drawn = _draw(view, tab)
        _, again = _draw(view, tab)
        print(f"    {tab:12} {sent / 1e3:7.0f} kB {drawn:6.0f} ms {again:6.0f} ms")
    return opened <= MOST_SENT


def _draw(view: Explorer, tab: str) -> tuple[int, float]:
    """Open a tab; what it sends in bytes, and milliseconds of the processor."""
    Counted.sent, started = 0, time.process_time()
    view.show_view(tab)
    return Counted.sent, 1000 * (time.process_time() - started)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("items", nargs="*", type=int, default=list(LIMITS), help="sizes of the catalogue")
    in_time = [measure(size) for size in parser.parse_args().items]
    sys.exit(0 if all(in_time) else 1)
