"""Decoding: the catalogue as a trie, beam search over it, and the exact top-k."""

from genrec_lab.data.rules import NO_ITEM
from genrec_lab.decoding.beam import CodeModel, Histories, Normalise, Ranked, beam_search
from genrec_lab.decoding.exact import exact_top_k, score_items
from genrec_lab.decoding.trie import CodeTrie

__all__ = [
    "NO_ITEM",
    "CodeModel",
    "CodeTrie",
    "Histories",
    "Normalise",
    "Ranked",
    "beam_search",
    "exact_top_k",
    "score_items",
]
