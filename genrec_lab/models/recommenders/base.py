"""The interface of recommenders: construction, `fit`, `recommend`, files, and registration by name.

A generative recommender is constructed as `T(codes, config)` and a model over items as `T(config)`. Both have
a class attribute `Config` (pydantic) and the methods

    fit(data, ...)                        learns from a TrainingData and returns self
    recommend(histories, top_k, ...)      returns a Ranked: (B, top_k) items and scores, best first
    save(folder), load(folder)            `load` is a class method

All other arguments are passed by keyword, and only those that the method's signature names (`with_accepted`).
Optional members: `score`; `needs` and `takes` (the parts of the items that a model reads); `pretrain` and
`phases` (a training on several domains before each domain's own); `adapt`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import polars as pl

from genrec_lab.data import NO_ITEM, Dataset, Split
from genrec_lab.data.preparation import MAX_HISTORY, every_prefix, given_pairs, split_of
from genrec_lab.decoding import Histories, Ranked
from genrec_lab.models import ITEM_MODEL_PLACES
from genrec_lab.models.hub import Shareable
from genrec_lab.models.saved import SavedAttributes
from genrec_lab.registry import ComponentConfig, Registry
from genrec_lab.training import Callback

T = TypeVar("T")

# "text": vectors of the texts; "pictures": vectors of the pictures; "words": the table of items.
Need = Literal["text", "pictures", "words"]
# The callbacks of a fit, or a function that returns the callbacks of a phase, such as "fine-tuning".
Callbacks = Sequence[Callback] | Callable[[str], Sequence[Callback]]

# Item indices, in any order; None: all items.
ItemList = Sequence[int] | np.ndarray | None
# Whether to exclude the history's items; or the items to exclude for each user, if histories were truncated.
Seen = bool | Histories

_METHODS = ("Config", "fit", "recommend", "save", "load")

RECOMMENDERS: Registry[Any] = Registry(
    "recommender",
    required=_METHODS,
    declared={
        "t5": "genrec_lab.models.recommenders.recommender:Recommender",
        "causal": "genrec_lab.models.recommenders.causal:CausalRecommender",
    },
)
ITEM_MODELS: Registry[Any] = Registry(
    "item model",
    required=_METHODS,
    declared={kind: f"genrec_lab.models.{place}" for kind, place in ITEM_MODEL_PLACES.items()},
)


def register_recommender(name: str) -> Callable[[T], T]:
    """Register the decorated class as the generative recommender that `recommender.kind` names.

    >>> @register_recommender("nothing_learnt")
    ... class NothingLearnt(SavedAttributes):
    ...     class Config(ComponentConfig):
    ...         pass
    ...
    ...     def __init__(self, codes, config):
    ...         self.codes, self.config = codes, config
    ...
    ...     def fit(self, data):
    ...         return self
    ...
    ...     def recommend(self, histories, top_k, domain):
    ...         return np.stack([self.codes.domain_items(name)[:top_k] for name in domain])
    """
    return RECOMMENDERS.register(name)


def register_item_model(name: str) -> Callable[[T], T]:
    """Register the decorated class as the model over items that `rows.<row>.model.kind` names.

    >>> @register_item_model("oldest")
    ... class Oldest(ItemRecommender):
    ...     class Config(ComponentConfig):
    ...         pass
    ...
    ...     def fit(self, data):
    ...         self.items = data.items["item"].to_numpy()
    ...         return self
    ...
    ...     def score(self, histories):
    ...         return np.tile(-self.items, (len(histories), 1))
    """
    return ITEM_MODELS.register(name)


class RecommenderConfig(ComponentConfig):
    """The base of generative recommenders' configs; each adds its sizes.

    If its `learns_in_one_pass` is true, one pass over a sequence trains every position; otherwise training
    uses pairs.
    """


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The data that a recommender may learn from: the catalogue, training sequences and validation users.

    items: rows of `Dataset.items`. sequences: `user, domain, items`, without each user's held-out items.
    valid: `user, domain, history, target`. Test targets are not included. Items and users keep their numbers
    in the whole data set, even if only some domains are selected.

        data = TrainingData.of(dataset).of_domains("Garden")
        model = SASRec(SASRec.Config()).fit(data)
    """

    items: pl.DataFrame
    sequences: pl.DataFrame
    valid: pl.DataFrame
    max_history: int = MAX_HISTORY
    given: pl.DataFrame | None = None  # pairs `user, history, target` of a given split

    @classmethod
    def of(
        cls, data: Dataset | TrainingData, split: Split | None = None, max_history: int = MAX_HISTORY
    ) -> TrainingData:
        """Return the training data of a data set, by `split`, its own split, or else leave-one-out.

        Raises DataError if no user has enough items for validation, TypeError for anything else.
        """
        if isinstance(data, TrainingData):
            return data
        if not isinstance(data, Dataset):
            raise TypeError(
                f"data is a {type(data).__name__}; expected a Dataset, which load_dataset('frames', "
                "interactions=…) makes of your own interactions"
            )
        split = split or split_of(data, max_history)
        if split.sequences is not None:
            return cls(data.items, split.sequences, split.valid, split.max_history)
        kept, given = data.training_sequences(), data.given.get("train")
        return cls(data.items, kept, split.valid, split.max_history, given)

    @property
    def domains(self) -> tuple[str, ...]:
        """The names of the domains, in the order of their first items."""
        return tuple(self.items["domain"].unique(maintain_order=True))

    def of_domains(self, domains: str | Iterable[str]) -> TrainingData:
        """Return the data of some domains; raises ValueError for an unknown one."""
        wanted = [domains] if isinstance(domains, str) else list(domains)
        if unknown := [name for name in wanted if name not in self.domains]:
            raise ValueError(f"domain is {unknown[0]!r}; expected one of {list(self.domains)}")
        inside = pl.col("domain").is_in(wanted)
        parts = (self.items, self.sequences, self.valid)
        items, sequences, valid = (part.filter(inside) for part in parts)
        return replace(self, items=items, sequences=sequences, valid=valid)

    def pairs(self) -> pl.DataFrame:
        """Return all pairs `user, domain, history, target` of the sequences, as in `Split.train`."""
        if self.given is None:
            return every_prefix(self.sequences, self.max_history)
        return given_pairs(self.given, self.sequences, self.max_history)


