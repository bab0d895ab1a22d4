"""The base classes of tokenizers: estimators that learn codes and assign them to items.

Shapes: n items, D dimensions of a content vector, L levels, K_l codes of a level, d latent dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import polars as pl
from pydantic import BaseModel, BeforeValidator, Field

from genrec_lab.data import NO_ITEM, Dataset
from genrec_lab.models.hub import Shareable
from genrec_lab.models.saved import SavedAttributes
from genrec_lab.registry import ComponentConfig, with_kind

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from genrec_lab.codes import PrefixCodewords

# YAML and JSON have only lists; the rest of the validation stays strict.
Widths = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]


class TokenizerError(ValueError):
    """Raised for invalid output of a tokenizer; the message names its class and the expected value."""


class TokenizerConfig(ComponentConfig):
    """The base of every tokenizer's settings; add your own fields in a subclass."""


@dataclass(frozen=True, eq=False)
class ItemContent:
    """The content of n items: row i of `vectors` and `domains` describes item `numbers[i]`."""

    vectors: np.ndarray | None  # (n, D) float32, content vectors
    domains: np.ndarray  # (n,) int64
    numbers: np.ndarray  # (n,) int64, the items' numbers in the data set, ascending
    items: pl.DataFrame | None = None  # all of `Dataset.items`: texts, pictures, keys
    sequences: pl.DataFrame | None = None  # `user, domain, items`, without held-out items
    cache: Path | None = None  # a folder that caches the outputs of frozen networks
    title: str = "tokenizer"  # prefix of the lines that training prints

    def __post_init__(self) -> None:
        """Raise ValueError if the arrays differ in length."""
        for name in ("vectors", "domains"):
            array = getattr(self, name)
            if array is not None and len(array) != len(self.numbers):
                raise ValueError(
                    f"{name} have shape {array.shape}; expected ({len(self.numbers)},), one row per item"
                )

    @classmethod
    def of(
        cls, content: ItemContent | np.ndarray | Tensor, domains: Sequence[int] | np.ndarray | None = None
    ) -> ItemContent:
        """Return `content` itself, or wrap plain vectors (n, D), by default as items of one domain."""
        if isinstance(content, ItemContent):
            return content
        vectors = np.asarray(content, dtype=np.float32)
        of_items = np.zeros(len(vectors)) if domains is None else np.asarray(domains)
        return cls(vectors, of_items.astype(np.int64), np.arange(len(vectors)))

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset,
        vectors: np.ndarray | None = None,
        items: np.ndarray | None = None,
        *,
        cache: Path | None = None,
        title: str = "tokenizer",
    ) -> ItemContent:
        """Return the content of a data set's items, by default all; `vectors` (N, D) must cover all N items.

        Held-out items of validation and test are removed from the sequences.
        """
        numbers = np.arange(dataset.n_items) if items is None else np.asarray(items, dtype=np.int64)
        own = None if vectors is None else vectors[numbers]
        sequences = dataset.training_sequences()
        domains = dataset.item_domains()[numbers]
        return cls(own, domains, numbers, dataset.items, sequences, cache, title)

    def __len__(self) -> int:
        return len(self.numbers)

    def select(self, rows: np.ndarray) -> ItemContent:
        """Return the content of the items in the given rows (m,)."""
        vectors = None if self.vectors is None else self.vectors[rows]
        return replace(self, vectors=vectors, domains=self.domains[rows], numbers=self.numbers[rows])

    def require(self, part: Literal["vectors", "items", "sequences"], of: object) -> Any:
        """Return a part of the content; if it is missing, raise ValueError naming the tokenizer `of`."""
        found = getattr(self, part)
        if found is None:
            how = "an array (items, dimensions)" if part == "vectors" else "ItemContent.from_dataset(dataset)"
            raise ValueError(f"{type(of).__name__} needs {part}, but none were given; pass {how}")
        return found

    def texts(self, of: object) -> list[str]:
        """Return the texts of the items, for the tokenizer `of`."""
        return self.require("items", of)["text"].gather(self.numbers.tolist()).to_list()

    def domain_names(self, of: object) -> list[str]:
        """Return the names of the items' domains, for the tokenizer `of`."""
        return self.require("items", of)["domain"].gather(self.numbers.tolist()).to_list()

    def training_sequences(self, of: object) -> list[list[int]]:
        """Return the training part of the sequences in the items' domains, as item numbers."""
        inside = pl.col("domain").is_in(list(set(self.domain_names(of))))
        return self.require("sequences", of).filter(inside)["items"].to_list()

    def training_places(self, of: object) -> list[list[int]]:
        """Return `training_sequences` as rows of this content, which must hold all items of its domains."""
        places = np.full(len(self.require("items", of)), NO_ITEM)
        places[self.numbers] = np.arange(len(self))
        return [places[sequence].tolist() for sequence in self.training_sequences(of)]


