"""What every tokenizer is: an estimator that learns codes for items, and names items by them.

Shapes: n items, D dimensions of a content vector, L levels, K_l codes of a level, d latent dimensions.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Self

import numpy as np
import pydantic_core
from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny
from safetensors import safe_open
from safetensors.numpy import save_file

from genrec_lab.models.sharing import Shareable
from genrec_lab.registry import Registry, RegistryError

if TYPE_CHECKING:
    from torch import Tensor

    from genrec_lab.codes import PrefixCodewords
    from genrec_lab.data import Dataset

_MOST_ENCODED_TWICE = 1_000  # items; of more a tokenizer is asked again for these only
_NOT_SAVED = ("config", "epochs")


class TokenizerError(ValueError):
    """A tokenizer that breaks its promises; the message names its class, what came and what was expected."""


class TokenizerConfig(BaseModel):
    """What the settings of every tokenizer begin with; a class of your own adds its fields.

    kind: the name under which the class is registered, or its place, as `my_methods.py:MyTokenizer`.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    kind: str = ""


@dataclass(frozen=True, eq=False)
class ItemContent:
    """What is known of n items: row i of `vectors` and `domains` is about item `numbers[i]`."""

    vectors: np.ndarray | None  # (n, D) float32, content vectors; None where nobody made any
    domains: np.ndarray  # (n,) int64
    numbers: np.ndarray  # (n,) int64, the items' numbers in the dataset, ascending
    dataset: Dataset | None = None  # texts, pictures and sequences of all its items
    cache: Path | None = None  # a folder that keeps what frozen networks found of texts and pictures
    title: str = "tokenizer"  # begins the lines that a training prints

    @classmethod
    def of(cls, content: ItemContent | np.ndarray | Tensor) -> ItemContent:
        """Return the content itself, or that of plain vectors (n, D), whose items are all of one domain."""
        if isinstance(content, ItemContent):
            return content
        vectors = np.asarray(content, dtype=np.float32)
        count = len(vectors)
        return cls(vectors, np.zeros(count, dtype=np.int64), np.arange(count))

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
        """Return the content of a dataset's items, by default all; `vectors` (N, D) are of all of them."""
        numbers = np.arange(dataset.n_items) if items is None else np.asarray(items, dtype=np.int64)
        own = None if vectors is None else vectors[numbers]
        return cls(own, dataset.item_domains()[numbers], numbers, dataset, cache, title)

    def __len__(self) -> int:
        return len(self.numbers)

    def select(self, rows: np.ndarray) -> ItemContent:
        """Return the content of the items at some rows (m,)."""
        vectors = None if self.vectors is None else self.vectors[rows]
        return replace(self, vectors=vectors, domains=self.domains[rows], numbers=self.numbers[rows])

    def require_vectors(self, of: object) -> np.ndarray:
        """Return the content vectors (n, D); ValueError names the tokenizer `of` where there are none."""
        if self.vectors is None:
            raise ValueError(
                f"{type(of).__name__} reads content vectors, and none were given; pass an array (items, "
                "dimensions), or ItemContent(vectors=…)"
            )
        return self.vectors

    def require_dataset(self, of: object) -> Dataset:
        """Return the dataset of the items; ValueError names the tokenizer `of` where there is none."""
        if self.dataset is None:
            raise ValueError(
                f"{type(of).__name__} reads texts or sequences, and no dataset was given; pass "
                "ItemContent.from_dataset(dataset)"
            )
        return self.dataset


Content = ItemContent | np.ndarray
Report = Callable[[Any], None]  # takes the record of an epoch, a mapping or a dataclass


class Tokenized(NamedTuple):
    """What a tokenizer makes of n items, as numpy arrays."""

    codes: np.ndarray  # (n, L) int64
    residuals: np.ndarray | None = None  # (n, L, d) float32, what each level quantised
    vectors: np.ndarray | None = None  # (n, d) or (n, L, d) float32, restored from the codes
    loss: float = 0.0  # of quantising, mean over the items

    @property
    def latent(self) -> np.ndarray:
        """(n, d) what is quantised: of levels that refine each other, what the first of them quantises."""
        assert self.residuals is not None  # noqa: S101 - asked of those that quantise vectors
        return self.residuals[:, 0]


