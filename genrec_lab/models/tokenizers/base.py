"""What every tokenizer is: an estimator that learns codes for items, and names items by them.

Shapes: n items, D dimensions of a content vector, L levels, K_l codes of a level, d latent dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
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

# YAML and JSON know lists only; everything else about the value stays strict.
Widths = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
]


class TokenizerError(ValueError):
    """A tokenizer that breaks its promises; the message names its class, what came and what was expected."""


class TokenizerConfig(ComponentConfig):
    """What the settings of every tokenizer begin with; a class of your own adds its fields."""


@dataclass(frozen=True, eq=False)
class ItemContent:
    """What is known of n items: row i of `vectors` and `domains` is about item `numbers[i]`."""

    vectors: np.ndarray | None  # (n, D) float32, content vectors
    domains: np.ndarray  # (n,) int64
    numbers: np.ndarray  # (n,) int64, the items' numbers in the data set, ascending
    items: pl.DataFrame | None = None  # of the whole data set, as `Dataset.items`: texts, pictures, keys
    sequences: pl.DataFrame | None = None  # `user, domain, items`, without the items that are held out
    cache: Path | None = None  # a folder that keeps what frozen networks found of texts and pictures
    title: str = "tokenizer"  # begins the lines that a training prints

    def __post_init__(self) -> None:
        """Raise ValueError where the arrays are not of one length."""
        for name in ("vectors", "domains"):
            array = getattr(self, name)
            if array is not None and len(array) != len(self.numbers):
                raise ValueError(
                    f"{name} have shape {array.shape}; expected ({len(self.numbers)},), one row an item"
                )

    @classmethod
    def of(
        cls, content: ItemContent | np.ndarray | Tensor, domains: Sequence[int] | np.ndarray | None = None
    ) -> ItemContent:
        """Return the content itself, or that of plain vectors (n, D), by default all of one domain."""
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
        """Return the content of a data set's items, by default all; `vectors` (N, D) are of all of them.

        What validation and test hold out of the sequences is not in it.
        """
        numbers = np.arange(dataset.n_items) if items is None else np.asarray(items, dtype=np.int64)
        own = None if vectors is None else vectors[numbers]
        sequences = dataset.training_sequences()
        domains = dataset.item_domains()[numbers]
        return cls(own, domains, numbers, dataset.items, sequences, cache, title)

    def __len__(self) -> int:
        return len(self.numbers)

    def select(self, rows: np.ndarray) -> ItemContent:
        """Return the content of the items at some rows (m,)."""
        vectors = None if self.vectors is None else self.vectors[rows]
        return replace(self, vectors=vectors, domains=self.domains[rows], numbers=self.numbers[rows])

    def require(self, part: Literal["vectors", "items", "sequences"], of: object) -> Any:
        """Return a part of the content; ValueError names the tokenizer `of`, which needs it."""
        found = getattr(self, part)
        if found is None:
            how = "an array (items, dimensions)" if part == "vectors" else "ItemContent.from_dataset(dataset)"
            raise ValueError(f"{type(of).__name__} needs {part}, and none were given; pass {how}")
        return found

    def texts(self, of: object) -> list[str]:
        """Return the texts of the items, for the tokenizer `of`."""
        return self.require("items", of)["text"].gather(self.numbers.tolist()).to_list()

    def domain_names(self, of: object) -> list[str]:
        """Return the names of the items' domains, for the tokenizer `of`."""
        return self.require("items", of)["domain"].gather(self.numbers.tolist()).to_list()

    def training_sequences(self, of: object) -> list[list[int]]:
        """Return what is trained on of the sequences in the items' domains, as item numbers."""
        inside = pl.col("domain").is_in(list(set(self.domain_names(of))))
        return self.require("sequences", of).filter(inside)["items"].to_list()

    def training_places(self, of: object) -> list[list[int]]:
        """Return `training_sequences` as rows of this content, which has all items of its domains."""
        places = np.full(len(self.require("items", of)), NO_ITEM)
        places[self.numbers] = np.arange(len(self))
        return [places[sequence].tolist() for sequence in self.training_sequences(of)]


Content = ItemContent | np.ndarray
OnEpoch = Callable[[Mapping[str, Any]], None] | None  # takes the record of an epoch


class Tokenized(NamedTuple):
    """What a tokenizer makes of n items, as numpy arrays."""

    codes: np.ndarray  # (n, L) int64
    residuals: np.ndarray | None = None  # (n, L, d) float32, what each level quantised
    vectors: np.ndarray | None = None  # (n, d) or (n, L, d) float32, restored from the codes
    loss: float = 0.0  # of quantising, mean over the items