class ItemRecommender(SavedAttributes, Shareable):
    """A model over items that ranks by `score`.

    A subclass has a `Config`, a `fit` that sets `items`, and `score`; numpy arrays and plain values in its
    attributes are saved and loaded.

        >>> class Newest(ItemRecommender):
        ...     class Config(ComponentConfig):
        ...         pass
        ...
        ...     def fit(self, data):
        ...         self.items = data.items["item"].to_numpy()
        ...         return self
        ...
        ...     def score(self, histories):
        ...         return np.tile(self.items.astype(float), (len(histories), 1))
        >>> model = Newest(Newest.Config())
        >>> model.items = np.array([3, 5, 8])
        >>> model.recommend([[3], [5]], top_k=2).items
        array([[8, 5],
               [8, 5]])
    """

    needs: ClassVar[tuple[Need, ...]] = ()  # required parts of the items
    takes: ClassVar[tuple[Need, ...]] = ()  # optional parts of the items
    not_saved: ClassVar[tuple[str, ...]] = ("config", "shared_items", "max_history")
    items: np.ndarray  # (N,) item indices that it can recommend, ascending

    def __init__(self, config: Any = None) -> None:
        """Set the config, by default `Config()`."""
        self.config = self.Config() if config is None else config

    def score(self, histories: Histories, users: Sequence[int] | None = None) -> np.ndarray:
        """Return scores (B, N) of `items` given histories of items, oldest first; higher is better."""
        raise TypeError(f"{type(self).__name__} defines no score")

    def scoring(self) -> AbstractContextManager[None]:
        """Within the block, cache what is the same for all histories; does nothing by default."""
        return nullcontext()

    def recommend(
        self,
        histories: Histories,
        top_k: int,
        users: Sequence[int] | None = None,
        *,
        allow: ItemList = None,
        deny: ItemList = None,
        exclude_seen: Seen = False,
    ) -> Ranked:
        """Return the top_k items of the domain for each history; rows are filled with -1 and -inf.

        users: the histories' users, for models that use them. allow, deny: indices of the items to choose
        from and to leave out. exclude_seen: leave out the items of each history, or the items given for each
        user. Raises ValueError if top_k is below 1 or no item is allowed, RecommenderError for scores of a
        wrong shape or NaN, RuntimeError before `fit`.
        """
        if not hasattr(self, "items"):
            raise RuntimeError(f"{type(self).__name__} has no items yet; call fit or load first")
        seen, nobody = seen_items(histories, exclude_seen), [-1] * len(histories)
        rows = list(zip(histories, users or nobody, seen or nobody, strict=True))
        filtered = allow is not None or deny is not None
        kept = allowed_items(self.items, allow, deny) if filtered else self.items
        columns = np.searchsorted(self.items, kept)

        def score(part: Sequence[tuple[Sequence[int], int, Any]]) -> np.ndarray:
            read, users_of_part, _ = zip(*part, strict=True)
            scores = with_accepted(self.score, list(read), users=list(users_of_part))
            scores = checked_scores(scores, type(self), (len(part), len(self.items)))
            scores = scores[:, columns] if filtered else scores
            if seen is not None:
                scores = scores.astype(np.float32)  # makes a copy
                for of_user, (_, _, items) in zip(scores, part, strict=True):
                    of_user[np.isin(kept, items)] = -np.inf
            return scores

        with self.scoring():
            return rank_by_score(score, rows, kept, top_k)


