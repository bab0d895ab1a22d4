"""The rows with a model over items: their sizes and budgets, and the sources of these.

Models over ids only have the sizes of their configs. Models with item content, size paper: the sizes of the
authors' code (RUCAIBox for FDSA, S3-Rec, UniSRec and VQ-Rec; gimpong's MISSRec; AaronHeee's RecFormer on a
Longformer of the released size, from the hub or a folder), and 300 epochs of pre-training. Our changes in all
sizes: optimiser, batches and early stopping of the other rows over items, for equal budgets, and MiniLM's
text vectors. RecFormer has its code's learning rate and smaller batches. Sizes cpu and small: width 64, and
RecFormer with a small encoder that reads only the newest items.
"""

from __future__ import annotations

from typing import Any, Literal

from genrec_lab.models.recommenders.base import ITEM_MODELS
from genrec_lab.models.sequential.fdsa import FDSAConfig
from genrec_lab.models.sequential.missrec import MISSRecConfig
from genrec_lab.models.sequential.recformer import RecFormerConfig
from genrec_lab.models.sequential.s3rec import S3RecConfig
from genrec_lab.models.sequential.unisrec import UniSRecConfig
from genrec_lab.models.sequential.vqrec import VQRecConfig
from genrec_lab.presets.config import ItemRow
from genrec_lab.training import TrainingConfig

# paper: a GPU; cpu: real data on two cores; small: embedded data in minutes; tiny: smoke run.
Size = Literal["paper", "cpu", "small", "tiny"]

_OVER_IDS = ("gru4rec", "sasrec", "bert4rec", "hgn", "fmlp_rec")
_TINY = {"width": 16, "layers": 1, "feed_forward": 32}
_WIDTHS: dict[Size, dict[str, Any]] = {
    "paper": {}, "cpu": {"width": 64}, "small": {"width": 64}, "tiny": _TINY,
}  # fmt: skip
_PRETRAINING_EPOCHS: dict[Size, int] = {"paper": 300, "cpu": 40, "small": 20, "tiny": 1}
# Training on all prefixes of all sequences, as in MISSRec's data, takes hours on two cores.
_MISSREC: dict[Size, dict[str, Any]] = {
    "paper": {}, "cpu": {"prefixes": 1}, "small": {}, "tiny": {"picture_model": "pixels"},
}  # fmt: skip
_MISSREC_PRETRAINING: dict[Size, int] = {"paper": 300, "cpu": 10, "small": 20, "tiny": 1}
# A code has at most as many values as a domain has items: 300 in the embedded data, 100 in its tiny size.
_CODES: dict[Size, dict[str, Any]] = {
    "paper": {}, "cpu": {}, "small": {"bits": 6}, "tiny": {"codes": 8, "bits": 5},
}  # fmt: skip
_RECFORMER: dict[Size, dict[str, Any]] = {
    "paper": {"encoder": "allenai/longformer-base-4096"},
    # Five of six training histories are shorter (Scientific); twice the tokens take twice the time.
    "cpu": {"max_tokens": 128, "attribute_tokens": 16, "window": 32},
    "small": {"max_tokens": 128, "window": 32, "vocabulary": 1000},
    "tiny": {"max_tokens": 64, "window": 16, "vocabulary": 400, "max_attributes": 1, **_TINY},
}
# The authors' learning rate is for Longformer; a small encoder from random weights needs larger steps.
_RECFORMER_RATES: dict[Size, float] = {"paper": 5e-5, "cpu": 1e-3, "small": 1e-3, "tiny": 1e-3}
_RECFORMER_EPOCHS: dict[Size, int] = {"paper": 16, "cpu": 16, "small": 4, "tiny": 1}
_RECFORMER_PRETRAINING: dict[Size, int] = {"paper": 32, "cpu": 12, "small": 20, "tiny": 1}


def rows_over_items(epochs: int, patience: int = 10, size: Size = "paper") -> dict[str, ItemRow]:
    """Return every row with a model over items, with the sizes of its config and one budget for all.

    AdamW with 1e-3, batches of 256 sequences, bf16 if it is faster on the hardware, until validation NDCG
    stops rising.
    """
    budget = TrainingConfig(
        epochs=epochs, schedule="constant", warmup=0.0, validate_every=2, patience=patience
    )
    pretraining = budget.model_copy(update={"epochs": _PRETRAINING_EPOCHS[size]})
    sizes = _WIDTHS[size]
    models: dict[str, Any] = {
        "fdsa": FDSAConfig(**sizes),
        "s3rec": S3RecConfig(**sizes),
        "unisrec": UniSRecConfig(**sizes),
        "unisrec_inductive": UniSRecConfig(**sizes, setting="inductive"),
        "vqrec": VQRecConfig(**sizes, **_CODES[size]),
        "missrec": MISSRecConfig(**sizes, **_MISSREC[size]),
    }
    rows = {
        name: ItemRow(model=ITEM_MODELS.find(name).Config(), training=budget, pretraining=budget)
        for name in _OVER_IDS
    } | {name: ItemRow(model=one, training=budget, pretraining=pretraining) for name, one in models.items()}
    fewer = budget.model_copy(update={"epochs": _MISSREC_PRETRAINING[size]})
    rows["missrec"] = rows["missrec"].model_copy(update={"pretraining": fewer})
    own = budget.model_copy(update={
        "batch_size": 16 if size == "paper" else 64,
        "learning_rate": _RECFORMER_RATES[size],
        "epochs": min(epochs, _RECFORMER_EPOCHS[size]),
        "validate_every": 1,
    })  # fmt: skip
    rows["recformer"] = ItemRow(
        model=RecFormerConfig(**_RECFORMER[size]),
        training=own,
        pretraining=own.model_copy(update={"epochs": _RECFORMER_PRETRAINING[size]}),
    )
    return rows
