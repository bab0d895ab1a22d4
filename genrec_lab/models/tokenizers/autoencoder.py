"""The shared parts of tokenizers that are autoencoders: settings, layers, losses of a batch, training.

Shapes: N items, B items of a batch, D content dimensions, L levels, d latent dimensions, K codes a level.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from genrec_lab.data.batches import Batch
from genrec_lab.models.saved import write_weights
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
from genrec_lab.training import TrainingConfig, content_hash, processes
from genrec_lab.training.devices import TrainingMemoryError, autocast, moved, placed

# Hidden layers from the content vector to the latent one; the decoder mirrors them.
PAPER_HIDDEN = (2048, 1024, 512, 256, 128, 64)  # not stated in GMC; LC-Rec's and LETTER's code have these
TIGER_HIDDEN = (512, 256, 128)  # TIGER section 3.1; enough for the 384 dimensions of MiniLM on a CPU


class AutoencoderConfig(TokenizerConfig):
    """Settings of an autoencoder and its training; defaults are from GMC (5.1.4) if it states one."""

    hidden: Widths = Field(
        PAPER_HIDDEN, description="encoder widths between D and d, mirrored by the decoder"
    )
    levels: int = Field(4, ge=1, description="L")
    input_scaling: Literal["mean_square", "none"] = Field(
        "mean_square",
        description="scale all vectors by one factor, to a mean square of 1; without it, L_dcl outweighs the "
        "rest of Eq. 7 for unit-norm vectors, and level 1 uses one code per domain",
    )
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(
        1e-4, ge=0, description="weight decay of AdamW; not stated in the paper, LC-Rec and LETTER use 1e-4"
    )
    batch_size: int = Field(1024, ge=1)
    epochs: int = Field(10_000, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    select: Literal["last", "lowest_collision"] = Field(
        "last",
        description="which reported epoch's weights to return. LC-Rec and LETTER keep those with the fewest "
        "collisions, which may come from an early, hardly trained epoch",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "fp32",
        description="of the encoder's and decoder's matrix products in training; auto uses bf16 if the "
        "hardware supports it, which halves the time. Quantisation, losses and encoding stay in float32",
    )
    report_every: int = Field(10, ge=1, description="epochs between measurements on the whole catalogue")


class Step(NamedTuple):
    """The losses of one batch, scalars with gradients, and the quantiser's output."""

    loss: Tensor  # the objective, GMC Eq. 7 for an RQ-VAE
    reconstruction: Tensor  # Eq. 4
    quantization: Tensor  # Eq. 5
    contrastive: Tensor  # Eq. 6, unweighted; 0 if the weight is 0
    quantized: Quantized
    collaborative: Tensor | None = None  # LETTER's L_CF, unweighted
    diversity: Tensor | None = None  # LETTER's L_Div, unweighted