def seen_items(histories: Histories, exclude_seen: Seen) -> Histories | None:
    """Return the items to leave out for each user, or None.

    Raises ValueError if their number is wrong, TypeError for histories that are no lists.
    """
    if len(histories) and np.ndim(histories[0]) != 1:
        first = list(histories)[:3]
        raise TypeError(f"histories: {first}, expected a list of item indices per user, such as [[3, 14]]")
    if isinstance(exclude_seen, bool):
        return histories if exclude_seen else None
    if len(exclude_seen) != len(histories):
        raise ValueError(
            f"exclude_seen has items for {len(exclude_seen)} users, but there are {len(histories)} histories"
        )
    return exclude_seen


def allowed_items(items: np.ndarray, allow: ItemList, deny: ItemList, domain: str = "") -> np.ndarray:
    """Return the items of a domain (N,) that are in `allow`, if given, and not in `deny`.

    Raises ValueError if none is left.
    """
    lists = [None if one is None else np.asarray(one) for one in (allow, deny)]
    for name, one in zip(("allow", "deny"), lists, strict=True):
        if one is not None and one.size and one.dtype.kind not in "iu":
            raise ValueError(f"{name} holds {one.dtype} values; expected item indices")
    kept = items if lists[0] is None else items[np.isin(items, lists[0])]
    kept = kept if lists[1] is None else kept[~np.isin(kept, lists[1])]
    if not len(kept):
        raise ValueError(
            f"none of the {len(items):,} items{f' of {domain}' if domain else ''} is left by allow and deny; "
            "allow at least one"
        )
    return kept


def rank_by_score(
    score: Callable[[Sequence[T]], np.ndarray],
    rows: Sequence[T],
    items: np.ndarray,
    top_k: int,
    batch_size: int = 512,
) -> Ranked:
    """Return the top_k of `items` (N,), the catalogue's item indices, in batches of rows.

    `score(rows)` returns (B, N); higher is better. Raises ValueError if top_k is below 1.
    """
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; expected 1 or more")
    parts = []
    for start in range(0, len(rows), batch_size):
        scores = score(rows[start : start + batch_size])
        width = min(top_k, len(items))
        # Include all ties at the last position, so that Ranked.best can break them by item index.
        worst = np.partition(scores, -width, axis=1)[:, -width, None]
        most = int((scores >= worst).sum(1).max())
        columns = np.argpartition(-scores, min(most, len(items)) - 1, axis=1)[:, :most]
        parts.append(Ranked.best(items[columns], np.take_along_axis(scores, columns, 1), top_k))
    return Ranked.concatenate(parts) if parts else Ranked.nobody(top_k)


def needs_of(model: type[Any], *, also_taken: bool = False) -> tuple[Need, ...]:
    """Return the parts of the items that a class needs, with `also_taken` the optional ones too."""
    needs: tuple[Need, ...] = getattr(model, "needs", ())
    return (*needs, *getattr(model, "takes", ())) if also_taken else needs


def pretrains(model: type[Any]) -> bool:
    """Return whether a model over items is first trained on several domains together, by `pretrain`."""
    return any(phase.shared for phase in getattr(model, "phases", ()))


def with_accepted(function: Callable[..., T], *arguments: Any, **offered: Any) -> T:
    """Call a function with the arguments and the offered keywords that its signature names."""
    return function(*arguments, **{name: offered[name] for name in _accepted(function, offered)})


def _accepted(function: Callable[..., Any], names: Iterable[str]) -> list[str]:
    parameters = inspect.signature(function).parameters
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    return [name for name in names if takes_all or name in parameters]


def require_accepted(function: Callable[..., Any], *names: str) -> None:
    """Raise RecommenderError if a function does not accept one of these arguments."""
    accepted = _accepted(function, names)
    if lacking := [name for name in names if name not in accepted]:
        raise RecommenderError(
            f"{function.__module__}:{function.__qualname__} takes no {lacking[0]!r}; add that argument, "
            "or filter its recommendations afterwards"
        )


