"""Steps of RQ-VAE training against vector-quantize-pytorch's ResidualVQ in the same encoder and decoder.

4,344 vectors of 384 dimensions (as Scientific's from MiniLM), 4 levels of 256 codes, d 32, batches of about
1,024, the same optimiser. The peer is used as its README shows: codebooks by moving averages, k-means start.
Both train equally many epochs; our reconstruction error over all items must not be above the peer's.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import Check, Comparison, Options, compare, main
from genrec_lab.models.tokenizers.autoencoder import TIGER_HIDDEN, mlp
from genrec_lab.models.tokenizers.rqvae import RQVAEConfig, RQVAENetwork

BATCH, DIMENSIONS, LATENT, LEVELS = 1024, 384, 32, 4
OURS, HALF, PEER = "genrec_lab, float32", "genrec_lab, precision=bf16", "ResidualVQ"


def clustered(items: int, dimensions: int, seed: int = 0) -> np.ndarray:
    """(N, D) vectors of length 1 in clusters of clusters, as the text vectors of a catalogue lie."""
    rng = np.random.default_rng(seed)
    coarse, fine = rng.normal(size=(40, dimensions)), rng.normal(size=(600, dimensions))
    group = rng.integers(0, 600, items)
    x = coarse[group % 40] + 0.7 * fine[group] + 0.7 * rng.normal(size=(items, dimensions))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


class PeerRQVAE(torch.nn.Module):
    """Our encoder and decoder, as they are drawn there, around the peer's quantiser."""

    def __init__(self, codes: int) -> None:
        from vector_quantize_pytorch import ResidualVQ

        super().__init__()
        generator = torch.Generator().manual_seed(0)
        widths = (DIMENSIONS, *TIGER_HIDDEN, LATENT)
        self.encoder = mlp(widths, 0.0, generator)
        self.decoder = mlp(widths[::-1], 0.0, generator)
        self.quantizer = ResidualVQ(
            dim=LATENT, num_quantizers=LEVELS, codebook_size=codes, kmeans_init=True, commitment_weight=0.25
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the reconstruction and the commitment loss."""
        quantized, _, commitment = self.quantizer(self.encoder(x))
        return self.decoder(quantized), commitment.sum()


def training(
    model: torch.nn.Module,
    x: torch.Tensor,
    epochs: int,
    loss: Callable[[torch.Tensor], torch.Tensor],
    error: Callable[[], float],
) -> Callable[[], float]:
    """Return a run: that many epochs more, and then the reconstruction error over all items."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
    generator = torch.Generator().manual_seed(0)

    def run() -> float:
        model.train()
        for _ in range(epochs):
            order = torch.randperm(len(x), generator=generator)
            for rows in order.tensor_split(math.ceil(len(x) / BATCH)):
                of_batch = loss(x[rows])
                optimizer.zero_grad()
                of_batch.backward()
                optimizer.step()
        model.eval()
        with torch.no_grad():
            return error()

    return run


def measure(options: Options) -> list[Comparison]:
    """Ours in float32 and with bf16 layers against the peer."""
    items, codes, epochs = (600, 16, 8) if options.small else (4344, 256, 30)
    torch.manual_seed(0)
    x = torch.from_numpy(clustered(items, DIMENSIONS))
    x *= x.square().mean() ** -0.5
    domain = torch.zeros(items, dtype=torch.long)

    def ours(precision: str) -> Callable[[], float]:
        config = RQVAEConfig(
            hidden=TIGER_HIDDEN, codebook_size=codes, contrastive_weight=0.0, precision=precision
        )
        model = RQVAENetwork(DIMENSIONS, config, torch.Generator().manual_seed(0))
        with torch.no_grad():
            model.quantizer.start_from(model.encode(x), 0)

        def error() -> float:
            vectors = model.quantizer(model.encode(x)).vectors
            return float((model.decoder(vectors) - x).square().mean())

        return training(model, x, epochs, lambda part: model(part, domain[: len(part)]).loss, error)

    peer = PeerRQVAE(codes)

    def peer_loss(part: torch.Tensor) -> torch.Tensor:
        decoded, commitment = peer(part)
        return (decoded - part).square().mean() + commitment

    def agree(results: Mapping[str, Any]) -> Iterator[Check]:
        for name in (OURS, HALF):
            yield Check(
                f"{name}: error {results[name]:.4f}, the peer's {results[PEER]:.4f}",
                results[name] <= results[PEER] * (1.05 if options.small else 1.01),
            )

    steps = epochs * math.ceil(items / BATCH)
    widths = (DIMENSIONS, *TIGER_HIDDEN, LATENT)
    weights = 2 * sum(a * b for a, b in itertools.pairwise(widths))
    # Forward, and twice that backward, but for the gradient of the data themselves.
    operations = 2.0 * items * epochs * (3 * weights - DIMENSIONS * TIGER_HIDDEN[0])
    operations += 2.0 * items * epochs * LEVELS * codes * LATENT
    return [
        compare(
            f"RQ-VAE: {items:,} x {DIMENSIONS}, {LEVELS} x {codes}, {steps} steps a run",
            {
                OURS: ours("fp32"),
                HALF: ours("bf16"),
                PEER: training(peer, x, epochs, peer_loss, lambda: float((peer(x)[0] - x).square().mean())),
            },
            agree,
            options,
            unit="steps",
            amount=steps,
            peer=PEER,
            targets={OURS: 3.0, HALF: 3.0},
            operations={OURS: (operations, torch.float32), HALF: (operations, torch.bfloat16)},
        )
    ]


if __name__ == "__main__":
    sys.exit(main(measure))
