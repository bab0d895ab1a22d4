"""What every recommender over items shares, whatever its network: items in, a score for each item out.

A model serves one domain. Its file holds its network, its config and its loss; this one turns histories into
places of the domain's items, scores into ranked items, and a model into files and back.
Letters: B users, T places of a sequence, D width, N items of the domain.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.decoding import Histories, Ranked
from genrec_lab.models.catalogue import rank_by_score
from genrec_lab.models.sequential.domain_items import DomainItems, Need
from genrec_lab.models.sequential.sequence_batches import ItemBatches, SequenceBatches, padded, places_of


class ItemModelConfig(BaseModel):
    """What the configs of all item models have; each adds its sizes and a `kind` that names it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_history: int = Field(20, ge=1)  # the most recent items that are read


class Phase(NamedTuple):
    """One of the trainings that a model goes through, in order."""

    name: str = "training"
    # Once for the run, on the sequences of all domains together; each domain's model then starts from it.
    shared: bool = False
    budget: Literal["training", "pretraining"] = "training"  # which of the row's two TrainingConfigs
    validated: bool = True  # False: no validation and no early stopping, the last weights are kept
    epochs: int | None = None  # at most so many, whatever the budget says


class ItemModel(nn.Module):
    """A recommender that scores all items of its domain after a history.

    A model's file sets `Config`, and `needs`, `takes`, `phases` and `own_weights` where they differ from
    these; it defines `logits` and `forward`, the loss of a batch, and may define `batches` and `begin`.
    """

    Config: ClassVar[type[ItemModelConfig]]
    needs: ClassVar[tuple[Need, ...]] = ()  # parts of DomainItems without which there is no such model
    takes: ClassVar[tuple[Need, ...]] = ()  # parts that it reads where they are there
    phases: ClassVar[tuple[Phase, ...]] = (Phase(),)
    # Names, or beginnings of names, of weights that belong to one domain's items: `start_from` leaves them.
    own_weights: ClassVar[tuple[str, ...]] = ("embedding.",)

    def __init__(self, domain: DomainItems, config: ItemModelConfig) -> None:
        """Hold the domain; ValueError where it lacks what the model needs."""
        super().__init__()
        domain.require(self.needs, type(self).__name__)
        self.domain = domain
        self.config = config
        self.phase = self.phases[-1].name

    @property
    def items(self) -> np.ndarray:
        """(N,) the domain's indices over all domains, ascending."""
        return self.domain.items

    def logits(self, sequences: Tensor, users: Tensor) -> Tensor:
        """Return (B, N): how well each item goes next.

        `sequences` (B, T) are places in `items`, oldest first, padded at the right with -1; each has an item.
        `users` (B,) are places in the domain's users, -1 where the user is not known.
        """
        raise TypeError(f"{type(self).__name__} defines no logits")

    def batches(
        self, sequences: Sequence[Sequence[int]], users: Sequence[int], batch_size: int
    ) -> ItemBatches:
        """Return what an epoch of the current phase is made of; `forward` is called with each batch.

        `sequences` are items oldest first, of the training part, `users` whose they are.
        """
        return SequenceBatches(self.items, sequences, batch_size, self.config.max_history)

    def begin(self, phase: str) -> None:
        """Make ready for one of `phases`, named; what it freezes or computes anew is the model's own."""
        self.phase = phase

    def start_from(self, pretrained: ItemModel) -> None:
        """Take over the weights of a model of the same config, but for those in `own_weights`."""
        taken = {
            name: weight
            for name, weight in pretrained.state_dict().items()
            if not name.startswith(self.own_weights)
        }
        missing, unexpected = self.load_state_dict(taken, strict=False)
        lost = [name for name in missing if not name.startswith(self.own_weights)]
        if lost or unexpected:
            raise ValueError(
                f"{type(self).__name__} cannot start from another {type(pretrained).__name__}: "
                f"{[*lost, *unexpected][0]!r} is in only one of them; name the weights of one domain's items "
                "in own_weights"
            )

    @torch.inference_mode()
    def score(self, histories: Histories, users: Sequence[int] | None = None) -> np.ndarray:
        """Return log-probabilities (B, N) of the domain's items after histories of items, oldest first.

        `users` tell models that know users whose histories they are; others do not ask. Raises ValueError
        for an empty history or an item of another domain.
        """
        self.eval()
        rows = [self._places_of(row, history) for row, history in enumerate(histories)]
        device = next(self.parameters()).device
        sequences = padded(rows, max(map(len, rows))).to(device)
        known = self.domain.user_places([-1] * len(rows) if users is None else users)
        logits = self.logits(sequences, torch.from_numpy(known).to(device))
        return F.log_softmax(logits.float(), dim=-1).cpu().numpy()

    def recommend(self, histories: Histories, top_k: int, users: Sequence[int] | None = None) -> Ranked:
        """Return the top_k items of the domain for each history; -1 and -inf past the last item of all."""
        if users is None:
            users = [-1] * len(histories)
        rows = list(zip(histories, users, strict=True))
        return rank_by_score(
            lambda part: self.score([history for history, _ in part], [user for _, user in part]),
            rows,
            self.items,
            top_k,
        )

    def _places_of(self, row: int, history: Sequence[int]) -> np.ndarray:
        """Turn item indices into the domain's own, the most recent `max_history` of them."""
        if not len(history):
            raise ValueError(f"history {row} is empty; {type(self).__name__} needs at least one item")
        recent = np.asarray(history, dtype=np.int64)[-self.config.max_history :]
        return places_of(self.items, recent, f"history {row}")

    def save(self, folder: Path) -> Path:
        """Write weights, config and what the model needs of its domain into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: part.contiguous() for name, part in self.state_dict().items()}, folder / _WEIGHTS)
        self.domain.write(folder, (*self.needs, *self.domain.present(self.takes)))
        (folder / _CONFIG).write_text(json.dumps(self.config.model_dump(), indent=2))
        return folder

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        config = cls.Config.model_validate_json((folder / _CONFIG).read_text())
        model = cls(DomainItems.read(folder), config)
        model.load_state_dict(load_file(folder / _WEIGHTS))
        return model.eval()


_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
