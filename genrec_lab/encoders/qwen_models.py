"""Loads Qwen2-VL from a folder or the hub, or creates one with random weights, small or in real size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
            "folder with Qwen2-VL's config.json, weights and tokenizer, or make a small one with "
            "tiny_qwen(folder, texts)"
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


# --- random weights

# Qwen2-VL's special tokens, in the order of its tokenizer; the tokenizer's class adds <|endoftext|>.
_SPECIAL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# ChatML with Qwen's default system message; a picture becomes its three tokens.
_CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# The sizes of the published Qwen2-VL-2B, from its config.json.
QWEN2_VL_2B_TEXT = {
    "vocab_size": 151_936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
}
QWEN2_VL_2B_VISION = {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4}


def tiny_qwen(
    folder: Path,
    texts: Sequence[str],
    seed: int = 0,
    *,
    hidden: int = 256,
    layers: int = 4,
    vocabulary: int = 4000,
) -> Path:
    """Write a random Qwen2-VL with a tokenizer trained on `texts` into `folder`, and return the folder.

    It is written like by `save_pretrained` and loaded like the real model. `hidden` is the width of the
    language model (a multiple of 64), `vocabulary` the largest vocabulary of the byte-pair encoding. Raises
    ValueError for an invalid width.
    """
    if hidden < 64 or hidden % 64:
        raise ValueError(
            f"hidden = {hidden}; expected a multiple of 64, for four heads with rotary positions"
        )
    text = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    vision = {"depth": 2, "embed_dim": 64, "hidden_size": hidden, "num_heads": 2, "mlp_ratio": 2}
    return random_qwen(folder, texts, text, vision, seed, vocabulary=vocabulary)


def random_qwen(
    folder: Path,
    texts: Sequence[str],
    text: Mapping[str, Any],
    vision: Mapping[str, Any],
    seed: int = 0,
    *,
    vocabulary: int = 4000,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Path:
    """Write a random Qwen2-VL of any size into `folder`; `text` and `vision` are parts of its config.

    QWEN2_VL_2B_TEXT and QWEN2_VL_2B_VISION in bfloat16 give the real size, 4.4 GB, with random weights. A
    `vocab_size` in `text` makes the table larger than the tokenizer needs, as in the published model.
    """
    from transformers import GenerationConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = _tokenizer(texts, vocabulary)
    number = {token: tokenizer.convert_tokens_to_ids(token) for token in _SPECIAL}
    head = text["hidden_size"] // text["num_attention_heads"]
    # The published models split half a head's 128 numbers 16 : 24 : 24 between time, height and width.
    sections = [head // 8, 3 * head // 16, 3 * head // 16]
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 32_768,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1_000_000.0,
                "mrope_section": sections,
            },
            "bos_token_id": None,
            "eos_token_id": number["<|im_end|>"],
            "pad_token_id": tokenizer.pad_token_id,
            **text,
        },
        vision_config=dict(vision),
        image_token_id=number["<|image_pad|>"],
        video_token_id=number["<|video_pad|>"],
        vision_start_token_id=number["<|vision_start|>"],
        vision_end_token_id=number["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        precision = getattr(torch, dtype)
        model: Any = Qwen2VLForConditionalGeneration._from_config(config, dtype=precision)
    model.generation_config = GenerationConfig()
    with no_loading_bar():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil().save_pretrained(folder)
    return folder


def _tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """Return a byte-level byte-pair encoding like Qwen2's, learned from `texts`; it can encode any text."""
    from transformers import Qwen2Tokenizer

    blank: Any = Qwen2Tokenizer()
    tokenizer = blank.train_new_from_iterator(texts, vocabulary)
    tokenizer.add_special_tokens({"additional_special_tokens": list(_SPECIAL)})
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer
