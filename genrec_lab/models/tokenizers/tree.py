"""UTGRec's tokenizer: pre-trained on several domains, it can encode items of others or be fine-tuned on one.

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
from torch import Generator, Tensor

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
from genrec_lab.training import TrainingConfig, content_hash, placed, processes

_AT_ONCE = 256  # items per batch


class TreeTokenizer(Quantizing):
    """UTGRec's tokenizer of texts and pictures; each level encodes one content vector of an item.

    content: settings of the encoder of items. tokenizer_training: a TrainingConfig.
    The training records hold the unweighted mean terms of Eq. 13.
    """

    Config = TreeTokenizerConfig
    needs = ("text",)
    settings = ("content", "tokenizer_training")
    transfers = True
    decodes = True
    content: ComponentConfig = CompactConfig()
    tokenizer_training: TrainingConfig = TrainingConfig()

    model: TreeNetwork  # after `fit` or `load`
    catalogue_words: list[str] | None = None  # to reconstruct, for an encoder without its own words
    # The items that the encoder has prepared, and their prepared content.
    prepared: tuple[pl.DataFrame, PreparedContent] | None = None

    @classmethod
    def check_method(cls, config: TreeTokenizerConfig, method: Mapping[str, Any]) -> None:
        """Raise ValueError if encoder and codebooks differ in levels, or pictures would be read twice."""
        levels = config.quantizer.levels
        if method["content"].levels != levels:
            raise ValueError(
                f"content.levels is {method['content'].levels}, tokenizer.quantizer.levels is {levels}; "
                "set both to the same number"
            )
        if method["pictures"] != "none":
            raise ValueError(
                f"pictures is {method['pictures']!r} with a tokenizer of kind 'tree', which reads pictures "
                "through `content`; set pictures to 'none'"
            )

    def fit(
        self, content: Content, *, seed: int = 0, on_epoch: OnEpoch = None, checkpoint: Path | None = None
    ) -> Self:
        """Pre-train on a dataset's items and their neighbours in sequences (Eq. 13).

        The words to reconstruct are those of the items' texts.
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
        """Fine-tune on the items of another domain; E^r and E^f are frozen (2.4.2), unless `full`."""
        known = ItemContent.of(content)
        if self._take_words(self.model.encoder, known):
            self.model.take_vocabulary()
        self._prepare(self.model.encoder, known)
        self.model.freeze_for_transfer(full=full)
        return self._train(known, training, seed, on_epoch, checkpoint)

    def tokenize(self, content: Content) -> Tokenized:
        """Return codes, residuals and reconstructed content (n, L, d_c) of a dataset's items."""
        known = ItemContent.of(content)
        if self.prepared is None or self.prepared[0] is not known.require("items", self):
            self._prepare(self.model.encoder, known)
        return self.model.tokenize(self._batches(known.numbers))

    def words(self) -> list[str]:
        """Return the V words that `decode_words` scores, in the order of its columns."""
        encoder: Any = self.model.encoder
        return list(encoder.words() if self.catalogue_words is None else self.catalogue_words)

    def decode_words(self, prefixes: Tensor) -> Tensor:
        """Return the logarithms of the words' mean probabilities (n, V) given prefixes of codes (n, l)."""
        return self.model.decode_words(prefixes).cpu()

    def decode_pictures(self, prefixes: Tensor, generator: Generator) -> Tensor | None:
        """Draw a picture for each prefix of codes (n, l): (n, 3, S, S) in 0..1.

        Returns None if the training had no pictures.
        """
        if not self.model.vision.diffusion.largest:
            return None
        return self.model.decode_pictures(prefixes, generator).cpu()

    def save(self, folder: Path) -> None:
        """Write `model.safetensors`, with the settings and words of the encoder, and `config.json`."""
        written = {"content": self.content.model_dump_json(), "words": json.dumps(self.catalogue_words)}
        # One entry, because safetensors writes several in random order.
        self.model.save(folder, {"encoder": json.dumps(written)})

    @classmethod
    def load(cls, folder: Path, **settings: Any) -> Self:
        """Load a tokenizer that `save` wrote; `settings` as in the constructor, by default as saved."""
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
        """Give the words of the items' texts to an encoder that needs them; return whether it does."""
        if not hasattr(encoder, "for_catalogue"):
            return False
        encoder.for_catalogue(content.texts(self))
        self.catalogue_words = encoder.words()
        return True

    def _prepare(self, encoder: Any, content: ItemContent) -> None:
        """Run the encoder's frozen networks on all items of the dataset, or read their cached outputs."""
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

        identity: dict[str, Any] = {}
        if checkpoint is not None:
            frozen = [weight for weight in self.model.parameters() if not weight.requires_grad]
            read = items[content.numbers].select(pl.col("^(domain|text|image)$"))
            identity = {
                **self.config.model_dump(mode="json"),
                "content": self.content.model_dump(mode="json"),
                "frozen weights": content_hash(*frozen),
                "items": content_hash(content.numbers, read),
                "neighbours": content_hash(content.require("sequences", self)),
            }
        lesson = _Lesson(self.model, len(content), len(self.model.quantizer.sizes))
        self.epochs = train_in_epochs(
            lesson,
            NeighbourBatches(content.numbers, neighbours, prepared.batch, training.batch_size),
            training,
            tokenize=lambda: processes.in_shares(codes_of, len(content))[0],
            sizes=self.model.quantizer.sizes,
            domains=content.domain_names(self),
            seed=seed,
            on_epoch=on_epoch,
            checkpoint=checkpoint,
            identity=identity,
        )
        self.codes_by_epoch = lesson.kept
        return self._fitted()

    def _fitted(self) -> Self:
        quantizer = self.model.quantizer
        self.sizes, self.alike = quantizer.sizes, quantizer.shared_levels
        self.codebooks = [book.detach().cpu().numpy() for book in quantizer.codebooks()]
        return self


class _Lesson(Lesson):
    """Eq. 13 and its terms by name."""

    model: TreeNetwork

    def forward(self, items: Batch, neighbours: Batch) -> dict[str, Tensor]:
        """Return the objective for items and one co-occurring item each, as "loss", and its terms."""
        return {"loss": self.model(items, neighbours), **self.model.parts}


def for_fidelity(fidelity: Literal["paper", "code"]) -> TreeTokenizerConfig:
    """Return the settings stated in the paper ("paper") or in the authors' published code ("code").

    | setting               | paper                        | code                                     |
    |-----------------------|------------------------------|------------------------------------------|
    | L_Code over d_c       | sum                          | mean                                     |
    | L^t over tokens       | sum over a text              | mean over the batch's tokens             |
    | L_Ali compares        | H, the encoder's             | H', the adapter's                        |
    | L_Ali over levels     | sum                          | mean                                     |
    | masking of the text   | all places                   | of ten: 8 masked, 1 random, 1 unchanged  |
    | alpha                 | 3                            | 5                                        |
    | warm-up               | none stated                  | 300 batches of continuous vectors        |

    Both share beta .25, lambda 200, mu .01, eta .03, and the values that only the code states (adapter, d_c,
    tau, sizes of decoders and diffusion). Lambda 200 has about the same effect on sums as on means if a text
    has as many tokens as a code vector has dimensions.
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
