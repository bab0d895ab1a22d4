"""Data sets: sources, preparation, and the Dataset that all other parts use."""

from genrec_lab.data.dataset import DataError, Dataset, Split
from genrec_lab.data.preparation import (
    co_occurrence_neighbours,
    every_prefix,
    k_core,
    leave_one_out,
    split_of,
    ties,
)
from genrec_lab.data.rules import NO_ITEM
from genrec_lab.data.sources import SOURCES, datasets, load_dataset, register_source

__all__ = [
    "NO_ITEM", "SOURCES", "DataError", "Dataset", "Split", "co_occurrence_neighbours", "datasets",
    "every_prefix", "k_core", "leave_one_out", "load_dataset", "register_source", "split_of", "ties",
]  # fmt: skip