class Tokenizer(Shareable, ABC):
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

    Config: ClassVar[type[TokenizerConfig]] = TokenizerConfig
    # What it must be given: "vectors" (content vectors), "text", "pictures", "sequences" (of training).
    needs: ClassVar[tuple[str, ...]] = ("vectors",)
    # Further settings beside its own, keywords of the constructor; a method has them under the same names.
    settings: ClassVar[tuple[str, ...]] = ()
    # Whether each level quantises what the levels before it left over, so that an item's codewords add up.
    refines: ClassVar[bool] = False
    # Whether one that was trained on some domains names the items of others, and can be fine-tuned on one of
    # them by `transfer`: then one tokenizer serves all domains.
    transfers: ClassVar[bool] = False
    # Whether it can say what words and pictures codes stand for: `decode_words`, `decode_pictures`.
    decodes: ClassVar[bool] = False

    config: Any
    sizes: tuple[int, ...] = ()  # K_l of each level
    # (K_l, d) of each level; the last level's where they differ from prefix to prefix; empty where codes have
    # no place in any space.
    codebooks: Sequence[np.ndarray] | PrefixCodewords = ()
    alike: tuple[int, ...] = ()  # levels, from 0, whose equal codes mean the same, as of ItemCodes
    epochs: Sequence[Mapping[str, Any]] = ()  # the records of its training

    def __init__(self, config: Any = None, **settings: Any) -> None:
        """Take the config, by default that of the class, and the further `settings` that the class names.

        Raises TypeError for a config of another class or a setting that the class does not name.
        """
        config = self.Config() if config is None else config
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
        self,
        content: Content,
        *,
        seed: int = 0,
        on_epoch: Report | None = None,
        checkpoint: Path | None = None,
    ) -> Self:
        """Learn from items; a plain array (n, D) is their content vectors.

        `on_epoch` is called with the record of each epoch that is measured. A training that was killed goes
        on from the folder `checkpoint` and gives the codes of the unbroken one.
        """

    @abstractmethod
    def encode(self, content: Content) -> np.ndarray:
        """Return the codes of items, (n, L) int64."""

    def encode_unserved(self, content: Content) -> np.ndarray:
        """Return codes (n, L) for items of domains that it was not fitted on and nothing is recommended in.

        By default those of `encode`. A tokenizer that knows the items of its own catalogue alone numbers
        them.
        """
        return self.encode(content)

    def residuals(self, content: Content) -> np.ndarray | None:
        """Return what each level quantised of items, (n, L, d) float32; None where nothing was quantised."""
        return None

    def tokenize(self, content: Content) -> Tokenized:
        """Return codes and residuals at once."""
        return Tokenized(self.encode(content), self.residuals(content))

    def transfer(
        self,
        content: Content,
        training: Any,
        *,
        full: bool = False,
        seed: int = 0,
        on_epoch: Report | None = None,
        checkpoint: Path | None = None,
    ) -> Self:
        """Fine-tune it on the items of another domain by a TrainingConfig; `full`: all of its weights."""
        raise TokenizerError(f"{type(self).__name__} cannot be fine-tuned on another domain")

    def recommender_weights(self) -> dict[str, Tensor] | None:
        """Return the weights of a recommender that was trained beside it, for one to start from, or None."""
        return None

    @classmethod
    def least_items(cls, config: Any) -> int:
        """Return how many items it needs at least, so that every code can be placed on one."""
        return 1

    @classmethod
    def check_method(cls, config: Any, method: Mapping[str, Any]) -> None:
        """Raise ValueError where the other settings of a method, by name, do not fit this config."""

    def save(self, folder: Path) -> None:
        """Write `model.safetensors`, with its arrays, and `config.json` into a folder.

        Raises TokenizerError for an attribute that is neither an array nor JSON: then the class needs `save`
        and `load` of its own.
        """
        arrays: dict[str, np.ndarray] = {}
        plain: dict[str, Any] = {}
        for name, value in vars(self).items():
            if name in _NOT_SAVED or name in self.settings:
                continue
            if isinstance(value, np.ndarray):
                arrays[name] = np.ascontiguousarray(value)
            elif isinstance(value, list | tuple) and value and isinstance(value[0], np.ndarray):
                arrays |= {f"{name}.{place}": np.ascontiguousarray(one) for place, one in enumerate(value)}
            else:
                plain[name] = value
        try:
            metadata = {"plain": json.dumps(plain)}
        except TypeError as error:
            raise TokenizerError(
                f"{type(self).__name__} cannot be saved: {error}. Keep numpy arrays and plain values in its "
                "attributes, or write its save and load"
            ) from error
        folder.mkdir(parents=True, exist_ok=True)
        save_file(arrays, folder / "model.safetensors", metadata)
        self.save_config(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        tokenizer = cls(cls.load_config(folder))
        with safe_open(folder / "model.safetensors", framework="numpy") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in names}
        plain = json.loads(metadata.get("plain", "{}"))
        for name, value in plain.items():
            setattr(tokenizer, name, tuple(value) if isinstance(value, list) else value)
        for name in dict.fromkeys(name.split(".")[0] for name in names):
            parts = [arrays[f"{name}.{place}"] for place in range(len(names)) if f"{name}.{place}" in arrays]
            setattr(tokenizer, name, parts or arrays[name])
        return tokenizer

    def save_config(self, folder: Path) -> None:
        """Write `config.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(self.config.model_dump_json(indent=2) + "\n")

    @classmethod
    def load_config(cls, folder: Path) -> Any:
        """Read the `config.json` of a saved tokenizer."""
        return cls.Config.model_validate_json((folder / "config.json").read_text())


_HERE = "genrec_lab.models.tokenizers"
TOKENIZERS: Registry[type[Tokenizer]] = Registry(
    "tokenizer",
    required=("Config", "fit", "encode"),
    declared={
        "rqvae": f"{_HERE}.rqvae:RQVAE",
        "rkmeans": f"{_HERE}.residual_kmeans:ResidualKMeans",
        "tree": f"{_HERE}.tree:UniversalTokenizer",
        "letter": f"{_HERE}.letter:Letter",
        "pq": f"{_HERE}.product_quantization:ProductQuantization",
        "opq": f"{_HERE}.product_quantization:ProductQuantization",
        "fsq": f"{_HERE}.finite_scalar:FiniteScalar",
        "hkmeans": f"{_HERE}.hierarchical_kmeans:HierarchicalKMeans",
        "p5_cid": f"{_HERE}.co_occurrence:CoOccurrence",
        "idgen": f"{_HERE}.textual_ids:TextualIds",
        "random": f"{_HERE}.random_codes:RandomCodes",
        "given": f"{_HERE}.given:GivenCodes",
    },
)
register_tokenizer = TOKENIZERS.register


def find_tokenizer(kind: str) -> type[Tokenizer]:
    """Return the class of a kind; raises RegistryError where there is none, or it is no Tokenizer."""
    found = TOKENIZERS.find(kind)
    if not (isinstance(found, type) and issubclass(found, Tokenizer)):
        raise RegistryError(
            f"tokenizer {kind!r}: {getattr(found, '__name__', found)} is no Tokenizer; derive it from "
            "genrec_lab.models.tokenizers.Tokenizer"
        )
    if not issubclass(found.Config, TokenizerConfig):
        raise RegistryError(
            f"tokenizer {kind!r}: {found.__name__}.Config is no TokenizerConfig; derive it from "
            "genrec_lab.models.tokenizers.TokenizerConfig"
        )
    return found


def tokenizer_config(kind: str, values: Mapping[str, Any]) -> TokenizerConfig:
    """Return the config of a kind with these values, lists standing for tuples.

    Raises RegistryError for an unknown kind, pydantic's ValidationError for values that it refuses.
    """
    # By JSON, whose lists are tuples where a field asks for them, whatever else is strict.
    text = pydantic_core.to_json({**values, "kind": kind}, inf_nan_mode="constants")
    return find_tokenizer(kind).Config.model_validate_json(text)


def _as_config(value: Any) -> Any:
    if isinstance(value, TokenizerConfig) or not isinstance(value, Mapping):
        return value
    if "kind" not in value:
        raise ValueError(f"a tokenizer needs a kind, one of {', '.join(TOKENIZERS)}, or package.module:Class")
    return tokenizer_config(value["kind"], value)


# The settings of any tokenizer, as a field of a larger config: its class is looked up by `kind`.
AnyTokenizerConfig = Annotated[SerializeAsAny[TokenizerConfig], BeforeValidator(_as_config)]


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Read a saved tokenizer of any kind; raises SharingError for a shared folder that was altered."""
    source = Path(folder)
    kind = json.loads((source / "config.json").read_text())["kind"]
    return find_tokenizer(kind).read(source)


