"""What the rows over items spend their time on, against torch's and transformers' own.

The softmax over the catalogue (`catalogue_cross_entropy`), forwards and backwards under bf16 autocast,
against `F.cross_entropy` of all scores: the places of a batch of 256 sequences and the items of GMC's
Scientific and Instruments, 64 dimensions. And RecFormer's small Longformer on 64 texts of 128 tokens,
forwards and backwards, against the same model with transformers' attention; dropout is off, so that both must
give the same.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measuring import Check, Comparison, Options, compare, main
from genrec_lab.models.sequential.longformer import for_short_texts
from genrec_lab.models.sequential.objectives import catalogue_cross_entropy

WIDTH, TOKENS, WINDOW = 64, 128, 32
# Places that predict in a batch, and items.
CATALOGUES = {"Scientific": (1_300, 4_344), "Instruments": (1_600, 9_922)}
OURS, TORCH, THEIRS = "genrec_lab", "F.cross_entropy", "transformers"


def whole(states: Tensor, items: Tensor, wanted: Tensor) -> Tensor:
    """The mean cross-entropy from all scores at once."""
    return F.cross_entropy((states @ items.T).float(), wanted)


def softmax(loss: Callable[..., Tensor], places: int, items: int) -> Callable[[], np.ndarray]:
    """Return a run of a loss: its value and gradients in one row."""
    rng = torch.Generator().manual_seed(0)
    states = torch.randn(places, WIDTH, generator=rng).requires_grad_()
    table = (torch.randn(items, WIDTH, generator=rng) * 0.1).requires_grad_()
    wanted = torch.randint(items, (places,), generator=rng)

    def run() -> np.ndarray:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(states, table, wanted)
        gradients = torch.autograd.grad(value, (states, table))
        return torch.cat([value.detach()[None], *(part.flatten() * places for part in gradients)]).numpy()

    return run


def attention(model: Any, texts: int, tokens: int) -> Callable[[], np.ndarray]:
    """Return a run of a Longformer: the states and the gradient of the word embedding in one row."""
    rng = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 1_000, (texts, tokens), generator=rng)
    real = torch.arange(tokens) < torch.randint(tokens // 4, tokens + 1, (texts, 1), generator=rng)
    first = torch.zeros_like(ids)
    first[:, 0] = 1

    def run() -> np.ndarray:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            read = model(ids, attention_mask=real.long(), global_attention_mask=first).last_hidden_state
        states = read[real].float()
        (gradient,) = torch.autograd.grad(states.square().mean(), model.embeddings.word_embeddings.weight)
        return torch.cat([states.detach().flatten(), gradient.flatten() / gradient.norm()]).numpy()

    return run


def longformer() -> Any:
    """A small Longformer with random weights, as RecFormer's."""
    from transformers import LongformerConfig, LongformerModel

    torch.manual_seed(0)
    sizes = LongformerConfig(
        vocab_size=1_000,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=4 * WIDTH,
        attention_window=[WINDOW] * 2,
        max_position_embeddings=TOKENS + WINDOW + 1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        type_vocab_size=1,
        pad_token_id=0,
    )
    return LongformerModel(sizes, add_pooling_layer=False)


def _within(limit: float, peer: str) -> Callable[[Mapping[str, Any]], Iterator[Check]]:
    def agree(results: Mapping[str, Any]) -> Iterator[Check]:
        away = float(np.linalg.norm(results[OURS] - results[peer]) / np.linalg.norm(results[peer]))
        yield Check(
            f"value and gradients differ by {away:.4f} of their size (at most {limit})", away <= limit
        )

    return agree


def measure(options: Options) -> list[Comparison]:
    """Both, ours against the peer."""
    theirs, texts = longformer(), 4 if options.small else 64
    catalogues = {"Bazaar": (300, 400)} if options.small else CATALOGUES
    losses = [
        compare(
            f"Softmax over the {items:,} items of {name}, {places:,} places",
            {OURS: softmax(catalogue_cross_entropy, places, items), TORCH: softmax(whole, places, items)},
            _within(0.01, TORCH),  # bf16 has three digits
            options,
            unit="places",
            amount=places,
            peer=TORCH,
        )
        for name, (places, items) in catalogues.items()
    ]
    ours = for_short_texts(copy.deepcopy(theirs))
    reading = compare(
        f"Longformer on {texts} texts of {TOKENS} tokens",
        {OURS: attention(ours, texts, TOKENS), THEIRS: attention(theirs, texts, TOKENS)},
        _within(0.02, THEIRS),
        options,
        unit="texts",
        amount=texts,
        peer=THEIRS,
    )
    return [*losses, reading]


if __name__ == "__main__":
    sys.exit(main(measure))
