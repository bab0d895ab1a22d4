"""The paper's content encoder: Qwen2-VL compresses picture and text into L code tokens.

UTGRec Section 2.2.1, Eq 2. Details that the paper does not state (LoRA's sizes, which hidden states are used,
token budgets, the prompt without a picture) follow the authors' public code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor, nn

from genrec_lab.data.batches import padded
from genrec_lab.encoders.content import Content, PreparedContent, frozen_features, mask_of, padded_features
from genrec_lab.encoders.hub import model_identity
from genrec_lab.encoders.pictures import PictureTarget, centre_square
from genrec_lab.encoders.progress import Progress
from genrec_lab.encoders.qwen_models import load_qwen, memory_advice
from genrec_lab.registry import ComponentConfig
from genrec_lab.training import moved, placed

_PICTURE_BATCH = 8
# Qwen2-VL rejects pictures that are more than 200 times as long as wide.
_LONGEST = 100
_TEXT = "<TEXT>"
_PICTURE = "<|image_pad|>"
# The paper's words; the picture precedes them.
_WITH_PICTURE = (
    'This is an image of an item. The item\'s information also includes: "<TEXT>". Compress the image and '
    "text information into {levels} tokens, representing content from coarse to fine granularity."
)
# For items without a picture, the prompt of the authors' code.
_WITHOUT_PICTURE = (
    'The image of this item is missing. The item\'s information includes: "<TEXT>". Compress the text '
    "information into {levels} tokens, representing content from coarse to fine granularity."
)


class QwenConfig(ComponentConfig):
    """Settings of Qwen2-VL as UTGRec's encoder; the values are from the authors' code."""

    kind: Literal["qwen"] = "qwen"
    model: str = Field("Qwen/Qwen2-VL-2B-Instruct", min_length=1, description="a local folder or a hub name")
    levels: int = Field(3, ge=1, description="L, code tokens and content representations of an item")
    lora_rank: int = Field(8, ge=1, description="of LoRA on every linear layer of the language model")
    lora_alpha: int = Field(32, ge=1)
    lora_dropout: float = Field(0.1, ge=0, lt=1)
    train_embeddings: bool = Field(True, description="train word embeddings and LM head in full")
    max_text_tokens: int = Field(1024, ge=1, description="longer texts are truncated and counted")
    min_visual_tokens: int = Field(128, ge=1, description="smaller pictures are enlarged")
    max_visual_tokens: int = Field(1024, ge=1, description="larger pictures are shrunk")
    gradient_checkpointing: bool = Field(False, description="uses less memory and a third more time")
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="of the frozen weights")
    picture: PictureTarget = Field(
        default_factory=PictureTarget, description="the representation of a picture to reconstruct"
    )

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_visual_tokens > self.max_visual_tokens:
            raise ValueError(
                f"min_visual_tokens = {self.min_visual_tokens} is above max_visual_tokens = "
                f"{self.max_visual_tokens}; lower the one or raise the other"
            )
        return self


class QwenEncoder(nn.Module):
    """Qwen2-VL with LoRA and L code tokens; returns the last hidden states at the code tokens.

    The frozen vision tower runs once per picture, in `prepare`. Trained weights are float32, regardless of
    the `dtype` of the frozen weights. The code tokens `<CODE_0>` ... are rows outside the vocabulary, so they
    are trained even if the embeddings are not.
    """

    Config = QwenConfig

    def __init__(self, config: QwenConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or QwenConfig()
        self.levels, self.picture, self.text_tokens = config.levels, config.picture, config.max_text_tokens
        with memory_advice("loading the model"):
            loaded = load_qwen(config.model, config.dtype, config.min_visual_tokens, config.max_visual_tokens)
        self.identity = model_identity(config.model)
        self._tokenizer, self._images = loaded.tokenizer, loaded.images
        self._prompt = ItemPrompt(loaded.tokenizer, config.levels)
        whole: Any = loaded.model.requires_grad_(False)
        self.backbone: Any = whole.model
        language = self.backbone.language_model
        _add_lora(language, config)
        table = language.embed_tokens.weight
        # The published Qwen2-VL 2B ties its LM head to the embeddings, 7B does not.
        self.head: Any = None if whole.lm_head.weight is table else whole.lm_head
        if config.train_embeddings:
            for module in (language.embed_tokens, self.head):
                if module is not None:
                    module.float().requires_grad_(True)
        if config.gradient_checkpointing:
            # Renamed during transformers 5.
            new_name = getattr(language, "activation_checkpointing_enable", None)
            (new_name or language.gradient_checkpointing_enable)({"use_reentrant": False})
        self.dimension = int(table.shape[1])
        # Initialised near the mean of all words, each slightly different.
        words = table.detach().float()
        self.code_tokens = nn.Parameter(
            words.mean(0) + words.std() * torch.randn(config.levels, self.dimension)
        )

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Content representations H of a prepared batch, (B, L, d) float32; UTGRec Eq 2.

        Raises QwenMemoryError if memory runs out.
        """
        with memory_advice("reading a batch"):
            ids, mask = batch["encoder_ids"], batch["encoder_mask"]
            language, levels = self.backbone.language_model, self.levels
            # Frozen weights and adapters compute in the precision of the frozen weights.
            precision = language.norm.weight.dtype
            inputs = language.embed_tokens(ids).to(precision)
            seen = batch["encoder_picture"][batch["encoder_picture_mask"]].to(precision)
            inputs = inputs.masked_scatter((ids == self._prompt.picture_id)[..., None], seen)
            places = mask.sum(1, keepdim=True) - levels + torch.arange(levels, device=ids.device)
            places = places[..., None].expand(-1, -1, inputs.shape[2])
            codes = self.code_tokens.to(precision).expand(len(ids), -1, -1)
            hidden = language(
                inputs_embeds=inputs.scatter(1, places, codes),
                attention_mask=mask.long(),
                position_ids=batch["encoder_positions"].transpose(0, 1),
                use_cache=False,
            ).last_hidden_state
            return hidden.gather(1, places).float()

    def word_table(self) -> Tensor:
        """Return the LM head (V, e), or the embedding table if they are tied; trained with the embeddings."""
        return self.backbone.language_model.embed_tokens.weight if self.head is None else self.head.weight

    def words(self) -> list[str]:
        """Return the text of each of the V tokens; empty for rows that the tokenizer does not use."""
        used = min(len(self._tokenizer), len(self.word_table()))
        words = [self._tokenizer.decode([token]) for token in range(used)]
        return words + [""] * (len(self.word_table()) - used)

    def prepare(
        self, content: Content, cache: Path | None = None, progress: Progress = True
    ) -> PreparedContent:
        """Run the frozen vision tower on N items once, or read its outputs from `cache`.

        The whole encoder is moved to the accelerator, if there is one. Without `cache`, the features stay in
        memory, up to 3 MB per picture at full size. Counts in `repairs`: repaired pictures,
        `texts_truncated`, `items_without_picture`. Raises PictureError for an unreadable picture,
        QwenMemoryError if memory runs out.
        """
        config = placed(self).config
        texts = self._prompt.texts(content.texts)
        repairs = {"texts_truncated": sum(len(text) > config.max_text_tokens for text in texts)}
        texts = [text[: config.max_text_tokens] for text in texts]
        settings: dict[str, object] = {
            "what": "visual tokens",
            "model": self.identity,
            "dtype": config.dtype,
            "bounds": [config.min_visual_tokens, config.max_visual_tokens],
            "target": config.picture.identity(),
        }
        with memory_advice("running the vision tower"):
            pictures = frozen_features(content, "pictures", self._read_pictures, settings, cache, progress)
        shown = torch.tensor([picture is not None for picture in content.pictures])
        repairs["items_without_picture"] = int((~shown).sum())
        repairs |= pictures.repairs
        target = config.picture

        def longest_prompt(items: np.ndarray) -> int:
            shown = (pictures.longest("tokens", np.array([item])) for item in items)
            return max(len(self._prompt.ids(texts[item], n)) for item, n in zip(items, shown, strict=True))

        def collate(items: np.ndarray, among: np.ndarray) -> dict[str, Tensor]:
            own = [texts[item] for item in items]
            seen = pictures.rows("tokens", items)
            longest, patches = pictures.longest("tokens", among), pictures.rows("patches", items)
            features, feature_mask = padded_features(seen, self.dimension, longest)
            prompts = [self._prompt.ids(text, len(rows)) for text, rows in zip(own, seen, strict=True)]
            ids = padded(prompts, longest_prompt(among), 0)
            mask = mask_of(prompts, ids.shape[1])
            words = padded(own, max(1, *(len(texts[item]) for item in among)), 0)
            return {
                "text_ids": words,
                "text_mask": mask_of(own, words.shape[1]),
                "patches": padded_features(patches, target.channels, target.tokens)[0],
                "has_picture": shown[torch.from_numpy(items)],
                "encoder_ids": ids,
                "encoder_mask": mask,
                "encoder_positions": self._positions(ids, mask, torch.cat(pictures.rows("grid", items))),
                "encoder_picture": features,
                "encoder_picture_mask": feature_mask,
            }

        return PreparedContent(len(content), collate, {what: n for what, n in repairs.items() if n})

    def _positions(self, ids: Tensor, mask: Tensor, grids: Tensor) -> Tensor:
        """Rotary positions in time, height and width, (B, 3, n)."""
        kinds = (ids == self._prompt.picture_id).int()
        positions, _ = self.backbone.get_rope_index(
            ids, kinds, image_grid_thw=grids if len(grids) else None, attention_mask=mask
        )
        return positions.transpose(0, 1).contiguous()

    def _read_pictures(self, content: Content, repairs: dict[str, int]) -> dict[str, list[Tensor]]:
        """Return visual tokens, their grid and the target patches of each picture; no rows without one."""
        target, precision = self.picture, getattr(torch, self.config.dtype)
        tokens = [torch.empty(0, self.dimension, dtype=precision)] * len(content)
        grids = [torch.empty(0, 3, dtype=torch.long)] * len(content)
        patches = [torch.empty(0, target.channels, dtype=torch.half)] * len(content)
        there = [place for place, picture in enumerate(content.pictures) if picture is not None]
        for start in range(0, len(there), _PICTURE_BATCH):
            chosen, images = there[start : start + _PICTURE_BATCH], []
            for place, image in content.select(chosen).read_pictures(repairs):
                patches[chosen[place]] = target.to_tokens(centre_square(image, target.size)).half()
                images.append(_not_too_long(image, repairs))
            pixels = self._images(images=images, return_tensors="pt")
            device = self.code_tokens.device
            with torch.no_grad():
                found = self.backbone.get_image_features(
                    moved(pixels["pixel_values"], device), moved(pixels["image_grid_thw"], device)
                ).pooler_output
            for place, rows, grid in zip(chosen, found, pixels["image_grid_thw"], strict=True):
                tokens[place], grids[place] = rows.cpu(), grid[None].cpu()
        return {"tokens": tokens, "grid": grids, "patches": patches}


