"""Bazaar: what is generated, that it stays the same, and that the oracle is exact and unbeaten."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genrec_lab.bazaar import (
    BazaarConfig,
    BazaarWorld,
    make_bazaar,
)
from genrec_lab.bazaar.catalogue import (
    COLOURS,
    DEPARTMENT_MATERIALS,
    DEPARTMENTS,
    SHARED_BRANDS,
    SHOPS,
    STYLES,
    Attributes,
    kind_departments,
)
from genrec_lab.bazaar.pictures import draw_picture
from genrec_lab.bazaar.sequences import draw_lengths, draw_sequences
from genrec_lab.bazaar.world import FACTOR_SCALE, WEIGHT_SCALE
from genrec_lab.data.dataset import DataError, Dataset
from tests.nightly import AT_NIGHT

SMALL = {"items": 300, "users": 600, "domains": ("Garden", "Kitchen")}
# 50 items a domain: small enough for loops in plain Python.
TINY = {"items": 300, "users": 240, "domains": tuple(SHOPS), "archetypes": 5}
ATTRIBUTES = ("kind", "material", "colour", "shape", "style", "brand")

GOLDEN_TITLE = "Rustic teal oak garden bench, arched"
GOLDEN_SEQUENCE = [36, 27, 137, 25, 82]
GOLDEN_CHECKSUM = (4788, 2146288328)


@pytest.fixture(scope="module")
def small() -> Dataset:
    return make_bazaar(**SMALL)


@pytest.fixture(scope="module")
def tiny() -> BazaarWorld:
    return BazaarWorld.from_options(TINY)


def histories_of(world: BazaarWorld, domain: str) -> list[np.ndarray]:
    drawn = draw_sequences(world)[domain]
    return np.split(drawn.items, np.cumsum(drawn.lengths)[:-1])


# What is generated


def test_default_size_fits_the_demo() -> None:
    config = BazaarConfig()
    assert (config.items, config.n_users(), config.domains) == (900, 3600, ("Garden", "Kitchen", "Studio"))


def test_users_choose_distinct_items_of_their_own_domain(small: Dataset) -> None:
    assert small.domains == ("Garden", "Kitchen")
    assert (small.n_items, small.n_users) == (300, 600)
    home = small.item_domains()
    for domain, items in small.sequences.select("domain", "items").iter_rows():
        assert len(set(items)) == len(items) >= 5
        assert {small.domains[home[item]] for item in items} == {domain}


def test_items_say_all_their_attributes_and_nothing_false(small: Dataset) -> None:
    for row in small.items.iter_rows(named=True):
        title, description = row["title"].lower(), row["description"].lower()
        for attribute in ("material", "colour", "shape"):
            assert row[attribute] in title and row[attribute] in description
        assert row["style"] in row["title"] and row["style"] in row["description"]
        shop, department, kind = row["categories"].split(", ")
        assert shop == row["domain"] and department in DEPARTMENTS
        assert row["material"] in DEPARTMENT_MATERIALS[department]
        assert any(noun in title for name, *nouns in SHOPS[shop].kinds if name == kind for noun in nouns)
        assert row["brand"] in SHOPS[shop].all_brands
        assert row["text"] == f"{row['title']} {row['brand']} {row['categories']}"
        named_colours = set(re.findall(r"\w+", title)) & set(COLOURS)
        assert named_colours == {row["colour"]}
        assert not re.search(r"[{}]", row["title"] + row["description"])
        assert row["title"][0].isupper() or row["title"][0].isdigit()


def test_text_template_is_followed() -> None:
    items = make_bazaar(**SMALL, text_template="{style}: {description}").items
    assert items["text"].equals(items.select(text=pl.format("{}: {}", "style", "description"))["text"])


def test_wording_varies(small: Dataset) -> None:
    masked = small.items["title"].str.replace_all(r"[A-Za-z' -]+", "w")
    assert masked.n_unique() >= 4
    assert small.items["title"].n_unique() > 0.98 * small.n_items


@pytest.mark.parametrize("mean", [5.0, 8.0, 12.0])
def test_lengths_have_the_mean_a_minimum_and_a_long_tail(mean: float) -> None:
    lengths = draw_lengths(200_000, mean, 1000, np.random.default_rng(0))
    assert lengths.min() == 5
    assert lengths.mean() == pytest.approx(mean, rel=0.01)
    if mean > 5:
        # A geometric distribution of the same mean would leave e^-6 of its users beyond six mean stays.
        assert (lengths - 5 > 6 * (mean - 5)).mean() > 3 * math.exp(-6)


def test_lengths_are_cut_where_the_shop_is_small(tiny: BazaarWorld) -> None:
    longest = max(int(drawn.lengths.max()) for drawn in draw_sequences(tiny).values())
    assert 5 < longest <= 50 // 3


@given(
    items=st.integers(300, 1_000_000),
    users=st.integers(6, 10_000),
    domains=st.permutations(list(SHOPS)).flatmap(lambda shops: st.integers(1, 6).map(lambda n: shops[:n])),
)
def test_items_and_users_are_spread_evenly(items: int, users: int, domains: list[str]) -> None:
    config = BazaarConfig.from_options({"items": items, "users": users, "domains": domains})
    for total in (items, users):
        sizes = config.domain_sizes(total)
        assert sum(sizes) == total and max(sizes) - min(sizes) <= 1 and len(sizes) == len(domains)


def test_catalogue_words_are_distinct() -> None:
    for shop in SHOPS.values():
        assert len(shop.kinds) == 12
        assert len({brand[:2] for brand in shop.all_brands}) == len(shop.all_brands), "initials on the badges"
    own = [name for shop in SHOPS.values() for kind in shop.kinds for name in kind]
    assert len(set(own)) == len(own)
    assert len({shop.number for shop in SHOPS.values()}) == len(SHOPS) == 6


# It stays the same


def test_same_seed_same_fingerprint_other_seed_another(small: Dataset) -> None:
    assert make_bazaar(**SMALL).fingerprint() == small.fingerprint()
    assert make_bazaar(**SMALL, seed=1).fingerprint() != small.fingerprint()


def test_golden_values_of_seed_0(small: Dataset) -> None:
    """Drawn once on x86-64 with numpy 2.4: whatever draws otherwise makes results incomparable."""
    assert small.items["title"][0] == GOLDEN_TITLE
    assert small.sequences["items"][0].to_list() == GOLDEN_SEQUENCE
    places = small.sequences["items"].explode().to_numpy()
    assert (len(places), int((places * np.arange(len(places))).sum())) == GOLDEN_CHECKSUM


def test_more_users_leave_the_items_as_they_are(small: Dataset) -> None:
    assert make_bazaar(**{**SMALL, "users": 700}).items.equals(small.items)


def test_a_shop_does_not_depend_on_the_others(small: Dataset) -> None:
    swapped = make_bazaar(**{**SMALL, "domains": ("Kitchen", "Garden")})
    first, second = small.select("Kitchen"), swapped.select("Kitchen")
    assert first.items.equals(second.items) and first.sequences.equals(second.sequences)


def test_pictures_change_nothing_but_their_column(small: Dataset, tmp_path: Path) -> None:
    with_pictures = make_bazaar(**SMALL, images=tmp_path / "pictures")
    assert with_pictures.items.drop("image").equals(small.items.drop("image"))
    assert with_pictures.sequences.equals(small.sequences)
    assert small.items["image"].null_count() == small.n_items
    paths = with_pictures.items["image"].to_list()
    assert len(set(paths)) == small.n_items
    for path in paths[::30]:
        with Image.open(path) as picture:
            assert (picture.size, picture.mode) == ((96, 96), "RGB")
    contents = [Path(path).read_bytes() for path in paths]
    make_bazaar(**SMALL, images=str(tmp_path / "pictures"))
    assert [Path(path).read_bytes() for path in paths] == contents


def test_world_is_found_again_from_a_run_files_literal() -> None:
    options = {"name": "bazaar", "items": 300, "users": 600, "domains": ["Garden", "Kitchen"], "images": "x"}
    again = draw_sequences(BazaarWorld.from_options(options))
    sequences = make_bazaar(**SMALL).sequences
    for domain, drawn in again.items():
        own = sequences.filter(pl.col("domain") == domain)
        assert np.array_equal(own["items"].explode().to_numpy(), drawn.items)


# Bad input


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"items": 299}, r"items = 299.*300"),
        ({"items": 1_000_001}, r"items = 1000001.*1000000"),
        ({"items": 900.0}, r"items = 900\.0"),
        ({"domains": ()}, r"no domain given; choose from Garden"),
        ({"domains": ("Garden", "Garden")}, r"'Garden' is named twice"),
        ({"domains": ("Kitchen", "Gardn")}, r"unknown domain 'Gardn' \(did you mean 'Garden'"),
        ({"domains": "Garden"}, r"list of shops is expected"),
        ({"users": 2}, r"users: 2 are too few for 3 domains"),
        ({"seed": -1}, r"seed = -1"),
        ({"taste_strength": 5.0}, r"taste_strength = 5\.0.*4"),
        ({"taste_strenght": 1.0}, r"unknown option 'taste_strenght' \(did you mean 'taste_strength'"),
        ({"images": True}, r"images = True: name a folder"),
        ({"text_template": "{titel}"}, r"no column 'titel' \(did you mean 'title'"),
    ],
)
def test_wrong_options_are_told(options: dict[str, object], told: str) -> None:
    with pytest.raises(DataError, match=told):
        make_bazaar(**options)  # type: ignore[arg-type]


def test_pictures_into_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match="is a file; name a folder"):
        make_bazaar(**SMALL, images=tmp_path / "taken")


def test_another_dataset_has_no_world() -> None:
    with pytest.raises(DataError, match="'lcrec': only 'bazaar'"):
        BazaarWorld.from_options({"name": "lcrec"})


# The world


def test_item_weights_are_popularity_and_taste(tiny: BazaarWorld) -> None:
    """w_t against the formula in floats; 64ths of a nat and whole numbers cost less than 2 % each."""
    for place in tiny.domains.values():
        for archetype in range(place.n_archetypes):
            expected = []
            for item in range(place.n_items):
                values = {name: int(getattr(place.attributes, name)[item]) for name in ATTRIBUTES}
                values["department"] = values.pop("kind") // 2
                taste = sum(place.tastes[name][archetype][value] for name, value in values.items())
                expected.append(math.exp((place.popularity[item] + taste) / 64))
            weights = place.archetype_item_weights(archetype)
            assert weights.max() == WEIGHT_SCALE
            np.testing.assert_allclose(weights / weights.sum(), np.array(expected) / sum(expected), rtol=1e-3)


def test_popularity_is_zipf(tiny: BazaarWorld) -> None:
    for place in tiny.domains.values():
        expected = -0.3 * np.log(np.arange(1, place.n_items + 1))
        np.testing.assert_allclose(np.sort(place.popularity)[::-1] / 64, expected, atol=0.5 / 64 + 1e-12)


def test_tastes_and_department_transitions_are_shared_by_all_shops(tiny: BazaarWorld) -> None:
    first, *others = tiny.domains.values()
    departments = kind_departments()
    for place in others:
        for name in ("department", "material", "colour", "shape", "style"):
            assert np.array_equal(place.tastes[name], first.tastes[name])
        shared = len(SHARED_BRANDS)
        assert np.array_equal(place.tastes["brand"][:, :shared], first.tastes["brand"][:, :shared])
        assert not place.tastes["brand"][:, shared:].any(), "a taste for an own brand could not transfer"
        # Of the two kinds of a department one is preferred: the lesser of the two is what departments say.
        pairs = [
            p.factors[:-1].reshape(12, 8, 12, 8)[:, 0, :, 1].reshape(12, 6, 2).min(axis=2)
            for p in (place, first)
        ]
        assert np.array_equal(*pairs)
        assert np.array_equal(pairs[0][::2], pairs[0][1::2]), "both kinds of a department lead on alike"
        assert len(departments) == 12


def test_archetypes_love_every_value_alike() -> None:
    place = BazaarWorld.from_options({"archetypes": 30}).domains["Garden"]
    for name in ("material", "colour", "shape", "style"):
        lovers = (place.tastes[name] > 0).sum(axis=0)
        assert lovers.min() >= 1 and lovers.max() - lovers.min() <= 2


def test_a_choice_follows_the_last_items_style_and_department() -> None:
    options = {**SMALL, "users": 4000, "transition_strength": 3.0, "style_carry_over": 2.0}
    world = BazaarWorld.from_options(options)
    place = world.domains["Garden"]
    sequences = histories_of(world, "Garden")
    style = place.attributes.style
    pairs = np.array([pair for items in sequences for pair in itertools.pairwise(items)])
    assert (style[pairs[:, 0]] == style[pairs[:, 1]]).mean() > 2.5 / len(STYLES)
    department = kind_departments()[place.attributes.kind]
    counts = np.zeros((6, 6))
    np.add.at(counts, (department[pairs[:, 0]], department[pairs[:, 1]]), 1)
    assert (counts / counts.sum(axis=1, keepdims=True)).max(axis=1).min() > 0.4


@pytest.mark.parametrize("domains", [("Garden",), tuple(SHOPS)])
def test_extreme_knobs_stay_within_64_bits(domains: tuple[str, ...]) -> None:
    extreme = {"taste_strength": 4.0, "popularity_exponent": 0.0, "transition_strength": 5.0}
    options = {"items": 1_000_000, "domains": domains, **extreme, "style_carry_over": 3.0}
    for place in BazaarWorld.from_options(options).domains.values():
        # Not only this draw: as if every item were the likeliest and every step the likeliest.
        assert place.n_items * WEIGHT_SCALE * int(place.factors.max()) < 2**63
        assert place.archetype_item_weights(0).min() >= 1 and place.factors.min() >= 1
        assert (place.factors[-1] == FACTOR_SCALE).all()


def test_a_user_takes_nothing_twice_even_where_little_else_is_liked() -> None:
    options = {"items": 300, "users": 120 if AT_NIGHT else 40, "domains": tuple(SHOPS), "mean_length": 16.0}
    world = BazaarWorld.from_options({**options, "taste_strength": 4.0, "popularity_exponent": 2.0})
    for domain in world.domains:
        for items in histories_of(world, domain):
            assert len(set(items)) == len(items)


# The pictures


@pytest.mark.parametrize(("attribute", "values"), [(name, size) for name, size in zip(
    ATTRIBUTES, (12, 12, 10, 8, 8, 14), strict=True)])  # fmt: skip
def test_every_attribute_can_be_seen(attribute: str, values: int) -> None:
    """Pictures that differ in one attribute differ clearly: somewhere a patch of 40 pixels by 30 levels."""
    for shop in SHOPS.values():
        codes = {name: np.zeros(values, dtype=np.int64) for name in ATTRIBUTES}
        codes[attribute] = np.arange(values)
        drawn = [
            np.asarray(draw_picture(shop, Attributes(**codes), item), dtype=float) for item in range(values)
        ]
        for one, other in itertools.combinations(drawn, 2):
            assert (np.abs(one - other).max(axis=2) > 30).sum() > 40


def test_shops_are_told_by_their_frames() -> None:
    codes = {name: np.zeros(1, dtype=np.int64) for name in ATTRIBUTES}
    corners = {draw_picture(shop, Attributes(**codes), 0).getpixel((0, 0)) for shop in SHOPS.values()}
    assert len(corners) == len(SHOPS)


def test_shares_make_one_shop_small_and_sparse():
    world = make_bazaar(items=400, users=260, item_shares=(1, 1, 2), user_shares=(6, 6, 1))
    counts = world.sequences["domain"].value_counts(sort=True)["count"].to_list()
    assert [len(world.domain_items(domain)) for domain in world.domains] == [100, 100, 200]
    assert counts == [120, 120, 20]
    with pytest.raises(DataError, match=r"user_shares = \[6, 1\]: 3 whole numbers from 1 are expected"):
        make_bazaar(items=400, user_shares=(6, 1))


def test_a_new_item_is_nobodys_but_as_the_last_choice():
    options = {"items": 400, "users": 2000, "new_items": 0.25, "domains": ("Garden", "Studio")}
    world = BazaarWorld.from_options(options)
    for domain, place in world.domains.items():
        sequences = [items - place.first_item for items in histories_of(world, domain)]
        assert place.new.sum() == 50
        assert not place.new[np.concatenate([items[:-1] for items in sequences])].any()
        last = place.new[[items[-1] for items in sequences]].mean()
        assert last == pytest.approx(0.25, abs=0.1)
    with pytest.raises(DataError, match=r"new_items = 0.6: Input should be less than or equal to 0.5"):
        make_bazaar(new_items=0.6)


def test_new_items_change_no_other_draw():
    """The items are the same, and so are the users and what they like."""
    before, after = (BazaarWorld.from_options({**SMALL, "new_items": share}) for share in (0.0, 0.2))
    for domain, place in before.domains.items():
        assert not place.new.any()
        assert np.array_equal(place.item_weights(), after.domains[domain].item_weights())
        drawn = [draw_sequences(world)[domain] for world in (before, after)]
        assert np.array_equal(drawn[0].archetypes, drawn[1].archetypes)
        assert np.array_equal(drawn[0].lengths, drawn[1].lengths)
