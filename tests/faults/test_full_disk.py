"""A disk that fills up at many moments of a small chain: it is said, and the numbers are equal at the end."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from genrec_lab.lab import making
from genrec_lab.lab.files import RunError, is_disk_full
from tests.faults import small_chain
from tests.faults.kill_loop import half_written, results

TIMES = 15


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_whenever_the_disk_is_full_it_says_so_and_goes_on(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "_LEAST_FREE_BYTES", 0)  # else nothing would be begun
    monkeypatch.setenv("GENREC_RUNS", str(tmp_path / "unbroken"))
    small_chain.main()
    monkeypatch.setenv("GENREC_RUNS", str(disk))
    rng, filling, full = random.Random(0), disk / "filling", 0
    while full < TIMES:
        free = shutil.disk_usage(disk).free
        filling.write_bytes(bytes(max(0, free - rng.randrange(4_096, 180_000))))
        try:
            small_chain.main()
        except (RunError, OSError) as error:
            if not is_disk_full(error) and " is full " not in str(error):
                raise
            full += 1
        else:
            shutil.rmtree(disk / "small")
        assert half_written(disk)[1] == []
        filling.unlink()
    small_chain.main()
    assert results(disk) == results(tmp_path / "unbroken")