def checked_codes(tokenizer: Tokenizer, content: Content) -> Tokenized:
    """Tokenize items and check what came: codes (n, L) within `sizes`, equal when asked again.

    Raises TokenizerError naming the class, what came and what was expected.
    """
    name = type(tokenizer).__name__
    known = ItemContent.of(content)
    try:
        found = tokenizer.tokenize(content)
        codes = np.asarray(found.codes)
    except (TypeError, AttributeError, IndexError) as error:
        raise TokenizerError(f"{name}.encode fails: {type(error).__name__}: {error}") from error
    sizes = tuple(tokenizer.sizes)
    if not sizes or any(int(size) < 1 for size in sizes):
        raise TokenizerError(f"{name}.sizes is {sizes} after fit; expected the number of codes of each level")
    if codes.shape != (len(known), len(sizes)):
        raise TokenizerError(
            f"{name}.encode gave codes of shape {codes.shape} for {len(known)} items; expected "
            f"({len(known)}, {len(sizes)}), a code for each of its sizes {sizes}"
        )
    if not np.issubdtype(codes.dtype, np.integer):
        raise TokenizerError(f"{name}.encode gave codes of type {codes.dtype}; expected integers (int64)")
    wrong = np.argwhere((codes < 0) | (codes >= np.array(sizes)))
    if len(wrong):
        row, level = wrong[0]
        raise TokenizerError(
            f"{name}.encode gave item {known.numbers[row]} the code {codes[row, level]} at level "
            f"{level + 1}; expected 0 to {sizes[level] - 1}, by its sizes {sizes}"
        )
    _check_residuals(name, found.residuals, codes.shape)
    some = known.select(np.linspace(0, len(known) - 1, min(len(known), _MOST_ENCODED_TWICE)).astype(np.int64))
    first, again = tokenizer.encode(some), tokenizer.encode(some)
    if not np.array_equal(first, again):
        differing = int((np.asarray(first) != np.asarray(again)).any(axis=1).sum())
        raise TokenizerError(
            f"{name}.encode gave {differing} of {len(some)} items other codes when it was asked again; "
            "expected the same codes for the same items"
        )
    return found._replace(codes=codes.astype(np.int64))


def _check_residuals(name: str, residuals: np.ndarray | None, shape: tuple[int, ...]) -> None:
    if residuals is not None and (residuals.ndim != 3 or residuals.shape[:2] != shape):
        raise TokenizerError(
            f"{name}.residuals has shape {residuals.shape}; expected {shape} and the dimensions that each "
            "level quantises, or None"
        )
    if residuals is not None and not np.isfinite(residuals).all():
        raise TokenizerError(f"{name}.residuals holds NaN or infinite values")
