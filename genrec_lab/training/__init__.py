"""The one training loop: any model whose forward returns a loss, on whatever device accelerate finds.

It knows nothing of recommendation. A killed run goes on from its last checkpoint and gives the numbers of the
unbroken one.
"""

from genrec_lab.training.callbacks import Callback, EpochRecord, PrintEpochs, TrainingResult
from genrec_lab.training.checkpoints import Checkpoint
from genrec_lab.training.configs import TrainingConfig
from genrec_lab.training.loop import Batches, fit
from genrec_lab.training.precision import autocast, bf16_is_native
from genrec_lab.training.processes import rank_in_shares
from genrec_lab.training.validation import validation_metrics, validator

__all__ = [
    "Batches",
    "Callback",
    "Checkpoint",
    "EpochRecord",
    "PrintEpochs",
    "TrainingConfig",
    "TrainingResult",
    "autocast",
    "bf16_is_native",
    "fit",
    "rank_in_shares",
    "validation_metrics",
    "validator",
]
