"""The frozen networks of the compact encoder: states of text tokens, features of pictures."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from genrec_lab.encoders import efficientnet
from genrec_lab.encoders.text import load_token_model, model_identity, resolve_model

_TEXT_BATCH, _PICTURE_BATCH = 32, 4
HASHED = "hash"
_UNUSED = re.compile(r"\[unused\d+\]")


class TextStates(Protocol):
    """A frozen text model, token by token.

    `width` is the numbers of a state and of a word vector, `identity` tells models apart in a cache.
    """

    width: int
    identity: str

    def split(self, texts: Sequence[str]) -> list[list[int]]:
        """The word pieces of each text, without special tokens and uncut."""

    def states(self, texts: Sequence[str], most: int) -> list[Tensor]:
        """Half-precision states (n, width) of each text's first `most` pieces, special tokens included."""

    def vectors(self, pieces: Sequence[int]) -> Tensor:
        """The word vectors (n, width) of some pieces, float32."""

    def words(self, pieces: Sequence[int]) -> list[str]:
        """What the pieces look like."""

    def ordinary(self) -> list[int]:
        """Every piece that a text may hold, special ones left out, ascending."""


class ModelStates:
    """Hidden states of a transformer such as MiniLM; its tokenizer gives the pieces."""

    def __init__(self, name: str) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer, model = load_token_model(name)
        self.model: Any = model.to(self.device).eval().requires_grad_(False)
        self.table: Tensor = self.model.get_input_embeddings().weight.detach()
        self.width = int(self.table.shape[1])
        self.identity = model_identity(resolve_model(name))

    def split(self, texts: Sequence[str]) -> list[list[int]]:
        """See TextStates."""
        # verbose: no warning that a text is longer than the model reads; what is cut is counted elsewhere.
        return self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]

    @torch.inference_mode()
    def states(self, texts: Sequence[str], most: int) -> list[Tensor]:
        """See TextStates."""
        special = self.tokenizer.num_special_tokens_to_add()
        rows = self.tokenizer(list(texts), truncation=True, max_length=most + special)["input_ids"]
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        for start in range(0, len(rows), _TEXT_BATCH):
            chosen = order[start : start + _TEXT_BATCH]
            lengths = torch.tensor([len(rows[i]) for i in chosen])
            ids = torch.zeros(len(chosen), int(lengths.max()), dtype=torch.long)
            for line, i in zip(ids, chosen, strict=True):
                line[: len(rows[i])] = torch.tensor(rows[i])
            mask = torch.arange(ids.shape[1]) < lengths[:, None]
            hidden = self.model(ids.to(self.device), attention_mask=mask.long().to(self.device))
            for i, states in zip(chosen, hidden.last_hidden_state.cpu(), strict=True):
                found[i] = states[: len(rows[i])].half()
        return found

    def vectors(self, pieces: Sequence[int]) -> Tensor:
        """See TextStates."""
        return self.table[torch.tensor(pieces, device=self.table.device)].float().cpu()

    def words(self, pieces: Sequence[int]) -> list[str]:
        """See TextStates."""
        return self.tokenizer.convert_ids_to_tokens(list(pieces))

    def ordinary(self) -> list[int]:
        """See TextStates."""
        special = set(self.tokenizer.all_special_ids)
        names = self.tokenizer.convert_ids_to_tokens(range(len(self.table)))
        return [i for i, name in enumerate(names) if i not in special and not _UNUSED.fullmatch(name)]


class HashedStates:
    """Words as fixed random vectors by their hash: no weights and no meaning, for the smallest runs."""

    width = 64
    identity = "hashed words, 64 numbers"
    _SIZE = 16_384

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randn(self._SIZE, self.width, generator=generator) / self.width**0.5
        self._seen: dict[int, str] = {}

    def split(self, texts: Sequence[str]) -> list[list[int]]:
        """See TextStates."""
        rows = []
        for text in texts:
            words = re.findall(r"\w+", text.lower())
            row = [1 + int.from_bytes(_digest(word), "little") % (self._SIZE - 1) for word in words]
            self._seen.update(zip(row, words, strict=True))
            rows.append(row)
        return rows

    def states(self, texts: Sequence[str], most: int) -> list[Tensor]:
        """See TextStates."""
        # Piece 0 stands before every text, so that an empty one has a state too.
        return [self.vectors([0, *row[:most]]).half() for row in self.split(texts)]

    def vectors(self, pieces: Sequence[int]) -> Tensor:
        """See TextStates."""
        return self.table[torch.tensor(pieces)]

    def words(self, pieces: Sequence[int]) -> list[str]:
        """See TextStates; a piece whose word was never met is shown by its number."""
        return [self._seen.get(piece, f"#{piece}") for piece in pieces]

    def ordinary(self) -> list[int]:
        """See TextStates."""
        return list(range(1, self._SIZE))


def text_states(name: str) -> TextStates:
    """The frozen text model of this name; raises TextModelError where it cannot be loaded."""
    return HashedStates() if name == HASHED else ModelStates(name)


class PictureFeatures:
    """A frozen picture model: features (places, width) of the centre square of a picture.

    `kind` is "efficientnet-lite0" (7 x 7 places of 320 numbers) or "pixels" (7 x 7 places of 4 x 4 mean
    colours), which needs no weights.
    """

    places = (efficientnet.SIDE // efficientnet.REDUCTION) ** 2

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.width = efficientnet.WIDTH if kind == "efficientnet-lite0" else 48
        self._model: efficientnet.EfficientNetLite0 | None = None

    @torch.inference_mode()
    def of(self, images: Tensor) -> Tensor:
        """Squares (B, 3, 224, 224) in 0..1 to (B, places, width), half precision."""
        if self.kind == "pixels":
            means = functional.adaptive_avg_pool2d(2 * images - 1, 28)
            return functional.unfold(means, 4, stride=4).transpose(1, 2).half()
        if self._model is None:
            # channels_last and small batches: on a CPU the convolutions run two to three times as fast.
            model = efficientnet.EfficientNetLite0.pretrained().to(self.device)
            self._model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        parts = [
            self._model(part.to(self.device, memory_format=torch.channels_last)).flatten(2).transpose(1, 2)
            for part in images.split(_PICTURE_BATCH)
        ]
        return torch.cat(parts).half().cpu()


def _digest(word: str) -> bytes:
    return hashlib.blake2b(word.encode(), digest_size=8).digest()
