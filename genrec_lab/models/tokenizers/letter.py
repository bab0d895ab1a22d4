"""LETTER's tokenizer (Wang et al. 2024, section 3): an RQ-VAE whose codes also reflect user behaviour.

It adds two losses to the RQ-VAE: a collaborative loss aligns the quantised vector with the item's vector in a
sequential recommender, and a diversity loss pulls codewords of one cluster together and pushes them away from
the rest, so that items spread evenly over the codes.
Shapes: N items, B items of a batch, D content dimensions, L levels, K codes a level, d latent dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor

from genrec_lab.losses import code_diversity_loss, collaborative_alignment_loss
from genrec_lab.models.sequential.base import DomainItems
from genrec_lab.models.sequential.batches import SequenceBatches
from genrec_lab.models.sequential.sasrec import SASRec, SASRecConfig
from genrec_lab.models.tokenizers.autoencoder import AutoencoderTokenizer, Step
from genrec_lab.models.tokenizers.base import ItemContent, finite_vectors
from genrec_lab.models.tokenizers.kmeans import constrained_clusters
from genrec_lab.models.tokenizers.rqvae import ResidualAutoencoder, ResidualAutoencoderConfig
from genrec_lab.training import TrainingConfig, fit
from genrec_lab.training.processes import drawn_for_all


class CollaborativeConfig(BaseModel):
    """Settings and training of the SASRec whose item vectors LETTER's tokenizer aligns its codes with."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: SASRecConfig = SASRecConfig(width=32, feed_forward=128)  # LETTER: 32 dimensions
    training: TrainingConfig = TrainingConfig(epochs=50)


class LetterConfig(ResidualAutoencoderConfig):
    """Settings of LETTER's tokenizer; the loss weights are from its paper, section 4.1.3."""

    kind: Literal["letter"] = "letter"
    codebook_size: int = Field(256, ge=2, description="K, codes per level")
    collaborative_weight: float = Field(0.02, ge=0, description="alpha, weight of L_CF")
    diversity_weight: float = Field(1e-4, ge=0, description="beta of the paper, weight of L_Div")
    clusters: int = Field(10, ge=1, description="of each level's codewords, by constrained k-means")
    cluster_every: int = Field(
        10, ge=1, description="epochs between clusterings; its code has 1, which takes most of the time"
    )

    @property
    def cluster_sizes(self) -> tuple[int, int, int]:
        """The number of clusters of a level and their smallest and largest size, as in its code's training.

        A cluster needs two codes, so a small codebook has fewer clusters than `clusters`; all codes must fit.
        """
        clusters = min(self.clusters, self.codebook_size // 2)
        least = max(2, min(self.codebook_size // (2 * clusters), 10))
        return clusters, least, max(6 * clusters, -(-self.codebook_size // clusters))


class LetterNetwork(ResidualAutoencoder):
    """The residual autoencoder with LETTER's two losses; it ignores the domains of items."""

    config: LetterConfig
    clusters: Tensor

    def __init__(self, inputs: int, config: LetterConfig, generator: Generator | None = None) -> None:
        """`inputs` is D; the weights are drawn from the generator."""
        super().__init__(inputs, config, generator)
        # Part of the checkpoint, because training can resume between clusterings.
        labels = torch.zeros(config.levels, config.codebook_size, dtype=torch.int64)
        self.register_buffer("clusters", labels)
        self._generator = torch.Generator()

    def start_epoch(self, epoch: int, seed: int) -> None:
        """Cluster the codewords if that is due, and seed the epoch's random numbers."""
        self._generator.manual_seed(seed)
        if (epoch - 1) % self.config.cluster_every:
            return
        clusters, least, most = self.config.cluster_sizes
        generator = np.random.default_rng(seed)
        for level, book in enumerate(self.codebooks):
            labels = constrained_clusters(book, clusters, least, most, generator)
            self.clusters[level] = torch.from_numpy(labels)

    def forward(self, x: Tensor, domain: Tensor, extra: Tensor | None = None) -> Step:
        """Losses of a batch: (B, D) content vectors, (B, d) collaborative vectors as `extra`.

        Raises ValueError if the collaborative vectors are missing.
        """
        if extra is None:
            raise ValueError("LETTER's losses need the items' collaborative vectors; pass extra=(B, d)")
        with torch.autocast(x.device.type, enabled=False):
            step = self.autoencode(x)
            vectors, codes = step.quantized.vectors, step.quantized.codes
            collaborative = collaborative_alignment_loss(vectors, extra)
            partners = self.draw_partners(codes)
            books = self.quantizer.codebooks
            by_level = zip(books, codes.unbind(1), partners.unbind(1), strict=True)
            diversity = torch.stack([code_diversity_loss(*level) for level in by_level]).mean()
            loss = step.loss + self.config.collaborative_weight * collaborative
            loss = loss + self.config.diversity_weight * diversity
        return step._replace(loss=loss, collaborative=collaborative, diversity=diversity)

    def draw_partners(self, codes: Tensor) -> Tensor:
        """Draw another code of the same cluster, uniformly, for each code: (B, L) -> (B, L)."""
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


class Letter(AutoencoderTokenizer):
    """LETTER's tokenizer, whose codes are aligned with the item vectors of a sequential recommender.

    collaborative: the vectors (N, d) of the items that it is fitted on, or a CollaborativeConfig to train a
    SASRec on the sequences of the content.
    """

    Config = LetterConfig
    network = LetterNetwork
    refines = True
    needs = ("vectors", "sequences")
    settings = ("collaborative",)
    collaborative: CollaborativeConfig | np.ndarray = CollaborativeConfig()

    @classmethod
    def check_method(cls, config: LetterConfig, method: Mapping[str, Any]) -> None:
        """Raise ValueError if SASRec's vectors and the quantised ones differ in width."""
        width = method["collaborative"].model.width
        if width != config.dimension:
            raise ValueError(
                f"collaborative.model.width is {width}, tokenizer.dimension is {config.dimension}; LETTER "
                "compares the two vectors, so set both to the same number"
            )

    def extra_vectors(self, content: ItemContent, seed: int, checkpoint: Path | None) -> np.ndarray:
        """Return the collaborative vectors (N, d); raises ValueError if they do not fit the items or d."""
        vectors = self.collaborative
        if isinstance(vectors, CollaborativeConfig):
            folder = None if checkpoint is None else checkpoint / "collaborative"
            sequences = content.training_sequences(self)
            vectors = collaborative_vectors(content.numbers, sequences, vectors, seed, folder)
        vectors = finite_vectors(vectors)
        if vectors.shape != (len(content), self.config.dimension):
            raise ValueError(
                f"collaborative vectors have shape {vectors.shape}; expected ({len(content)}, "
                f"{self.config.dimension}), one item per row and tokenizer.dimension numbers each"
            )
        return vectors


def collaborative_vectors(
    items: np.ndarray,
    sequences: list[list[int]],
    config: CollaborativeConfig,
    seed: int,
    checkpoint: Path | None,
) -> np.ndarray:
    """Train a SASRec on sequences of items; return the vectors (n, d) of the ascending `items` (n,).

    There is no validation, so held-out items have no influence. An interrupted training resumes from the
    folder `checkpoint`.
    """
    torch.manual_seed(seed)
    model = SASRec(config.model).build(DomainItems(items))
    batches = SequenceBatches(items, sequences, config.training.batch_size, config.model.max_history)
    fit(model, batches, config.training, checkpoints=checkpoint, seed=seed)
    return model.embedding.weight.detach().float().cpu().numpy().copy()
