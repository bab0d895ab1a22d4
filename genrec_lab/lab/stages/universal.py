"""UTGRec's tokenizer in a run: pre-trained over domains (stage 02), fine-tuned on a target (stage 06)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from genrec_lab.codes import ItemCodes, LaterMeasures, churn, use_of_codes
from genrec_lab.data import Dataset, co_occurrence_neighbours
from genrec_lab.data.batches import NeighbourBatches
from genrec_lab.data.whole_files import whole_file
from genrec_lab.encoders.compact import CompactConfig, CompactEncoder
from genrec_lab.encoders.content import PreparedContent, content_of
from genrec_lab.encoders.multimodal import QwenEncoder
from genrec_lab.lab.files import write_text
from genrec_lab.lab.store import runs_root
from genrec_lab.models.tokenizers.tree_tokenizer import TokenizedContent, TreeTokenizer, TreeTokenizerConfig
from genrec_lab.presets import MethodConfig
from genrec_lab.training import Callback, EpochRecord, TrainingConfig, fit, processes
from genrec_lab.viz.live import LiveCurves

_PARTS = ("text", "picture", "code", "alignment", "neighbour_text", "neighbour_picture")
_AT_ONCE = 256  # items that are tokenised together


@dataclass(frozen=True)
class UniversalEpoch(LaterMeasures):
    """One epoch: the mean terms of Eq. 13 before their weights, and the codes of the items trained on."""

    epoch: int  # counted from 1
    loss: float
    text: float
    picture: float
    code: float
    alignment: float
    neighbour_text: float
    neighbour_picture: float
    utilisation: tuple[float, ...]  # per level, of the codes of its book
    perplexity: tuple[float, ...]
    collision_rate: float
    seconds: float


@dataclass(frozen=True)
class UniversalTokenizer:
    """A tokenizer beside a catalogue that its encoder has made ready."""

    model: TreeTokenizer
    content: PreparedContent

    def tokenize(self, items: np.ndarray | None = None) -> TokenizedContent:
        """Codes of some items, by default of all."""
        rows = np.arange(self.content.n_items) if items is None else items
        return self.model.tokenize(self._batches(rows))

    def codebooks(self) -> list[np.ndarray]:
        """The codewords (K_l, d_c) of each level."""
        return [book.detach().cpu().numpy() for book in self.model.quantizer.codebooks()]

    def words(self) -> list[str]:
        """The words that the text decoder tells, by their number."""
        encoder = self.model.encoder
        assert isinstance(encoder, CompactEncoder | QwenEncoder)  # noqa: S101 - it has no other
        return encoder.words()

    def _batches(self, rows: np.ndarray) -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(rows), _AT_ONCE):
            yield self.content.batch(rows[start : start + _AT_ONCE])


def new_tokenizer(dataset: Dataset, config: MethodConfig, items: np.ndarray, seed: int) -> UniversalTokenizer:
    """An untrained tokenizer, whose words to rebuild are those of the given items' texts."""
    torch.manual_seed(seed)
    encoder, content = _encoder(dataset, config, items)
    model = TreeTokenizer(encoder, _tree(config), torch.Generator().manual_seed(seed))
    return UniversalTokenizer(model, content)


def load_tokenizer(
    folder: Path, dataset: Dataset, config: MethodConfig, items: np.ndarray | None = None
) -> UniversalTokenizer:
    """Read a tokenizer; with `items` it takes the words of their texts, as fine-tuning on them needs."""
    encoder, _ = _encoder(dataset, config, np.arange(dataset.n_items))
    model = TreeTokenizer.load(folder, encoder)
    if items is not None and isinstance(encoder, CompactEncoder):
        encoder.for_catalogue([dataset.items["text"][int(item)] for item in items])
        model.take_vocabulary()
    with processes.first_one_first():
        prepared = encoder.prepare(content_of(dataset), _cache())
    return UniversalTokenizer(model, prepared)


def train_tokenizer(
    tokenizer: UniversalTokenizer,
    dataset: Dataset,
    items: np.ndarray,
    training: TrainingConfig,
    seed: int,
    scratch: Path,
    title: str,
    watch: Callable[[str], LiveCurves] | None = None,
) -> list[dict[str, Any]]:
    """Train on some items beside their neighbours (Eq. 13); return what each epoch came to.

    A killed training goes on from its last epoch when it is called again with the same folder `scratch`.
    """
    batches = NeighbourBatches(
        items, co_occurrence_neighbours(dataset), tokenizer.content.batch, training.batch_size
    )
    curves = training_curves(watch, title, len(items), seed)
    names = [dataset.items["domain"][int(item)] for item in items]
    records = _Records(tokenizer, items, names, curves, scratch)
    with curves:
        fit(tokenizer.model, batches, training, callbacks=[records], checkpoints=scratch / "model", seed=seed)
    return records.records


