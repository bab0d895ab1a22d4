"""Kill a whole chain at random moments, resume it each time, and compare it with the unbroken one.

    python -m tests.faults.kill_loop --kills 20 --seed 0

SIGKILL hits the chain with its kernel, the chain alone or the kernel alone, or a signal that it obeys
hits the chain, in the midst of whatever they do. Then every file that a resumption may read must be
whole: manifest and metrics, the files of finished results by their hashes, checkpoints and caches by
reading all of them. At the end metrics and ranked items must be those of the unbroken run, to the last
bit. Linux only, because it reads /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from safetensors import safe_open

from genrec_lab.lab.chain import STAGES
from genrec_lab.lab.files import RunError, read_checked
from genrec_lab.lab.results import Record, folders_of_results

REPOSITORY = Path(__file__).resolve().parents[2]
_VICTIMS = {"chain and kernel": 5, "chain": 2, "kernel": 2, "SIGINT": 1, "SIGTERM": 1, "SIGHUP": 1}
_IN_USE = 2  # exit code of a chain whose folder a dying kernel still holds
_LONGEST_SECONDS = 3600
_NOTICED_SECONDS = 15  # after which a chain should know that its kernel died


@dataclass
class Outcome:
    """What a loop came to."""

    kills: int
    finished: int  # times that the chain reached its end
    files_read: int  # files that were read whole after the kills
    victims: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)  # kills by the stage that was at work
    faults: list[str] = field(default_factory=list)


def kill_loop(
    command: Sequence[str],
    folder: Path,
    kills: int,
    seed: int,
    span: tuple[float, float] = (0.02, 0.5),
    tell: Callable[[str], None] = print,
) -> Outcome:
    """Kill `command`, which works below $GENREC_RUNS, `kills` times, and compare it with an unbroken run.

    span: the shortest and the longest life of a process, as shares of the unbroken run's time. Processor time
    is used, so that kills hit the same work no matter how busy the machine is. A chain that ends before the
    last kill is compared and started again.
    """
    rng = random.Random(seed)
    unbroken, broken = folder / "unbroken", folder / "broken"
    began = _ended_seconds()
    said = _to_the_end(command, unbroken)
    whole = _ended_seconds() - began
    if said is not None:
        raise RuntimeError(f"the unbroken run failed:\n{said}")
    expected = results(unbroken)
    tell(f"unbroken: {whole:.0f} s of the processor, {len(expected)} metrics and rankings")
    outcome = Outcome(0, 0, 0)
    while outcome.kills < kills:
        victim = rng.choices(list(_VICTIMS), list(_VICTIMS.values()))[0]
        life = whole * rng.uniform(*span)
        ended = _killed(command, broken, victim, life)
        if ended is None:
            outcome.kills += 1
            outcome.victims[victim] += 1
            at = _at_work(broken)
            outcome.struck[at] += 1
            read, faults = half_written(broken)
            outcome.files_read += read
            outcome.faults += faults
            tell(f"kill {outcome.kills}: {victim} after {life:.1f} s, in {at}; {read} files whole, "
                 f"{len(faults)} not")  # fmt: skip
        elif ended:
            outcome.faults.append(ended)
            break
        else:
            _compare(outcome, expected, broken, tell)
            shutil.rmtree(broken)
    if not outcome.faults:
        said = _to_the_end(command, broken)
        if said is None:
            _compare(outcome, expected, broken, tell)
        else:
            outcome.faults.append(said)
    return outcome


def results(root: Path) -> dict[str, object]:
    """The metrics and ranked items of all runs below a folder, without times."""
    found: dict[str, object] = {}
    for file in sorted(root.glob("*/metrics.json")):
        for record in json.loads(file.read_text())["records"]:
            key = [str(record[name]) for name in ("method", "domain", "metric", "k", "seed")]
            found[" ".join([file.parent.name, *key])] = record["value"]
    for file in sorted(root.glob("*/07_evaluation/*/*.parquet")):
        found[file.relative_to(root).as_posix()] = pl.read_parquet(file).to_dict(as_series=False)
    return found


def half_written(root: Path) -> tuple[int, list[str]]:
    """How many files below a folder of runs are whole, and what is wrong with each that is not.

    Files in the making, by their names, and those of unfinished results are left out: nobody reads them.
    """
    read, wrong = 0, []
    for manifest in root.glob("*/manifest.json"):
        run = manifest.parent
        with _noted(manifest, wrong):
            read_checked(manifest)
        for folder in (folder for stage in STAGES for folder in folders_of_results(run / stage)):
            with _noted(folder, wrong):
                record = Record.read(folder)
                assert record is not None
                read += len(record.outputs) + len(record.beside)
                if broken := record.damage(folder):
                    raise RunError(broken)
        for file in [*run.glob("*.json"), *run.glob("figures/*.json"), *run.glob("scratch/**/*")]:
            read += _is_whole(file, root, wrong)
    for file in root.glob("cache/**/*"):
        read += _is_whole(file, root, wrong)
    return read, wrong


@contextlib.contextmanager
def _noted(place: Path, wrong: list[str]) -> Iterator[None]:
    try:
        yield
    except (RunError, ValueError) as error:
        wrong.append(f"{place}: {error}")


def _is_whole(file: Path, root: Path, wrong: list[str]) -> bool:
    names = file.relative_to(root).parts
    if not file.is_file() or any(name.startswith(".") or ".partial" in name for name in names):
        return False
    try:
        if file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix == ".parquet":
            pl.read_parquet(file)
        elif file.suffix == ".safetensors":
            with safe_open(file, framework="np") as stored:
                for name in stored.keys():  # noqa: SIM118 - it is no mapping
                    stored.get_slice(name).get_shape()
    except Exception as error:  # noqa: BLE001 - whatever a reader says of a cut file
        wrong.append(f"{file}: {type(error).__name__}: {error}")
        return False
    return True


def _started(command: Sequence[str], root: Path) -> tuple[subprocess.Popen[bytes], Path]:
    root.mkdir(parents=True, exist_ok=True)
    said = root.with_suffix(".log")
    environment = {**os.environ, "GENREC_RUNS": str(root), "PYTHONPATH": str(REPOSITORY)}
    with said.open("wb") as stream:
        process = subprocess.Popen(
            list(command), cwd=REPOSITORY, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
    return process, said


def _to_the_end(command: Sequence[str], root: Path) -> str | None:
    """Run the command, again where a dying kernel is in the way; None, or what a failed one said."""
    for _ in range(3):
        process, said = _started(command, root)
        code = process.wait(_LONGEST_SECONDS)
        if code == 0:
            return None
        if code != _IN_USE:
            break
        time.sleep(3)
    return f"exit code {code}:\n{said.read_text(errors='replace')[-3000:]}"


def _killed(command: Sequence[str], root: Path, victim: str, life: float) -> str | None:
    """Start the command and kill it after `life` seconds of processor time; return None, or its output.

    The output is empty if it ended well before it could be killed.
    """
    process, said = _started(command, root)
    while process.poll() is None and _seconds([process.pid, *_descendants(process.pid)]) < life:
        time.sleep(0.02)
    code = process.poll()
    if code is None:
        below = _descendants(process.pid)
        if victim.startswith("SIG"):
            process.send_signal(getattr(signal, victim))
        else:
            # The last below is the kernel; before it may be the process that forked it.
            for pid in {"chain": [process.pid], "kernel": below[-1:]}.get(victim, [process.pid, *below]):
                _kill(pid)
        if victim == "kernel":
            # The chain says that its kernel died, and ends by itself, but not where it was done with it.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_NOTICED_SECONDS)
            below = _descendants(process.pid)
            for pid in [process.pid, *below]:
                _kill(pid)
        process.wait()
        _wait_for_end(below)
        return None
    if code == _IN_USE:
        time.sleep(3)
        return _killed(command, root, victim, life)
    return "" if code == 0 else f"exit code {code}:\n{said.read_text(errors='replace')[-3000:]}"


def _ended_seconds() -> float:
    """Seconds of the processor that all ended processes below this one took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _seconds(pids: Sequence[int]) -> float:
    """Seconds of the processor that processes took, and those below them that have ended."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended meanwhile


def _wait_for_end(pids: Sequence[int]) -> None:
    """Wait until orphans have noticed; those that have not after a minute are killed."""
    until = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > until:
            for pid in pids:
                _kill(pid)
        time.sleep(0.1)


def _descendants(pid: int) -> list[int]:
    """The processes below one, nearest first."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue  # it ended meanwhile
        parent = int(text.rpartition(")")[2].split()[1])
        parents.setdefault(parent, []).append(int(stat.parent.name))
    found: list[int] = []
    queue = [pid]
    while queue:
        children = parents.get(queue.pop(0), [])
        found += children
        queue += children
    return found