Content = ItemContent | np.ndarray
OnEpoch = Callable[[Mapping[str, Any]], None] | None  # called with the record of an epoch


class Tokenized(NamedTuple):
    """The output of a tokenizer for n items, as numpy arrays."""

    codes: np.ndarray  # (n, L) int64
    residuals: np.ndarray | None = None  # (n, L, d) float32, each level's input
    vectors: np.ndarray | None = None  # (n, d) or (n, L, d) float32, reconstructed from the codes
    loss: float = 0.0  # quantisation loss, mean over the items


class Tokenizer(SavedAttributes, Shareable, ABC):
    """An estimator of codes: `fit` learns from items, `encode` returns the codes of items.

    Your own tokenizer needs a `Config`, `fit` and `encode`, and sets `sizes`; it may override the rest.
    Arrays in its attributes are saved and loaded.

        >>> class Halves(Tokenizer):
        ...     def fit(self, content, *, seed=0, on_epoch=None, checkpoint=None):
        ...         self.middle = np.median(ItemContent.of(content).vectors, axis=0)
        ...         self.sizes = (2,) * len(self.middle)
        ...         return self
        ...
        ...     def encode(self, content):
        ...         return (ItemContent.of(content).vectors > self.middle).astype(np.int64)
        >>> Halves().fit(np.array([[0.0, 3.0], [1.0, 2.0], [2.0, 1.0]])).encode(np.array([[5.0, 0.0]]))
        array([[1, 0]])
    """

    Config: ClassVar[type[BaseModel]] = TokenizerConfig
    # Required inputs: "vectors" (content vectors), "text", "pictures", "sequences" (of training).
    needs: ClassVar[tuple[str, ...]] = ("vectors",)
    # Further keywords of the constructor; a method has settings of the same names.
    settings: ClassVar[tuple[str, ...]] = ()
    not_saved: ClassVar[tuple[str, ...]] = (
        *("config", "epochs", "codes_by_epoch", "shared_items", "max_history"),
    )
    # Whether each level quantises the residual of the levels before it, so that an item's codewords add up.
    refines: ClassVar[bool] = False
    # Whether a trained tokenizer can encode items of other domains, and `transfer` can fine-tune it on one of
    # them. If so, one tokenizer serves all domains.
    transfers: ClassVar[bool] = False
    # Whether items keep identifiers that they share, unless the config sets a `policy`.
    keeps_identifiers: ClassVar[bool] = False
    # Whether it can turn codes back into words and pictures: `decode_words`, `decode_pictures`.
    decodes: ClassVar[bool] = False

    config: Any
    sizes: tuple[int, ...] = ()  # K_l of each level
    # (K_l, d) of each level; only the last level's if codewords depend on the prefix; empty if codes have no
    # vectors.
    codebooks: Sequence[np.ndarray] | np.ndarray | PrefixCodewords = ()
    unknown_levels: tuple[int, ...] = ()  # levels whose number of possible codes is unknown
    alike: tuple[int, ...] = ()  # levels (from 0) that share their codes, as in ItemCodes
    epochs: Sequence[Mapping[str, Any]] = ()  # records of the training
    # (n, L) of the items it was trained on, after some of the epochs; neither they nor the records are saved.
    codes_by_epoch: Mapping[int, np.ndarray] = MappingProxyType({})

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if isinstance(cls.Config, type) and issubclass(cls.Config, BaseModel):  # else the registry raises
            cls.Config = with_kind(cls.Config)

    def __init__(self, config: Any = None, **settings: Any) -> None:
        """Set the config, by default `Config()`, and any `settings` that the class declares.

        Raises TypeError for a config of another class or an unknown setting.
        """
        config = self.Config() if config is None else config
        if isinstance(config, BaseModel) and issubclass(self.Config, type(config)):
            config = self.Config(**dict(config))  # it was made before the class added `kind`
        if not isinstance(config, self.Config):
            raise TypeError(
                f"{type(self).__name__} takes a {self.Config.__name__}, but got a {type(config).__name__}"
            )
        self.config = config
        for name, value in settings.items():
            if name not in self.settings:
                own, takes = type(self).__name__, f"it takes {self.settings}"
                if name in self.Config.model_fields:
                    takes = f"write {own}({own}.Config({name}=…))"
                raise TypeError(f"{own} takes no setting {name!r}; {takes}")
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{type(self).__name__!r} has no attribute {name!r}; call fit or load first, if that makes it"
        )

    @abstractmethod
    def fit(
        self, content: Content, *, seed: int = 0, on_epoch: OnEpoch = None, checkpoint: Path | None = None
    ) -> Self:
        """Learn from items; a plain array (n, D) holds their content vectors.

        `on_epoch` is called with the record of each measured epoch. An interrupted training resumes from the
        folder `checkpoint` and gives the same codes as an uninterrupted one.
        """

    @abstractmethod
    def encode(self, content: Content) -> np.ndarray:
        """Return the codes of items, (n, L) int64."""

    def residuals(self, content: Content) -> np.ndarray | None:
        """Return each level's input, (n, L, d) float32; None if nothing is quantised."""
        return None

    def tokenize(self, content: Content) -> Tokenized:
        """Return both codes and residuals."""
        return Tokenized(self.encode(content), self.residuals(content))

    def tokenize_unserved(self, content: Content) -> Tokenized:
        """Tokenize items of domains that it was not fitted on and in which nothing is recommended.

        A tokenizer that knows only the items of its own catalogue numbers them.
        """
        return self.tokenize(content)

    def transfer(
        self,
        content: Content,
        training: Any,
        *,
        full: bool = False,
        seed: int = 0,
        on_epoch: OnEpoch = None,
        checkpoint: Path | None = None,
    ) -> Self:
        """Fine-tune on the items of another domain with a TrainingConfig; `full` trains all weights."""
        raise TokenizerError(f"{type(self).__name__} cannot be fine-tuned on another domain")

    def words(self) -> list[str]:
        """Return the V words that `decode_words` scores, in the order of its columns."""
        raise TokenizerError(f"{type(self).__name__} cannot say what its codes stand for")

    def decode_words(self, prefixes: Tensor) -> Tensor:
        """Return the logarithms of the words' mean probabilities (n, V) given prefixes of codes (n, l)."""
        raise TokenizerError(f"{type(self).__name__} cannot say what its codes stand for")

    def decode_pictures(self, prefixes: Tensor, generator: Generator) -> Tensor | None:
        """Draw a picture for each prefix of codes (n, l): (n, 3, S, S) in 0..1, or None without pictures."""
        raise TokenizerError(f"{type(self).__name__} cannot say what its codes stand for")

    @classmethod
    def read_recommender(cls, folder: Path) -> dict[str, Tensor] | None:
        """Return the weights of a recommender that was saved with the tokenizer, or None."""
        return None

    @classmethod
    def load(cls, folder: Path, **settings: Any) -> Self:
        """Load a tokenizer that `save` wrote; `settings` as in the constructor."""
        return cls(cls.load_config(folder), **settings).read_attributes(folder)

    @classmethod
    def least_items(cls, config: Any) -> int:
        """Return the smallest number of items it can be fitted on."""
        return 1

    @classmethod
    def check_method(cls, config: Any, method: Mapping[str, Any]) -> None:
        """Raise ValueError if the method's other settings, by name, do not fit this config."""


