"""LETTER's tokenizer (Wang et al. 2024, section 3): an RQ-VAE whose codes also follow who buys what.

To the losses of the RQ-VAE it adds a collaborative alignment of the quantised vector with the item's vector
of a sequential recommender, and a diversity of each codebook: codewords of one cluster draw near each other
and away from the rest, so that items spread evenly over the codes.
Shapes: N items, B items of a batch, D content dimensions, L levels, K codes a level, d latent dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from genrec_lab.losses import code_diversity_loss, collaborative_alignment_loss
from genrec_lab.models.tokenizers.autoencoder import Step, TokenizerEpoch
from genrec_lab.models.tokenizers.autoencoder_training import sha, train_autoencoder
from genrec_lab.models.tokenizers.constrained_kmeans import constrained_clusters
from genrec_lab.models.tokenizers.quantizers import check_codebook_fits, finite_vectors
from genrec_lab.models.tokenizers.rqvae import ResidualAutoencoder, ResidualAutoencoderConfig
from genrec_lab.training.processes import drawn_for_all


class LetterConfig(ResidualAutoencoderConfig):
    """Settings of LETTER's tokenizer; the weights are those of its paper, section 4.1.3."""

    kind: Literal["letter"] = "letter"
    codebook_size: int = Field(256, ge=2, description="K, codes a level")
    collaborative_weight: float = Field(0.02, ge=0, description="alpha, weight of L_CF")
    diversity_weight: float = Field(1e-4, ge=0, description="beta of the paper, weight of L_Div")
    clusters: int = Field(10, ge=1, description="of each level's codewords, by constrained k-means")
    cluster_every: int = Field(
        10, ge=1, description="epochs between two clusterings; its code has 1, which takes most of the time"
    )

    @property
    def cluster_sizes(self) -> tuple[int, int, int]:
        """How many clusters a level has, and the least and most codes of one, as in its code.

        A cluster needs two codes, so that of few codes there are fewer clusters than asked for.
        """
        clusters = min(self.clusters, self.codebook_size // 2)
        least = max(2, self.codebook_size // (2 * clusters))
        return clusters, least, 4 * least


class Letter(ResidualAutoencoder):
    """The residual autoencoder with LETTER's two losses; the domains of items play no part."""

    config: LetterConfig
    clusters: Tensor
    collaborative: Tensor | None

    def __init__(
        self,
        inputs: int,
        config: LetterConfig,
        collaborative: np.ndarray | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """`inputs` is D; collaborative (N, d) vectors of all items are needed for training only."""
        super().__init__(inputs, config, generator)
        vectors = None if collaborative is None else torch.from_numpy(collaborative)
        self.register_buffer("collaborative", vectors, persistent=False)
        # Part of the checkpoint, for a training goes on between two clusterings.
        labels = torch.zeros(config.levels, config.codebook_size, dtype=torch.int64)
        self.register_buffer("clusters", labels)
        self._generator = torch.Generator()

    def start_epoch(self, epoch: int, seed: int) -> None:
        """Cluster the codewords anew where that is due, and seed what the epoch draws."""
        self._generator.manual_seed(seed)
        if (epoch - 1) % self.config.cluster_every:
            return
        clusters, least, most = self.config.cluster_sizes
        generator = np.random.default_rng(seed)
        for level, book in enumerate(self.codebooks):
            labels = constrained_clusters(book, clusters, least, most, generator)
            self.clusters[level] = torch.from_numpy(labels)

    def forward(self, x: Tensor, domain: Tensor, rows: Tensor | None = None) -> Step:
        """Losses of a batch: (B, D) content vectors, and the places (B,) of their items in the catalogue.

        Raises ValueError where the collaborative vectors or the places are not known.
        """
        if self.collaborative is None or rows is None:
            raise ValueError(
                "LETTER's losses need collaborative vectors and the places of the batch's items in them; "
                "make Letter(…, collaborative=…) and pass rows"
            )
        with torch.autocast(x.device.type, enabled=False):
            step = self.autoencode(x)
            vectors, codes = step.quantized.vectors, step.quantized.codes
            collaborative = collaborative_alignment_loss(vectors, self.collaborative[rows])
            partners = self.draw_partners(codes)
            books = self.quantizer.codebooks
            levels = [
                code_diversity_loss(books[level], codes[:, level], partners[:, level])
                for level in range(self.config.levels)
            ]
            diversity = torch.stack(levels).mean()
            loss = (
                step.loss
                + self.config.collaborative_weight * collaborative
                + self.config.diversity_weight * diversity
            )
        return step._replace(loss=loss, collaborative=collaborative, diversity=diversity)

    def draw_partners(self, codes: Tensor) -> Tensor:
        """For each code (B, L) another one of its cluster, all equally likely: (B, L)."""
        levels = codes.shape[1]
        drawn = drawn_for_all(lambda rows: torch.rand(rows, levels, generator=self._generator), len(codes))
        drawn = drawn.to(codes.device)
        partners = []
        for level, labels in enumerate(self.clusters):
            own = codes[:, level]
            others = labels[own][:, None] == labels[None, :]
            others[torch.arange(len(own)), own] = False
            wanted = (drawn[:, level] * others.sum(dim=1)).floor().long() + 1
            partners.append((others.cumsum(dim=1) >= wanted[:, None]).int().argmax(dim=1))
        return torch.stack(partners, dim=1)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        config = LetterConfig.model_validate_json((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        model = cls(weights["encoder.0.weight"].shape[1], config)
        model.load_state_dict(weights)
        return model.eval()


def train_letter(
    x: np.ndarray,
    collaborative: np.ndarray,
    domains: np.ndarray,
    config: LetterConfig,
    seed: int,
    on_epoch: Callable[[TokenizerEpoch], None] | None = None,
    checkpoint: Path | None = None,
) -> Letter:
    """Train on content vectors (N, D) and collaborative vectors (N, d); the rest as of `train_autoencoder`.

    `checkpoint` is a folder. Raises ValueError where the collaborative vectors are of another number of items
    or dimensions, or not finite.
    """
    x, collaborative = finite_vectors(x), finite_vectors(collaborative)
    if collaborative.shape != (len(x), config.dimension):
        raise ValueError(
            f"collaborative vectors have shape {collaborative.shape}; expected ({len(x)}, "
            f"{config.dimension}), an item a row and tokenizer.dimension numbers each"
        )
    if config.kmeans_init:
        check_codebook_fits(x, config.codebook_size)
    model = Letter(x.shape[1], config, collaborative, torch.Generator().manual_seed(seed))
    file = None if checkpoint is None else checkpoint / "letter_training.safetensors"
    identity = {"collaborative": sha(collaborative)}
    return train_autoencoder(model, x, domains, seed, on_epoch, file, identity=identity)
