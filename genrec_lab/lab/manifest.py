"""The manifest of a run: its stages, its parameters, and the source, packages and hardware behind them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import genrec_lab
from genrec_lab.lab.files import RunError, read_json, write_json
from genrec_lab.lab.locks import writing

_FORMAT = 1

# What the numbers of a run can depend on; a package that is not installed is left out.
RECORDED_PACKAGES = (
    "accelerate", "numpy", "papermill", "peft", "pillow", "plotly", "polars", "pydantic", "safetensors",
    "scikit-learn", "scipy", "sentence-transformers", "torch", "transformers", "umap-learn",
)  # fmt: skip


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder as it stands on disk; an empty one where there is none."""
    file = folder / "manifest.json"
    if not file.is_file():
        return {"format": _FORMAT, "stages": {}, "replaced": {}, "notebooks": {}}
    manifest: dict[str, Any] = read_json(file)
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise RunError(f"{file} was not written by this version of genrec_lab. Use another run name.")
    return manifest


@contextmanager
def edited_manifest(folder: Path) -> Iterator[dict[str, Any]]:
    """The manifest to be changed in place: read, changed, written as one step; untouched on an error."""
    with writing(folder):
        manifest = read_manifest(folder)
        yield manifest
        write_json(folder / "manifest.json", manifest)


@cache
def circumstances() -> dict[str, Any]:
    """`{"source", "packages", "hardware", "python"}` of this process, found once."""
    return {
        "source": source_revision(),
        "packages": package_versions(),
        "hardware": hardware(),
        "python": platform.python_version(),
    }


def source_revision() -> dict[str, Any]:
    """`{"version", "revision", "dirty"}` of genrec_lab; the last two are None outside a git checkout."""
    folder = Path(genrec_lab.__file__).parent
    answer: dict[str, Any] = {"version": genrec_lab.__version__, "revision": None, "dirty": None}
    # an installed copy may lie inside somebody else's checkout, whose revision would say nothing about us
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return answer
    revision, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain")
    answer["revision"] = revision
    answer["dirty"] = None if changes is None else bool(changes)
    return answer


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that results can depend on."""
    versions = {"genrec_lab": genrec_lab.__version__}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, Any]:
    """`{"system", "cpu", "cores", "memory_gb", "gpus"}`; cores are those this process may use.

    gpus is None where torch is not loaded: importing it takes seconds, and without it no GPU is used either.
    """
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "gpus": _gpus(),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_model() -> str:
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _gpus() -> list[str] | None:
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [*names, "Apple GPU (mps)"] if torch.backends.mps.is_available() else names
