"""Models: tokenizers and recommenders, one readable file each."""

from genrec_lab.models.recommender import Recommender
from genrec_lab.models.t5 import T5, T5Config

__all__ = ["T5", "Recommender", "T5Config"]
