"""The training loop for any model whose forward returns a loss, on an accelerator if there is one.

It does not depend on recommendation. An interrupted run resumes from its last checkpoint and gives the same
numbers as an uninterrupted one.
"""

from genrec_lab.training.callbacks import Callback, EpochRecord, PrintEpochs, TrainingResult
from genrec_lab.training.checkpoints import Checkpoint, content_hash
from genrec_lab.training.config import TrainingConfig
from genrec_lab.training.devices import (
    TrainingMemoryError,
    autocast,
    bf16_is_native,
    computing_on,
    device,
    moved,
    placed,
)
from genrec_lab.training.loop import Batches, fit, validation_metrics, validator
from genrec_lab.training.processes import in_shares, rank_in_shares

__all__ = [
    "Batches", "Callback", "Checkpoint", "EpochRecord", "PrintEpochs", "TrainingConfig",
    "TrainingMemoryError", "TrainingResult", "autocast", "bf16_is_native", "computing_on", "content_hash",
    "device", "fit", "in_shares", "moved", "placed", "rank_in_shares", "validation_metrics", "validator",
]  # fmt: skip
