"""Loads Qwen2-VL from a folder or the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from genrec_lab.encoders.hub import HubError, find_on_hub, local_folder, no_loading_bar

# Allocators' messages in a plain RuntimeError when memory runs out.
_EXHAUSTED = ("not enough memory", "can't allocate memory", "out of memory")


class QwenModelError(RuntimeError):
    """Raised for a model that does not exist or is not Qwen2-VL."""


class QwenMemoryError(MemoryError):
    """Raised if the model or a batch does not fit in memory; the message says what to lower."""


class LoadedQwen(NamedTuple):
    """A loaded Qwen2-VL: transformers' model, its tokenizer, and its image processor for PIL."""

    model: Any
    tokenizer: Any
    images: Any


def load_qwen(name: str, dtype: str, min_visual_tokens: int, max_visual_tokens: int) -> LoadedQwen:
    """Load Qwen2-VL from a local folder or, by this name, from the hub.

    A visual token has 28 x 28 px in the published models; pictures are scaled to lie between the two bounds.
    Raises QwenModelError if the model cannot be found, is not Qwen2-VL or has no chat template,
    QwenMemoryError if the weights are larger than the free memory.
    """
    from transformers import AutoConfig, AutoTokenizer, Qwen2VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    folder = local_folder(name)
    source = str(folder) if folder.is_dir() else name
    try:
        if not folder.is_dir():
            find_on_hub(name)
    except HubError as refusal:
        raise QwenModelError(
            f'model = "{name}" is neither a local folder nor loadable from the model hub ({refusal}); name a '
            "folder with Qwen2-VL's config.json, weights and tokenizer"
        ) from refusal
    try:
        found = AutoConfig.from_pretrained(source).model_type
    except (OSError, ValueError) as error:
        raise QwenModelError(
            f'model = "{name}" has no config.json that can be read ({str(error).splitlines()[0]}); name a '
            "folder of Qwen2-VL"
        ) from error
    if found != "qwen2_vl":
        raise QwenModelError(
            f'model = "{name}" is a {found}, expected a qwen2_vl such as Qwen/Qwen2-VL-2B-Instruct'
        )
    _require_memory(folder, dtype)
    try:
        with no_loading_bar():
            tokenizer: Any = AutoTokenizer.from_pretrained(source)
            images: Any = Qwen2VLImageProcessorPil.from_pretrained(source)
            model: Any = Qwen2VLForConditionalGeneration.from_pretrained(source, dtype=getattr(torch, dtype))
    except (OSError, ValueError) as error:
        raise QwenModelError(
            f'model = "{name}" is not complete ({str(error).splitlines()[0]}); fetch its weights, tokenizer '
            "and preprocessor_config.json again"
        ) from error
    if not tokenizer.chat_template:
        raise QwenModelError(
            f'model = "{name}" has no chat template; take the Instruct variant, or add chat_template.jinja'
        )
    pixels = (images.patch_size * images.merge_size) ** 2
    images.size = {"shortest_edge": min_visual_tokens * pixels, "longest_edge": max_visual_tokens * pixels}
    return LoadedQwen(model, tokenizer, images)


def _require_memory(folder: Path, dtype: str) -> None:
    """Raise QwenMemoryError before loading weights that would get the process killed without a message."""
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0
    free = _free_memory()
    if free is not None and stored > free:
        raise QwenMemoryError(
            f"{folder} holds {stored / 1e9:.1f} GB of weights, {free / 1e9:.1f} GB of memory are free; "
            f'close other programs, take a smaller model, or dtype = "bfloat16" (it is "{dtype}")'
        )


def _free_memory() -> int | None:
    """Return the free main memory in bytes, None if unknown."""
    table = Path("/proc/meminfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    kibibytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if kibibytes is None else int(kibibytes) * 1024


@contextmanager
def memory_advice(doing: str) -> Iterator[None]:
    """Convert all kinds of out-of-memory errors to a QwenMemoryError that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        exhausted = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
            words in str(error).lower() for words in _EXHAUSTED
        )
        if not exhausted or isinstance(error, QwenMemoryError):
            raise
        raise QwenMemoryError(
            f"memory ran out while {doing}; lower the batch size, max_text_tokens or max_visual_tokens, set "
            'gradient_checkpointing = true or dtype = "bfloat16", or take a smaller model'
        ) from error
