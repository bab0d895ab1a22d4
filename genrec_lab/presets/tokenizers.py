"""Every kind of tokenizer that a method may have, by its `kind`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from genrec_lab.models.co_occurrence_codes import CoOccurrenceConfig
from genrec_lab.models.finite_scalar import FiniteScalarConfig
from genrec_lab.models.hierarchical_kmeans import HierarchicalKMeansConfig
from genrec_lab.models.letter import LetterConfig
from genrec_lab.models.product_quantization import ProductQuantizationConfig
from genrec_lab.models.random_codes import RandomCodesConfig
from genrec_lab.models.residual_kmeans import ResidualKMeansConfig
from genrec_lab.models.rqvae import RQVAEConfig
from genrec_lab.models.textual_ids import TextualIdsConfig
from genrec_lab.models.tree_tokenizer import TreeTokenizerConfig

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
