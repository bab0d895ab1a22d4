"""A rough estimate of the memory that a run needs, compared with what the machine has: only for warnings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from genrec_lab.data.checking import dataset_files
from genrec_lab.presets import item_rows, methods

_GIGABYTE = 2**30
_BYTES_READ = {".gz": 12, "": 4}  # in memory, for a byte on disk: packed files, and tables of text
_BYTES_AN_ITEM = 500  # on disk, texts included, where nothing is known of the number of items
_TRAINED = 16  # bytes of a weight: itself, its gradient, AdamW's two moments
_ACTIVATIONS = 12  # vectors of d_model that a layer keeps for the way back, for each token
_LOGITS = 12  # bytes of a score: itself, its softmax, its gradient


def memory_warnings(config: Any, dataset: Mapping[str, Any]) -> Iterator[str]:
    """Give a sentence where the data or a training needs more memory than is free."""
    files = dataset_files(dataset)
    data = sum(file.stat().st_size * _BYTES_READ[".gz" if file.suffix == ".gz" else ""] for file in files)
    items = dataset.get("items", 900) if dataset["name"] == "bazaar" else data // 4 // _BYTES_AN_ITEM
    rows = {name: _generative(method) for name, method in methods(config).items()}
    rows |= {name: _over_items(row, items) for name, row in item_rows(config).items()}
    name = max(rows, key=lambda row: rows[row], default="")
    free = free_memory()
    gpu = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None
    if gpu is not None and rows and rows[name] > gpu:
        yield _sentence(f"the row {name}", rows[name], gpu, "of the GPU")
    needed = data + (rows[name] if rows and gpu is None else 0)
    if needed > free:
        what = f"the data and the row {name}" if rows and gpu is None else "the data"
        yield _sentence(what, needed, free, "of this machine")


def free_memory() -> int:
    """Return the bytes of memory that a process can still have, within the limits of a container."""
    found = [2**60]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        available = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text(encoding="ascii"))
        found += [int(available[1]) * 1024] if available else []
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.is_file() and used.is_file() and (text := limit.read_text(encoding="ascii").strip()).isdigit():
        found.append(int(text) - int(used.read_text(encoding="ascii")))
    return min(found)


def _sentence(what: str, needed: int, free: int, where: str) -> str:
    return (
        f"{what} may need about {needed / _GIGABYTE:,.1f} GB, but only {free / _GIGABYTE:,.1f} GB {where} "
        "are free; use less data, a smaller training.batch_size, or a machine with more"
    )


def _generative(method: Any) -> int:
    """Bytes to train a generative row; 0 for what a foreign model does not say."""
    sizes, tokens = method.recommender, method.pairs.max_history * getattr(method.tokenizer, "levels", 4)
    width, wide = getattr(sizes, "d_model", 0), getattr(sizes, "d_ff", 0)
    heads = getattr(sizes, "heads", 0) * getattr(sizes, "d_kv", 0)
    layers = sum(getattr(sizes, name, 0) for name in ("encoder_layers", "decoder_layers", "layers"))
    weights = layers * (6 * width * heads + 2 * width * wide)
    kept = method.training.batch_size * tokens * layers * width * _ACTIVATIONS * 4
    encoder = 0
    if method.tokenizer.kind == "tree" and method.content.kind == "qwen":
        billions = re.search(r"(\d+(?:\.\d+)?)B", method.content.model)
        encoder = int(float(billions[1] if billions else 2) * 1e9) * (2 if "b" in method.content.dtype else 4)
    return max(weights * _TRAINED + kept, encoder)


def _over_items(row: Any, items: int) -> int:
    width = getattr(row.model, "width", 64)
    return items * width * _TRAINED + row.training.batch_size * items * _LOGITS
