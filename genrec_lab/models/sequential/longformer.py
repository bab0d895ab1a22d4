"""RecFormer's input and encoder: items as tokens, and a Longformer that is fast on short texts.

Letters: B histories or texts, S tokens, N items, W tokens of an item, H heads, K width of a head, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from genrec_lab.data.batches import padded
from genrec_lab.data.item_text import as_text
from genrec_lab.data.rules import ITEM_TYPES
from genrec_lab.encoders.hub import released
from genrec_lab.models.layers import PooledDropout

if TYPE_CHECKING:
    from genrec_lab.models.sequential.recformer import RecFormerConfig

_LONGEST = 512  # tokens; beyond, the scores outside the band cost more than the copies
_PLACES, _READ = 0.1, 3.0  # scales of random weights: of positions, and of attention

# --- items as text

START, KEY, VALUE = 0, 1, 2  # the kinds of tokens; padding has no kind that matters


class Tokens(NamedTuple):
    """A batch for the encoder; all (B, S), padded on the right."""

    ids: Tensor
    kinds: Tensor  # START, KEY or VALUE
    items: Tensor  # 0 for the start, 1 for the most recent item's tokens, 2 for the one before, …
    real: Tensor  # bool


def key_values(items: pl.DataFrame, most: int) -> list[list[tuple[str, str]]]:
    """Return the first `most` attributes of each item as (key, value): title, then the other text columns.

    Empty values and the columns description and key are left out; an item without values gets its text.
    """
    further = [name for name in items.columns if name not in (*ITEM_TYPES, "description")]
    names = [name for name in ("title", *further) if name in items.columns]
    texts = {name: as_text(items[name]).to_list() for name in names}
    whole = items["text"].to_list() if "text" in items.columns else [""] * items.height
    rows = []
    for row in range(items.height):
        found = [(name, texts[name][row]) for name in names if texts[name][row]]
        rows.append(found[:most] or [("text", whole[row])])
    return rows


class ItemLanguage:
    """A tokenizer that writes items and histories as tokens."""

    def __init__(self, tokenizer: Any) -> None:
        """Wrap a transformers tokenizer with a start, a padding and a mask token."""
        self.tokenizer = tokenizer

    @classmethod
    def learnt(cls, items: pl.DataFrame, most: int, vocabulary: int) -> ItemLanguage:
        """Learn a byte-pair encoding of at most `vocabulary` tokens from the items' attributes."""
        from transformers import RobertaTokenizer

        texts = [f"{key} {value}" for row in key_values(items, most) for key, value in row]
        blank: Any = RobertaTokenizer()  # Longformer's tokenizer
        return cls(blank.train_new_from_iterator(texts, vocabulary, show_progress=False))

    @classmethod
    def read(cls, folder: str | Path) -> ItemLanguage:
        """Read a tokenizer from a folder, or from the hub by its name."""
        from transformers import AutoTokenizer

        return cls(AutoTokenizer.from_pretrained(folder))

    def write(self, folder: Path) -> None:
        """Write the tokenizer into a folder."""
        self.tokenizer.save_pretrained(folder)

    def of_items(self, items: pl.DataFrame, most: int, tokens: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return each item's token ids and kinds, (W,) int64 each; an attribute has at most `tokens`."""
        written = []
        for row in key_values(items, most):
            ids: list[int] = []
            kinds: list[int] = []
            for key, value in row:
                # With a leading blank, a word gives the same token as within a text.
                key_ids, value_ids = self._ids(f" {key}"), self._ids(f" {value}")
                ids += (key_ids + value_ids)[:tokens]
                kinds += ([KEY] * len(key_ids) + [VALUE] * len(value_ids))[:tokens]
            written.append((np.array(ids, dtype=np.int64), np.array(kinds, dtype=np.int64)))
        return written

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def batch(
        self,
        items: Sequence[tuple[np.ndarray, np.ndarray]],
        histories: Sequence[Sequence[int]],
        max_tokens: int,
        multiple: int,
    ) -> Tokens:
        """Write histories (positions in `items`, oldest first) as a start token and the items, newest first.

        The oldest tokens beyond `max_tokens` are cut off; S is a multiple of `multiple`.
        """
        rows = []
        for history in histories:
            newest = [items[place] for place in reversed(history)]
            ids = np.concatenate([[self.tokenizer.bos_token_id], *(ids for ids, _ in newest)])[:max_tokens]
            kinds = np.concatenate([[START], *(kinds for _, kinds in newest)])[:max_tokens]
            lengths = [1, *(len(ids) for ids, _ in newest)]
            rows.append((ids, kinds, np.repeat(np.arange(len(lengths)), lengths)[:max_tokens]))
        real = torch.tensor([len(ids) for ids, _, _ in rows])
        width = -(-int(real.max()) // multiple) * multiple
        columns = zip(zip(*rows, strict=True), (self.tokenizer.pad_token_id, START, 0), strict=True)
        token_ids, token_kinds, of = (padded(part, width, fill) for part, fill in columns)
        return Tokens(token_ids, token_kinds, of, torch.arange(width) < real[:, None])


# --- the reader


def released_longformer(encoder: str) -> AbstractContextManager[None]:
    """Within the block, load a Longformer or its tokenizer; an error names the config's key."""

    def failed(reason: str) -> ValueError:
        return ValueError(
            f"recformer.encoder is {encoder!r}, which is neither a folder with a Longformer and its "
            f"tokenizer nor one on the hub ({reason}); or set None for a small one"
        )

    return released(encoder, failed)


def new_longformer(c: RecFormerConfig, backbone: dict[str, Any] | None) -> Any:
    """Return a LongformerModel: with saved sizes, the one that `encoder` names, or a small random one."""
    from transformers import LongformerConfig, LongformerModel

    if backbone is not None:
        return LongformerModel(LongformerConfig.from_dict(backbone), add_pooling_layer=False)
    if c.encoder is not None:
        with released_longformer(c.encoder):
            sizes = LongformerConfig.from_pretrained(c.encoder)
            sizes.attention_window = [c.window] * sizes.num_hidden_layers
            return LongformerModel.from_pretrained(c.encoder, config=sizes, add_pooling_layer=False)
    if c.width % c.heads:
        raise ValueError(
            f"recformer.width is {c.width}, which is not divisible by {c.heads} heads; expected a multiple"
        )
    sizes = LongformerConfig(
        vocab_size=c.vocabulary,
        hidden_size=c.width,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        intermediate_size=c.feed_forward,
        attention_window=[c.window] * c.layers,
        # Counted from 1, and up to the next multiple of the window.
        max_position_embeddings=c.max_tokens + c.window + 1,
        hidden_dropout_prob=c.dropout,
        attention_probs_dropout_prob=c.dropout,
        # Keeps a layer's weight relative to its residual connection as in the released width of 768.
        initializer_range=0.02 * (768 / c.width) ** 0.5,
        type_vocab_size=1,
        pad_token_id=0,
    )
    return _start_reading(LongformerModel(sizes, add_pooling_layer=False))


@torch.no_grad()
def _start_reading(longformer: Any) -> Any:
    """Rescale random weights in place, so that the start token depends on the text.

    With BERT's initialisation, the vectors of any two items have a cosine of .999: attention averages over
    tokens, half of which is position, and two random matrices shrink the result further. Pre-training then
    learns little more than the domain of a text.
    """
    embeddings = longformer.embeddings
    embeddings.position_embeddings.weight *= _PLACES
    for layer in longformer.encoder.layer:
        attention = layer.attention.self
        nn.init.orthogonal_(attention.value.weight)
        attention.value_global.weight.copy_(attention.value.weight)
        nn.init.orthogonal_(layer.attention.output.dense.weight, gain=_READ)
    return longformer


def for_short_texts(longformer: Any) -> Any:
    """Replace a LongformerModel's attention and dropout by faster ones, in place, with the same weights."""
    for number, layer in enumerate(longformer.encoder.layer):
        banded = banded_attention()(longformer.config, number)
        banded.load_state_dict(layer.attention.self.state_dict())
        layer.attention.self = banded.to(next(longformer.parameters()).dtype)
    for module in list(longformer.modules()):
        for name, part in module.named_children():
            if isinstance(part, nn.Dropout):
                setattr(module, name, PooledDropout(part.p))
    return longformer.train(longformer.training)  # the new parts too


@cache
def banded_attention() -> type[nn.Module]:
    """Return the class of banded attention; transformers is imported here because that takes seconds.

    transformers' LongformerSelfAttention cuts a text into overlapping chunks, which saves memory for
    thousands of tokens but costs many copies for a hundred. This is the same function, with the same weights
    and names, but computes all scores at once, for texts whose only global token is the first, as in
    RecFormer. Longer texts use transformers' implementation.
    """
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    class BandedAttention(LongformerSelfAttention):
        """Tokens attend to neighbours and the first token, which attends to all with its own projections."""

        def __init__(self, config: Any, layer_id: int) -> None:
            """Start from random weights with the sizes of a LongformerConfig."""
            super().__init__(config, layer_id)
            self.pooled = PooledDropout(self.dropout)

        def forward(
            self,
            hidden_states: Tensor,
            attention_mask: Tensor | None = None,
            is_index_masked: Tensor | None = None,
            is_index_global_attn: Tensor | None = None,
            is_global_attn: bool | None = None,
            output_attentions: bool = False,
        ) -> tuple[Tensor, ...]:
            """(B, S, D) -> (B, S, D) in a tuple; `is_index_masked` (B, S) is true at padding."""
            length = hidden_states.shape[1]
            if length > _LONGEST or output_attentions or not is_global_attn or is_index_masked is None:
                masks = attention_mask, is_index_masked, is_index_global_attn
                longer: tuple[Tensor, ...]
                longer = super().forward(hidden_states, *masks, is_global_attn, output_attentions)
                return longer
            places, padding = (
                torch.arange(length, device=hidden_states.device),
                is_index_masked[:, None, None],
            )
            far = (places[:, None] - places).abs() > self.one_sided_attn_window_size
            unseen = far | padding
            unseen[..., 0] = False
            maps = self.query(hidden_states), self.key(hidden_states), self.value(hidden_states)
            read = self._attend(*maps, unseen)
            of_first = self.query_global(hidden_states[:, :1])
            maps = of_first, self.key_global(hidden_states), self.value_global(hidden_states)
            first = self._attend(*maps, padding)
            together = torch.cat([first, read[:, 1:]], dim=1)
            return (together.masked_fill(is_index_masked[..., None], 0.0),)

        def _attend(self, query: Tensor, key: Tensor, value: Tensor, unseen: Tensor) -> Tensor:
            q, k, v = (
                part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value)
            )
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
            weights = scores.float().masked_fill(unseen, -torch.inf).softmax(-1).to(v.dtype)
            return (self.pooled(weights) @ v).transpose(1, 2).flatten(-2)

    return BandedAttention
