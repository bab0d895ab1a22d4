"""What the tokenizers that are trained autoencoders share: settings, layers, losses of a batch, training.

Shapes: N items, B items of a batch, D content dimensions, L levels, d latent dimensions, K codes a level.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genrec_lab.data.batches import Batch
from genrec_lab.models.tokenizers.base import (
    Content,
    ItemContent,
    OnEpoch,
    Tokenized,
    TokenizerConfig,
    VectorTokenizer,
    Widths,
)
from genrec_lab.models.tokenizers.epochs import Lesson, train_in_epochs
from genrec_lab.models.tokenizers.quantizers import Quantized
from genrec_lab.training import TrainingConfig, TrainingMemoryError, autocast, moved, placed, processes

# Hidden layers from the content vector to the latent one; the decoder mirrors them.
PAPER_HIDDEN = (2048, 1024, 512, 256, 128, 64)  # GMC leaves them out; its lineage (LC-Rec, LETTER) has these
TIGER_HIDDEN = (512, 256, 128)  # TIGER section 3.1; enough for the 384 dimensions of MiniLM on a CPU


class AutoencoderConfig(TokenizerConfig):
    """Settings of an autoencoder and its training; the defaults are GMC's (5.1.4) where it states one."""

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
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "fp32",
        description="of the encoder's and decoder's matrix products in training; auto is bf16 where the "
        "hardware has it, which halves the time. Quantising, the losses and all tokenising stay in float32",
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


class Autoencoder(nn.Module, ABC):
    """An encoder and a decoder around a quantiser that a subclass adds; float32, but for `precision`."""

    scale: Tensor
    config: Any

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
    def forward(self, x: Tensor, domain: Tensor, beside: Tensor | None = None) -> Step:
        """Losses of a batch: (B, D) content vectors, (B,) int64 domains, (B, d) vectors beside them."""

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
        with autocast(x.device, self.config.precision if self.training else "fp32"):
            return layers(x).float()

    def encode(self, x: Tensor) -> Tensor:
        """Z = Enc(x): (B, D) -> (B, d)."""
        with torch.autocast(x.device.type, enabled=False):
            return self.encoder(x.float() * self.scale)

    @torch.no_grad()
    def tokenize(self, x: Tensor, batch: int = 8192) -> Tokenized:
        """Codes, residuals and quantised vectors of (N, D) content vectors, `batch` at a time."""
        device, was_training = self.scale.device, self.training
        self.eval()
        parts = [self.quantize(self.encode(moved(part, device))) for part in x.split(batch)]
        self.train(was_training)
        codes, residuals, codewords = (torch.cat(tensors).cpu() for tensors in zip(*parts, strict=True))
        vectors = self.assemble(codewords).numpy()
        return Tokenized(codes.numpy(), residuals.numpy(), vectors, self.code_loss(residuals, codewords))


