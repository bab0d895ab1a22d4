"""How a model is trained: sizes, learning rate, optimisers, when to validate and when to stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.optim import AdamW, Optimizer


class TrainingConfig(BaseModel):
    """How a model is trained; the presets say where their values come from.

    >>> TrainingConfig(epochs=5, learning_rate=1e-3).batch_size
    256
    >>> TrainingConfig(epochs=-1)
    Traceback (most recent call last):
    pydantic_core._pydantic_core.ValidationError: ...
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    epochs: int = Field(100, ge=0)
    least_steps: int = Field(0, ge=0)  # small data go through more epochs, until there are so many steps
    batch_size: int = Field(256, ge=1)  # samples a step, over all processes
    # About so many samples does a device hold at one time: it learns a larger share of the batch in parts,
    # whose gradients add up. Samples that a loss compares are compared within the parts of one time.
    samples_at_once: int | None = Field(None, ge=1)
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: on the weights of linear layers, AdamW elsewhere
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["constant", "cosine", "inverse_sqrt"] = "cosine"
    # Share of all steps in which the learning rate rises from 0, or with inverse_sqrt stays as it is.
    warmup: float = Field(0.03, ge=0, lt=1)
    clip_norm: float | None = Field(1.0, gt=0)  # largest gradient norm
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the hardware gains from it
    gradient_checkpointing: bool = False  # layers compute anew what they would keep: `recomputed_layers`
    # torch.compile of the stacked layers, `compiled_layers`; meant for GPUs (docs/benchmarks.md has what it
    # does on a CPU). Its operations cannot be counted: no MFU.
    compile: bool = False
    validate_every: int = Field(1, ge=1)  # epochs
    validate_from: int = Field(1, ge=0)  # the first epoch after which to look; 0 looks before any training
    validation_users: int | None = Field(None, ge=1)  # a seeded sample of them; None takes all
    patience: int | None = Field(None, ge=1)  # validations without a better monitor before it stops
    monitor: str | None = "ndcg@10"  # None: the last weights are kept, whatever validation gives


def with_enough_epochs(config: TrainingConfig, batches: int) -> TrainingConfig:
    """Return the config with as many epochs of so many batches as `least_steps` asks for."""
    epochs = max(config.epochs, math.ceil(config.least_steps / max(batches, 1)))
    return config.model_copy(update={"epochs": epochs})


def rate_factor(step: int, steps: int, config: TrainingConfig) -> float:
    """Return the share of the learning rate that the step (from 0) of so many takes."""
    warmup = config.warmup * steps
    if config.schedule == "inverse_sqrt":  # T5's and TIGER's: constant, then falling
        return math.sqrt(max(warmup, 1.0) / max(step, warmup, 1.0))
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1.0, steps - warmup))))
    return 1.0


def is_due(epoch: int, config: TrainingConfig) -> bool:
    """Whether an epoch (from 1) is validated: every so many from the first on, and the last one always."""
    return epoch == config.epochs or (epoch >= config.validate_from and epoch % config.validate_every == 0)


def make_optimizers(model: nn.Module, config: TrainingConfig) -> list[Optimizer]:
    """Return the optimisers that between them train every parameter that requires a gradient.

    Muon (Jordan et al. 2024) makes a matrix's update orthogonal before it is applied; it is meant for the
    weights of linear layers, so embeddings, norms and biases keep AdamW. Its steps are scaled to AdamW's
    size, so that one learning rate serves both.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    linear = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    in_linear = {id(weight) for weight in linear} if config.optimizer == "muon" else set()
    matrices = [parameter for parameter in trained if id(parameter) in in_linear]
    others = [parameter for parameter in trained if id(parameter) not in in_linear]
    made: list[Optimizer] = []
    if matrices:
        from genrec_lab.training.muon import Muon  # a tokenizer by hand loads few modules

        made.append(Muon(matrices, lr=config.learning_rate, weight_decay=config.weight_decay))
    if others:
        made.append(AdamW(_decay_groups(others, config), lr=config.learning_rate, fused=True))
    return made


def _decay_groups(
    parameters: list[nn.Parameter], config: TrainingConfig
) -> list[dict[str, list[nn.Parameter] | float]]:
    """Decay matrices only: shrinking a norm's scale or a bias regularises nothing."""
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    groups: list[dict[str, list[nn.Parameter] | float]] = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def set_learning_rate(optimizers: Sequence[Optimizer], rate: float) -> None:
    """Give every parameter the same learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
