"""Per-domain adaptation of a trained recommender: LoRA on its attention (GMC Eq. 9).

Training all weights instead (GMC Table 4, row 5) needs only a copy of the recommender.
peft is imported on first use because that takes seconds, and every notebook imports LoRAConfig.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor

if TYPE_CHECKING:
    from peft import LoraConfig

    from genrec_lab.models.recommenders.code_recommender import CodeRecommender

_WEIGHTS = "adapter_model.safetensors"  # peft's file name
_PREFIX = "base_model.model."  # prefix of each weight in peft's file


AnyRecommender = TypeVar("AnyRecommender", bound="CodeRecommender")


class LoRAConfig(BaseModel):
    """Sizes of a LoRA adapter; r 16 on q, k and v of a 192-wide 2+2-layer T5 gives the 0.17 M of GMC 5.3."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)  # the update is scaled by alpha / rank
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[Literal["q", "k", "v", "o", "wi", "wo"], ...] = Field(("q", "k", "v"), min_length=1)


class Parameters(NamedTuple):
    """How many parameters of a model are trained."""

    trained: int
    all: int

    @property
    def share(self) -> float:
        """Trained parameters divided by all, including the frozen base; GMC 5.3 reports 3.7 %."""
        return self.trained / self.all

    def __str__(self) -> str:
        return f"{self.trained:,} of {self.all:,} parameters are trained ({self.share:.1%})"


def add_lora(model: AnyRecommender, config: LoRAConfig, domain: str) -> AnyRecommender:
    """Return a copy of a recommender with frozen weights and a fresh adapter named `domain`.

    Until the adapter is trained, the copy ranks like the original: LoRA's second matrix starts at zero.
    """
    from peft import inject_adapter_in_model

    adapted = copy.deepcopy(model)
    inject_adapter_in_model(_peft_config(config), adapted.body, adapter_name=_adapter_name(domain))
    adapted.adapter = domain, config
    return adapted


def count_parameters(model: CodeRecommender) -> Parameters:
    """Return how many of a model's parameters require a gradient."""
    weights = list(model.parameters())
    trained = sum(one.numel() for one in weights if one.requires_grad)
    return Parameters(trained, sum(one.numel() for one in weights))


def plain_weights(model: CodeRecommender, *, merged: bool = True) -> dict[str, Tensor]:
    """Return the weights of a recommender's body under their names without an adapter.

    merged: add the adapter's update (W + alpha / rank * B A, GMC Eq. 9); otherwise return the base's weights.
    """
    if model.adapter is None:
        return model.body.state_dict()
    name_of_adapter, found = _adapter_name(model.adapter[0]), {}
    for name, value in model.body.state_dict().items():
        place, _, kind = name.partition(".base_layer.")
        if kind == "weight" and merged:
            layer: Any = model.body.get_submodule(place)
            value = value + layer.get_delta_weight(name_of_adapter)
        if ".lora_" not in name:
            found[f"{place}.{kind}" if kind else name] = value
    return found


def save_lora(
    model: CodeRecommender,
    config: LoRAConfig,
    domain: str,
    folder: Path,
    named: Callable[[str], str] | None = None,
) -> Path:
    """Write only the adapter, in peft's format.

    `peft.PeftModel.from_pretrained(recommender.body, folder)` can read it. named: maps the name of a weight
    of the body to its name in the network that will read the adapter, by default the same.
    """
    from peft import get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    weights = get_peft_model_state_dict(model.body, adapter_name=_adapter_name(domain))
    adapter = _peft_config(config)
    if named is not None:
        parts = [(*name.split(".lora_"), tensor) for name, tensor in weights.items()]
        there = {layer: named(f"{layer}.weight").removesuffix(".weight") for layer, _, _ in parts}
        weights = {f"{there[layer]}.lora_{matrix}": tensor for layer, matrix, tensor in parts}
        adapter.target_modules = sorted(there.values())
    else:
        adapter.target_modules = list(config.targets)  # a set would be written in random order
    save_file({_PREFIX + name: tensor.contiguous() for name, tensor in weights.items()}, folder / _WEIGHTS)
    adapter.save_pretrained(str(folder))
    of_base = {"base_sha256": _digest(plain_weights(model, merged=False))}
    (folder / "lora.json").write_text(json.dumps(config.model_dump() | of_base, indent=2) + "\n")
    return folder


def load_lora(model: AnyRecommender, domain: str, folder: Path) -> AnyRecommender:
    """Return a copy of the base recommender with the adapter that `save_lora` wrote.

    Raises FileNotFoundError if there is none, ValueError if it belongs to another model.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    for name in (_WEIGHTS, "lora.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing; expected the folder of an adapter written by save_lora"
            )
    described = json.loads((folder / "lora.json").read_text())
    of_base = described.pop("base_sha256", None)
    config = LoRAConfig.model_validate_json(json.dumps(described))
    weights = {name.removeprefix(_PREFIX): tensor for name, tensor in load_file(folder / _WEIGHTS).items()}
    ranks = {len(tensor) for name, tensor in weights.items() if ".lora_A." in name}
    if ranks != {config.rank}:  # before an adapter of that rank is allocated
        raise ValueError(f"{folder}: lora.json says rank {config.rank}, the weights have {sorted(ranks)}")
    adapted = add_lora(model, config, domain)
    own = get_peft_model_state_dict(adapted.body, adapter_name=_adapter_name(domain))
    shapes, expected = ({n: tuple(one.shape) for n, one in held.items()} for held in (weights, own))
    if shapes != expected:
        unexpected = [name for name in shapes if shapes[name] != expected.get(name)]
        lacking = [name for name in expected if name not in shapes]
        raise ValueError(
            f"{folder} holds an adapter of another model: unexpected {unexpected[:3]}, missing {lacking[:3]}"
        )
    if of_base not in (None, _digest(model.body.state_dict())):
        raise ValueError(
            f"{folder} holds an adapter that was trained on a different base of the same sizes; pass the "
            "base that was saved with it"
        )
    set_peft_model_state_dict(adapted.body, weights, adapter_name=_adapter_name(domain))
    return adapted.eval()


def _digest(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of weights in hex, on any device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _peft_config(config: LoRAConfig) -> LoraConfig:
    from peft import LoraConfig

    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft divides by r, so fractions work
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
        bias="none",
    )


def _adapter_name(domain: str) -> str:
    """Return a valid module name: without dots, and no name that modules already have, such as "keys"."""
    return "domain_" + domain.replace(".", "_")
