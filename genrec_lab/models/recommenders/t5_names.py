"""The names of the T5's weights here and in transformers' T5ForConditionalGeneration."""

from __future__ import annotations

import re

# Our names on the left, transformers' on the right; {i} is the number of the block.
_NAMES = [
    ("embedding.weight", "shared.weight"),
    ("encoder_bias.weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    ("decoder_bias.weight", "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    ("encoder_norm.", "encoder.final_layer_norm."),
    ("decoder_norm.", "decoder.final_layer_norm."),
    ("encoder.{i}.attention_norm.", "encoder.block.{i}.layer.0.layer_norm."),
    ("encoder.{i}.attention.", "encoder.block.{i}.layer.0.SelfAttention."),
    ("encoder.{i}.feed_forward_norm.", "encoder.block.{i}.layer.1.layer_norm."),
    ("encoder.{i}.feed_forward.", "encoder.block.{i}.layer.1.DenseReluDense."),
    ("decoder.{i}.attention_norm.", "decoder.block.{i}.layer.0.layer_norm."),
    ("decoder.{i}.attention.", "decoder.block.{i}.layer.0.SelfAttention."),
    ("decoder.{i}.cross_norm.", "decoder.block.{i}.layer.1.layer_norm."),
    ("decoder.{i}.cross.", "decoder.block.{i}.layer.1.EncDecAttention."),
    ("decoder.{i}.feed_forward_norm.", "decoder.block.{i}.layer.2.layer_norm."),
    ("decoder.{i}.feed_forward.", "decoder.block.{i}.layer.2.DenseReluDense."),
]
_GATED = [(".wi.weight", ".wi_0.weight"), (".gate.weight", ".wi_1.weight")]


def to_transformers_name(name: str, *, gated: bool) -> str:
    """Return the name that a weight of ours has in transformers' T5ForConditionalGeneration."""
    return _translate(name, [(a, b) for a, b in _NAMES], _GATED if gated else [])


def from_transformers_name(name: str, *, gated: bool) -> str | None:
    """Return our name of a weight of transformers' T5, None for a copy of the embedding."""
    if name in {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}:
        return None
    return _translate(name, [(b, a) for a, b in _NAMES], [(b, a) for a, b in _GATED] if gated else [])


def _translate(name: str, prefixes: list[tuple[str, str]], suffixes: list[tuple[str, str]]) -> str:
    for old, new in prefixes:
        pattern = re.escape(old).replace(re.escape("{i}"), r"(\d+)")
        if found := re.match(pattern, name):
            number = found.group(1) if found.groups() else ""
            name = new.replace("{i}", number) + name[found.end() :]
            break
    else:
        raise KeyError(f"{name!r} is not the name of a T5 weight")
    for old, new in suffixes:
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
