"""The base of all models over items, which score each item of a domain after a history of items.

A model serves one domain. Its own file holds its config, network and loss; this file holds training by
phases, scoring, saving and loading.
Letters: B users, T positions of a sequence, N items of the domain, V dimensions of a text vector.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import polars as pl
import torch
from pydantic import Field
from safetensors import numpy as arrays
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.data import Dataset
from genrec_lab.data.batches import padded
from genrec_lab.data.item_text import item_attributes
from genrec_lab.decoding import Histories, Ranked
from genrec_lab.models.hub import FILES, FILES_OF_ITEM_MODELS
from genrec_lab.models.recommenders.base import (
    Callbacks,
    ItemRecommender,
    Need,
    TrainingData,
    callbacks_of,
    pretrains,
)
from genrec_lab.models.sequential.batches import SequenceBatches, Undivided, places_of
from genrec_lab.registry import ComponentConfig
from genrec_lab.training import Batches, TrainingConfig, TrainingResult, content_hash, validator
from genrec_lab.training import fit as train
from genrec_lab.training.devices import moved, placed

_WEIGHTS, _CONFIG, _ARRAYS, _WORDS = "model.safetensors", "config.json", "domain.safetensors", "words.parquet"


class ItemModelConfig(ComponentConfig):
    """The base of all item models' configs; each adds its sizes and its `kind`."""

    max_history: int = Field(20, ge=1)  # only the most recent items are read


class Phase(NamedTuple):
    """One of the trainings of a model, in order."""

    name: str = "training"
    # True: trained once on all pre-training domains together; each domain's model starts from it.
    shared: bool = False
    budget: Literal["training", "pretraining"] = "training"  # which TrainingConfig of `fit`
    validated: bool = True  # False: no validation and no early stopping; keeps the last weights
    epochs: int | None = None  # an upper limit in addition to the budget's


PRETRAINING = Phase("pretraining", shared=True, budget="pretraining", validated=False)


@dataclass(frozen=True, eq=False)
class DomainItems:
    """The items of one or more domains; row i of every table describes `items[i]`."""

    items: np.ndarray  # (N,) int64, indices over all domains, ascending
    users: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))  # (U,) int64, ascending
    text: np.ndarray | None = None  # (N, V) float32, from `encode_texts`
    pictures: np.ndarray | None = None  # (N, V) float32
    words: pl.DataFrame | None = None  # N rows of Dataset.items

    def __post_init__(self) -> None:
        """Check the order of ids and the number of rows; raises ValueError."""
        for name in ("items", "users"):
            ids = np.asarray(getattr(self, name), dtype=np.int64)
            if (np.diff(ids) <= 0).any():
                raise ValueError(f"the domain's {name} are not ascending and distinct; sort them")
            object.__setattr__(self, name, ids)
        if not len(self.items):
            raise ValueError("the domain has no items; there is nothing to recommend")
        for need, table in self._tables().items():
            if table is not None and len(table) != len(self.items):
                raise ValueError(
                    f"{need} has {len(table)} rows for {len(self.items)} items; expected one row per item"
                )

    def require(self, needs: Sequence[Need], model: str) -> None:
        """Raise ValueError, naming the model, if one of the needs is missing."""
        if missing := [need for need in needs if self._tables()[need] is None]:
            need = missing[0]
            raise ValueError(
                f"{model} needs {need} of its items; pass it to fit, or DomainItems(…, {need}=…)"
            )

    def user_places(self, users: Sequence[int]) -> np.ndarray:
        """Return (B,) positions in `users`, -1 for unknown users."""
        wanted = np.asarray(users, dtype=np.int64)
        if not len(self.users):
            return np.full(len(wanted), -1, dtype=np.int64)
        places = np.minimum(np.searchsorted(self.users, wanted), len(self.users) - 1)
        return np.where(self.users[places] == wanted, places, -1)

    def text_vectors(self) -> Tensor:
        """Return the text vectors (N, V) as a tensor; they must be available."""
        return torch.from_numpy(np.ascontiguousarray(self.text, dtype=np.float32))

    def attributes(self, least_items: int) -> Tensor:
        """Return which attributes the items have, (N, A) bool, by the rule of `data/item_attributes.py`.

        `words` must be available. Raises DataError if no attribute is left.
        """
        assert self.words is not None  # noqa: S101 - checked by `require`
        return torch.from_numpy(item_attributes(self.words, least_items).of_items)

    def write(self, folder: Path, needs: Sequence[Need]) -> None:
        """Write items, users and those of the needed tables that are there into a folder."""
        vectors = {"text": self.text, "pictures": self.pictures}
        held = {"items": self.items, "users": self.users}
        held |= {name: array for name, array in vectors.items() if name in needs and array is not None}
        arrays.save_file({name: np.ascontiguousarray(one) for name, one in held.items()}, folder / _ARRAYS)
        if "words" in needs and self.words is not None:
            self.words.write_parquet(folder / _WORDS)

    @classmethod
    def read(cls, folder: Path) -> DomainItems:
        """Read what `write` wrote."""
        words = folder / _WORDS
        table = pl.read_parquet(words) if words.is_file() else None
        return cls(**arrays.load_file(folder / _ARRAYS), words=table)

    def _tables(self) -> dict[Need, np.ndarray | pl.DataFrame | None]:
        return {"text": self.text, "pictures": self.pictures, "words": self.words}


