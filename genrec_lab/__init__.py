"""A notebook-first workbench for generative recommendation with semantic identifiers.

A tokenizer assigns each item a short sequence of codes. A recommender learns to generate the codes of the
next item, and a search over the tree of all identifiers turns its output into a ranking. Step by step:

>>> import genrec_lab as gl
>>> data = gl.load_dataset("bazaar", items=300, users=300, domains=["Garden"])
>>> vectors = [[len(title), title.count("a")] for title in data.items["title"]]  # any (items, D) array
>>> tokenizer = gl.ResidualKMeans(gl.ResidualKMeans.Config(levels=2, codebook_size=16)).fit(vectors)
>>> codes = gl.ItemCodes(tokenizer.encode(vectors), tokenizer.sizes, data.items["domain"])
>>> small = gl.Recommender.Config(d_model=16, d_kv=8, heads=2, d_ff=32)
>>> model = gl.Recommender(codes.resolve("extra_level"), small)
>>> model = model.fit(data, training=gl.TrainingConfig(epochs=1))
>>> test = gl.leave_one_out(data).test
>>> ranked = model.recommend(test["history"].to_list(), top_k=10, domain=test["domain"].to_list())
>>> gl.metrics_table(ranked, test["target"], test["domain"]).columns
['domain', 'metric', 'k', 'value', 'users']

The package contains the following; `help(genrec_lab.NAME)` shows the arguments and an example of each::

    data          load_dataset, make_bazaar, Dataset, k_core, leave_one_out, Split
    codes         RQVAE, ResidualKMeans, GivenCodes; ItemCodes, code_health
    recommenders  Recommender, SASRec, TrainingConfig; losses, a module with one function per equation
    decoding      CodeTrie, beam_search, exact_top_k
    evaluation    recall_at_k, ndcg_at_k, metrics_table, paired_bootstrap
    runs          open_run, existing_run, Run, explore; presets, a module with the settings of every method
    your own      register_tokenizer, register_recommender, register_item_model, register_encoder,
                  register_conflict_policy, register_source, register_metric, register_figure,
                  register_explorer_view

A run does the same with notebooks and stores each step with the settings that produced it. For the command
line, see `genrec --help`.
"""

import importlib
import os
import sys
from typing import Any

__version__ = "0.3.0"

# By default, idle OpenMP threads keep their core busy. This slows training by 4 to 13 times when another
# process is busy. OpenMP reads this setting when torch is loaded.
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
