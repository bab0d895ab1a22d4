"""The T5 for onnxruntime: two graphs with dynamic shapes, with the same search. Needs the extra `serve`.

Letters: B users, S tokens of a history, M beams, T codes of a prefix, D width, K codes of a level, V tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.codes import PAD, ItemCodes
from genrec_lab.decoding import Histories
from genrec_lab.models.hub import ITEM_COLUMNS
from genrec_lab.models.recommenders.recommender import Recommender

_GRAPHS = ("encoder.onnx", "decoder.onnx")


class _Encoder(nn.Module):
    """Tokens and mask (B, S) -> hidden states (B, S, D)."""

    def __init__(self, model: Recommender) -> None:
        super().__init__()
        self.t5, self.levels = model.t5, model.codes.levels
        self.reads_past = model.config.reads == "past"

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        items = torch.arange(tokens.shape[1], device=tokens.device) // self.levels
        return self.t5.encode(tokens, mask, items if self.reads_past else None)


class _Decoder(nn.Module):
    """Prefixes (B, M, T), hidden states (B, S, D), mask (B, S) -> logits (B, M, V) of the next token."""

    def __init__(self, model: Recommender) -> None:
        super().__init__()
        self.t5 = model.t5

    def forward(self, prefixes: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        return self.t5.decode(prefixes, self.t5.remember(hidden, mask))[:, :, -1]


def export_onnx(model: Recommender, folder: str | Path) -> Path:
    """Write a recommender with its adapter merged: `encoder.onnx`, `decoder.onnx`, config and identifiers."""
    target, merged = Path(folder), model.merged().eval()
    target.mkdir(parents=True, exist_ok=True)
    users, tokens, beams, prefix = (torch.export.Dim(name, min=1) for name in ("B", "S", "M", "T"))
    read = torch.full((2, 5), PAD), torch.ones((2, 5), dtype=torch.long)
    hidden = torch.zeros(2, 5, merged.config.d_model)
    for part, given, shapes, file in (
        (_Encoder(merged), read, ({0: users, 1: tokens},) * 2, _GRAPHS[0]),
        (
            _Decoder(merged),
            (torch.full((2, 3, 2), PAD), hidden, read[1]),
            ({0: users, 1: beams, 2: prefix}, {0: users, 1: tokens}, {0: users, 1: tokens}),
            _GRAPHS[1],
        ),
    ):
        torch.onnx.export(
            part.eval(), given, str(target / file), dynamo=True, dynamic_shapes=shapes, external_data=False,
            verbose=False,
        )  # fmt: skip
    merged.codes.write(target / "codes.parquet")
    (target / "config.json").write_text(merged.config.model_dump_json(indent=2))
    if merged.shared_items is not None:
        merged.shared_items.select(ITEM_COLUMNS).write_parquet(target / "items.parquet")
    return target


class _Memory(NamedTuple):
    """The encoded histories."""

    hidden: np.ndarray  # (B, S, D) float32
    mask: np.ndarray  # (B, S)

    def of_users(self, users: Tensor) -> _Memory:
        return _Memory(self.hidden[users.numpy()], self.mask[users.numpy()])


class _Prefixes(NamedTuple):
    """The tokens of each beam so far; every step decodes all of them, because they are few."""

    tokens: Tensor  # (B, M, T)

    def of_users(self, users: Tensor) -> _Prefixes:
        return _Prefixes(self.tokens[users])


class OnnxRecommender(Recommender):
    """A recommender whose network runs in onnxruntime on the CPU, with the original's recommendations."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        from onnxruntime import InferenceSession, SessionOptions

        config = self.Config.model_validate_json((folder / "config.json").read_text())
        with torch.device("meta"):  # the weights are in the graphs
            super().__init__(ItemCodes.read(folder / "codes.parquet"), config)
        options = SessionOptions()
        options.intra_op_num_threads = threads
        self._encoder, self._decoder = (
            InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
            for name in _GRAPHS
        )

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load what `export_onnx` wrote; raises FileNotFoundError if a file is missing."""
        place = Path(folder)
        for name in (*_GRAPHS, "codes.parquet", "config.json"):
            if not (place / name).is_file():
                raise FileNotFoundError(
                    f"{place / name} is missing; expected a folder that export_onnx wrote"
                )
        model = cls(place)
        if (place / "items.parquet").is_file():
            model.shared_items = pl.read_parquet(place / "items.parquet")
        return model.eval()

    def save(self, folder: str | Path) -> Path:
        """Raise TypeError, because the graphs are the model."""
        raise TypeError("an OnnxRecommender consists of its folder of graphs; copy that folder")

    def remember(self, histories: Histories) -> Any:
        """Encode B histories once."""
        read = self.inputs(histories)
        tokens, mask = read["input_ids"].numpy(), read["attention_mask"].numpy()
        return _Memory(self._run(self._encoder, tokens, mask), mask)

    def step(
        self, memory: Any, codes: Tensor | None, cache: Any, parents: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Advance one level: codes (B, M) below the beams `parents` -> log-probabilities (B, M, K), cache."""
        if cache is None or codes is None or parents is None:
            tokens = torch.full((len(memory.mask), 1, 1), PAD)
        else:
            level = cache.tokens.shape[2] - 1
            before = cache.tokens.gather(1, parents[..., None].expand(-1, -1, level + 1))
            tokens = F.pad(before, (0, 1))
            tokens[..., -1] = codes + self.codes.offsets[level]
        logits = torch.from_numpy(self._run(self._decoder, tokens.numpy(), memory.hidden, memory.mask))
        return self.level_log_probs(logits, tokens.shape[2] - 1), _Prefixes(tokens)

    def _run(self, session: Any, *arrays: np.ndarray) -> np.ndarray:
        names: Sequence[str] = [one.name for one in session.get_inputs()]
        given = {name: np.ascontiguousarray(one) for name, one in zip(names, arrays, strict=True)}
        return session.run(None, given)[0]
