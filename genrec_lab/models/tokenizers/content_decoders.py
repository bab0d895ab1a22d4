"""The two light decoders that reconstruct an item's text and picture from its codes (UTGRec section 2.3.1).

Shapes: B items, l code vectors of an item (all L or the first few), w width of a decoder, T text tokens,
M real text tokens of a batch, P picture tokens of c channels, V words, e dimensions of the word table.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from genrec_lab.losses import Reduction, text_reconstruction_loss
from genrec_lab.models.layers import drawn_linear
from genrec_lab.models.tokenizers.diffusion import DiffusionConfig, DiffusionLoss
from genrec_lab.training import processes

# The most logits of a large vocabulary that exist at a time; the backward pass computes them again.
_LOGITS_AT_ONCE = 1 << 26
# Masking in UTGRec's code: of ten chosen places, eight show the mask, one a random word, one the word itself.
_MASKED, _RANDOM = 0.8, 0.1


class DecoderConfig(BaseModel):
    """Sizes of both decoders; the defaults are those of UTGRec's code with Qwen2-VL-2B (w = 1,536)."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    width: int | None = Field(None, ge=1, description="w; None: the encoder's dimension d, as in the paper")
    heads: int = Field(12, ge=1, description="attention heads; must divide w")
    expansion: int = Field(4, ge=1, description="feed-forward width divided by w")
    text_places: int = Field(1024, ge=1, description="longest text in tokens")
    masking: Literal["all", "mixed"] = Field(
        "all", description="masking of the text in training: all positions (paper), or 80/10/10 (code)"
    )
    reduction: Reduction = Field("paper", description="of Eq. 8 over a text: sum (paper) or mean (code)")


