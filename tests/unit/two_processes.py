"""Trains small models and writes what came out: alone, or as one of two processes, `python … FOLDER`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from unittest import mock

import numpy as np
import polars as pl
import torch
from pydantic import BaseModel
from safetensors.torch import save_file
from torch import Tensor, nn

from genrec_lab.codes import ItemCodes
from genrec_lab.data.batches import NeighbourBatches, PairBatches, StretchBatches
from genrec_lab.decoding import Ranked
from genrec_lab.lab import store
from genrec_lab.lab.store import Task, Work
from genrec_lab.models import Recommender, T5Config
from genrec_lab.models.sequential.base import DomainItems
from genrec_lab.models.sequential.sasrec import SASRec, SASRecConfig
from genrec_lab.models.tokenizers import ItemContent
from genrec_lab.models.tokenizers.letter import Letter, LetterConfig
from genrec_lab.models.tokenizers.rqvae import RQVAE, RQVAEConfig
from genrec_lab.models.tokenizers.tree_network import TreeNetwork
from genrec_lab.training import TrainingConfig, fit, processes, rank_in_shares
from tests.unit.test_tree_network import CONFIG, ToyEncoder, items

TINY = T5Config(
    d_model=16, d_kv=4, heads=3, d_ff=24, encoder_layers=1, decoder_layers=1, dropout=0.0,
    relative_buckets=8, relative_max_distance=16,
)  # fmt: skip
TRAINING = TrainingConfig(epochs=3, batch_size=4, learning_rate=0.01, precision="fp32")
Trained = tuple[list[float], dict[str, Tensor]]


class Contrast(nn.Module):
    """A loss of a kind that `fit` does not know, in which all samples of a batch are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """The mean of each sample's log-softmax over all samples' similarities."""
        z = self.layer(x)
        return -(z @ z.T).log_softmax(dim=1).diagonal().mean()


class Vectors:
    """Three batches of seven vectors."""

    def __len__(self) -> int:
        return 3

    def __call__(self, epoch: int, seed: int) -> list[dict[str, Tensor]]:
        """The batches of one epoch."""
        generator = torch.Generator().manual_seed(100 * seed + epoch)
        return [{"x": torch.randn(7, 4, generator=generator)} for _ in range(3)]