class Autoencoder(nn.Module, ABC):
    """An encoder and a decoder around a quantiser that a subclass adds; float32, except for `precision`."""

    scale: Tensor
    config: Any

    def __init__(
        self, inputs: int, dimension: int, config: AutoencoderConfig, generator: Generator | None
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
    def forward(self, x: Tensor, domain: Tensor, extra: Tensor | None = None) -> Step:
        """Losses of a batch: (B, D) content vectors, (B,) int64 domains, (B, d) additional vectors."""

    @abstractmethod
    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, d) -> codes (B, L), each level's input (B, L, e), each level's codewords (B, L, e)."""

    def assemble(self, codewords: Tensor) -> Tensor:
        """Codewords of all levels (B, L, e) -> the quantised latent vector (B, d), by default their sum."""
        return codewords.sum(dim=1)

    @abstractmethod
    def code_loss(self, residuals: Tensor, codewords: Tensor) -> float:
        """Return the quantisation loss of a catalogue, given the residuals and codewords from `quantize`."""

    def start(self, x: Tensor, seed: int) -> None:
        """Prepare for training on the catalogue (N, D); called once, before the first epoch."""
        mean_square = float(x.square().mean())
        if self.config.input_scaling == "mean_square" and mean_square > 0:
            self.scale.fill_(mean_square**-0.5)

    def start_epoch(self, epoch: int, seed: int) -> None:
        """Hook at the start of an epoch (counted from 1); does nothing by default."""

    def after_epoch(self, x: Tensor, used: Tensor, generator: Generator) -> None:
        """Hook after an epoch in which the codes `used` (L, K) occurred; does nothing by default."""

    def through(self, layers: nn.Module, x: Tensor) -> Tensor:
        """Run the encoder or decoder, in training with `precision`; input and output are float32."""
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
        """Train on content vectors (N, D) and their domains; every batch indexes one tensor of all items.

        Epoch 1, every `report_every`th epoch and the last one are recorded. With a `checkpoint` folder, an
        interrupted training resumes from its last multiple of `checkpoint_every` epochs and gives the same
        numbers as an uninterrupted one (on a CPU); a higher `epochs` continues it. Several processes share
        each batch. Raises ValueError for vectors that are not finite or a checkpoint of another training,
        FloatingPointError for a loss that is not finite, TrainingMemoryError if a batch does not fit on the
        device.
        """
        known, config = ItemContent.of(content), self.config
        x = self.vectors(known)
        extra = self.extra_vectors(known, seed, checkpoint)
        self.model = self.network(x.shape[1], config, torch.Generator().manual_seed(seed))
        lesson = _Lesson(self.model, x, known.domains, extra)
        batches = _CatalogueEpochs(lesson, seed)
        # A resumed training may have more epochs than before.
        identity = config.model_dump(mode="json", exclude={"epochs"}) | {
            "seed": seed,
            "vectors": content_hash(x),
            "domains": content_hash(known.domains),
            "other vectors": None if extra is None else content_hash(extra),
        }
        same = {
            name: getattr(config, name) for name in ("epochs", "learning_rate", "weight_decay", "precision")
        }
        training = TrainingConfig(schedule="constant", warmup=0.0, clip_norm=None, **same)
        # Weight decay applies to all parameters here, unlike in other trainings.
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
                f"{batches.epoch}; lower tokenizer.batch_size (now {config.batch_size}), which gives L_dcl "
                "fewer negatives, or tokenizer.hidden, or use more processes "
                f"({str(error.__cause__)[:200]})"
            ) from error
        if self.epochs and (done := self.epochs[-1]["epoch"]) > config.epochs:
            raise ValueError(
                f"{checkpoint} has been trained for {done} epochs, more than tokenizer.epochs = "
                f"{config.epochs}; delete it to start again, or give another checkpoint folder"
            )
        self.codes_by_epoch = lesson.kept
        return self._fitted()

    def extra_vectors(self, content: ItemContent, seed: int, checkpoint: Path | None) -> np.ndarray | None:
        """Return additional vectors (N, d) of the items for the losses; None by default."""
        return None

    def tokenize_vectors(self, x: np.ndarray) -> Tokenized:
        """Tokenize (n, D) vectors, 8,192 at a time."""
        return self.model.tokenize(torch.from_numpy(x))

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `config.json` into a folder."""
        self.save_config(folder)
        write_weights(self.model.state_dict(), folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path, **settings: Any) -> Self:
        """Load a tokenizer that `save` wrote; `settings` as in the constructor."""
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
    """The losses of a batch by name, and the codes in use; a batch holds rows of the catalogue."""

    model: Autoencoder

    def __init__(self, model: Autoencoder, x: np.ndarray, domains: np.ndarray, extra: np.ndarray | None):
        super().__init__(model, len(x), model.config.levels)
        # Not buffers: several processes would exchange those before every step.
        self.x, self.domains = torch.from_numpy(x), torch.from_numpy(domains)
        self.extra = None if extra is None else torch.from_numpy(extra)

    def start_epoch(self) -> None:
        """Move the catalogue to the model's device and reset the codes in use."""
        device, config = self.model.scale.device, self.model.config
        self.x, self.domains, self.extra = moved((self.x, self.domains, self.extra), device)
        self.used = torch.zeros(config.levels, config.codebook_size, dtype=torch.bool, device=device)

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the losses of the items in these rows."""
        extra = None if self.extra is None else self.extra[rows]
        step: Step = self.model(self.x[rows], self.domains[rows], extra)
        levels = torch.arange(len(self.used), device=self.used.device)
        self.used[levels, step.quantized.codes] = True
        losses = step._asdict()
        del losses["quantized"]
        return {name: loss for name, loss in losses.items() if loss is not None}


class _CatalogueEpochs:
    """Batches of rows of the catalogue; calls the model's hooks before and after each epoch."""

    def __init__(self, lesson: _Lesson, seed: int) -> None:
        self.lesson, self.seed, self.config = lesson, seed, lesson.model.config
        self.epoch = 0
        # Of nearly equal size: a short last batch would have fewer negatives in L_dcl and noisier steps.
        self.count = math.ceil(len(lesson.x) / self.config.batch_size)
        self.largest = math.ceil(len(lesson.x) / self.count)

    def __len__(self) -> int:
        return self.count

    def __call__(self, epoch: int, seed: int) -> Iterator[Batch]:
        """Yield the batches of an epoch (counted from 0)."""
        lesson, model = self.lesson, self.lesson.model
        self.epoch = epoch + 1
        # From the seed and the epoch: an epoch is the same whether or not the training was resumed before it.
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
        # For dropout, which differs between processes.
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)) + processes.number())
        order = torch.randperm(len(lesson.x), generator=generator)
        for rows in order.tensor_split(self.count):
            # In order, so that the rows that the processes gather are the batch itself.
            yield Batch(rows.numpy(), lambda some: {"rows": torch.from_numpy(some)}, in_order=True)
        if self.epoch < self.config.epochs:
            used = processes.largest(lesson.used.int()) > 0
            model.after_epoch(lesson.x, used, generator)
            processes.same_in_all(model.state_dict().values())


def mlp(widths: tuple[int, ...], dropout: float, generator: Generator | None) -> nn.Sequential:
    """Return linear layers with ReLU and dropout between them (GMC section 5.1.4: MLPs with ReLU)."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        linear: Any = nn.utils.skip_init(nn.Linear, inputs, outputs)  # nn.Linear uses the global generator
        nn.init.xavier_normal_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()] + ([nn.Dropout(dropout)] if dropout else [])
    return nn.Sequential(*layers[: -2 if dropout else -1])