def _at_work(root: Path) -> str:
    """The stage of which a result was begun and not finished, or that there was none."""
    for attempt in sorted(root.glob("*/scratch/**/attempt.json")):
        return attempt.relative_to(root).parts[2]
    return "no stage"


def _compare(outcome: Outcome, expected: dict[str, object], root: Path, tell: Callable[[str], None]) -> None:
    outcome.finished += 1
    found = results(root)
    differing = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    outcome.faults += [
        f"{name}: {found.get(name)} instead of {expected.get(name)}"[:300] for name in differing
    ]
    tell(f"end {outcome.finished}: {len(expected) - len(differing)} of {len(expected)} results are equal")


def main() -> int:
    """Run the loop by the command line; 1 where a file was half-written or a result is another one."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kill_loop")
    parser.add_argument("--file", default="papermill_runs/smoke.yaml", help="the run file")
    parser.add_argument("--small", action="store_true", help="tests.faults.small_chain instead of a run file")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the runs go, and stay (a temporary folder)")
    given = parser.parse_args()
    work = ["tests.faults.small_chain"] if given.small else ["genrec_lab.run", given.file]
    command, span = [sys.executable, "-m", *work], (0.5, 1.0) if given.small else (0.02, 0.5)
    with tempfile.TemporaryDirectory(prefix="genrec-kills-") as temporary:
        folder = given.folder or Path(temporary)
        outcome = kill_loop(
            command, folder, given.kills, given.seed, span, tell=lambda line: print(line, flush=True)
        )
    print(
        f"{outcome.kills} kills ({dict(outcome.victims)}), in {dict(outcome.struck)}; {outcome.finished} "
        f"ends compared; {outcome.files_read} files read whole, {len(outcome.faults)} faults"
    )
    for fault in outcome.faults:
        print(f"  {fault}")
    return int(bool(outcome.faults))


if __name__ == "__main__":
    sys.exit(main())
