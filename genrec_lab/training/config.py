"""Training settings: batch sizes, learning rate, optimisers, validation and early stopping."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.optim import AdamW, Optimizer


class TrainingConfig(BaseModel):
    """Settings of a training; the presets say where their values come from.

    >>> TrainingConfig(epochs=5, learning_rate=1e-3).batch_size
    256
    >>> TrainingConfig(epochs=-1)
    Traceback (most recent call last):
    pydantic_core._pydantic_core.ValidationError: ...
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    epochs: int = Field(100, ge=0)
    least_steps: int = Field(0, ge=0)  # raises the number of epochs on small data, to reach this many steps
    batch_size: int = Field(256, ge=1)  # samples per step, over all processes
    # The approximate number of samples on a device at a time: a larger share of the batch is split into parts
    # whose gradients are accumulated. A loss that compares samples compares them within a part only, and a
    # mean over some of the samples, such as those with pictures, is taken within each part.
    samples_at_once: int | None = Field(None, ge=1)
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: for weights of linear layers, AdamW for the rest
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["constant", "cosine", "inverse_sqrt"] = "cosine"
    # Share of all steps in which the learning rate rises from 0, or with inverse_sqrt stays constant.
    warmup: float = Field(0.03, ge=0, lt=1)
    clip_norm: float | None = Field(1.0, gt=0)  # largest gradient norm
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 if it is faster on the hardware
    gradient_checkpointing: bool = False  # layers recompute activations: `recomputed_layers`
    # torch.compile for the stacked layers, `compiled_layers`; meant for GPUs (docs/benchmarks.md has CPU
    # measurements). Its operations cannot be counted, so there is no MFU.
    compile: bool = False
    validate_every: int = Field(1, ge=1)  # epochs
    validate_from: int = Field(1, ge=0)  # first validated epoch; 0 validates before training
    validation_users: int | None = Field(None, ge=1)  # a seeded sample of users; None: all
    patience: int | None = Field(None, ge=1)  # validations without improvement before it stops
    monitor: str | None = "ndcg@10"  # None: keep the last weights


def with_enough_epochs(config: TrainingConfig, batches: int) -> TrainingConfig:
    """Return the config with enough epochs of `batches` steps to reach `least_steps`."""
    epochs = max(config.epochs, math.ceil(config.least_steps / max(batches, 1)))
    return config.model_copy(update={"epochs": epochs})


def rate_factor(step: int, steps: int, config: TrainingConfig) -> float:
    """Return the factor of the learning rate at a step (from 0) out of `steps`."""
    warmup = config.warmup * steps
    if config.schedule == "inverse_sqrt":  # as in T5 and TIGER: constant, then decreasing
        return math.sqrt(max(warmup, 1.0) / max(step, warmup, 1.0))
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1.0, steps - warmup))))
    return 1.0


def is_due(epoch: int, config: TrainingConfig) -> bool:
    """Return whether an epoch (from 1) is validated; the last one always is."""
    return epoch == config.epochs or (epoch >= config.validate_from and epoch % config.validate_every == 0)


def make_optimizers(model: nn.Module, config: TrainingConfig) -> list[Optimizer]:
    """Return the optimisers for all parameters that require a gradient.

    Muon (Jordan et al. 2024) orthogonalises the update of a matrix. It is meant for the weights of linear
    layers, so embeddings, norms and biases use AdamW. Its steps are scaled to the size of AdamW's, so that
    one learning rate fits both.
    """
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    by_muon = linear if config.optimizer == "muon" else set()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if id(parameter) in by_muon]
    others = [parameter for parameter in trained if id(parameter) not in by_muon]
    made: list[Optimizer] = []
    if matrices:
        from genrec_lab.training.muon import Muon  # keeps imports few

        made.append(Muon(matrices, lr=config.learning_rate, weight_decay=config.weight_decay))
    if others:
        # Only matrices decay, because decaying norms and biases does not regularise.
        decayed = {"params": [p for p in others if p.ndim >= 2], "weight_decay": config.weight_decay}
        plain = {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0}
        groups = [group for group in (decayed, plain) if group["params"]]
        made.append(AdamW(groups, lr=config.learning_rate, fused=True))
    return made
