"""What every benchmark shares: alternating runs, the hardware's limit, equality of results, table and file.

A benchmark's module has one function `measure(options)` that returns `Comparison`s, and ends in
`sys.exit(main(measure))`. Times are of the wall clock; the processor's time stands beside them,
and where the two are far apart the machine was busy with something else.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch  # where it is used, so that a child process that needs none starts quickly

RESULTS = Path(__file__).parent / "results"
MEGABYTE = 1e6


@dataclass(frozen=True)
class Options:
    """How a benchmark is run."""

    small: bool = False  # a size that takes seconds and shows only that it works
    repeats: int = 5  # alternating runs after the warm-up


class Check(NamedTuple):
    """Whether two entrants gave the same, as far as the benchmark asks for it."""

    what: str
    passed: bool


class Measured(NamedTuple):
    """A result with its figures, of an entrant that runs in a process of its own."""

    result: Any
    seconds: float
    processor_seconds: float
    peak_megabytes: float


@dataclass(frozen=True)
class Timing:
    """What one entrant took."""

    seconds: list[float]  # of the wall clock, one a run
    processor_seconds: list[float]
    peak_megabytes: float | None  # above what the process held before, at most of all runs; None: not known

    @property
    def median(self) -> float:
        """Median seconds of a run."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Comparison:
    """One row of the table: what was done, by whom, how fast, and whether the results are equal."""

    work: str
    unit: str  # what is counted: "users", "steps"
    amount: float  # of the unit in one run
    timings: dict[str, Timing]
    checks: list[Check]
    peer: str | None = None  # to whom the others are compared
    targets: dict[str, float] = field(default_factory=dict)  # entrant -> how many times the peer's speed
    limits: dict[str, float] = field(default_factory=dict)  # entrant -> share of the matrix-product rate
    notes: dict[str, float] = field(default_factory=dict)  # further figures by name

    def ratio(self, entrant: str) -> float:
        """How many times faster than the peer an entrant is; 1 where there is no peer."""
        return self.timings[self.peer].median / self.timings[entrant].median if self.peer else 1.0

    @property
    def equal(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


def compare(
    work: str,
    runs: Mapping[str, Callable[[], Any]],
    agree: Callable[[Mapping[str, Any]], Iterable[Check]],
    options: Options,
    *,
    unit: str,
    amount: float,
    peer: str | None = None,
    targets: Mapping[str, float] | None = None,
    operations: Mapping[str, tuple[float, torch.dtype]] | None = None,
    notes: Mapping[str, float] | None = None,
    device: torch.device | str = "cpu",
) -> Comparison:
    """Run the entrants in turns, after a warm-up of each, and compare what they return.

    `agree` gets each entrant's result of the warm-up, and at the end that of its last run. `operations` are
    an entrant's floating-point operations in one run and the type it multiplies in, on `device`.
    """
    from genrec_lab.training.operations import product_rate

    results: dict[str, Any] = {}
    peaks: dict[str, float | None] = dict.fromkeys(runs, 0.0)
    for name, run in runs.items():
        results[name], *_ = timed(run)
    checks = list(agree(results))
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    rates: dict[torch.dtype, list[float]] = {kind: [] for _, kind in (operations or {}).values()}
    for turn in range(options.repeats):
        # The order turns round, so that neither always runs in the other's wake.
        for name in list(runs)[:: 1 if turn % 2 == 0 else -1]:
            results[name], wall, processor, peak = timed(runs[name])
            seconds[name].append((wall, processor))
            peaks[name] = None if peak is None else max(peaks[name] or 0.0, peak)
        for kind, measured in rates.items():
            measured.append(product_rate(device, kind, 256 if options.small else 2048))
    checks += agree(results)
    timings = {
        name: Timing([wall for wall, _ in taken], [cpu for _, cpu in taken], peaks[name])
        for name, taken in seconds.items()
    }
    limits = {
        name: count / timings[name].median / statistics.median(rates[kind])
        for name, (count, kind) in (operations or {}).items()
    }
    counted = {f"GFLOP a run, {name}": count / 1e9 for name, (count, _) in (operations or {}).items()}
    counted |= {f"GFLOP/s of a {kind} product": statistics.median(rates[kind]) / 1e9 for kind in rates}
    return Comparison(
        work,
        unit,
        amount,
        timings,
        list(dict.fromkeys(checks)),
        peer,
        {} if options.small else dict(targets or {}),
        limits,
        {**counted, **(notes or {})},
    )


def timed(run: Callable[[], Any]) -> tuple[Any, float, float, float | None]:
    """Return the result, the seconds of the wall clock and of the processor, and the peak megabytes."""
    before = _reset_peak()
    wall, processor = time.perf_counter(), time.process_time()
    result = run()
    if isinstance(result, Measured):
        return result
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return result, wall, processor, None if before is None else (held("VmHWM") - before) / MEGABYTE


def same_items(ours: Any, theirs: Any, share: float) -> tuple[float, bool]:
    """Share of the items (B, K) that two rankings have in common, and whether it is large enough."""
    common = [len(set(a) & set(b)) / len(set(b)) for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)]
    found = statistics.fmean(common)
    return found, found >= share


