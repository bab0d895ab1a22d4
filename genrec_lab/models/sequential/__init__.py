"""Recommenders over item ids, one per file, as baselines for generative recommenders.

>>> from genrec_lab.models.sequential import SASRec
>>> SASRec.Config(width=32).kind
'sasrec'
"""

from typing import Any


def __getattr__(name: str) -> Any:
    from genrec_lab import models

    if not models._MODULES.get(name, "").startswith("sequential."):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(models, name)