class Quantizing(Tokenizer):
    """A tokenizer that computes codes and residuals together, in `tokenize`."""

    @abstractmethod
    def tokenize(self, content: Content) -> Tokenized:
        """Return the codes and residuals of items, and the vectors reconstructed from the codes."""

    def encode(self, content: Content) -> np.ndarray:
        """Return the codes of items, (n, L) int64."""
        return self.tokenize(content).codes

    def residuals(self, content: Content) -> np.ndarray | None:
        """Return each level's input, (n, L, d) float32."""
        return self.tokenize(content).residuals


class VectorTokenizer(Quantizing):
    """A tokenizer that uses only an item's content vector; a subclass defines `tokenize_vectors`."""

    inputs: int  # D of the vectors it was fitted on

    @abstractmethod
    def tokenize_vectors(self, x: np.ndarray) -> Tokenized:
        """Tokenize (n, D) float32 vectors, already checked to be finite and D wide."""

    @classmethod
    def least_items(cls, config: Any) -> int:
        """Return K, because every code is placed on an item."""
        return int(config.codebook_size)

    def vectors(self, content: Content) -> np.ndarray:
        """Return the content vectors (n, D) float32; raises ValueError if they are missing or not finite."""
        return finite_vectors(ItemContent.of(content).require("vectors", self))

    def tokenize(self, content: Content) -> Tokenized:
        """Tokenize content vectors (n, D); raises ValueError if they are not finite or not D wide."""
        x = self.vectors(content)
        if x.shape[1] != self.inputs:
            raise ValueError(
                f"content vectors have {x.shape[1]} dimensions, but this tokenizer was fitted on "
                f"{self.inputs}; use vectors from the same text model"
            )
        return self.tokenize_vectors(x)