def main(measure: Callable[[Options], Sequence[Comparison]], arguments: Sequence[str] | None = None) -> int:
    """Run a benchmark by the command line, print and write its results; 1 where results differ."""
    name = Path(measure.__code__.co_filename).stem
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument(
        "--small", action="store_true", help="seconds instead of minutes: shows that it works"
    )
    parser.add_argument("--repeats", type=int, help="alternating runs (5; with --small 2)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for torch (all)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the results' JSON")
    parser.add_argument(
        "--keep-memory", action="store_true", help="glibc keeps freed memory, for all entrants"
    )
    given = parser.parse_args(arguments)
    if given.repeats is not None and given.repeats < 1:
        parser.error(f"--repeats is {given.repeats}; expected 1 or more")
    if given.keep_memory:
        name += "_kept_memory"
        keep_freed_memory()
    import torch

    torch.set_num_threads(given.threads)
    options = Options(given.small, given.repeats or (2 if given.small else 5))
    comparisons = measure(options)
    for comparison in comparisons:
        print(table(comparison), flush=True)
    if comparisons:
        write(
            given.out / f"{name}{'_small' if given.small else ''}.json", comparisons, options, given.threads
        )
    return 0 if all(comparison.equal for comparison in comparisons) else 1


def keep_freed_memory() -> None:
    """Tell glibc to keep memory that is freed instead of giving it back to the system and asking anew.

    Where the system is slow to hand out pages, as virtual machines often are, this changes times by much, and
    most for programs that copy large tensors. It holds for the whole process, so for every entrant.
    """
    trim_threshold, map_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    libc = ctypes.CDLL("libc.so.6")
    for option in (trim_threshold, map_threshold):
        if libc.mallopt(option, 2**31 - 1) != 1:
            raise OSError(f"mallopt({option}) failed; run without --keep-memory")


def table(comparison: Comparison) -> str:
    """The comparison as text: a line an entrant, the checks, further figures."""
    lines = [f"\n{comparison.work}"]
    for name, timing in comparison.timings.items():
        line = (
            f"  {name:34} {timing.median * 1000:11.1f} ms ({min(timing.seconds) * 1000:.1f} to "
            f"{max(timing.seconds) * 1000:.1f}), {comparison.amount / timing.median:12,.1f} "
            f"{comparison.unit}/s"
        )
        if comparison.peer is not None and name != comparison.peer:
            line += f", {comparison.ratio(name):6.2f} x {comparison.peer}"
        if (target := comparison.targets.get(name)) is not None:
            line += f" (target {target:g}: {'reached' if comparison.ratio(name) >= target else 'MISSED'})"
        if name in comparison.limits:
            line += f", {comparison.limits[name]:.0%} of the limit"
        if timing.peak_megabytes is not None:
            line += f", {timing.peak_megabytes:,.0f} MB"
        busy = statistics.median(timing.processor_seconds)
        lines.append(line + f", processor {busy * 1000:.1f} ms")
    lines += [f"  {name}: {value:,.4g}" for name, value in comparison.notes.items()]
    lines += [f"  {'equal' if check.passed else 'DIFFERENT'}: {check.what}" for check in comparison.checks]
    return "\n".join(lines)


def write(file: Path, comparisons: Sequence[Comparison], options: Options, threads: int) -> None:
    """Write the results and what they were measured on as JSON."""
    import torch

    rows = [
        {
            **asdict(comparison),
            "checks": [check._asdict() for check in comparison.checks],
            "medians": {name: timing.median for name, timing in comparison.timings.items()},
            "ratios": {name: comparison.ratio(name) for name in comparison.timings},
        }
        for comparison in comparisons
    ]
    machine = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    content = {"machine": machine, "small": options.small, "repeats": options.repeats, "rows": rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def _reset_peak() -> int | None:
    """Start a new measurement of the peak; return the bytes held now, None where the system cannot tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return held("VmRSS")
    except OSError:
        return None


def held(which: str) -> int:
    """Bytes of memory by their name in /proc/self/status: VmRSS is now, VmHWM the peak, RssAnon our own."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(which):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {which}")