class Tokenizer(SavedAttributes, Shareable, ABC):
    """An estimator of codes: `fit` learns from items, `encode` names items.

    A tokenizer of your own has a `Config`, `fit`, `encode`, and sets `sizes`; what else this class has are
    answers that it may change. Arrays that it holds as attributes are saved and loaded.

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
    # What it must be given: "vectors" (content vectors), "text", "pictures", "sequences" (of training).
    needs: ClassVar[tuple[str, ...]] = ("vectors",)
    # Further settings beside its own, keywords of the constructor; a method has them under the same names.
    settings: ClassVar[tuple[str, ...]] = ()
    not_saved: ClassVar[tuple[str, ...]] = ("config", "epochs", "shared_items", "max_history")
    # Whether each level quantises what the levels before it left over, so that an item's codewords add up.
    refines: ClassVar[bool] = False
    # Whether one that was trained on some domains names the items of others, and can be fine-tuned on one of
    # them by `transfer`: then one tokenizer serves all domains.
    transfers: ClassVar[bool] = False
    # Whether identifiers that items share stay, unless the config's own `policy` says otherwise.
    keeps_identifiers: ClassVar[bool] = False
    # Whether it can say what words and pictures codes stand for: `decode_words`, `decode_pictures`.
    decodes: ClassVar[bool] = False

    config: Any
    sizes: tuple[int, ...] = ()  # K_l of each level
    # (K_l, d) of each level; the last level's where they differ from prefix to prefix; empty where codes have
    # no place in any space.
    codebooks: Sequence[np.ndarray] | np.ndarray | PrefixCodewords = ()
    unknown_levels: tuple[int, ...] = ()  # levels whose number of possible codes is unknown
    alike: tuple[int, ...] = ()  # levels, from 0, whose equal codes mean the same, as of ItemCodes
    epochs: Sequence[Mapping[str, Any]] = ()  # the records of its training

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if isinstance(cls.Config, type) and issubclass(cls.Config, BaseModel):  # else the registry says so
            cls.Config = with_kind(cls.Config)

    def __init__(self, config: Any = None, **settings: Any) -> None:
        """Take the config, by default that of the class, and the further `settings` that the class names.

        Raises TypeError for a config of another class or a setting that the class does not name.
        """
        config = self.Config() if config is None else config
        if isinstance(config, BaseModel) and issubclass(self.Config, type(config)):
            config = self.Config(**dict(config))  # made before the class gave it a kind
        if not isinstance(config, self.Config):
            raise TypeError(
                f"{type(self).__name__} takes a {self.Config.__name__}, got a {type(config).__name__}"
            )
        if unknown := [name for name in settings if name not in self.settings]:
            raise TypeError(
                f"{type(self).__name__} takes no setting {unknown[0]!r}; it takes {self.settings}"
            )
        self.config = config
        for name in settings:
            setattr(self, name, settings[name])

    @abstractmethod
    def fit(
        self, content: Content, *, seed: int = 0, on_epoch: OnEpoch = None, checkpoint: Path | None = None
    ) -> Self:
        """Learn from items; a plain array (n, D) is their content vectors.

        `on_epoch` is called with the record of each epoch that is measured. A training that was killed goes
        on from the folder `checkpoint` and gives the codes of the unbroken one.
        """

    @abstractmethod
    def encode(self, content: Content) -> np.ndarray:
        """Return the codes of items, (n, L) int64."""

    def residuals(self, content: Content) -> np.ndarray | None:
        """Return what each level quantised of items, (n, L, d) float32; None where nothing was quantised."""
        return None

    def tokenize(self, content: Content) -> Tokenized:
        """Return codes and residuals at once."""
        return Tokenized(self.encode(content), self.residuals(content))

    def tokenize_unserved(self, content: Content) -> Tokenized:
        """Tokenize items of domains that it was not fitted on, in which nothing is recommended.

        A tokenizer that knows the items of its own catalogue alone numbers them.
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
        """Fine-tune it on the items of another domain by a TrainingConfig; `full`: all of its weights."""
        raise TokenizerError(f"{type(self).__name__} cannot be fine-tuned on another domain")

    def words(self) -> list[str]:
        """Return the V words that `decode_words` scores, by their number."""
        raise TokenizerError(f"{type(self).__name__} cannot say what its codes stand for")

    def decode_words(self, prefixes: Tensor) -> Tensor:
        """Return logs of the words' mean probabilities (n, V) under prefixes of codes (n, l)."""
        raise TokenizerError(f"{type(self).__name__} cannot say what its codes stand for")

    def decode_pictures(self, prefixes: Tensor, generator: Generator) -> Tensor | None:
        """Draw a picture of each prefix of codes (n, l), (n, 3, S, S) in 0..1; None where it knows none."""
        raise TokenizerError(f"{type(self).__name__} cannot say what its codes stand for")

    @classmethod
    def read_recommender(cls, folder: Path) -> dict[str, Tensor] | None:
        """Return the weights of a recommender that was saved beside a tokenizer, for one to start from."""
        return None

    @classmethod
    def load(cls, folder: Path, **settings: Any) -> Self:
        """Read what `save` wrote; `settings` as of the constructor."""
        tokenizer = cls(cls.load_config(folder), **settings)
        tokenizer.read_attributes(folder)
        return tokenizer

    @classmethod
    def least_items(cls, config: Any) -> int:
        """Return how many items it needs at least, so that every code can be placed on one."""
        return 1

    @classmethod
    def check_method(cls, config: Any, method: Mapping[str, Any]) -> None:
        """Raise ValueError where the other settings of a method, by name, do not fit this config."""


