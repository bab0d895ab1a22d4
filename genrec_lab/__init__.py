"""A notebook-first workbench for generative recommendation with semantic identifiers.

The path of the data, with the names that take each step by hand:

    load_dataset ─▶ Dataset ─▶ RQVAE and other tokenizers ─▶ ItemCodes ─▶ Recommender, SASRec … ─▶
    metrics_table

A run does the same with notebooks, each step stored with what made it: `open_run` begins or continues one,
`existing_run` reads one, `explore` opens its codes in the codebook explorer, `presets.load` gives the
settings of a method. Components of your own are found by `register_tokenizer` and its like, or by their place
in a run file. On the command line: `genrec --help`.

>>> import genrec_lab
>>> sorted(genrec_lab.load_dataset("bazaar", items=300, users=300).domains)
['Garden', 'Kitchen', 'Studio']
"""

import importlib
import os
import sys
from typing import Any

__version__ = "0.3.0"

# Threads that wait for a core instead of giving it up slow a training beside any other busy process by 4 to
# 13 times. OpenMP reads this when torch is loaded.
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_PLACES = {
    "bazaar": "BazaarWorld make_bazaar",
    "codes": "ItemCodes code_health register_conflict_policy",
    "data": "Dataset Split k_core leave_one_out load_dataset register_source",
    "decoding": "CodeTrie beam_search exact_top_k",
    "encoders": "register_encoder",
    "evaluation": "metrics_table ndcg_at_k paired_bootstrap recall_at_k register_metric",
    "lab.explore": "explore",
    "lab.store": "Run existing_run open_run",
    "models": "GivenCodes RQVAE Recommender ResidualKMeans SASRec",
    "models.recommenders.base": "register_item_model register_recommender",
    "models.tokenizers": "register_tokenizer",
    "training": "TrainingConfig",
    "viz.explorer": "register_explorer_view",
    "viz.figures": "register_figure",
}
_MODULES = ("presets", "losses")
_NAMES = {name: f"genrec_lab.{module}" for module, names in _PLACES.items() for name in names.split()}

__all__ = sorted([*_NAMES, *_MODULES])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"genrec_lab.{name}")
    if name not in _NAMES:
        raise AttributeError(f"module 'genrec_lab' has no attribute {name!r}")
    return getattr(importlib.import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
