"""UTGRec's tokenizer: pre-trained over domains, it names items of others and can be fine-tuned on one.

Shapes: N items of a catalogue, n of them, L levels, l of a prefix, d_c code dimensions, V words, S pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import polars as pl
import torch
from safetensors import safe_open
from torch import Tensor

from genrec_lab.data.batches import NeighbourBatches
from genrec_lab.data.preparation import neighbours_in
from genrec_lab.encoders import ENCODERS
from genrec_lab.encoders.compact import CompactConfig
from genrec_lab.encoders.content import PreparedContent, content_of
from genrec_lab.models.tokenizers.base import Content, ItemContent, OnEpoch, Quantizing, Tokenized
from genrec_lab.models.tokenizers.content_decoders import DecoderConfig
from genrec_lab.models.tokenizers.epochs import Lesson, train_in_epochs
from genrec_lab.models.tokenizers.tree_network import Batch, TreeNetwork, TreeTokenizerConfig
from genrec_lab.models.tokenizers.tree_quantizer import TreeQuantizerConfig
from genrec_lab.registry import ComponentConfig, component_config
from genrec_lab.training import TrainingConfig, placed, processes

_AT_ONCE = 256  # items that are tokenised together


class TreeTokenizer(Quantizing):
    """UTGRec's tokenizer over texts and pictures; its levels are parts of an item's content, side by side.

    content: settings of the encoder that reads an item. tokenizer_training: a TrainingConfig.
    The records of its training have the mean terms of Eq. 13 before their weights.
    """

    Config = TreeTokenizerConfig
    needs = ("text",)
    settings = ("content", "tokenizer_training")
    transfers = True
    decodes = True
    content: ComponentConfig = CompactConfig()
    tokenizer_training: TrainingConfig = TrainingConfig()

    model: TreeNetwork  # after `fit` or `load`
    catalogue_words: list[str] | None = None  # to rebuild, of an encoder that takes those of a catalogue
    # The items whose content the encoder has made ready, and that content.
    prepared: tuple[pl.DataFrame, PreparedContent] | None = None

    @classmethod
    def check_method(cls, config: TreeTokenizerConfig, method: Mapping[str, Any]) -> None:
        """Raise ValueError where encoder and codebooks differ in levels, or pictures are read twice."""
        levels = config.quantizer.levels
        if method["content"].levels != levels:
            raise ValueError(
                f"content.levels is {method['content'].levels}, tokenizer.quantizer.levels is {levels}; "
                "set both to the same number"
            )
        if method["pictures"] != "none":
            raise ValueError(
                f"pictures is {method['pictures']!r} with a tokenizer of kind 'tree', which reads pictures "
                "by `content`; set pictures to 'none'"
            )

    def fit(
        self, content: Content, *, seed: int = 0, on_epoch: OnEpoch = None, checkpoint: Path | None = None
    ) -> Self:
        """Pre-train on a dataset's items beside their neighbours in sequences (Eq. 13).

        The words to rebuild are those of the items' texts.
        """
        known = ItemContent.of(content)
        torch.manual_seed(seed)
        encoder = self._encoder()
        self._take_words(encoder, known)
        self._prepare(encoder, known)
        self.model = TreeNetwork(encoder, self.config, torch.Generator().manual_seed(seed))
        return self._train(known, self.tokenizer_training, seed, on_epoch, checkpoint)

    def transfer(
        self,
        content: Content,
        training: TrainingConfig,
        *,
        full: bool = False,
        seed: int = 0,
        on_epoch: OnEpoch = None,
        checkpoint: Path | None = None,
    ) -> Self:
        """Fine-tune on the items of another domain; E^r and E^f are fixed (2.4.2), unless `full`."""
        known = ItemContent.of(content)
        if self._take_words(self.model.encoder, known):
            self.model.take_vocabulary()
        self._prepare(self.model.encoder, known)
        self.model.freeze_for_transfer(full=full)
        return self._train(known, training, seed, on_epoch, checkpoint)

    def tokenize(self, content: Content) -> Tokenized:
        """Return codes, residuals and restored content (n, L, d_c) of a dataset's items."""
        known = ItemContent.of(content)
        if self.prepared is None or self.prepared[0] is not known.require("items", self):
            self._prepare(self.model.encoder, known)
        return self.model.tokenize(self._batches(known.numbers))

    def words(self) -> list[str]:
        """Return the V words that `decode_words` scores, by their number."""
        encoder: Any = self.model.encoder
        return list(encoder.words() if self.catalogue_words is None else self.catalogue_words)

    def decode_words(self, prefixes: Tensor) -> Tensor:
        """Return logs of the words' mean probabilities (n, V) under prefixes of codes (n, l)."""
        return self.model.decode_words(prefixes).cpu()

    def decode_pictures(self, prefixes: Tensor, generator: torch.Generator) -> Tensor | None:
        """Draw a picture of each prefix of codes (n, l): (n, 3, S, S) in 0..1.

        None from a tokenizer that has not seen a single picture in training.
        """
        if not self.model.vision.diffusion.largest:
            return None
        return self.model.decode_pictures(prefixes, generator).cpu()

    def save(self, folder: Path) -> None:
        """Write `model.safetensors`, with the settings and words of the encoder, and `config.json`."""
        written = {"content": self.content.model_dump_json(), "words": json.dumps(self.catalogue_words)}
        # one entry, for safetensors writes several in an order drawn by chance
        self.model.save(folder, {"encoder": json.dumps(written)})

    @classmethod
    def load(cls, folder: Path, **settings: Any) -> Self:
        """Read what `save` wrote; `settings` as of the constructor, the encoder's by default as written."""
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            written = file.metadata() or {}
        written |= json.loads(written.pop("encoder", "{}"))
        if "content" not in settings and "content" in written:
            settings["content"] = component_config(ENCODERS, json.loads(written["content"]))
        tokenizer = cls(cls.load_config(folder), **settings)
        tokenizer.catalogue_words = json.loads(written.get("words", "null"))
        tokenizer.model = placed(TreeNetwork.load(folder, tokenizer._encoder()))
        return tokenizer._fitted()

    def _encoder(self) -> Any:
        return ENCODERS.find(self.content.kind)(self.content)

    def _take_words(self, encoder: Any, content: ItemContent) -> bool:
        """Let an encoder that has words of its own take those of the items' texts; whether it does."""
        if not hasattr(encoder, "for_catalogue"):
            return False
        encoder.for_catalogue(content.texts(self))
        self.catalogue_words = encoder.words()
        return True

    def _prepare(self, encoder: Any, content: ItemContent) -> None:
        """Run the encoder's frozen networks over all items of the dataset, or read what they found before."""
        items = content.require("items", self)
        self.prepared = items, encoder.prepare(content_of(items), content.cache)

    def _batches(self, items: np.ndarray) -> Iterator[dict[str, Tensor]]:
        assert self.prepared is not None  # noqa: S101 - by `_prepare`
        for start in range(0, len(items), _AT_ONCE):
            yield self.prepared[1].batch(items[start : start + _AT_ONCE])

    def _train(
        self,
        content: ItemContent,
        training: TrainingConfig,
        seed: int,
        on_epoch: OnEpoch,
        checkpoint: Path | None,
    ) -> Self:
        assert self.prepared is not None  # noqa: S101 - by `_prepare`
        items, prepared = self.prepared
        neighbours = neighbours_in(content.require("sequences", self), items)

        def codes_of(rows: np.ndarray) -> list[np.ndarray]:
            return [self.model.tokenize(self._batches(content.numbers[rows])).codes]

        self.epochs = train_in_epochs(
            _Lesson(self.model, len(content), len(self.model.quantizer.sizes)),
            NeighbourBatches(content.numbers, neighbours, prepared.batch, training.batch_size),
            training,
            tokenize=lambda: processes.in_shares(codes_of, len(content))[0],
            sizes=self.model.quantizer.sizes,
            domains=content.domain_names(self),
            seed=seed,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
        )
        return self._fitted()

    def _fitted(self) -> Self:
        quantizer = self.model.quantizer
        self.sizes, self.alike = quantizer.sizes, quantizer.shared_levels
        self.codebooks = [book.detach().cpu().numpy() for book in quantizer.codebooks()]
        return self


