"""RQ-VAE: an autoencoder with a residual quantiser in its middle (GMC section 3.3, Eqs 1 to 7).

Shapes: N items, B items of a batch, D content dimensions, L levels, K codes a level, d latent dimensions.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genrec_lab.codes import ItemCodes
from genrec_lab.losses import domain_contrastive_loss, reconstruction_loss, residual_quantization_loss
from genrec_lab.models.quantizers import (
    Quantized,
    ResidualQuantizer,
    Tokenized,
    check_codebook_fits,
    finite_vectors,
    quantize_levels,
)
from genrec_lab.models.sharing import Shareable
from genrec_lab.models.tokenizer_checkpoint import read_checkpoint, write_checkpoint

# YAML and JSON know lists only; everything else about the value stays strict.
Widths = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]

# Hidden layers from the content vector to the latent one; the decoder mirrors them.
PAPER_HIDDEN = (2048, 1024, 512, 256, 128, 64)  # GMC leaves them out; its lineage (LC-Rec, LETTER) has these
TIGER_HIDDEN = (512, 256, 128)  # TIGER section 3.1; enough for the 384 dimensions of MiniLM on a CPU


class RQVAEConfig(BaseModel):
    """Settings of the RQ-VAE and its training; the defaults are GMC's (section 5.1.4) where it states one.

    TIGER: `hidden=TIGER_HIDDEN, levels=3, contrastive_weight=0`. On a CPU: `hidden=TIGER_HIDDEN, epochs=300`.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    kind: Literal["rqvae"] = "rqvae"
    hidden: Widths = Field(PAPER_HIDDEN, description="encoder widths from D to d, the decoder's mirrored")
    dimension: int = Field(32, ge=1, description="d of the latent vectors and codewords")
    levels: int = Field(4, ge=1, description="L")
    codebook_size: int = Field(256, ge=1, description="K, codes a level")
    beta: float = Field(0.25, ge=0, description="weight of the commitment half of Eq. 5")
    contrastive_weight: float = Field(
        1.0, ge=0, description="weight of L_dcl (Eq. 6); 0 leaves it out, 1 is Eq. 7"
    )
    input_scaling: Literal["mean_square", "none"] = Field(
        "mean_square",
        description="scale all vectors by one number, to a mean square of 1; unit-norm vectors as they are "
        "make L_dcl outweigh the rest of Eq. 7, and level 1 is left with one code a domain",
    )
    reduction: Literal["mean", "sum"] = Field(
        "mean",
        description="of Eqs 4 and 5 over dimensions (and levels): the paper writes sums, its lineage's code "
        "takes means; beside sums over hundreds of dimensions, L_dcl with weight 1 has no effect",
    )
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(
        1e-4, ge=0, description="of AdamW; not stated in the paper, its lineage has 1e-4"
    )
    batch_size: int = Field(1024, ge=1)
    epochs: int = Field(10_000, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    kmeans_init: bool = Field(
        True, description="start the codebooks by k-means on the whole catalogue's residuals"
    )
    restart_dead_codes: bool = Field(
        True,
        description="move codewords that no item had for an epoch onto items' residuals; not in the paper",
    )
    select: Literal["last", "lowest_collision"] = Field(
        "last",
        description="which of the reported epochs' weights to return. The lineage keeps those with the "
        "fewest collisions, which can be an early, hardly trained epoch",
    )
    report_every: int = Field(10, ge=1, description="epochs between two measurements on the whole catalogue")


class Step(NamedTuple):
    """The losses of one batch, scalars with gradients, and what the quantiser gave."""

    loss: Tensor  # GMC Eq. 7
    reconstruction: Tensor  # Eq. 4
    quantization: Tensor  # Eq. 5
    contrastive: Tensor  # Eq. 6, before its weight
    quantized: Quantized


class RQVAE(nn.Module, Shareable):
    """Encoder, residual quantiser and decoder; float32 throughout, under autocast too."""

    scale: Tensor

    def __init__(self, inputs: int, config: RQVAEConfig, generator: torch.Generator | None = None) -> None:
        """`inputs` is D; the weights are drawn from the generator."""
        super().__init__()
        self.config = config
        widths = (inputs, *config.hidden, config.dimension)
        self.encoder = _mlp(widths, config.dropout, generator)
        self.quantizer = ResidualQuantizer(
            config.levels, config.codebook_size, config.dimension, config.beta, generator
        )
        self.decoder = _mlp(widths[::-1], config.dropout, generator)
        self.register_buffer("scale", torch.ones(()))

    @property
    def inputs(self) -> int:
        """D, the dimensions of the content vectors."""
        return next(self.encoder.parameters()).shape[1]

    @property
    def codebooks(self) -> np.ndarray:
        """(L, K, d) float32."""
        return self.quantizer.codebooks.detach().cpu().numpy()

    def forward(self, x: Tensor, domain: Tensor) -> Step:
        """Losses of a batch: (B, D) content vectors, (B,) int64 domains."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float() * self.scale
            quantized = self.quantizer(self.encoder(x))
            reconstruction = reconstruction_loss(x, self.decoder(quantized.vectors))
            quantization = quantized.loss
            if self.config.reduction == "mean":
                reconstruction = reconstruction / self.inputs
                quantization = quantization / (self.config.dimension * self.config.levels)
            contrastive = domain_contrastive_loss(quantized.vectors, domain)
            loss = reconstruction + quantization + self.config.contrastive_weight * contrastive
        return Step(loss, reconstruction, quantization, contrastive, quantized)

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
                f"content vectors have {vectors.shape[1]} dimensions, this RQ-VAE was trained on "
                f"{self.inputs}; tokenize vectors of the text model that it was trained with"
            )
        device, was_training = self.scale.device, self.training
        self.eval()
        parts = [
            quantize_levels(self.encode(part.to(device)), self.quantizer.codebooks)
            for part in vectors.split(batch)
        ]
        self.train(was_training)
        codes, residuals, codewords = (torch.cat(tensors).cpu() for tensors in zip(*parts, strict=True))
        loss = float(residual_quantization_loss(residuals, codewords, self.config.beta))
        return Tokenized(codewords.sum(dim=1).numpy(), codes.numpy(), loss, residuals.numpy())

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `config.json` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(self.config.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        config = RQVAEConfig.model_validate_json((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        model = cls(weights["encoder.0.weight"].shape[1], config)
        model.load_state_dict(weights)
        return model.eval()


@dataclass(frozen=True)
class TokenizerEpoch:
    """One epoch of tokenizer training: mean losses of its batches, and the codes of the whole catalogue."""

    epoch: int  # counted from 1
    loss: float
    reconstruction: float
    quantization: float
    contrastive: float  # before its weight
    utilisation: tuple[float, ...]  # per level: share of the codes that some item has
    perplexity: tuple[float, ...]  # per level: exp of the entropy, the number of codes if all were used alike
    collision_rate: float  # share of items whose identifier another item of their domain has too
    seconds: float  # of training since epoch 1, without the time between a kill and its resumption


def train_rqvae(
    x: np.ndarray,
    domains: np.ndarray,
    config: RQVAEConfig,
    seed: int,
    on_epoch: Callable[[TokenizerEpoch], None] | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 50,
    device: str | None = None,
) -> RQVAE:
    """Train an RQ-VAE on a catalogue by GMC Eq. 7, all batches index the one tensor of all items.

    x: (N, D) content vectors; domains: (N,) integers. `on_epoch` hears of epoch 1, every `report_every`th
    and the last. With a `checkpoint` folder a killed training goes on from its last multiple of
    `checkpoint_every` epochs, gives the numbers of the unbroken one (on a CPU) and tells `on_epoch` of the
    earlier epochs again; a higher `epochs` trains on. Raises ValueError for vectors that are not finite, a
    codebook larger than the catalogue or a foreign checkpoint; FloatingPointError for a loss not finite.
    """
    x = finite_vectors(x)
    domains = np.asarray(domains, dtype=np.int64)
    if domains.shape != (len(x),):
        raise ValueError(f"domains have shape {domains.shape}; expected ({len(x)},), one integer an item")
    if config.kmeans_init:
        check_codebook_fits(x, config.codebook_size)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    training = _Training(x, domains, config, seed, place)
    hear = on_epoch or (lambda report: None)
    file = None if checkpoint is None else Path(checkpoint) / "rqvae_training.safetensors"
    if file is not None and file.exists():
        training.restore(file)
        for past in training.history:
            hear(past)
    else:
        training.start()
    while training.epoch < config.epochs:
        report = training.run_epoch()
        if report is not None:
            hear(report)
        if file is not None and (training.epoch % checkpoint_every == 0 or training.epoch == config.epochs):
            training.write(file)
    return training.selected()


class _Training:
    """The state of a training between two epochs: all that a checkpoint holds."""

    def __init__(
        self, x: np.ndarray, domains: np.ndarray, config: RQVAEConfig, seed: int, device: torch.device
    ) -> None:
        self.config, self.seed, self.device = config, seed, device
        self.x, self.domains = torch.from_numpy(x).to(device), torch.from_numpy(domains).to(device)
        self.model = RQVAE(x.shape[1], config, torch.Generator().manual_seed(seed)).to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        # What must be equal for a checkpoint to fit; more epochs may be asked for than before.
        settings = config.model_dump(mode="json", exclude={"epochs"})
        self.identity = settings | {"seed": seed, "vectors": _sha(x), "domains": _sha(domains)}
        self.epoch, self.seconds = 0, 0.0
        self.history: list[TokenizerEpoch] = []
        self.best: dict[str, Tensor] = {}
        self.best_rate = math.inf

    @torch.no_grad()
    def start(self) -> None:
        """Scale the input and place the codebooks, once, before the first epoch."""
        mean_square = float(self.x.square().mean())
        if self.config.input_scaling == "mean_square" and mean_square > 0:
            self.model.scale.fill_(mean_square**-0.5)
        self.model.eval()
        if self.config.kmeans_init:
            parts = [self.model.encode(part) for part in self.x.split(8192)]
            self.model.quantizer.start_from(torch.cat(parts), self.seed)

    def run_epoch(self) -> TokenizerEpoch | None:
        """Train one epoch; a report where this is one of the epochs that are reported."""
        began = time.perf_counter()
        self.epoch += 1
        # From seed and number: an epoch is the same whether or not the training was killed before it.
        generator = torch.Generator().manual_seed(_epoch_seed(self.seed, self.epoch))
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))  # for dropout
            losses, used = self._train_batches(generator)
        last = self.epoch == self.config.epochs
        if self.config.restart_dead_codes and not last:
            self._restart_dead_codes(used, generator)
        due = last or self.epoch == 1 or self.epoch % self.config.report_every == 0
        report = self._report(losses, self.seconds + time.perf_counter() - began) if due else None
        self.seconds += time.perf_counter() - began
        return report

    def _train_batches(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mean losses of the epoch (4,), and which codes (L, K) some item had."""
        self.model.train()
        order = torch.randperm(len(self.x), generator=generator).to(self.device)
        total = torch.zeros(4, device=self.device)
        used = torch.zeros(self.model.codebooks.shape[:2], dtype=torch.bool, device=self.device)
        # Batches of nearly one size: a short last one would have fewer negatives in L_dcl and noisier steps.
        for rows in order.tensor_split(math.ceil(len(order) / self.config.batch_size)):
            step: Step = self.model(self.x[rows], self.domains[rows])
            self.optimizer.zero_grad()
            step.loss.backward()
            self.optimizer.step()
            total += torch.stack([loss.detach() for loss in step[:4]]) * len(rows)
            used[torch.arange(len(used)), step.quantized.codes] = True
        if not total.isfinite().all():
            raise FloatingPointError(
                f"the tokenizer's loss is not finite in epoch {self.epoch} (reconstruction, "
                f"quantisation, contrast: {total[1:].tolist()}); lower tokenizer.learning_rate, "
                f"now {self.config.learning_rate}"
            )
        return total / len(self.x), used

    @torch.no_grad()
    def _restart_dead_codes(self, used: Tensor, generator: torch.Generator) -> None:
        """Put each codeword that no item had in this epoch onto the residual of an item drawn at random."""
        if used.all():
            return
        self.model.eval()
        drawn = torch.randperm(len(self.x), generator=generator)[: self.config.batch_size].to(self.device)
        _, residuals, _ = quantize_levels(self.model.encode(self.x[drawn]), self.model.quantizer.codebooks)
        for level in range(self.config.levels):
            dead = torch.nonzero(~used[level]).flatten()[: len(drawn)]
            self.model.quantizer.codebooks[level, dead] = residuals[: len(dead), level]

    def _report(self, losses: Tensor, seconds: float) -> TokenizerEpoch:
        size = self.config.codebook_size
        codes = self.model.tokenize(self.x).codes
        counts = np.stack([np.bincount(column, minlength=size) for column in codes.T])
        share = counts / len(codes)
        entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=1)
        names = self.domains.cpu().numpy().astype(str)
        report = TokenizerEpoch(
            epoch=self.epoch,
            **dict(
                zip(("loss", "reconstruction", "quantization", "contrastive"), losses.tolist(), strict=True)
            ),
            utilisation=tuple((counts > 0).mean(axis=1).tolist()),
            perplexity=tuple(np.exp(entropy).tolist()),
            collision_rate=ItemCodes(codes, (size,) * self.config.levels, names).collision_rate(),
            seconds=seconds,
        )
        self.history.append(report)
        if self.config.select == "lowest_collision" and report.collision_rate < self.best_rate:
            self.best_rate = report.collision_rate
            self.best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        return report

    def selected(self) -> RQVAE:
        """The model with the weights that `config.select` asks for."""
        if self.best:
            self.model.load_state_dict(self.best)
        return self.model.eval()

    def write(self, file: Path) -> None:
        """Write a checkpoint."""
        counters = {
            "identity": self.identity,
            "epoch": self.epoch,
            "seconds": self.seconds,
            "best_rate": self.best_rate if self.best else None,
            "history": [asdict(report) for report in self.history],
        }
        write_checkpoint(file, self.model, self.optimizer, self.best, counters)

    def restore(self, file: Path) -> None:
        """Take up the state that `write` left; ValueError where it is of other data or settings."""
        self.best, counters = read_checkpoint(file, self.model, self.optimizer, self.identity)
        if counters["epoch"] > self.config.epochs:
            raise ValueError(
                f"{file} has been trained for {counters['epoch']} epochs, more than tokenizer.epochs = "
                f"{self.config.epochs}; delete it to train anew, or give another checkpoint folder"
            )
        self.best_rate = counters["best_rate"] if self.best else math.inf
        self.epoch, self.seconds = counters["epoch"], counters["seconds"]
        for past in counters["history"]:
            tuples = {name: tuple(past[name]) for name in ("utilisation", "perplexity")}
            self.history.append(TokenizerEpoch(**past | tuples))


def _mlp(widths: tuple[int, ...], dropout: float, generator: torch.Generator | None) -> nn.Sequential:
    """Linear layers with ReLU and dropout between them (GMC section 5.1.4 names MLPs with ReLU)."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        linear = nn.utils.skip_init(nn.Linear, inputs, outputs)  # nn.Linear draws from the global generator
        nn.init.xavier_normal_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()] + ([nn.Dropout(dropout)] if dropout else [])
    return nn.Sequential(*layers[: -2 if dropout else -1])


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


def _sha(content: np.ndarray) -> str:
    return hashlib.sha256(content.tobytes()).hexdigest()[:16]
