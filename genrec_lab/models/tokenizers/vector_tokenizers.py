"""The tokenizers that name items by their content vectors: one type for all of them, one way to fit them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from genrec_lab.models.tokenizers.autoencoder import TokenizerEpoch
from genrec_lab.models.tokenizers.finite_scalar import FiniteScalar, FiniteScalarConfig, train_finite_scalar
from genrec_lab.models.tokenizers.hierarchical_kmeans import HierarchicalKMeans, HierarchicalKMeansConfig
from genrec_lab.models.tokenizers.letter import Letter
from genrec_lab.models.tokenizers.product_quantization import ProductQuantizationConfig, ProductQuantizer
from genrec_lab.models.tokenizers.quantizers import Tokenized
from genrec_lab.models.tokenizers.random_codes import RandomCodes, RandomCodesConfig
from genrec_lab.models.tokenizers.residual_kmeans import ResidualKMeans, ResidualKMeansConfig
from genrec_lab.models.tokenizers.rqvae import RQVAE, RQVAEConfig, train_rqvae

VectorTokenizerConfig = (
    RQVAEConfig
    | ResidualKMeansConfig
    | ProductQuantizationConfig
    | FiniteScalarConfig
    | HierarchicalKMeansConfig
    | RandomCodesConfig
)


# Those that name an item by its vector alone, whatever other items there are.
_BY_VECTOR: dict[
    str, type[RQVAE | Letter | FiniteScalar | ResidualKMeans | HierarchicalKMeans | ProductQuantizer]
] = {
    "rqvae": RQVAE,
    "letter": Letter,
    "fsq": FiniteScalar,
    "rkmeans": ResidualKMeans,
    "hkmeans": HierarchicalKMeans,
    "pq": ProductQuantizer,
    "opq": ProductQuantizer,
}


class VectorTokenizer(Protocol):
    """What all of them answer to, once fitted."""

    def tokenize(self, x: np.ndarray) -> Tokenized:
        """Codes, and what each level quantised, of (N, D) content vectors."""

    def save(self, folder: Path) -> None:
        """Write the tokenizer into a folder."""


def fit_tokenizer(
    x: np.ndarray,
    domains: np.ndarray,
    config: VectorTokenizerConfig,
    seed: int,
    on_epoch: Callable[[TokenizerEpoch], None] | None = None,
    checkpoint: Path | None = None,
) -> VectorTokenizer:
    """Fit or train the tokenizer that the config names on a catalogue: (N, D) vectors, (N,) domains.

    `on_epoch` hears of the epochs of those that are trained; `checkpoint` is a folder from which a killed
    training goes on. Raises ValueError as the tokenizers do.
    """
    if isinstance(config, RQVAEConfig):
        return train_rqvae(x, domains, config, seed, on_epoch, checkpoint)
    if isinstance(config, FiniteScalarConfig):
        return train_finite_scalar(x, domains, config, seed, on_epoch, checkpoint)
    if isinstance(config, ResidualKMeansConfig):
        return ResidualKMeans.fit(x, config, seed)
    if isinstance(config, ProductQuantizationConfig):
        return ProductQuantizer.fit(x, config, seed)
    if isinstance(config, HierarchicalKMeansConfig):
        return HierarchicalKMeans.fit(x, config, seed)
    return RandomCodes(config, seed)


def read_tokenizer(folder: str | Path) -> VectorTokenizer:
    """Read what `save` or `save_pretrained` wrote of any kind that names an item by its vector alone.

    Raises ValueError for one of another kind, SharingError for a shared folder that was altered.
    """
    source = Path(folder)
    kind = json.loads((source / "config.json").read_text())["kind"]
    if kind not in _BY_VECTOR:
        raise ValueError(
            f"{source} holds a tokenizer of kind {kind!r}, which does not go by an item's vector alone; "
            f"expected one of {', '.join(_BY_VECTOR)}"
        )
    return _BY_VECTOR[kind].read(source)


def is_trained(config: VectorTokenizerConfig) -> bool:
    """Whether the tokenizer is trained by epochs, of which there are curves to draw."""
    return isinstance(config, RQVAEConfig | FiniteScalarConfig)


def least_items(config: VectorTokenizerConfig) -> int:
    """The items that a catalogue must have at least, so that every code can be placed on one."""
    if isinstance(config, FiniteScalarConfig | RandomCodesConfig):
        return 1  # their codes lie fixed, wherever the items are
    return config.codebook_size
