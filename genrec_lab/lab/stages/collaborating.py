"""Vectors of items by who reads them: those of a SASRec, which LETTER's tokenizer aligns its codes with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from genrec_lab.data import Dataset, training_sequences
from genrec_lab.models.sequential.base import DomainItems
from genrec_lab.models.sequential.batches import SequenceBatches
from genrec_lab.models.sequential.sasrec import SASRec
from genrec_lab.presets import CollaborativeConfig
from genrec_lab.training import fit


def collaborative_vectors(
    dataset: Dataset, items: np.ndarray, config: CollaborativeConfig, seed: int, scratch: Path
) -> np.ndarray:
    """Train a SASRec on the training part of the sequences of some items (n,); return its vectors (n, d).

    items: all those of one or more domains, ascending. There is no validation, so that nothing of what is
    held out tells when to stop. A killed training goes on from `scratch`.
    """
    names = np.unique(dataset.items["domain"].to_numpy()[items])
    torch.manual_seed(seed)
    model = SASRec(config.model).build(DomainItems(items))
    batches = SequenceBatches(
        items, training_sequences(dataset, names), config.training.batch_size, config.model.max_history
    )
    fit(model, batches, config.training, checkpoints=scratch, seed=seed)
    return model.embedding.weight.detach().float().cpu().numpy().copy()
