"""AdamW, or Muon on the matrices and AdamW on the rest."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from genrec_lab.training.configs import TrainingConfig


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
        made.append(
            Muon(
                matrices,
                lr=config.learning_rate,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
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
