"""The circumstances of a result: source, packages, hardware, threads and precision behind it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import genrec_lab
from genrec_lab.lab.results import flat

# What the numbers of a run can depend on; a package that is not installed is left out.
RECORDED_PACKAGES = (
    "accelerate", "numpy", "papermill", "peft", "pillow", "plotly", "polars", "pydantic", "safetensors",
    "scikit-learn", "scipy", "sentence-transformers", "torch", "transformers", "umap-learn",
)  # fmt: skip


def circumstances(settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`{"source", "packages", "hardware", "python", "threads", "precision", "device"}` of this process.

    settings: those of a result, whose own precisions are named.
    """
    torch = sys.modules.get("torch")
    named = {name: value for name, value in flat(settings or {}) if name.rpartition(".")[2] == "precision"}
    return {
        "source": source_revision(),
        "packages": package_versions(),
        "hardware": hardware(),
        "python": platform.python_version(),
        "threads": None if torch is None else torch.get_num_threads(),
        "precision": "; ".join(f"{name} {value}" for name, value in named.items()) or "fp32",
        "device": "cpu" if torch is None else _device(torch),
    }


def _device(torch: Any) -> str:
    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@cache
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


@cache
def package_versions() -> dict[str, str]:
    """Installed versions of the packages that results can depend on."""
    versions = {"genrec_lab": genrec_lab.__version__}
    for name in RECORDED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def hardware() -> dict[str, Any]:
    """`{"system", "cpu", "cores", "memory_gb", "gpus"}`; cores are those this process may use.

    gpus is None where torch is not loaded: importing it takes seconds, and without it no GPU is used either.
    """
    memory = None
    with contextlib.suppress(AttributeError, OSError, ValueError):  # not on every system
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": memory,
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


@cache
def _cpu_model() -> str:
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str] | None:
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [*names, "Apple GPU (mps)"] if torch.backends.mps.is_available() else names