def callbacks_of(callbacks: Callbacks, training: str) -> Sequence[Callback]:
    """Return the callbacks of one training within a fit."""
    return callbacks(training) if callable(callbacks) else callbacks


class RecommenderError(ValueError):
    """Raised for invalid output of a recommender; the message names its class and the expected value."""


def recommend_to(model: Any, users: pl.DataFrame, top_k: int, items: np.ndarray, **offered: Any) -> Ranked:
    """Return a recommender's checked top_k of the items (N,) for users `user, domain, history`.

    `offered` are keywords that its `recommend` may accept besides `domain` and `users`, such as `beams`.
    Raises RecommenderError like `checked_ranking`.
    """
    offered |= {"domain": users["domain"].to_list(), "users": users["user"].to_list()}
    ranked = with_accepted(model.recommend, users["history"].to_list(), top_k, **offered)
    return checked_ranking(ranked, type(model), (users.height, top_k), items)


def checked_ranking(
    ranked: Any, model: type[Any], shape: tuple[int, int], items: np.ndarray | None = None
) -> Ranked:
    """Check the result of a recommender's `recommend` and return it as a Ranked of `shape` (U, top_k).

    Item indices without scores, best first, are accepted too. items: (N,) the allowed items. Raises
    RecommenderError for a wrong shape or type, NaN scores, an item that is repeated or not in `items`, and -1
    before an item.
    """
    gave = f"{model.__module__}:{model.__qualname__}.recommend gave"
    held = getattr(ranked, "items", ranked)
    found = np.asarray(held() if callable(held) else held)
    if found.shape != shape or found.dtype.kind not in "iu":
        raise RecommenderError(
            f"{gave} {_described(found)}; expected item indices of shape {shape}, a row per user, best first"
        )
    found = found.astype(np.int64)
    places = -np.arange(shape[1], dtype=np.float32)
    scores = np.asarray(getattr(ranked, "scores", np.broadcast_to(places, shape)))
    if scores.shape != shape or scores.dtype.kind != "f":
        raise RecommenderError(
            f"{gave} scores that are {_described(scores)}; expected floats of shape {shape}"
        )
    filled, in_order = found == NO_ITEM, np.sort(found, axis=1)
    allowed = filled | (np.isin(found, items) if items is not None else found >= 0)
    of_domain = f"{'' if items is None else f'{len(items)} '}items of the user's domain"
    for wrong, of, why in (
        (np.isnan(scores), found, "with the score NaN; expected a number for each item"),
        (filled[:, :-1] & ~filled[:, 1:], found, "before an item; -1 may only fill the end of a row"),
        (~allowed, found, f"which is not one of the {of_domain}"),
        (
            (in_order[:, 1:] == in_order[:, :-1]) & ~(in_order[:, 1:] == NO_ITEM),
            in_order,
            "twice; give it once",
        ),
    ):
        if wrong.any():
            user, place = np.argwhere(wrong)[0]
            raise RecommenderError(f"{gave} user {user} the item {of[user, place]}, {why}")
    return ranked if isinstance(ranked, Ranked) else Ranked(found, scores)


def checked_scores(scores: Any, model: type[Any], shape: tuple[int, int]) -> np.ndarray:
    """Check the result of a model's `score` and return it as an array of `shape` (B, N).

    Raises RecommenderError for a wrong shape and for NaN.
    """
    gave = f"{model.__module__}:{model.__qualname__}.score gave"
    found = np.asarray(scores)
    if found.shape != shape or found.dtype.kind not in "fiu":
        raise RecommenderError(
            f"{gave} {_described(found)}; expected {shape}, a score for each history and item of the domain"
        )
    if np.isnan(found).any():
        row = int(np.isnan(found).any(1).argmax())
        raise RecommenderError(f"{gave} NaN for history {row}; expected a number for each item")
    return found


def _described(array: np.ndarray) -> str:
    return f"an array of shape {array.shape} and type {array.dtype}"


def read_recommender(folder: str | Path) -> Any:
    """Load a recommender of any kind that `save` or `save_pretrained` wrote.

    Raises FileNotFoundError if a file is missing, SharingError if a shared folder was altered.
    """
    config = Path(folder) / "config.json"
    kind = json.loads(config.read_text()).get("kind", "t5") if config.is_file() else "t5"
    model = (ITEM_MODELS if kind in ITEM_MODELS and kind not in RECOMMENDERS else RECOMMENDERS).find(kind)
    return getattr(model, "read", model.load)(Path(folder))
