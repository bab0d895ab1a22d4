"""Models: tokenizers and recommenders, one file each; classes are imported on first access.

>>> from genrec_lab.models import SASRec
>>> SASRec.Config(width=32).kind
'sasrec'
"""

from importlib import import_module
from typing import Any

# Public names by the module below this package that defines them.
_PUBLIC = {
    "popularity": ("Popularity",),
    "recommenders.adapters": ("LoRAConfig",),
    "recommenders.base": (
        *("ITEM_MODELS", "RECOMMENDERS", "ItemRecommender", "RecommenderError", "TrainingData"),
        *("register_item_model", "register_recommender"),
    ),
    "recommenders.causal": ("CausalConfig", "CausalRecommender"),
    "recommenders.recommender": ("Recommender",),
    "recommenders.t5": ("T5", "T5Config"),
    "sequential.base": ("ItemModel", "ItemModelConfig", "Phase"),
    "sequential.bert4rec": ("BERT4Rec",),
    "sequential.fdsa": ("FDSA",),
    "sequential.fmlp_rec": ("FMLPRec",),
    "sequential.gru4rec": ("GRU4Rec",),
    "sequential.hgn": ("HGN",),
    "sequential.missrec": ("MISSRec",),
    "sequential.recformer": ("RecFormer",),
    "sequential.s3rec": ("S3Rec",),
    "sequential.sasrec": ("SASRec",),
    "sequential.unisrec": ("UniSRec",),
    "sequential.vqrec": ("VQRec",),
    "tokenizers.base": ("ItemContent", "Tokenizer", "TokenizerConfig"),
    "tokenizers.co_occurrence": ("CoOccurrence",),
    "tokenizers.finite_scalar": ("FiniteScalar",),
    "tokenizers.given": ("GivenCodes",),
    "tokenizers.hierarchical_kmeans": ("HierarchicalKMeans",),
    "tokenizers.kinds": ("TOKENIZERS", "register_tokenizer"),
    "tokenizers.letter": ("Letter",),
    "tokenizers.product_quantization": ("ProductQuantizer",),
    "tokenizers.random_codes": ("RandomCodes",),
    "tokenizers.residual_kmeans": ("ResidualKMeans",),
    "tokenizers.rqvae": ("RQVAE",),
    "tokenizers.textual_ids": ("TextualIds",),
    "tokenizers.tree": ("TreeTokenizer",),
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
