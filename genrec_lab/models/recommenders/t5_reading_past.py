"""transformers' T5 with an encoder in which no item of a history attends to a later one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from genrec_lab.models.recommenders.t5 import NEGATIVE


class T5ReadingPast(T5ForConditionalGeneration):
    """A T5 in which an item's `config.levels` tokens attend to earlier items and to the item itself.

    `forward`, `generate` and peft's wrappers accept the usual `attention_mask` (B, S).
    """

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.encoder.register_forward_pre_hook(self._mask_later_items, with_kwargs=True)

    def _mask_later_items(
        self, encoder: nn.Module, given: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        read = given[0] if given else named.get("input_ids")
        read = named["inputs_embeds"] if read is None else read
        item = torch.arange(read.shape[1], device=read.device) // self.config.levels
        later = item[None, :] > item[:, None]
        mask = named.get("attention_mask")
        if mask is not None:
            later = later | (mask == 0)[:, None, :]
        bias = torch.zeros(later.shape, device=read.device).masked_fill(later, NEGATIVE)
        return given, {**named, "attention_mask": bias.view(-1, 1, *bias.shape[-2:])}