class BidirectionalLayer(nn.Module):
    """One transformer layer in which every place attends to every real token; normalised before and after."""

    def __init__(self, width: int, config: DecoderConfig, generator: Generator | None = None) -> None:
        super().__init__()
        if width % config.heads:
            raise ValueError(
                f"decoder.heads is {config.heads}, which does not divide the width {width}; choose a "
                f"divisor, or set decoder.width"
            )
        self.heads, hidden = config.heads, config.expansion * width
        self.norm_attention, self.norm_feed, self.norm = (nn.LayerNorm(width) for _ in range(3))
        self.queries_keys_values = drawn_linear(width, 3 * width, generator)
        self.attended = drawn_linear(width, width, generator)
        self.feed_in = drawn_linear(width, hidden, generator)
        self.feed_out = drawn_linear(hidden, width, generator)

    def forward(self, x: Tensor, true: Tensor | None = None) -> Tensor:
        """(B, S, w) states, (B, S) bool, true for real tokens -> (B, S, w)."""
        split = self.queries_keys_values(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = split.permute(2, 0, 3, 1, 4)  # each (B, heads, S, w / heads)
        seen = None if true is None else true[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.attended(mixed.transpose(1, 2).flatten(2))
        return self.norm(x + self.feed_out(functional.gelu(self.feed_in(self.norm_feed(x)))))


class MaskedPlaces(nn.Module):
    """One bidirectional layer over an item's code vectors and mask tokens with positions."""

    def __init__(
        self, width: int, places: int, config: DecoderConfig, generator: Generator | None = None
    ) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.empty(width).normal_(0, 0.02, generator=generator))
        self.positions = nn.Parameter(torch.empty(places, width).normal_(0, 0.02, generator=generator))
        self.layer = BidirectionalLayer(width, config, generator)

    def forward(
        self,
        content: Tensor,
        places: int,
        true: Tensor | None = None,
        shown: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Return the states (B, places, w) of the places after (B, l, w) code vectors.

        true (B, places) bool: places that exist. shown: which (B, places) bool do not have the mask, and what
        they have, (B, places, w). Raises ValueError for more places than there are positions.
        """
        batch, levels, _ = content.shape
        if places > len(self.positions):
            raise ValueError(
                f"a text of {places} tokens is longer than decoder.text_places = {len(self.positions)}; "
                f"raise it, or shorten the texts"
            )
        masks = self.mask.expand(batch, places, -1)
        if shown is not None:
            masks = torch.where(shown[0][..., None], shown[1].to(masks.dtype), masks)
        sequence = torch.cat([content, masks + self.positions[:places]], dim=1)
        if true is not None:
            true = torch.cat([true.new_ones(batch, levels), true], dim=1)
        return self.layer(sequence, true)[:, levels:]


class TextDecoder(nn.Module):
    """Predicts the words of an item's text from its code vectors (Eq. 8)."""

    def __init__(
        self,
        width: int,
        words: int,
        word_dimension: int,
        config: DecoderConfig,
        generator: Generator | None = None,
    ) -> None:
        """`words` is V and `word_dimension` is e of the word table that every call receives."""
        super().__init__()
        self.config = config
        self.places = MaskedPlaces(width, config.text_places, config, generator)
        same = width == word_dimension
        self.up = nn.Identity() if same else drawn_linear(width, word_dimension, generator)
        if config.masking == "mixed":
            self.down = nn.Identity() if same else drawn_linear(word_dimension, width, generator)
        self.bias = nn.Parameter(torch.zeros(words))

    def forward(
        self, content: Tensor, ids: Tensor, mask: Tensor, table: Tensor, generator: Generator | None = None
    ) -> Tensor:
        """Return L^t: (B, l, w) code vectors, (B, T) int64 words, (B, T) bool mask, (V, e) -> scalar.

        With mixed masking, one place in five shows a word in training, drawn from the generator; in
        evaluation every place is masked. A batch without words gives a zero that still has a gradient.
        """
        shown = None
        if self.training and self.config.masking == "mixed":
            which, words = self._shown(ids, generator)
            shown = which, self.down(functional.embedding(words, table))
        # Index by places instead of the mask: their number is read from the device only once.
        true = mask.nonzero(as_tuple=True)
        states = self.places(content, ids.shape[1], mask, shown)[true]
        return self._loss(states, ids[true], table, len(ids))

    def word_scores(self, content: Tensor, table: Tensor, places: int = 32) -> Tensor:
        """Return the log of the words' mean probability over the first places: (B, l, w), (V, e) -> (B, V).

        With the mean probability, a word that is certain at one place scores high.
        """
        states = self.places(content, min(places, self.config.text_places))
        # Item by item, because all places of many items times a large vocabulary would not fit. In logarithms
        # throughout, because a probability that rounds to 0 has none.
        by_place = (self._logits(one, table).float().log_softmax(dim=-1) for one in states)
        scores = [one.logsumexp(dim=0) - math.log(len(one)) for one in by_place]
        return torch.stack(scores) if scores else table.new_zeros(0, len(table))

    def take_vocabulary(self, words: int) -> None:
        """Switch to V other words and reset the bias, which belongs to the old words."""
        self.bias = nn.Parameter(self.bias.new_zeros(words))

    def _logits(self, states: Tensor, table: Tensor) -> Tensor:
        up = self.up(states)
        return functional.linear(up, table.to(up.dtype), self.bias.to(up.dtype))

    def _loss(self, states: Tensor, words: Tensor, table: Tensor, items: int) -> Tensor:
        """Compute Eq. 8 in parts, so that the (M, V) logits never exist as a whole."""

        def part(states: Tensor, words: Tensor) -> Tensor:
            logits = self._logits(states, table)
            return text_reconstruction_loss(logits.float(), words, items)

        at_once = max(_LOGITS_AT_ONCE // len(table), 1)
        if len(words) <= at_once:
            total = part(states, words)
        else:
            parts = zip(states.split(at_once), words.split(at_once), strict=True)
            total = torch.stack([checkpoint(part, *one, use_reentrant=False) for one in parts]).sum()
        if self.config.reduction == "paper":
            return total
        return processes.share_of_mean(total * items / max(len(words), 1), len(words), items)

    def _shown(self, ids: Tensor, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Return which places show a word in training, and which word: (B, T) bool, (B, T) int64."""
        device = ids.device if generator is None else generator.device
        words, places = len(self.bias), ids.shape[1]

        def uniform(rows: int) -> Tensor:
            return torch.rand(rows, places, generator=generator, device=device)

        def word(rows: int) -> Tensor:
            return torch.randint(words, (rows, places), generator=generator, device=device)

        draw, random = (processes.drawn_for_all(one, len(ids)).to(ids.device) for one in (uniform, word))
        return draw >= _MASKED, torch.where(draw < _MASKED + _RANDOM, random, ids)


class VisionDecoder(nn.Module):
    """Predicts an item's picture from its code vectors, by diffusion of each token (Eq. 9)."""

    def __init__(
        self,
        width: int,
        tokens: int,
        channels: int,
        config: DecoderConfig,
        diffusion: DiffusionConfig,
        generator: Generator | None = None,
    ) -> None:
        """`tokens` is P and `channels` c of a picture."""
        super().__init__()
        self.places = MaskedPlaces(width, tokens, config, generator)
        self.diffusion = DiffusionLoss(channels, width, diffusion, generator)

    def forward(
        self, content: Tensor, patches: Tensor, has_picture: Tensor, generator: Generator | None = None
    ) -> Tensor:
        """Return L^v: (B, l, w) code vectors, (B, P, c) pictures, (B,) bool has a picture -> scalar.

        A batch without pictures gives a zero that still has a gradient.
        """
        pictured = has_picture.nonzero(as_tuple=True)
        states = self.places(content[pictured], patches.shape[1])
        loss = self.diffusion(states.flatten(0, 1), patches[pictured].flatten(0, 1), generator)
        return processes.share_of_mean(loss, len(states), len(content))

    @torch.no_grad()
    def sample(self, content: Tensor, generator: Generator | None = None) -> Tensor:
        """Draw a picture for each item: (B, l, w) -> (B, P, c)."""
        states = self.places(content, len(self.places.positions))
        return self.diffusion.sample(states.flatten(0, 1), generator).unflatten(0, states.shape[:2])
