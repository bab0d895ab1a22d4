"""Models: tokenizers and recommenders, one readable file each."""

from genrec_lab.models.recommenders.recommender import Recommender
from genrec_lab.models.recommenders.t5 import T5, T5Config

__all__ = ["T5", "Recommender", "T5Config"]
