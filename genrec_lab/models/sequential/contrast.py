"""What the models that pre-train by contrast share: the loss within a batch, and shortened sequences.

Letters: R rows of a batch that each have a target, D width, B users, T places.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec_lab.models.sequential.catalogue_loss import batch_cross_entropy
from genrec_lab.models.sequential.sequence_batches import EMPTY


def in_batch_contrast(
    states: Tensor, targets: Tensor, ids: Tensor, temperature: float, fakes: Tensor | None = None
) -> Tensor:
    """Return the mean negative log-probability of each row's own target among the targets of all rows.

    states, targets (R, D), by cosine over the temperature; ids (R,) say what the targets are: another row
    with the same id is no negative. fakes (R, D) give each row one more negative of its own. The losses of
    pre-training of UniSRec, VQ-Rec (with fakes) and MISSRec.
    """
    states, targets = for_cosine(states, targets, temperature)
    if fakes is not None:
        fakes = (states * F.normalize(fakes.float(), dim=-1)).sum(-1)
    return batch_cross_entropy(states, targets, ids, fakes)


def for_cosine(states: Tensor, items: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return states (R, D) and items (N, D) whose inner products are their cosines over the temperature."""
    return F.normalize(states.float(), dim=-1) / temperature, F.normalize(items.float(), dim=-1)


def in_batch_cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the mean cross-entropy of (R, R or more) logits whose row i belongs to column i.

    Another column with the same of the ids (R,) does not count.
    """
    again = (ids[:, None] == ids[None, :]).fill_diagonal_(False)
    again = F.pad(again, (0, logits.shape[1] - len(ids)))
    places = torch.arange(len(ids), device=ids.device)
    return F.cross_entropy(logits.masked_fill(again, -torch.inf), places)


def shortened(sequences: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Leave items out of sequences; return what is left, and how much of it each old place has behind it.

    sequences (B, T) padded at the right with -1, keep (B, T) bool -> (B, T) padded in the same way, and
    (B, T): for each old place the new place of the last item up to it that is kept. The first item always is.
    """
    keep = keep & (sequences != EMPTY)
    keep[:, 0] = True
    last = keep.cumsum(1) - 1
    width = sequences.shape[1]
    left = sequences.new_full((len(sequences), width + 1), EMPTY)
    left.scatter_(1, torch.where(keep, last, width), torch.where(keep, sequences, EMPTY))
    return left[:, :width], last
