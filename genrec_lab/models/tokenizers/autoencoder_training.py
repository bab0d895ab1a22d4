"""The training of a tokenizer that is an autoencoder: epochs over a catalogue, reports, checkpoints."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from genrec_lab.codes import churn, use_of_codes
from genrec_lab.models.tokenizers.autoencoder import Autoencoder, Step, TokenizerEpoch
from genrec_lab.models.tokenizers.quantizers import finite_vectors
from genrec_lab.models.tokenizers.tokenizer_checkpoint import (
    DamagedCheckpoint,
    read_checkpoint,
    write_checkpoint,
)
from genrec_lab.training import processes
from genrec_lab.training.operations import StepMeter

Model = TypeVar("Model", bound=Autoencoder)
_LOSSES = ("loss", "reconstruction", "quantization", "contrastive", "collaborative", "diversity")


class TokenizerMemoryError(RuntimeError):
    """A batch that the device cannot hold; the message says what to lower."""


def train_autoencoder(
    model: Model,
    x: np.ndarray,
    domains: np.ndarray,
    seed: int,
    on_epoch: Callable[[TokenizerEpoch], None] | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 50,
    device: str | None = None,
    identity: Mapping[str, str] | None = None,
) -> Model:
    """Train a new autoencoder on a catalogue; all batches index the one tensor of all items.

    x: (N, D) content vectors; domains: (N,) integers. `on_epoch` hears of epoch 1, every `report_every`th
    and the last. With a `checkpoint` file a killed training goes on from its last multiple of
    `checkpoint_every` epochs, gives the numbers of the unbroken one (on a CPU) and tells `on_epoch` of the
    earlier epochs again; a higher `epochs` trains on. `identity` names what else must be equal for a
    checkpoint to fit. Several processes share each batch; the first of them writes and tells `on_epoch`.
    A damaged checkpoint is told of, and training begins anew. Raises ValueError for vectors that are not
    finite or a foreign checkpoint; FloatingPointError for a loss that is not finite,
    TokenizerMemoryError where the device cannot hold a batch.
    """
    x = finite_vectors(x)
    domains = np.asarray(domains, dtype=np.int64)
    if domains.shape != (len(x),):
        raise ValueError(f"domains have shape {domains.shape}; expected ({len(x)},), one integer an item")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if processes.several():
        place = processes.own_device()
    training = _Training(model, x, domains, seed, place, dict(identity or {}))
    first = processes.number() == 0
    hear = on_epoch if on_epoch is not None and first else (lambda report: None)
    if training.is_resumed(checkpoint):
        for past in training.history:
            hear(past)
    else:
        training.start()
    epochs = model.config.epochs
    while training.epoch < epochs:
        report = training.run_epoch()
        if report is not None:
            hear(report)
        due = training.epoch % checkpoint_every == 0 or training.epoch == epochs
        if checkpoint is not None and due and first:
            training.write(checkpoint)
    processes.wait()
    return training.selected()


class _Training(Generic[Model]):
    """The state of a training between two epochs: all that a checkpoint holds."""

    def __init__(
        self,
        model: Model,
        x: np.ndarray,
        domains: np.ndarray,
        seed: int,
        device: torch.device,
        identity: dict[str, str],
    ) -> None:
        config = model.config
        self.config, self.seed, self.device = config, seed, device
        self.x, self.domains = torch.from_numpy(x).to(device), torch.from_numpy(domains).to(device)
        self.model = model.to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        # What must be equal for a checkpoint to fit; more epochs may be asked for than before.
        settings = config.model_dump(mode="json", exclude={"epochs"})
        self.identity = settings | {
            "seed": seed,
            "vectors": sha(x),
            "domains": sha(domains),
            **identity,
        }
        self.epoch, self.seconds = 0, 0.0
        self.history: list[TokenizerEpoch] = []
        self.codes: np.ndarray | None = None  # (N, L) of the last report
        self.best: dict[str, Tensor] = {}
        self.best_rate = math.inf
        self.meter = StepMeter(device, torch.bfloat16 if config.precision == "bf16" else torch.float32)

    @torch.no_grad()
    def start(self) -> None:
        """Let the model prepare itself on the whole catalogue, once, before the first epoch."""
        self.model.eval()
        self.model.start(self.x, self.seed)
        processes.same_in_all(self.model.state_dict().values())

    def run_epoch(self) -> TokenizerEpoch | None:
        """Train one epoch; a report where this is one of the epochs that are reported."""
        began = time.perf_counter()
        self.epoch += 1
        # From seed and number: an epoch is the same whether or not the training was killed before it.
        number = _epoch_seed(self.seed, self.epoch)
        generator = torch.Generator().manual_seed(number)
        self.model.start_epoch(self.epoch, number)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            # for dropout, of which each process has its own
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)) + processes.number())
            losses, used = self._train_batches(generator)
            speed = len(self.x) / (time.perf_counter() - began)
        last = self.epoch == self.config.epochs
        if not last:
            self.model.after_epoch(self.x, used, generator)
            processes.same_in_all(self.model.state_dict().values())
        due = last or self.epoch == 1 or self.epoch % self.config.report_every == 0
        report = self._report(losses, speed, self.seconds + time.perf_counter() - began) if due else None
        self.seconds += time.perf_counter() - began
        return report

    def _train_batches(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mean losses of the epoch, as in `_LOSSES`, and which codes (L, K) some item had."""
        self.model.train()
        order = torch.randperm(len(self.x), generator=generator).to(self.device)
        total = torch.zeros(len(_LOSSES), device=self.device)
        zero = torch.zeros((), device=self.device)
        used = torch.zeros(self.model.codebooks.shape[:2], dtype=torch.bool, device=self.device)
        # Batches of nearly one size: a short last one would have fewer negatives in L_dcl and noisier steps.
        world = processes.count()
        for batch in order.tensor_split(math.ceil(len(order) / self.config.batch_size)):
            alone = len(batch) < world  # then each process computes the whole batch
            try:
                with processes.apart(alone), self.meter.step(len(batch)):
                    rows = batch.tensor_split(processes.count())[processes.number()]
                    step: Step = self.model(self.x[rows], self.domains[rows], rows)
                    weight = len(rows) * processes.count() / len(batch)
                    self.optimizer.zero_grad()
                    (step.loss * weight).backward()
            except torch.OutOfMemoryError as error:
                raise TokenizerMemoryError(
                    f"the device's memory ran out at a batch of {len(batch)} items in epoch {self.epoch}; "
                    f"lower tokenizer.batch_size (now {self.config.batch_size}), with which L_dcl has fewer "
                    f"negatives, or tokenizer.hidden, or let more processes share it ({str(error)[:200]})"
                ) from error
            processes.average_gradients(self.model.parameters())
            self.optimizer.step()
            losses = [getattr(step, name) for name in _LOSSES]
            taken = weight * len(batch) / world
            total += torch.stack([zero if loss is None else loss.detach() for loss in losses]) * taken
            used[torch.arange(len(used)), step.quantized.codes] = True
        if processes.several():
            total, used = processes.total(total), processes.largest(used.int()) > 0
        if not total.isfinite().all():
            raise FloatingPointError(
                f"the tokenizer's loss is not finite in epoch {self.epoch} ({', '.join(_LOSSES)}: "
                f"{total.tolist()}); lower tokenizer.learning_rate, "
                f"now {self.config.learning_rate}"
            )
        return total / len(self.x), used

    def _report(self, losses: Tensor, speed: float, seconds: float) -> TokenizerEpoch:
        levels, size = self.model.codebooks.shape[:2]
        codes = self.model.tokenize(self.x).codes
        names = self.domains.cpu().numpy().astype(str)
        changed = None if self.codes is None else tuple(churn(self.codes, codes).by_level.tolist())
        self.codes = codes
        report = TokenizerEpoch(
            epoch=self.epoch,
            **dict(zip(_LOSSES, losses.tolist(), strict=True)),
            **use_of_codes(codes, (size,) * levels, names),
            seconds=seconds,
            churn=changed,
            items_per_second=speed,
            mfu=self.meter.mfu(speed),
        )
        self.history.append(report)
        if self.config.select == "lowest_collision" and report.collision_rate < self.best_rate:
            self.best_rate = report.collision_rate
            self.best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        return report

    def selected(self) -> Model:
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
        write_checkpoint(file, self.model, self.optimizer, self.best, counters, self.codes)

    def is_resumed(self, file: Path | None) -> bool:
        """Take up a checkpoint, if there is one; a damaged one is told of and counts as none."""
        if file is None or not file.exists():
            return False
        try:
            self.restore(file)
        except DamagedCheckpoint as error:
            print(f"{error}: training anew", flush=True)
            return False
        return True

    def restore(self, file: Path) -> None:
        """Take up the state that `write` left; ValueError where it is of other data or settings."""
        self.best, counters, self.codes = read_checkpoint(file, self.model, self.optimizer, self.identity)
        if counters["epoch"] > self.config.epochs:
            raise ValueError(
                f"{file} has been trained for {counters['epoch']} epochs, more than tokenizer.epochs = "
                f"{self.config.epochs}; delete it to train anew, or give another checkpoint folder"
            )
        self.best_rate = counters["best_rate"] if self.best else math.inf
        self.epoch, self.seconds = counters["epoch"], counters["seconds"]
        for past in counters["history"]:
            tuples = {name: tuple(value) for name, value in past.items() if isinstance(value, list)}
            self.history.append(TokenizerEpoch(**past | tuples))


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


def sha(content: np.ndarray) -> str:
    """A short hash of an array's bytes, by which a checkpoint knows its data again."""
    return hashlib.sha256(content.tobytes()).hexdigest()[:16]