class _Lesson(Lesson):
    """Eq. 13 with its terms by name."""

    model: TreeNetwork

    def forward(self, items: Batch, neighbours: Batch) -> dict[str, Tensor]:
        """Return the objective of items and one co-occurring item each, as "loss", and its terms."""
        return {"loss": self.model(items, neighbours), **self.model.parts}


def for_fidelity(fidelity: Literal["paper", "code"]) -> TreeTokenizerConfig:
    """The settings that the paper states ("paper"), or those of the authors' published code ("code").

    | what                  | paper                        | code                                     |
    |-----------------------|------------------------------|------------------------------------------|
    | L_Code over d_c       | sum                          | mean                                     |
    | L^t over tokens       | sum over a text              | mean over the batch's tokens             |
    | L_Ali compares        | H, the encoder's             | H', the adapter's                        |
    | L_Ali over levels     | sum                          | mean                                     |
    | masking of the text   | all places                   | of ten: 8 masked, 1 random, 1 as it is   |
    | alpha                 | 3                            | 5                                        |
    | warm-up               | none stated                  | 300 batches of continuous vectors        |

    The same in both: beta .25, lambda 200, mu .01, eta .03, and what only the code states (adapter, d_c, tau,
    the sizes of decoders and diffusion). A lambda of 200 on sums beside a text's sum is about as heavy as on
    means beside a token's mean, where a text has as many tokens as a code vector dimensions.
    """
    if fidelity == "paper":
        return TreeTokenizerConfig()
    if fidelity == "code":
        return TreeTokenizerConfig(
            quantizer=TreeQuantizerConfig(reduction="code"),
            decoder=DecoderConfig(masking="mixed", reduction="code"),
            alpha=5.0,
            alignment_on="adapted",
            alignment_reduction="code",
            warm_up_steps=300,
        )
    raise ValueError(f'fidelity is {fidelity!r}; expected "paper" or "code"')
