"""Bazaar's world: its items, the tastes of its users, and the probability of each next item.

A user belongs to one of `archetypes` taste archetypes, which are the same in every shop. Given archetype t,
last item j and the user's set of items S, the next item is i with probability

    p(i | t, j, S) = w_t(i) f(j, i) / sum over i' not in S of w_t(i') f(j, i')     for i not in S, else 0

    w_t(i)  = exp(Zipf popularity of i + taste of t for i's attributes)
    f(j, i) = exp(department of j -> department of i + kind of j -> kind of i + carry-over if of one style)

and f = 1 for the first item. All shops share the tastes and the departments' part of f; this is what can be
transferred between shops. With `new_items`, some items enter each shop just before the last choice of every
user. Until then their weight is 0, so no history contains them when the last item is predicted. f depends
only on the *cell* of an item (its kind of goods and its style). A choice therefore draws a cell, then an item
in it, and a million items cost little more than a thousand. All weights are whole numbers computed from whole
64ths of a nat, so sums are exact in any order, and the same seed gives the same world on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from genrec_lab.bazaar.catalogue import (
    COLOURS,
    DEPARTMENTS,
    KINDS_PER_DEPARTMENT,
    MATERIALS,
    SHAPES,
    SHARED_BRANDS,
    SHOPS,
    STYLES,
    Attributes,
    Shop,
    draw_attributes,
    kind_departments,
)
from genrec_lab.data.rules import DataError, nearest

MIN_ITEMS: Final = 300
MAX_ITEMS: Final = 1_000_000
MIN_LENGTH: Final = 5  # as in Amazon's 5-core, where every user has at least 5 interactions
MAX_USERS: Final = 10_000_000
DEFAULT_USERS_PER_ITEM: Final = 4
MAX_DEFAULT_USERS: Final = 400_000

STEPS_PER_NAT: Final = 64
WEIGHT_SCALE: Final = 2**22  # of the most likely item; the bounds on the knobs keep every sum below 2**63
FACTOR_SCALE: Final = 64

# The strength of tastes for each attribute, in nats at taste_strength 1. Brands matter least, because about a
# third of them belong to a single shop.
TASTE_SCALES: Final = {
    "department": 0.2, "material": 0.6, "colour": 1.2, "shape": 0.2, "style": 0.9, "brand": 0.2,
}  # fmt: skip


class BazaarConfig(BaseModel):
    """All settings that determine a Bazaar, except pictures and the wording of `text`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    items: int = Field(900, ge=MIN_ITEMS, le=MAX_ITEMS, description="items over all domains")
    users: int | None = Field(None, ge=1, le=MAX_USERS, description="over all domains; None: four per item")
    item_shares: tuple[int, ...] | None = Field(None, description="items of each domain, in proportion")
    user_shares: tuple[int, ...] | None = Field(None, description="users of each domain, in proportion")
    domains: tuple[str, ...] = Field(("Garden", "Kitchen", "Studio"), description="the shops, each a domain")
    new_items: float = Field(0.0, ge=0, le=0.5, description="share of items that only a last choice can pick")
    seed: int = Field(0, ge=0, description="decides all that is drawn")
    archetypes: int = Field(24, ge=1, le=1000, description="kinds of users, shared by all domains")
    taste_strength: float = Field(1.0, ge=0, le=4, description="how much archetypes differ")
    popularity_exponent: float = Field(0.3, ge=0, le=2, description="Zipf: rank r weighs r**-exponent")
    transition_strength: float = Field(2.4, ge=0, le=5, description="nats for the usual next department")
    style_carry_over: float = Field(0.4, ge=0, le=3, description="nats for the style of the last item")
    mean_length: float = Field(8.0, ge=MIN_LENGTH, le=50, description="interactions per user, before the cut")
    max_length: int = Field(100, ge=MIN_LENGTH, le=1000, description="the cut, or a third of the items")

    @field_validator("item_shares", "user_shares", "domains", mode="before")
    @classmethod
    def _listed(cls, value: object, field: ValidationInfo) -> object:
        if isinstance(value, str) and field.field_name == "domains":
            raise ValueError(f"a list of shops is expected, such as [{value!r}]")
        return tuple(value) if isinstance(value, list) else value  # JSON and YAML have no tuples

    @field_validator("domains")
    @classmethod
    def _known_domains(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError(f"no domain given; choose from {', '.join(SHOPS)}")
        for position, name in enumerate(value):
            if name not in SHOPS:
                raise ValueError(f"unknown domain {name!r}{nearest(name, SHOPS)}")
            if name in value[:position]:
                raise ValueError(f"domain {name!r} is named twice; name each once")
        return value

    @model_validator(mode="after")
    def _something_for_each_domain(self) -> BazaarConfig:
        for name in ("item_shares", "user_shares"):
            shares = getattr(self, name)
            if shares is not None and (len(shares) != len(self.domains) or min(shares) < 1):
                raise ValueError(
                    f"{name} = {list(shares)}: {len(self.domains)} whole numbers from 1 are expected, "
                    f"one for each of {list(self.domains)}"
                )
        if self.users is not None and self.users < len(self.domains):
            raise ValueError(
                f"users: {self.users} are too few for {len(self.domains)} domains; "
                "each domain needs one, and a few hundred to learn from"
            )
        return self

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> BazaarConfig:
        """Create the config from the options of `load_dataset("bazaar", ...)`.

        `name`, `images` and `text_template` are ignored. Raises DataError, which names every wrong key, its
        value and the allowed values.
        """
        own = {key: value for key, value in options.items() if key not in ("name", "images", "text_template")}
        for key in own:
            if key not in cls.model_fields:
                known = [*cls.model_fields, "images", "text_template"]
                raise DataError(f"bazaar: unknown option {key!r}{nearest(key, known)}")
        try:
            return cls(**own)
        except ValidationError as error:
            raise DataError("bazaar: " + "; ".join(_problem(entry) for entry in error.errors())) from error

    def domain_sizes(self, total: int, shares: Sequence[int] | None = None) -> tuple[int, ...]:
        """Spread `total` over the domains by their shares, or evenly; the first ones get the remainder."""
        weights = shares or (1,) * len(self.domains)
        sizes = [total * share // sum(weights) for share in weights]
        rest = total - sum(sizes)
        return tuple(size + (position < rest) for position, size in enumerate(sizes))

    def n_users(self) -> int:
        """Number of users over all domains: `users`, or four per item up to `MAX_DEFAULT_USERS`."""
        if self.users is not None:
            return self.users
        return min(DEFAULT_USERS_PER_ITEM * self.items, MAX_DEFAULT_USERS)


def _problem(entry: Mapping[str, Any]) -> str:
    """Format one of pydantic's errors as `key = value: what is allowed`."""
    message = entry["msg"].removeprefix("Value error, ")
    return f"{entry['loc'][0]} = {entry['input']!r}: {message}" if entry["loc"] else message


# The random streams, one per concern (and shop): drawing more from one does not change the others.
_STREAMS: Final = (
    "tastes", "departments", "attributes", "wording", "popularity", "kinds", "archetypes", "lengths",
    "choices", "pictures", "arrivals",
)  # fmt: skip


def stream(seed: int, concern: str, shop: Shop | None = None) -> np.random.Generator:
    """Return the generator of one concern, or of one concern in one shop."""
    key = (_STREAMS.index(concern),) if shop is None else (_STREAMS.index(concern), shop.number)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _steps(nats: np.ndarray | float) -> np.ndarray:
    """Round nats to whole 64ths."""
    return np.rint(np.asarray(nats) * STEPS_PER_NAT).astype(np.int64)


@dataclass(frozen=True)
class DomainWorld:
    """One shop of the world, with N items numbered from 0 within the shop, C cells and T archetypes.

    `first_item` is the shop's first index among all items. `attributes` are the items' attributes.
    `popularity` (N,) and `tastes`, attribute -> (T, values), are log-weights in 64ths of a nat. `cells` (N,)
    is each item's cell. `factors` (C + 1, C) are whole numbers proportional to f, where the row is the cell
    of the last item, and row C stands for no item yet. `archetype_weights` (T,) is the prior over archetypes
    in whole numbers. `new` (N,) is true for the items that enter before the last choice.
    """

    shop: Shop
    first_item: int
    attributes: Attributes
    popularity: np.ndarray
    tastes: dict[str, np.ndarray]
    cells: np.ndarray
    factors: np.ndarray
    archetype_weights: np.ndarray
    new: np.ndarray

    @property
    def n_items(self) -> int:
        """Number of items in this shop."""
        return len(self.cells)

    @property
    def n_archetypes(self) -> int:
        """Number of taste archetypes, the same in every shop."""
        return len(self.archetype_weights)

    @property
    def n_cells(self) -> int:
        """Number of cells: kinds of goods times styles."""
        return self.factors.shape[1]

    def archetype_item_weights(self, archetype: int) -> np.ndarray:
        """Return w_t of the module's equation as (N,) int64, at least 1; the largest is `WEIGHT_SCALE`."""
        own = self.attributes
        log_weights = self.popularity + self.tastes["department"][archetype, kind_departments()[own.kind]]
        for attribute in ("material", "colour", "shape", "style", "brand"):
            log_weights = log_weights + self.tastes[attribute][archetype, getattr(own, attribute)]
        below_best = log_weights.max() - log_weights
        table = np.rint(WEIGHT_SCALE * np.exp(-np.arange(below_best.max() + 1) / STEPS_PER_NAT))
        return np.maximum(table, 1).astype(np.int64)[below_best]

    def item_weights(self) -> np.ndarray:
        """Return the weights w of every archetype as (T, N) int64."""
        return np.stack([self.archetype_item_weights(archetype) for archetype in range(self.n_archetypes)])


@dataclass(frozen=True)
class BazaarWorld:
    """The world that a config describes: one `DomainWorld` per domain, in the config's order.

    >>> world = BazaarWorld.from_options({"items": 300, "users": 300, "domains": ["Garden", "Studio"]})
    >>> [(name, shop.n_items, shop.n_cells) for name, shop in world.domains.items()]
    [('Garden', 150, 96), ('Studio', 150, 96)]
    """

    config: BazaarConfig
    domains: dict[str, DomainWorld]

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> BazaarWorld:
        """Draw the world of a notebook's `dataset` options, such as `{"name": "bazaar", "items": 900}`.

        No file is read: the same options always give the same world. Raises DataError for options that a
        Bazaar does not have.
        """
        if options.get("name", "bazaar") != "bazaar":
            raise DataError(
                f"the dataset is {options['name']!r}: only 'bazaar' knows the world that it was drawn from"
            )
        return cls.from_config(BazaarConfig.from_options(options))

    @classmethod
    def from_config(cls, config: BazaarConfig) -> BazaarWorld:
        """Draw the world: first what all shops share, then each shop from its own streams."""
        tastes = _draw_tastes(config, stream(config.seed, "tastes"))
        follows = _draw_department_steps(config, stream(config.seed, "departments"))
        archetype_weights = stream(config.seed, "archetypes").integers(2, 7, config.archetypes)
        sizes = config.domain_sizes(config.items, config.item_shares)
        domains = {}
        for name, n_items, end in zip(config.domains, sizes, np.cumsum(sizes), strict=True):
            shop = SHOPS[name]
            attributes = draw_attributes(shop, n_items, stream(config.seed, "attributes", shop))
            ranks = stream(config.seed, "popularity", shop).permutation(n_items) + 1
            arrivals = stream(config.seed, "arrivals", shop).permutation(n_items)
            domains[name] = DomainWorld(
                shop=shop,
                first_item=int(end) - n_items,
                attributes=attributes,
                popularity=_steps(-config.popularity_exponent * np.log(ranks)),
                # Nobody has a taste for a shop's own brands.
                tastes=tastes | {"brand": np.pad(tastes["brand"], ((0, 0), (0, len(shop.brands))))},
                cells=attributes.kind * len(STYLES) + attributes.style,
                factors=_draw_factors(config, shop, follows),
                archetype_weights=archetype_weights,
                new=arrivals < round(config.new_items * n_items),
            )
        return cls(config, domains)


def _draw_tastes(config: BazaarConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw each archetype's log-weight for each shared attribute value: attribute -> (T, values) in 64ths.

    An archetype likes a fifth of an attribute's values (+1), dislikes half of them (-1) and is neutral about
    the rest. Each value is liked by the same number of archetypes, plus or minus one, so that tastes do not
    make items popular.
    """
    values = (DEPARTMENTS, MATERIALS, COLOURS, SHAPES, STYLES, SHARED_BRANDS)
    tastes = {}
    for attribute, names in zip(TASTE_SCALES, values, strict=True):
        order = np.arange(len(names))
        liking = np.where(order < max(1, len(names) // 5), 1.0, np.where(order < len(names) // 2, 0.0, -1.0))
        place_of_value = rng.permutation(len(names))
        turn_of_archetype = rng.permutation(config.archetypes)
        turned = liking[(place_of_value[None, :] + turn_of_archetype[:, None]) % len(names)]
        tastes[attribute] = _steps(config.taste_strength * TASTE_SCALES[attribute] * turned)
    return tastes


def _draw_department_steps(config: BazaarConfig, rng: np.random.Generator) -> np.ndarray:
    """Draw the log-weight of each department after each, shared by all shops: (6, 6) in 64ths of a nat.

    The departments form a circle in random order. Usually the next one follows (1 x transition_strength),
    often the one after it (0.6 x), rarely one of the previous two (-0.4 x). The circle makes all departments
    equally frequent.
    """
    strengths = np.array([0.0, 1.0, 0.6, 0.0, -0.4, -0.4])
    place = rng.permutation(len(DEPARTMENTS))
    further = (place[None, :] - place[:, None]) % len(DEPARTMENTS)
    return _steps(config.transition_strength * strengths[further])


def _draw_factors(config: BazaarConfig, shop: Shop, follows: np.ndarray) -> np.ndarray:
    """Draw the whole numbers proportional to f for one shop: (C + 1, C); row C, before any item, is uniform.

    After each kind of goods, one kind of every department is preferred (0.4 x transition_strength). These
    preferences differ between shops.
    """
    departments = kind_departments()
    n_kinds, n_departments = len(departments), len(DEPARTMENTS)
    preferred = stream(config.seed, "kinds", shop).integers(0, KINDS_PER_DEPARTMENT, (n_kinds, n_departments))
    is_preferred = np.arange(n_kinds) % KINDS_PER_DEPARTMENT == preferred[:, departments]
    preference = _steps(0.4 * config.transition_strength)
    between_kinds = follows[departments][:, departments] + is_preferred * preference
    same_style = np.eye(len(STYLES), dtype=np.int64) * _steps(config.style_carry_over)
    n_cells = n_kinds * len(STYLES)
    log_factors = (between_kinds[:, None, :, None] + same_style[None, :, None, :]).reshape(n_cells, n_cells)
    factors = np.maximum(np.rint(FACTOR_SCALE * np.exp(log_factors / STEPS_PER_NAT)), 1).astype(np.int64)
    return np.vstack([factors, np.full(n_cells, FACTOR_SCALE, dtype=np.int64)])