def recommender() -> Recommender:
    torch.manual_seed(2)
    return Recommender(ItemCodes([[item // 3, item % 3] for item in range(9)], (4, 4)), TINY)


def pairs() -> PairBatches:
    rng = torch.Generator().manual_seed(3)
    # 13 pairs in batches of 4: the last batch has one row, which is too few to be dealt out.
    histories = [torch.randint(9, (1 + row % 3,), generator=rng).tolist() for row in range(13)]
    frame = pl.DataFrame({"user": range(13), "history": histories, "target": [row % 9 for row in range(13)]})
    return PairBatches(frame, 4)


def learn_pairs(folder: Path, **changes: object) -> Trained:
    model = recommender()
    config = TRAINING.model_copy(update=changes)
    told = fit(model, pairs(), config, checkpoints=folder / "pairs", seed=1)
    return [record.loss for record in told.history], model.t5.state_dict()


def learn_pairs_in_parts(folder: Path) -> Trained:
    """The same batches, of which a device holds one sample at a time."""
    return learn_pairs(folder / "parts", samples_at_once=1)


def learn_stretches(folder: Path) -> Trained:
    model, rng = recommender(), np.random.default_rng(4)
    sequences = [rng.integers(9, size=size).tolist() for size in (2, 3, 3, 4, 5, 5, 6, 9, 12)]
    batches = StretchBatches(sequences, 6, 4)
    told = fit(model, batches, TRAINING, checkpoints=folder / "stretches", seed=1)
    return [record.loss for record in told.history], model.t5.state_dict()


def learn_next_items(folder: Path, **changes: object) -> Trained:
    torch.manual_seed(9)
    model = SASRec(SASRecConfig(width=8, layers=1, dropout=0.0, max_history=4))
    model.build(DomainItems(np.arange(9)))
    rng = np.random.default_rng(4)
    sequences = [rng.integers(9, size=size).tolist() for size in (2, 3, 3, 4, 5, 5, 6, 9, 12)]
    batches = model.batches(sequences, range(9), 4)
    told = fit(model, batches, TRAINING.model_copy(update=changes), checkpoints=folder / "items", seed=1)
    return [record.loss for record in told.history], model.state_dict()


def learn_next_items_in_parts(folder: Path) -> Trained:
    """The same batches, of which a device holds one sample at a time."""
    return learn_next_items(folder / "parts", samples_at_once=1)


# Models whose losses draw negatives or compare the rows of a batch, and the phase that does so. What is drawn
# for the items that a process happens to read, as UniSRec's noise over several experts, is its own.
ITEM_MODELS: dict[str, tuple[str, dict[str, object], str]] = {
    "sasrec": ("sasrec:SASRec", {"objective": "bce"}, "training"),
    "gru4rec": ("gru4rec:GRU4Rec", {"objective": "bpr_max", "samples": 5, "hidden": 8}, "training"),
    "bert4rec": ("bert4rec:BERT4Rec", {"feed_forward": 8}, "training"),
    "unisrec": ("unisrec:UniSRec", {"experts": 1, "adaptor_dropout": 0.0, "drop": 0.0}, "pretraining"),
    "vqrec": ("vqrec:VQRec", {"codes": 2, "bits": 2}, "pretraining"),
    "missrec": ("missrec:MISSRec", {"heads": 2, "interest_weight": 0.1}, "pretraining"),
}


def learn_over_items(folder: Path, name: str) -> Trained:
    place, options, phase = ITEM_MODELS[name]
    module, _, kind = place.partition(":")
    component = getattr(import_module(f"genrec_lab.models.sequential.{module}"), kind)
    torch.manual_seed(9)
    model = component(component.Config(width=8, max_history=4, dropout=0.0, **options))
    rng = np.random.default_rng(4)
    text = rng.normal(size=(9, 6)).astype(np.float32)
    model.build(DomainItems(np.arange(9), users=np.arange(9), text=text, pictures=text[::-1]))
    sequences = [rng.integers(9, size=size).tolist() for size in (2, 3, 3, 4, 5, 5, 6, 9, 12)]
    model.begin(phase)
    rows: list[int] = []
    model.register_forward_pre_hook(
        lambda _, __, given: rows.append(len(given["sequences"])), with_kwargs=True
    )
    told = fit(model, model.batches(sequences, range(9), 4), TRAINING, checkpoints=folder / name, seed=1)
    if processes.number() == 0:
        (folder / f"rows-{name}.json").write_text(json.dumps(sum(rows)))
    weights = {key: one for key, one in model.state_dict().items() if not key.startswith("interests")}
    return [record.loss for record in told.history], weights


def learn_contrast(folder: Path) -> Trained:
    torch.manual_seed(5)
    model = Contrast()
    told = fit(model, Vectors(), TRAINING, checkpoints=folder / "contrast", seed=1)
    return [record.loss for record in told.history], model.state_dict()


def vectors() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(6)
    domains = np.arange(41) % 3
    return rng.normal(size=(41, 12)).astype(np.float32) + domains[:, None], domains


def learn_rqvae(folder: Path) -> Trained:
    x, domains = vectors()
    config = RQVAEConfig(hidden=(10,), levels=2, codebook_size=6, dimension=4, batch_size=8, epochs=4,
                         report_every=1, kmeans_init=True, contrastive_weight=0.1)  # fmt: skip
    model = RQVAE(config).fit(
        ItemContent.of(x, domains), seed=3, checkpoint=folder / "rqvae", checkpoint_every=2
    )
    return [epoch["loss"] for epoch in model.epochs], model.model.state_dict()


def learn_letter(folder: Path) -> Trained:
    x, domains = vectors()
    config = LetterConfig(hidden=(10,), levels=2, codebook_size=6, dimension=4, batch_size=8, epochs=3,
                          report_every=1, clusters=2, cluster_every=2)  # fmt: skip
    beside = np.random.default_rng(7).normal(size=(41, 4)).astype(np.float32)
    content = ItemContent.of(x, domains)
    model = Letter(config, collaborative=beside).fit(content, seed=3, checkpoint=folder / "letter")
    return [epoch["loss"] for epoch in model.epochs], model.model.state_dict()


def learn_tree(folder: Path) -> Trained:
    """With all that looks at a whole batch: negatives, means over words and pictures, statistics, k-means."""
    content = items(14, seed=8)
    content["has_picture"][2:7] = False
    quantizer = CONFIG.quantizer.model_copy(
        update={"kmeans_start": True, "restart_dead": True, "restart_every": 3}
    )
    decoder = CONFIG.decoder.model_copy(update={"masking": "mixed", "reduction": "code"})
    changes = {"quantizer": quantizer, "decoder": decoder, "standardise": True, "warm_up_steps": 3}
    model = TreeNetwork(
        ToyEncoder(),
        CONFIG.model_copy(update={**changes, "mu": 0.5, "lambda_code": 0.01}),
        torch.Generator().manual_seed(0),
    )
    neighbours = pl.DataFrame(
        {"item": range(14), "neighbours": [[(5 * item + 3) % 14] for item in range(14)]}
    )
    batches = NeighbourBatches(
        np.arange(14), neighbours, lambda rows, _: {name: t[rows] for name, t in content.items()}, 6
    )
    told = fit(model, batches, TRAINING, checkpoints=folder / "tree", seed=1)
    # Weights without influence, as a bias before the statistics, drift: AdamW scales what is all but zero.
    found = model.tokenize([content])
    return [record.loss for record in told.history], {"codes": torch.from_numpy(found.codes)}


def ranking(folder: Path) -> Trained:
    """Users ranked in shares come out in their order."""
    users = pl.DataFrame({"user": range(7)})

    def recommend(rows: pl.DataFrame) -> Ranked:
        assert rows.height == len(processes.own_rows(7))
        items = rows["user"].to_numpy()[:, None] * 10 + np.arange(3)
        return Ranked(items.astype(np.int64), -items.astype(np.float32))

    ranked = rank_in_shares(recommend, users)
    return ranked.scores.flatten().tolist(), {"items": torch.from_numpy(ranked.items)}


class Settings(BaseModel):
    """The config of a run that trains nothing."""

    tokenizer: int = 3


def note(work: Work, tokenizer: int) -> None:
    """What makes a result: a file that says which process wrote it."""
    (work.folder / "made.txt").write_text(f"process {processes.number()}, {tokenizer}")


def result_of_two(folder: Path) -> Trained:
    """A result that all processes make together: one of them writes, and all read."""
    task = Task("01_data_preparation", "note", note, given={"tokenizer": 3})
    with mock.patch.object(store, "load_config", return_value=Settings(), create=True):
        run = store.open_run("shared", dataset={"name": "bazaar"}, preset="tiny", root=folder)
        made = [(run.make(task) / "made.txt").read_text() for _ in range(2)]
    assert made == ["process 0, 3"] * 2
    return [2.0, 1.0], {"read": torch.ones(1)}


WORK: dict[str, Callable[[Path], Trained]] = {
    "pairs": learn_pairs,
    "pairs in parts": learn_pairs_in_parts,
    "stretches": learn_stretches,
    "items": learn_next_items,
    "items in parts": learn_next_items_in_parts,
    "contrast": learn_contrast,
    **{name: partial(learn_over_items, name=name) for name in ITEM_MODELS},
    "rqvae": learn_rqvae,
    "letter": learn_letter,
    "tree": learn_tree,
    "ranking": ranking,
    "result": result_of_two,
}


def main(folder: Path) -> None:
    """Do all work; write losses and weights of each, by the number of the process."""
    rank = processes.number()
    told = {}
    for name, work in WORK.items():
        losses, weights = work(folder)
        told[name] = losses
        flat = {key: tensor.clone().contiguous() for key, tensor in weights.items()}
        save_file(flat, folder / f"{name}-{rank}.safetensors")
    (folder / f"losses-{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
