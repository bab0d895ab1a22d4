"""Every kind of tokenizer that a method may have, by its `kind`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from genrec_lab.models.tokenizers.co_occurrence import CoOccurrenceConfig
from genrec_lab.models.tokenizers.finite_scalar import FiniteScalarConfig
from genrec_lab.models.tokenizers.hierarchical_kmeans import HierarchicalKMeansConfig
from genrec_lab.models.tokenizers.letter import LetterConfig
from genrec_lab.models.tokenizers.product_quantization import ProductQuantizationConfig
from genrec_lab.models.tokenizers.random_codes import RandomCodesConfig
from genrec_lab.models.tokenizers.residual_kmeans import ResidualKMeansConfig
from genrec_lab.models.tokenizers.rqvae import RQVAEConfig
from genrec_lab.models.tokenizers.textual_ids import TextualIdsConfig
from genrec_lab.models.tokenizers.tree_tokenizer import TreeTokenizerConfig

TokenizerConfig = Annotated[
    RQVAEConfig
    | ResidualKMeansConfig
    | TreeTokenizerConfig
    | LetterConfig
    | ProductQuantizationConfig
    | FiniteScalarConfig
    | HierarchicalKMeansConfig
    | CoOccurrenceConfig
    | TextualIdsConfig
    | RandomCodesConfig,
    Field(discriminator="kind"),
]
KINDS: dict[str, type[BaseModel]] = {
    "rqvae": RQVAEConfig,
    "rkmeans": ResidualKMeansConfig,
    "tree": TreeTokenizerConfig,
    "letter": LetterConfig,
    "pq": ProductQuantizationConfig,
    "opq": ProductQuantizationConfig,
    "fsq": FiniteScalarConfig,
    "hkmeans": HierarchicalKMeansConfig,
    "p5_cid": CoOccurrenceConfig,
    "idgen": TextualIdsConfig,
    "random": RandomCodesConfig,
}
