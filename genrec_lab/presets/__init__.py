"""Every method as a function that returns a validated config and states the source of its values.

`load("gmc")` has the paper's sizes, for a GPU; `gmc_cpu` is for real data on two cores; `gmc_small` runs on
the embedded data in minutes; `utgrec`, `utgrec_code` and `utgrec_small` are the same for UTGRec. `baselines`
has all rows that both are compared with, without a method of its own. GMC's five variants (Table 4) change
`gmc`, UTGRec's seven (Table 3) change `utgrec`; as rows of a table they change the run's method.

>>> from genrec_lab import presets
>>> config = presets.load("gmc_small", {"tokenizer.levels": 4})
>>> config.tokenizer.levels, config.recommender.kind
(4, 't5')
>>> presets.load("gmc_smal")
Traceback (most recent call last):
genrec_lab.presets.PresetError: ...
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrec_lab.models.tokenizers.letter import CollaborativeConfig
    from genrec_lab.models.tokenizers.textual_ids import NamingConfig
    from genrec_lab.presets.catalogue import load
    from genrec_lab.presets.config import (
        AdaptationConfig,
        DecodingConfig,
        ItemRow,
        MethodConfig,
        TransferConfig,
        TuningConfig,
        changed,
    )
    from genrec_lab.presets.rows import ABLATIONS, ROWS, item_rows, methods, variants

__all__ = [
    "ABLATIONS", "ROWS", "AdaptationConfig", "CollaborativeConfig", "DecodingConfig", "ItemRow",
    "MethodConfig", "NamingConfig", "PresetError", "TransferConfig", "TuningConfig", "changed",
    "item_rows", "load", "methods", "names", "variants",
]  # fmt: skip

# Each preset's module, or the preset that a variant of `rows.ABLATIONS` changes; listed here, so that a
# misspelt name is rejected without importing every method.
_OF_MODULES = {
    "gmc": "gmc gmc_cpu gmc_small gmc_demo gmc_tiny rkmeans causal",
    "utgrec": "utgrec utgrec_code utgrec_small utgrec_tiny",
    "baselines": "tiger tiger_multimodal letter p5_cid idgenrec baselines baselines_tiny",
}
_WITHOUT_A_PART = {
    "gmc": "separate_codebooks separate_recommenders without_dcl without_lora full_finetuning",
    "utgrec": "without_tree without_alignment without_cooccurrence_reconstruction "
    "without_tokenizer_finetuning full_finetuning without_recommender_pretraining without_pretraining",
}
PRESETS = {name: f"{module}:{name}" for module, kept in _OF_MODULES.items() for name in kept.split()} | {
    f"{method}_{variant}": method for method, kept in _WITHOUT_A_PART.items() for variant in kept.split()
}


class PresetError(ValueError):
    """Raised for an unknown or impossible preset or override; `problems` has a sentence for each."""

    def __init__(self, *problems: str, where: str = "") -> None:
        self.problems = problems
        lines = [where, *(f"  {problem}" for problem in problems)] if where else problems
        super().__init__("\n".join(lines))


def names() -> tuple[str, ...]:
    """Return the names that `load` accepts."""
    return tuple(PRESETS)


def __getattr__(name: str) -> Any:
    for module in ("config", "rows", "catalogue") if name in __all__ else ():
        found = importlib.import_module(f"{__name__}.{module}")  # in order: the last one imports every method
        if hasattr(found, name):
            return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
