"""A Qwen2-VL with random weights, small for tests or in the real size for benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from genrec_lab.encoders.hub import no_loading_bar

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