class CatalogueTokenizer(Tokenizer):
    """A tokenizer that knows only the items of its own catalogue; a subclass sets their codes in `fit`."""

    numbers: np.ndarray  # (N,) of the items, ascending
    item_codes: np.ndarray  # (N, L) int64

    def keep_codes(self, content: ItemContent, codes: np.ndarray, sizes: Sequence[int] | None = None) -> Self:
        """Store the codes (N, L) of the items; each level's size defaults to its largest code plus one."""
        self.numbers, self.item_codes = content.numbers, codes
        self.sizes = tuple((codes.max(axis=0) + 1).tolist() if sizes is None else sizes)
        return self

    def encode(self, content: Content) -> np.ndarray:
        """Return the codes of items, (n, L); raises ValueError for an item it was not fitted on."""
        asked = ItemContent.of(content).numbers
        places = np.searchsorted(self.numbers, asked).clip(max=len(self.numbers) - 1)
        unknown = np.flatnonzero(self.numbers[places] != asked)
        if len(unknown):
            raise ValueError(
                f"{type(self).__name__} was fitted on {len(self.numbers)} items, without item "
                f"{asked[unknown[0]]} and {len(unknown) - 1} more; fit it again on the whole catalogue"
            )
        codes: np.ndarray = self.item_codes[places]
        return codes

    def tokenize_unserved(self, content: Content) -> Tokenized:
        """Number other items, written as codes (n, L); the last code has no upper bound."""
        numbers = np.arange(len(ItemContent.of(content)))
        codes = np.empty((len(numbers), self.item_codes.shape[1]), dtype=np.int64)
        for level, size in enumerate(self.item_codes.max(axis=0)[:-1] + 1):
            numbers, codes[:, level] = np.divmod(numbers, size)
        codes[:, -1] = numbers
        return Tokenized(codes)


def finite_vectors(x: np.ndarray) -> np.ndarray:
    """Return a contiguous (N, D) float32 array; raise ValueError, naming the first row that is not finite."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(
            f"content vectors have shape {x.shape}; expected (items, dimensions), at least one of each"
        )
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if bad.size:
        raise ValueError(
            f"the content vectors of {bad.size} of {len(x)} items hold NaN or infinite values, first for "
            f"item {bad[0]}; check this item's text, or encode again in float32"
        )
    return x


def require_codes(codes: np.ndarray, items: np.ndarray, sizes: Sequence[int], source: str) -> np.ndarray:
    """Return codes (n, L) of the items (n,) as int64, after checking that each is below its level's size.

    Raises TokenizerError, whose message begins with `source`.
    """
    if codes.shape != (len(items), len(sizes)):
        raise TokenizerError(
            f"{source} codes of shape {codes.shape} for {len(items)} items; expected ({len(items)}, "
            f"{len(sizes)}) for the sizes {tuple(sizes)}"
        )
    if not np.issubdtype(codes.dtype, np.integer):
        raise TokenizerError(f"{source} codes of type {codes.dtype}; expected integers")
    wrong = np.argwhere((codes < 0) | (codes >= np.array(sizes)))
    if len(wrong):
        row, level = wrong[0]
        raise TokenizerError(
            f"{source} item {items[row]} the code {codes[row, level]} at level {level + 1}; expected 0 to "
            f"{sizes[level] - 1} for the sizes {tuple(sizes)}"
        )
    return codes.astype(np.int64)
