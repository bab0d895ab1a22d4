"""Every method as a function that returns a typed, validated config, and says where its values come from.

`load("gmc")` gives the paper's sizes, for a GPU; `gmc_cpu` real data on two cores; `gmc_small` the embedded
data in minutes; `utgrec`, `utgrec_code` and `utgrec_small` the same for UTGRec; `baselines` is no method but
all rows that both are compared with. GMC's five variants (Table 4) are changes to `gmc`, UTGRec's seven
(Table 3) to `utgrec`; as rows of a table they are changes to the run's own method.

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
    "ABLATIONS",
    "ROWS",
    "AdaptationConfig",
    "CollaborativeConfig",
    "DecodingConfig",
    "ItemRow",
    "MethodConfig",
    "NamingConfig",
    "PresetError",
    "TransferConfig",
    "TuningConfig",
    "changed",
    "item_rows",
    "load",
    "methods",
    "names",
    "variants",
]

# Said here, so that a misspelt name is refused without importing every method.
_NAMES = (
    "gmc",
    "gmc_cpu",
    "gmc_small",
    "gmc_tiny",
    "tiger",
    "tiger_multimodal",
    "letter",
    "p5_cid",
    "idgenrec",
    "rkmeans",
    "causal",
    "gmc_separate_codebooks",
    "gmc_separate_recommenders",
    "gmc_without_dcl",
    "gmc_without_lora",
    "gmc_full_finetuning",
    "utgrec",
    "utgrec_code",
    "utgrec_small",
    "utgrec_tiny",
    "utgrec_without_tree",
    "utgrec_without_alignment",
    "utgrec_without_cooccurrence_reconstruction",
    "utgrec_without_tokenizer_finetuning",
    "utgrec_full_finetuning",
    "utgrec_without_recommender_pretraining",
    "utgrec_without_pretraining",
    "baselines",
    "baselines_tiny",
)


class PresetError(ValueError):
    """A preset or an override that does not exist or is impossible; `problems` has a sentence for each."""

    def __init__(self, *problems: str, where: str = "") -> None:
        self.problems = problems
        lines = [where, *(f"  {problem}" for problem in problems)] if where else problems
        super().__init__("\n".join(lines))


def names() -> tuple[str, ...]:
    """Return the names that `load` knows."""
    return _NAMES


def __getattr__(name: str) -> Any:
    for module in ("config", "rows", "catalogue") if name in __all__ else ():
        found = importlib.import_module(f"{__name__}.{module}")  # in turn: the last one imports every method
        if hasattr(found, name):
            return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
