"""Tokenizers compute the codes of items from their content; each file holds one family.

>>> import numpy as np
>>> from genrec_lab.models.tokenizers import ResidualKMeans
>>> vectors = np.random.default_rng(0).normal(size=(40, 8))
>>> tokenizer = ResidualKMeans(ResidualKMeans.Config(levels=2, codebook_size=4)).fit(vectors)
>>> tokenizer.encode(vectors).shape, tokenizer.sizes
((40, 2), (4, 4))
"""

from genrec_lab.models import __getattr__ as __getattr__  # a tokenizer's class, on first access
from genrec_lab.models.tokenizers.base import (
    ItemContent,
    Tokenized,
    Tokenizer,
    TokenizerConfig,
    TokenizerError,
)
from genrec_lab.models.tokenizers.kinds import (
    TOKENIZERS,
    AnyTokenizerConfig,
    checked_codes,
    find_tokenizer,
    load_tokenizer,
    register_tokenizer,
)

__all__ = [
    "TOKENIZERS", "AnyTokenizerConfig", "ItemContent", "Tokenized", "Tokenizer", "TokenizerConfig",
    "TokenizerError", "checked_codes", "find_tokenizer", "load_tokenizer", "register_tokenizer",
]  # fmt: skip