def training_curves(
    watch: Callable[[str], LiveCurves] | None, title: str, n_items: int, seed: int
) -> LiveCurves:
    """The live curves of a tokenizer's training: those that `watch` gives, or plain ones."""
    return (
        watch(title) if watch else LiveCurves.tokenizer(title=title, n_items=n_items, seed=seed, keep=False)
    )


class _Records(Callback):
    """After each epoch: mean terms of the loss and the health of the codes; kept on disk for a resumption.

    `records.json` has the records, `codes.safetensors` the codes (n, L) of the last two of them by epoch: a
    kill between the two files leaves records whose codes are still there.
    """

    def __init__(
        self,
        tokenizer: UniversalTokenizer,
        items: np.ndarray,
        domains: list[str],
        curves: LiveCurves,
        folder: Path,
    ) -> None:
        self.tokenizer, self.items, self.domains, self.curves = tokenizer, items, domains, curves
        self.file, self.codes_file = folder / "records.json", folder / "codes.safetensors"
        self.records: list[dict[str, Any]] = json.loads(self.file.read_text()) if self.file.is_file() else []
        self.codes = load_file(self.codes_file) if self.codes_file.is_file() else {}
        self.before = self.records[-1]["seconds"] if self.records else 0.0
        self.started = time.monotonic()
        self.sums, self.batches = dict.fromkeys(_PARTS, 0.0), 0
        tokenizer.model.register_forward_hook(self._add)

    def _add(self, model: torch.nn.Module, *_: object) -> None:
        if model.training:
            parts = self.tokenizer.model.parts
            # Shares of a batch differ by one item at most, so their mean is near that of the batch.
            means = processes.total(torch.stack([parts[name] for name in _PARTS])) / processes.count()
            self.sums = {
                name: self.sums[name] + mean for name, mean in zip(_PARTS, means.tolist(), strict=True)
            }
            self.batches += 1

    def on_epoch(self, record: EpochRecord, epochs: int) -> None:
        """Tokenise the items and note what came out."""
        sizes = self.tokenizer.model.quantizer.sizes
        codes = self.tokenizer.tokenize(self.items).codes
        # An epoch that was trained again after a kill replaces its first record.
        self.records = [one for one in self.records if one["epoch"] < record.epoch]
        last = str(self.records[-1]["epoch"]) if self.records else ""
        before = self.codes.get(last)  # none from a version that did not keep them
        terms: dict[str, Any] = {name: total / max(self.batches, 1) for name, total in self.sums.items()}
        made = UniversalEpoch(
            epoch=record.epoch,
            loss=record.loss,
            **terms,
            **use_of_codes(codes, sizes, self.domains),
            seconds=self.before + time.monotonic() - self.started,
            churn=None if before is None else tuple(churn(before, codes).by_level.tolist()),
            items_per_second=record.samples_per_second,
            mfu=record.mfu,
        )
        self.sums, self.batches = dict.fromkeys(_PARTS, 0.0), 0
        self.records.append(json.loads(json.dumps(asdict(made))))  # as they are read back
        self.codes = {} if before is None else {last: before}
        self.codes[str(record.epoch)] = np.ascontiguousarray(codes)
        self._write()
        self.curves(made)

    def _write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.codes_file) as partial:
            save_file(self.codes, partial)
        write_text(self.file, json.dumps(self.records))


def item_codes(tokenizer: UniversalTokenizer, codes: np.ndarray, dataset: Dataset) -> ItemCodes:
    """The catalogue's codes as identifiers of the tokenizer's books; levels 2..L share their numbers."""
    quantizer = tokenizer.model.quantizer
    return ItemCodes(codes, quantizer.sizes, dataset.items["domain"].to_list(), quantizer.shared_levels)


def _encoder(
    dataset: Dataset, config: MethodConfig, items: np.ndarray
) -> tuple[CompactEncoder | QwenEncoder, PreparedContent]:
    content = content_of(dataset)
    encoder: CompactEncoder | QwenEncoder
    if isinstance(config.content, CompactConfig):
        encoder = CompactEncoder(config.content)
        encoder.for_catalogue([content.texts[int(item)] for item in items])
    else:
        encoder = QwenEncoder(config.content)
    with processes.first_one_first():
        prepared = encoder.prepare(content, _cache())
    return encoder, prepared


def _cache() -> Path:
    return runs_root() / "cache" / "content"


def _tree(config: MethodConfig) -> TreeTokenizerConfig:
    if not isinstance(config.tokenizer, TreeTokenizerConfig):
        raise TypeError(f"{config.name} has a tokenizer of kind {config.tokenizer.kind!r}; expected 'tree'")
    return config.tokenizer