class Quantizing(Tokenizer):
    """A tokenizer whose codes and residuals are found together, by `tokenize`."""

    @abstractmethod
    def tokenize(self, content: Content) -> Tokenized:
        """Return codes and residuals of items, and the vectors restored from the codes."""

    def encode(self, content: Content) -> np.ndarray:
        """Return the codes of items, (n, L) int64."""
        return self.tokenize(content).codes

    def residuals(self, content: Content) -> np.ndarray | None:
        """Return what each level quantised of items, (n, L, d) float32."""
        return self.tokenize(content).residuals


class VectorTokenizer(Quantizing):
    """A tokenizer that names an item by its content vector alone; a subclass has `tokenize_vectors`."""

    inputs: int  # D of the vectors that it was fitted on

    @abstractmethod
    def tokenize_vectors(self, x: np.ndarray) -> Tokenized:
        """Tokenize (n, D) float32 vectors, which are finite and of the right width."""

    @classmethod
    def least_items(cls, config: Any) -> int:
        """Return K, so that every code can be placed on an item."""
        return int(config.codebook_size)

    def vectors(self, content: Content) -> np.ndarray:
        """Return the content vectors (n, D) float32; ValueError where none are given or one is not finite."""
        return finite_vectors(ItemContent.of(content).require("vectors", self))

    def tokenize(self, content: Content) -> Tokenized:
        """Tokenize content vectors (n, D); ValueError where they are not finite or of another width."""
        x = self.vectors(content)
        if x.shape[1] != self.inputs:
            raise ValueError(
                f"content vectors have {x.shape[1]} dimensions, this tokenizer was fitted on {self.inputs}; "
                "encode vectors of the text model that it was fitted on"
            )
        return self.tokenize_vectors(x)


class CatalogueTokenizer(Tokenizer):
    """A tokenizer that knows the items of its own catalogue alone; a subclass finds their codes in `fit`."""

    numbers: np.ndarray  # (N,) of the items, ascending
    item_codes: np.ndarray  # (N, L) int64

    def knows(self, content: ItemContent, codes: np.ndarray, sizes: Sequence[int] | None = None) -> Self:
        """Keep the codes (N, L) of the items; by default as many codes a level as its largest asks for."""
        self.numbers, self.item_codes = content.numbers, codes
        self.sizes = tuple((codes.max(axis=0) + 1).tolist() if sizes is None else sizes)
        return self

    def encode(self, content: Content) -> np.ndarray:
        """Return the codes of items, (n, L); raises ValueError for an item that it was not fitted on."""
        asked = ItemContent.of(content).numbers
        places = np.searchsorted(self.numbers, asked).clip(max=len(self.numbers) - 1)
        unknown = np.flatnonzero(self.numbers[places] != asked)
        if len(unknown):
            raise ValueError(
                f"{type(self).__name__} knows {len(self.numbers)} items, not item {asked[unknown[0]]} and "
                f"{len(unknown) - 1} more; fit it again on the whole catalogue"
            )
        codes: np.ndarray = self.item_codes[places]
        return codes

    def tokenize_unserved(self, content: Content) -> Tokenized:
        """Return numbers of other items, written as codes (n, L); the last codes have no upper bound."""
        numbers = np.arange(len(ItemContent.of(content)))
        codes = np.empty((len(numbers), self.item_codes.shape[1]), dtype=np.int64)
        for level, size in enumerate(self.item_codes.max(axis=0)[:-1] + 1):
            numbers, codes[:, level] = np.divmod(numbers, size)
        codes[:, -1] = numbers
        return Tokenized(codes)


def finite_vectors(x: np.ndarray) -> np.ndarray:
    """Return vectors as a contiguous (N, D) float32 array; ValueError names the first that is not finite."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(
            f"content vectors have shape {x.shape}; expected (items, dimensions), at least one of each"
        )
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if bad.size:
        raise ValueError(
            f"the content vectors of {bad.size} of {len(x)} items hold NaN or infinite values, the first is "
            f"item {bad[0]}; look at this item's text, or encode again in float32"
        )
    return x


def require_codes(codes: np.ndarray, items: np.ndarray, sizes: Sequence[int], source: str) -> np.ndarray:
    """Return codes (n, L) of the items numbered (n,) as int64, each below the size of its level.

    Raises TokenizerError, which begins with the source, and says what came and what was expected.
    """
    if codes.shape != (len(items), len(sizes)):
        raise TokenizerError(
            f"{source} codes of shape {codes.shape} for {len(items)} items; expected ({len(items)}, "
            f"{len(sizes)}), by the sizes {tuple(sizes)}"
        )
    if not np.issubdtype(codes.dtype, np.integer):
        raise TokenizerError(f"{source} codes of type {codes.dtype}; expected integers")
    wrong = np.argwhere((codes < 0) | (codes >= np.array(sizes)))
    if len(wrong):
        row, level = wrong[0]
        raise TokenizerError(
            f"{source} item {items[row]} the code {codes[row, level]} at level {level + 1}; expected 0 to "
            f"{sizes[level] - 1}, by the sizes {tuple(sizes)}"
        )
    return codes.astype(np.int64)