def _add_lora(language: nn.Module, config: QwenConfig) -> None:
    """Add LoRA to every linear layer of the language model, in float32."""
    from peft import LoraConfig, inject_adapter_in_model

    linears = {name.split(".")[-1] for name, part in language.named_modules() if isinstance(part, nn.Linear)}
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=sorted(linears),
        bias="none",
    )
    inject_adapter_in_model(lora, language)
    for name, parameter in language.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)


def _not_too_long(image: Image.Image, repairs: dict[str, int]) -> Image.Image:
    """Add a white margin if a picture is more than a hundred times as long as wide."""
    width, height = image.size
    needed = (max(width, math.ceil(height / _LONGEST)), max(height, math.ceil(width / _LONGEST)))
    if needed == image.size:
        return image
    repairs["pictures_widened"] = repairs.get("pictures_widened", 0) + 1
    ground = Image.new("RGB", needed, "white")
    ground.paste(image, ((needed[0] - width) // 2, (needed[1] - height) // 2))
    return ground


class ItemPrompt:
    """The fixed parts of both prompts, tokenised once; the code tokens follow the assistant's header.

    The text of an item is tokenised separately, so that it can be truncated to its budget and words that look
    like special tokens stay words.
    """

    def __init__(self, tokenizer: Any, levels: int) -> None:
        self._tokenizer, self._levels = tokenizer, levels
        self.picture_id = int(tokenizer.convert_tokens_to_ids(_PICTURE))
        shown = self._rendered([{"type": "image"}], _WITH_PICTURE)
        before, rest = shown.split(_PICTURE)
        self._shown = tuple(self._ids(part) for part in (before, *rest.split(_TEXT)))
        self._missing = tuple(self._ids(part) for part in self._rendered([], _WITHOUT_PICTURE).split(_TEXT))

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text, not truncated."""
        # verbose: no warning about length; truncation is counted elsewhere.
        return self._tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False
        )["input_ids"]

    def ids(self, text: Sequence[int], picture_tokens: int) -> list[int]:
        """Return the whole prompt of an item; the last L tokens, the code tokens, are 0.

        `picture_tokens` is 0 for an item without a picture.
        """
        codes = [0] * self._levels
        if not picture_tokens:
            before, after = self._missing
            return [*before, *text, *after, *codes]
        before, between, after = self._shown
        return [*before, *[self.picture_id] * picture_tokens, *between, *text, *after, *codes]

    def _rendered(self, picture: list[dict[str, str]], words: str) -> str:
        content = [*picture, {"type": "text", "text": words.format(levels=self._levels)}]
        return self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )

    def _ids(self, part: str) -> list[int]:
        return self._tokenizer(part, add_special_tokens=False)["input_ids"]
