"""Models: tokenizers and recommenders, one file each; classes are imported on first access.

>>> from genrec_lab.models import SASRec
>>> SASRec.Config(width=32).kind
'sasrec'
"""

from importlib import import_module
from typing import Any

# Where tokenizers and models over items are defined below this package, by kind; for the registries.
TOKENIZER_PLACES = {
    "rqvae": "tokenizers.rqvae:RQVAE",
    "rkmeans": "tokenizers.residual_kmeans:ResidualKMeans",
    "tree": "tokenizers.tree:TreeTokenizer",
    "letter": "tokenizers.letter:Letter",
    "pq": "tokenizers.product_quantization:ProductQuantizer",
    "opq": "tokenizers.product_quantization:ProductQuantizer",
    "fsq": "tokenizers.finite_scalar:FiniteScalar",
    "hkmeans": "tokenizers.hierarchical_kmeans:HierarchicalKMeans",
    "p5_cid": "tokenizers.co_occurrence:CoOccurrence",
    "idgen": "tokenizers.textual_ids:TextualIds",
    "random": "tokenizers.random_codes:RandomCodes",
    "given": "tokenizers.given:GivenCodes",
}
ITEM_MODEL_PLACES = {
    "gru4rec": "sequential.gru4rec:GRU4Rec",
    "sasrec": "sequential.sasrec:SASRec",
    "bert4rec": "sequential.bert4rec:BERT4Rec",
    "hgn": "sequential.hgn:HGN",
    "fmlp_rec": "sequential.fmlp_rec:FMLPRec",
    "fdsa": "sequential.fdsa:FDSA",
    "s3rec": "sequential.s3rec:S3Rec",
    "unisrec": "sequential.unisrec:UniSRec",
    "vqrec": "sequential.vqrec:VQRec",
    "missrec": "sequential.missrec:MISSRec",
    "recformer": "sequential.recformer:RecFormer",
    "popularity": "popularity:Popularity",
}
# The other public names by their modules.
_PUBLIC = {
    "recommenders.adapters": ("LoRAConfig",),
    "recommenders.base": (
        *("ITEM_MODELS", "RECOMMENDERS", "ItemRecommender", "RecommenderError", "TrainingData"),
        *("register_item_model", "register_recommender"),
    ),
    "recommenders.causal": ("CausalConfig", "CausalRecommender"),
    "recommenders.recommender": ("Recommender",),
    "recommenders.t5": ("T5", "T5Config"),
    "sequential.base": ("ItemModel", "ItemModelConfig", "Phase"),
    "tokenizers.base": ("ItemContent", "Tokenizer", "TokenizerConfig"),
    "tokenizers.kinds": ("TOKENIZERS", "register_tokenizer"),
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names}
for _place in (*TOKENIZER_PLACES.values(), *ITEM_MODEL_PLACES.values()):
    _MODULES[_place.partition(":")[2]] = _place.partition(":")[0]

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