class ItemModel(nn.Module, ItemRecommender):
    """A recommender that scores all items of its domain given a history.

    `fit` creates and trains the network, `build` only creates it. A subclass sets `Config`, and may set
    `needs`, `takes`, `phases`, `own_weights` and `divisible`. It defines `make`, `logits` and `forward`, the
    loss of a batch, and may define `batches` and `begin`. After `fit`, `results_` holds the history of each
    phase by its name.
    """

    Config: ClassVar[type[ItemModelConfig]]
    config: Any
    shared_files: ClassVar[tuple[str, ...]] = (*FILES, *FILES_OF_ITEM_MODELS)
    phases: ClassVar[tuple[Phase, ...]] = (Phase(),)
    # Names, or prefixes of names, of weights that belong to one domain's items; `start_from` skips them.
    own_weights: ClassVar[tuple[str, ...]] = ("embedding.",)
    # Whether several processes may share a batch. If so, the loss must gather rows that it compares from all
    # processes (`training.processes`), and draw random numbers for the rows of all of them.
    divisible: ClassVar[bool] = False
    knows_users: ClassVar[bool] = False  # whether `logits` uses the users

    def __init__(self, config: ItemModelConfig | None = None) -> None:
        """Set the config, by default `Config()`; `fit`, `build` or `load` creates the network."""
        super().__init__()
        self.config = config or self.Config()
        self.phase = self.phases[-1].name
        self.results_: dict[str, TrainingResult] = {}
        self.pretrained = False  # whether it started from another model's weights
        self._domain: DomainItems | None = None

    @property
    def domain(self) -> DomainItems:
        """The domain's items and users; raises RuntimeError before `fit`."""
        if self._domain is None:
            raise RuntimeError(f"{type(self).__name__} has no items yet; call fit or load first")
        return self._domain

    def build(self, domain: DomainItems) -> Self:
        """Create the network for a domain, with weights drawn from torch's generator.

        Raises ValueError if the domain lacks something that the model needs.
        """
        domain.require(self.needs, type(self).__name__)
        self._domain, self.items, self.pretrained = domain, domain.items, False
        self.make()
        return self

    def make(self) -> None:
        """Create the network for `domain` and `config`."""
        raise TypeError(f"{type(self).__name__} defines no make")

    def logits(self, sequences: Tensor, users: Tensor) -> Tensor:
        """Return the scores (B, N) of each item as the next one.

        `sequences` (B, T) holds positions in `items`, oldest first, padded on the right with -1; none is
        empty. `users` (B,) holds positions in the domain's users, -1 for unknown users.
        """
        raise TypeError(f"{type(self).__name__} defines no logits")

    # --- training

    def batches(self, sequences: Sequence[Sequence[int]], users: Sequence[int], batch_size: int) -> Batches:
        """Return the batches of an epoch of the current phase; `forward` is called with each batch.

        `sequences` holds the training items, oldest first, and `users` their users.
        """
        return SequenceBatches(self.items, sequences, batch_size, self.config.max_history)

    def begin(self, phase: str) -> None:
        """Prepare the model for a phase, given by its name, for example by freezing some weights."""
        self.phase = phase

    def start_from(self, pretrained: ItemModel) -> None:
        """Copy the weights of a model with the same config, except those in `own_weights`."""
        weights = pretrained.state_dict().items()
        taken = {name: weight for name, weight in weights if not name.startswith(self.own_weights)}
        missing, unexpected = self.load_state_dict(taken, strict=False)
        lost = [name for name in missing if not name.startswith(self.own_weights)]
        if lost or unexpected:
            raise ValueError(
                f"{type(self).__name__} cannot start from another {type(pretrained).__name__}: "
                f"{[*lost, *unexpected][0]!r} is in only one of them; name the weights of one domain's items "
                "in own_weights"
            )
        self.pretrained = True

    def fit(
        self,
        data: Dataset | TrainingData,
        *,
        training: TrainingConfig | None = None,
        pretraining: TrainingConfig | None = None,
        pretrained: ItemModel | None = None,
        text: np.ndarray | None = None,
        pictures: np.ndarray | None = None,
        seed: int = 0,
        callbacks: Callbacks = (),
        checkpoints: Path | None = None,
    ) -> Self:
        """Create the network for the only domain of the data, train it in its phases, and return it.

        training, pretraining: the budgets of the phases, by default `TrainingConfig()`. pretrained: a model
        after `pretrain`; without it, a model with shared phases runs them on this domain. text, pictures:
        vectors of the items of the whole data set, (items, V), for models that read them. callbacks: for all
        phases, or a function from a phase's name to its callbacks. checkpoints: a folder from which an
        interrupted training resumes. Raises ValueError for data of several domains, if something that the
        model needs is missing, and for checkpoints of other settings or data.

            SASRec(SASRec.Config()).fit(dataset.select("Garden")).recommend([[3, 14]], top_k=10)
        """
        learnt = TrainingData.of(data, max_history=self.config.max_history)
        if len(learnt.domains) != 1:
            raise ValueError(
                f"{type(self).__name__} serves one domain, but the data have {list(learnt.domains)}; pass "
                f"the data of one, such as dataset.select({learnt.domains[0]!r})"
            )
        given: dict[str, Any] = {"training": training, "pretraining": pretraining, "text": text}
        given |= {"pictures": pictures, "seed": seed, "callbacks": callbacks, "checkpoints": checkpoints}
        given_weights = None
        if pretrained is not None and checkpoints is not None:
            given_weights = content_hash(*pretrained.state_dict().values())
        if pretrained is None and pretrains(type(self)):
            pretrained = type(self)(self.config).pretrain(learnt, **given)
        return self._train(learnt, False, pretrained, given_weights, **given)

    def pretrain(self, data: Dataset | TrainingData, **given: Any) -> Self:
        """Create the network for all domains of the data and train its shared phases.

        `given` holds arguments of `fit`; pass the result to `fit(…, pretrained=…)`.
        """
        learnt = TrainingData.of(data, max_history=self.config.max_history)
        return self._train(learnt, True, **given)

    def _train(
        self,
        data: TrainingData,
        shared: bool,
        pretrained: ItemModel | None = None,
        given_weights: str | None = None,
        *,
        training: TrainingConfig | None = None,
        pretraining: TrainingConfig | None = None,
        text: np.ndarray | None = None,
        pictures: np.ndarray | None = None,
        seed: int = 0,
        callbacks: Callbacks = (),
        checkpoints: Path | None = None,
    ) -> Self:
        """Create the network and run the shared phases, or the other ones.

        given_weights: the hash of the pre-trained weights, if the caller of `fit` gave them.
        """
        torch.manual_seed(seed)
        items, read = data.items["item"].to_numpy(), (*self.needs, *self.takes)
        vectors = {
            name: np.ascontiguousarray(of_all[items])
            for name, of_all in (("text", text), ("pictures", pictures))
            if name in read and of_all is not None
        }
        budgets = {"training": training, "pretraining": pretraining}
        sequences, users = data.sequences["items"].to_list(), data.sequences["user"].to_list()
        words = data.items if "words" in read else None
        self.build(DomainItems(items, np.array(users, dtype=np.int64), words=words, **vectors))
        if pretrained is not None:
            self.start_from(pretrained)
        identity: dict[str, Any] = {}
        if checkpoints is not None:
            described = None if words is None else words.select(pl.exclude(pl.Binary, pl.Object))
            identity = {
                **self.config.model_dump(mode="json"),
                "pretrained": given_weights,
                "items": content_hash(items, described, *vectors.values()),
                "sequences": content_hash(data.sequences),
                "validation": content_hash(data.valid),
            }

        def recommend(users: pl.DataFrame) -> Ranked:
            return self.recommend(users["history"].to_list(), 10, users["user"].to_list())

        validated = False
        for phase in (one for one in self.phases if one.shared is shared):
            config = budgets[phase.budget] or TrainingConfig()
            if phase.epochs is not None:
                fewer = {"epochs": min(config.epochs, phase.epochs), "least_steps": 0}
                config = config.model_copy(update=fewer)
            if phase.validated and validated:  # its start, the best of the phase before, may be better
                config = config.model_copy(update={"validate_from": 0})
            validated = validated or phase.validated
            self.begin(phase.name)
            validate = validator(recommend, data.valid, config.validation_users, seed)
            batches = self.batches(sequences, users, config.batch_size)
            self.results_[phase.name] = train(
                self,
                batches if self.divisible else Undivided(batches),
                config,
                validate=validate if phase.validated else None,
                callbacks=callbacks_of(callbacks, phase.name),
                checkpoints=checkpoints / phase.name if checkpoints else None,
                identity=identity,
                seed=seed,
            )
        return self

    # --- scores

    @torch.inference_mode()
    def score(self, histories: Histories, users: Sequence[int] | None = None) -> np.ndarray:
        """Return log-probabilities (B, N) of the domain's items given histories of items, oldest first.

        users: the histories' users, for models that use them. Raises ValueError for an empty history
        and for an item of another domain.
        """
        self.eval()
        rows = []
        for row, history in enumerate(histories):
            if not len(history):
                raise ValueError(f"history {row} is empty; {type(self).__name__} needs at least one item")
            recent = np.asarray(history, dtype=np.int64)[-self.config.max_history :]
            rows.append(places_of(self.items, recent, f"history {row}"))
        device = next(self.parameters()).device
        sequences = moved(padded(rows), device)
        known = self.domain.user_places([-1] * len(rows) if users is None else users)
        with self.scoring():
            logits = self.logits(sequences, moved(torch.from_numpy(known), device))
        return F.log_softmax(logits.float(), dim=-1).cpu().numpy()

    # --- files

    def save(self, folder: Path) -> Path:
        """Write weights, config and the needed data of the domain into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: part.contiguous() for name, part in self.state_dict().items()}, folder / _WEIGHTS)
        self.domain.write(folder, (*self.needs, *self.takes))
        (folder / _CONFIG).write_text(json.dumps(self.config.model_dump(), indent=2))
        return folder

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a model that `save` wrote, onto the device of this process."""
        model = cls(cls.Config.model_validate_json((folder / _CONFIG).read_text()))
        model.build(DomainItems.read(folder))
        model.load_state_dict(load_file(folder / _WEIGHTS))
        return placed(model).eval()
