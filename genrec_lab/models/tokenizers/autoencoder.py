"""What the tokenizers that are trained autoencoders share: settings, layers, losses of a batch, records.

Shapes: N items, B items of a batch, D content dimensions, L levels, d latent dimensions.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor, nn

from genrec_lab.codes import LaterMeasures
from genrec_lab.models.sharing import Shareable
from genrec_lab.models.tokenizers.quantizers import Quantized, Tokenized, finite_vectors

# YAML and JSON know lists only; everything else about the value stays strict.
Widths = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]

# Hidden layers from the content vector to the latent one; the decoder mirrors them.
PAPER_HIDDEN = (2048, 1024, 512, 256, 128, 64)  # GMC leaves them out; its lineage (LC-Rec, LETTER) has these
TIGER_HIDDEN = (512, 256, 128)  # TIGER section 3.1; enough for the 384 dimensions of MiniLM on a CPU


class AutoencoderConfig(BaseModel):
    """Settings of an autoencoder and its training; the defaults are GMC's (5.1.4) where it states one."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    hidden: Widths = Field(
        PAPER_HIDDEN, description="encoder widths between D and d, mirrored by the decoder"
    )
    levels: int = Field(4, ge=1, description="L")
    input_scaling: Literal["mean_square", "none"] = Field(
        "mean_square",
        description="scale all vectors by one number, to a mean square of 1; unit-norm vectors as they are "
        "make L_dcl outweigh the rest of Eq. 7, and level 1 is left with one code a domain",
    )
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(
        1e-4, ge=0, description="of AdamW; not stated in the paper, its lineage has 1e-4"
    )
    batch_size: int = Field(1024, ge=1)
    epochs: int = Field(10_000, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    select: Literal["last", "lowest_collision"] = Field(
        "last",
        description="which of the reported epochs' weights to return. The lineage keeps those with the "
        "fewest collisions, which can be an early, hardly trained epoch",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="of the encoder's and decoder's matrix products in training; where the hardware has bf16 "
        "products it halves the time. Quantising, the losses and all tokenising stay in float32",
    )
    report_every: int = Field(10, ge=1, description="epochs between two measurements on the whole catalogue")


class Step(NamedTuple):
    """The losses of one batch, scalars with gradients, and what the quantiser gave."""

    loss: Tensor  # what is minimised, GMC Eq. 7 for an RQ-VAE
    reconstruction: Tensor  # Eq. 4
    quantization: Tensor  # Eq. 5
    contrastive: Tensor  # Eq. 6, before its weight; 0 where the weight is 0
    quantized: Quantized
    collaborative: Tensor | None = None  # LETTER's L_CF, before its weight
    diversity: Tensor | None = None  # LETTER's L_Div, before its weight


@dataclass(frozen=True)
class TokenizerEpoch(LaterMeasures):
    """One epoch of tokenizer training: mean losses of its batches, and the codes of the whole catalogue."""

    epoch: int  # counted from 1
    loss: float
    reconstruction: float
    quantization: float
    contrastive: float  # before its weight; 0 where that is 0
    utilisation: tuple[float, ...]  # per level: share of the codes that some item has
    perplexity: tuple[float, ...]  # per level: exp of the entropy, the number of codes if all were used alike
    collision_rate: float  # share of items whose identifier another item of their domain has too
    seconds: float  # of training since epoch 1, without the time between a kill and its resumption
    collaborative: float = 0.0  # LETTER's, before its weight
    diversity: float = 0.0


class Autoencoder(nn.Module, Shareable, ABC):
    """An encoder and a decoder around a quantiser that a subclass adds; float32, but for `precision`."""

    scale: Tensor
    config: AutoencoderConfig

    def __init__(
        self, inputs: int, dimension: int, config: AutoencoderConfig, generator: torch.Generator | None
    ) -> None:
        """`inputs` is D, `dimension` d; the weights are drawn from the generator, the encoder's first."""
        super().__init__()
        self.config = config
        self.widths = (inputs, *config.hidden, dimension)
        self.encoder = mlp(self.widths, config.dropout, generator)
        self.register_buffer("scale", torch.ones(()))

    @property
    def inputs(self) -> int:
        """D, the dimensions of the content vectors."""
        return self.widths[0]

    @property
    @abstractmethod
    def codebooks(self) -> np.ndarray:
        """(L, K, d) float32, the codewords of each level."""

    @abstractmethod
    def forward(self, x: Tensor, domain: Tensor, rows: Tensor | None = None) -> Step:
        """Losses of a batch: (B, D) content vectors, (B,) int64 domains, (B,) places in the catalogue."""

    @abstractmethod
    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, d) -> codes (B, L), what each level quantised (B, L, e), its codewords (B, L, e)."""

    @abstractmethod
    def assemble(self, codewords: Tensor) -> Tensor:
        """The codewords of each level (B, L, e) -> the quantised latent vector (B, d)."""

    @abstractmethod
    def code_loss(self, residuals: Tensor, codewords: Tensor) -> float:
        """What quantising a catalogue costs, from what `quantize` gave of it."""

    def start(self, x: Tensor, seed: int) -> None:
        """Prepare for training on the catalogue (N, D), once, before the first epoch."""
        mean_square = float(x.square().mean())
        if self.config.input_scaling == "mean_square" and mean_square > 0:
            self.scale.fill_(mean_square**-0.5)

    def start_epoch(self, epoch: int, seed: int) -> None:
        """Do what is due at the start of an epoch (from 1); by default nothing."""

    def after_epoch(self, x: Tensor, used: Tensor, generator: torch.Generator) -> None:
        """Do what is due after an epoch whose items had the codes `used` (L, K); by default nothing."""

    def through(self, layers: nn.Module, x: Tensor) -> Tensor:
        """Run encoder or decoder, in training in the type that `precision` names; float32 in and out."""
        half = self.training and self.config.precision == "bf16"
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            return layers(x).float()

    def encode(self, x: Tensor) -> Tensor:
        """Z = Enc(x): (B, D) -> (B, d)."""
        with torch.autocast(x.device.type, enabled=False):
            return self.encoder(x.float() * self.scale)

    @torch.no_grad()
    def tokenize(self, x: np.ndarray | Tensor, batch: int = 8192) -> Tokenized:
        """Codes, residuals and quantised vectors of (N, D) content vectors, `batch` at a time."""
        vectors = x if isinstance(x, Tensor) else torch.from_numpy(finite_vectors(x))
        if vectors.shape[1] != self.inputs:
            raise ValueError(
                f"content vectors have {vectors.shape[1]} dimensions, this tokenizer was trained on "
                f"{self.inputs}; tokenize vectors of the text model that it was trained with"
            )
        device, was_training = self.scale.device, self.training
        self.eval()
        parts = [self.quantize(self.encode(part.to(device))) for part in vectors.split(batch)]
        self.train(was_training)
        codes, residuals, codewords = (torch.cat(tensors).cpu() for tensors in zip(*parts, strict=True))
        loss = self.code_loss(residuals, codewords)
        return Tokenized(self.assemble(codewords).numpy(), codes.numpy(), loss, residuals.numpy())

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `config.json` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(self.config.model_dump_json(indent=2) + "\n")


def mlp(widths: tuple[int, ...], dropout: float, generator: torch.Generator | None) -> nn.Sequential:
    """Linear layers with ReLU and dropout between them (GMC section 5.1.4 names MLPs with ReLU)."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        linear: Any = nn.utils.skip_init(nn.Linear, inputs, outputs)  # nn.Linear draws from the global one
        nn.init.xavier_normal_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()] + ([nn.Dropout(dropout)] if dropout else [])
    return nn.Sequential(*layers[: -2 if dropout else -1])