class AutoencoderTokenizer(VectorTokenizer):
    """An autoencoder over content vectors; a subclass names its network."""

    network: ClassVar[Callable[..., Autoencoder]]  # of D, the config and a generator

    model: Autoencoder  # after `fit` or `load`

    def fit(
        self,
        content: Content,
        *,
        seed: int = 0,
        on_epoch: OnEpoch = None,
        checkpoint: Path | None = None,
        checkpoint_every: int = 50,
    ) -> Self:
        """Train on content vectors (N, D) and their domains; all batches index the one tensor of all items.

        Epoch 1, every `report_every`th and the last are recorded. With a `checkpoint` folder a killed
        training goes on from its last multiple of `checkpoint_every` epochs and gives the numbers of the
        unbroken one (on a CPU); a higher `epochs` trains on. Several processes share each batch. Raises
        ValueError for vectors that are not finite or a checkpoint of another training, FloatingPointError for
        a loss that is not finite, TrainingMemoryError where the device cannot hold a batch.
        """
        known, config = ItemContent.of(content), self.config
        x = self.vectors(known)
        self.check_vectors(x)
        beside = self.vectors_beside(known, seed, checkpoint)
        self.model = self.network(x.shape[1], config, torch.Generator().manual_seed(seed))
        lesson = _Lesson(self.model, x, known.domains, beside)
        batches = _CatalogueEpochs(lesson, seed)
        # More epochs may be asked of a checkpoint than before.
        identity = config.model_dump(mode="json", exclude={"epochs"}) | {
            "seed": seed,
            "vectors": _hash(x),
            "domains": _hash(known.domains),
            "other vectors": None if beside is None else _hash(beside),
        }
        training = TrainingConfig(
            epochs=config.epochs,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            schedule="constant",
            warmup=0.0,
            clip_norm=None,
            precision=config.precision,
        )
        # Weight decay of all parameters, unlike the usual training's.
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        try:
            self.epochs = train_in_epochs(
                lesson,
                batches,
                training,
                tokenize=lambda: self.model.tokenize(lesson.x).codes,
                sizes=(config.codebook_size,) * config.levels,
                domains=known.domains.astype(str).tolist(),
                seed=seed,
                on_epoch=on_epoch,
                checkpoint=checkpoint,
                checkpoint_every=checkpoint_every,
                report_every=config.report_every,
                fewest_collisions=config.select == "lowest_collision",
                identity=identity,
                optimizers=[optimizer],
            )
        except FloatingPointError as error:
            raise FloatingPointError(
                f"the tokenizer's loss is not finite in epoch {batches.epoch} ({error}); lower "
                f"tokenizer.learning_rate, now {config.learning_rate}"
            ) from error
        except TrainingMemoryError as error:
            raise TrainingMemoryError(
                f"the device's memory ran out at a batch of {batches.largest} items in epoch "
                f"{batches.epoch}; lower tokenizer.batch_size (now {config.batch_size}), with which L_dcl "
                "has fewer negatives, or tokenizer.hidden, or let more processes share it "
                f"({str(error.__cause__)[:200]})"
            ) from error
        if self.epochs and self.epochs[-1]["epoch"] > config.epochs:
            raise ValueError(
                f"{checkpoint} has been trained for {self.epochs[-1]['epoch']} epochs, more than "
                f"tokenizer.epochs = {config.epochs}; delete it to train anew, or give another checkpoint "
                "folder"
            )
        return self._fitted()

    def check_vectors(self, x: np.ndarray) -> None:
        """Raise ValueError where content vectors (N, D) cannot be trained on; by default never."""

    def vectors_beside(self, content: ItemContent, seed: int, checkpoint: Path | None) -> np.ndarray | None:
        """Return other vectors (N, d) of the items for the losses; by default none."""
        return None

    def tokenize_vectors(self, x: np.ndarray) -> Tokenized:
        """Tokenize (n, D) vectors, 8,192 at a time."""
        return self.model.tokenize(torch.from_numpy(x))

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `config.json` into a folder."""
        self.save_config(folder)
        weights = self.model.state_dict().items()
        save_file({name: tensor.cpu().contiguous() for name, tensor in weights}, folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path, **settings: Any) -> Self:
        """Read what `save` wrote; `settings` as of the constructor."""
        tokenizer, weights = cls(cls.load_config(folder), **settings), load_file(folder / "model.safetensors")
        tokenizer.model = cls.network(weights["encoder.0.weight"].shape[1], tokenizer.config, None)
        tokenizer.model.load_state_dict(weights)
        placed(tokenizer.model)
        return tokenizer._fitted()

    def _fitted(self) -> Self:
        self.model.eval()
        self.inputs = self.model.inputs
        self.codebooks = list(self.model.codebooks)
        self.sizes = tuple(len(book) for book in self.codebooks)
        return self


class _Lesson(Lesson):
    """The losses of a batch by name, and which codes its items had; the batch is places in the catalogue."""

    model: Autoencoder

    def __init__(self, model: Autoencoder, x: np.ndarray, domains: np.ndarray, beside: np.ndarray | None):
        super().__init__(model, len(x), model.config.levels)
        # No buffers, which several processes would send each other before every step.
        self.x, self.domains = torch.from_numpy(x), torch.from_numpy(domains)
        self.beside = None if beside is None else torch.from_numpy(beside)

    def start_epoch(self) -> None:
        """Have the catalogue where the model is, and no code used."""
        device, config = self.model.scale.device, self.model.config
        self.x, self.domains, self.beside = moved((self.x, self.domains, self.beside), device)
        self.used = torch.zeros(config.levels, config.codebook_size, dtype=torch.bool, device=device)

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the losses of the items at these places."""
        beside = None if self.beside is None else self.beside[rows]
        step: Step = self.model(self.x[rows], self.domains[rows], beside)
        levels = torch.arange(len(self.used), device=self.used.device)
        self.used[levels, step.quantized.codes] = True
        losses = step._asdict()
        del losses["quantized"]
        return {name: loss for name, loss in losses.items() if loss is not None}


class _CatalogueEpochs:
    """Batches of places in the catalogue, and what the model does before and after those of an epoch."""

    def __init__(self, lesson: _Lesson, seed: int) -> None:
        self.lesson, self.seed, self.config = lesson, seed, lesson.model.config
        self.epoch = 0
        # Of nearly one size: a short last one would have fewer negatives in L_dcl and noisier steps.
        self.count = math.ceil(len(lesson.x) / self.config.batch_size)
        self.largest = math.ceil(len(lesson.x) / self.count)

    def __len__(self) -> int:
        return self.count

    def __call__(self, epoch: int, seed: int) -> Iterator[Batch]:
        """Train one epoch (from 0)."""
        lesson, model = self.lesson, self.lesson.model
        self.epoch = epoch + 1
        # From seed and number: an epoch is the same whether or not the training was killed before it.
        number = int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint64)[0] >> 1)
        generator = torch.Generator().manual_seed(number)
        lesson.start_epoch()
        if epoch == 0:
            model.eval()
            with torch.no_grad():
                model.start(lesson.x, self.seed)
            processes.same_in_all(model.state_dict().values())
            model.train()
        model.start_epoch(self.epoch, number)
        # for dropout, of which each process has its own
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)) + processes.number())
        order = torch.randperm(len(lesson.x), generator=generator)
        for rows in order.tensor_split(self.count):
            # In order: what processes gather is then the batch itself.
            yield Batch(rows.numpy(), _places, in_order=True)
        if self.epoch < self.config.epochs:
            used = processes.largest(lesson.used.int()) > 0
            model.after_epoch(lesson.x, used, generator)
            processes.same_in_all(model.state_dict().values())


def _places(rows: np.ndarray) -> dict[str, Tensor]:
    return {"rows": torch.from_numpy(rows)}


def _hash(content: np.ndarray) -> str:
    return hashlib.sha256(content.tobytes()).hexdigest()[:16]


def mlp(widths: tuple[int, ...], dropout: float, generator: torch.Generator | None) -> nn.Sequential:
    """Linear layers with ReLU and dropout between them (GMC section 5.1.4 names MLPs with ReLU)."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        linear: Any = nn.utils.skip_init(nn.Linear, inputs, outputs)  # nn.Linear draws from the global one
        nn.init.xavier_normal_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()] + ([nn.Dropout(dropout)] if dropout else [])
    return nn.Sequential(*layers[: -2 if dropout else -1])
