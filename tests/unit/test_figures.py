"""Figures of data, codes, identifiers and residuals: what they draw and say, counted again by brute force."""

from __future__ import annotations

import html
from collections import Counter, defaultdict

import numpy as np
import plotly.graph_objects as go
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_lab.codes import ItemCodes
from genrec_lab.evaluation import code_health, health_table
from genrec_lab.viz import figures
from genrec_lab.viz.figures.data import length_bins
from genrec_lab.viz.layout import MAX_POINTS
from genrec_lab.viz.text import percent


def title_of(figure: go.Figure) -> str:
    """The title as a reader sees it."""
    return html.unescape(figure.layout.title.text.replace("<br>", " ")).replace("\N{NO-BREAK SPACE}", " ")


def note_of(figure: go.Figure) -> str:
    return html.unescape(figure.layout.title.subtitle.text.replace("<br>", " ")).replace(
        "\N{NO-BREAK SPACE}", " "
    )


def panel_titles(figure: go.Figure) -> list[str]:
    return [
        html.unescape(note.text.replace("<br>", " ")).replace("\N{NO-BREAK SPACE}", " ")
        for note in figure.layout.annotations
    ]


def n_points(figure: go.Figure) -> int:
    return sum(len(trace.x) for trace in figure.data if trace.type != "table")


@pytest.fixture
def catalogue() -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
    """900 items: level 1 is the domains' own but for one code, level 2 is shared, both have dead codes."""
    generator = np.random.default_rng(3)
    domains = np.repeat(["Garden", "Kitchen", "Studio"], [500, 300, 100])
    first = np.repeat([0, 10, 20], [500, 300, 100]) + generator.integers(0, 8, 900)
    first[[0, 600]] = 31
    second = generator.integers(0, 60, 900)
    return np.stack([first, second], axis=1), (32, 64), domains


def brute_counts(codes: np.ndarray, domains: np.ndarray, level: int) -> dict[int, Counter[str]]:
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for code, domain in zip(codes[:, level].tolist(), domains.tolist(), strict=True):
        counts[code][domain] += 1
    return counts


# --- data


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=200))
def test_length_bins_are_few_and_hold_every_length(lengths: list[int]) -> None:
    edges = length_bins(lengths)
    assert len(edges) <= 25
    assert (np.diff(edges) >= 1).all()
    assert edges[0] <= min(lengths)
    assert edges[-1] > max(lengths)


def test_sequence_lengths_count_every_user() -> None:
    generator = np.random.default_rng(0)
    lengths = {"Garden": generator.integers(5, 12, 40), "Kitchen": generator.geometric(0.02, 30) + 4}
    rows = [(name, list(range(length))) for name, values in lengths.items() for length in values.tolist()]
    figure = figures.sequence_lengths(pl.DataFrame(rows, schema=["domain", "items"], orient="row"))
    for trace, values in zip(figure.data, lengths.values(), strict=True):
        for (text, count), share in zip(trace.customdata, trace.y, strict=True):
            low, _, high = text.partition("–")
            expected = sum(int(low) <= value <= int(high or low) for value in values.tolist())
            assert int(count) == expected
            assert share == pytest.approx(100 * expected / len(values))
    medians = [sorted(values.tolist())[(len(values) - 1) // 2] for values in lengths.values()]
    assert title_of(figure) == (
        f"The median user has {medians[0]} interactions in Garden and {medians[1]} in Kitchen"
    )
    assert "70 users of 2 domains" in note_of(figure)


def test_popularity_curve_is_the_sorted_share_and_the_title_its_top() -> None:
    sequences = pl.DataFrame(
        {"domain": ["Garden"] * 3 + ["Kitchen"], "items": [[0, 1, 0], [0, 2], [0], [5, 6, 7, 8]]}
    )
    items = pl.DataFrame({"item": range(9), "domain": ["Garden"] * 5 + ["Kitchen"] * 4})
    figure = figures.popularity_curve(sequences, items, seed=4)
    garden, kitchen = figure.data
    assert list(garden.x) == [1, 2, 3]
    assert list(garden.y) == pytest.approx([100 * 4 / 6, 100 / 6, 100 / 6])
    assert list(kitchen.y) == pytest.approx([25.0] * 4)
    assert title_of(figure) == (
        "The most popular 1 of 5 items takes 67 % of the interactions in Garden, "
        "1 of 4 items takes 25 % in Kitchen"
    )
    assert (
        note_of(figure)
        == "10 interactions of 4 users; 2 items without an interaction are not on the curve; seed 4"
    )


def test_popularity_curve_thins_ranks_but_keeps_the_ends() -> None:
    items = [item for item in range(5000) for _ in range(1 + (item == 0) * 9)]
    figure = figures.popularity_curve(pl.DataFrame({"domain": ["all"], "items": [items]}))
    (curve,) = figure.data
    assert len(curve.x) <= 300
    assert curve.x[0] == 1 and curve.x[-1] == 5000
    assert curve.customdata[0] == 10 and curve.customdata[-1] == 1


def test_statistics_table_adds_up() -> None:
    statistics = pl.DataFrame(
        {
            "domain": ["Garden", "Kitchen"],
            "users": [10, 30],
            "items": [20, 40],
            "interactions": [100, 260],
            "sparsity": [0.5, 1 - 260 / 1200],
            "mean_length": [10.0, 26 / 3],
        }
    )
    figure = figures.statistics_table(statistics)
    cells = [list(column) for column in figure.data[0].cells.values]
    assert [column[-1] for column in cells] == [
        "all",
        "40",
        "60",
        "360",
        f"{100 * (1 - 360 / 1400):.2f} %",
        "9.00",
    ]
    assert title_of(figure) == "360 interactions of 40 users with 60 items in 2 domains"


# --- codes


def test_code_usage_draws_the_most_frequent_codes_by_domain(
    catalogue: tuple[np.ndarray, tuple[int, ...], np.ndarray],
) -> None:
    codes, sizes, domains = catalogue
    figure = figures.code_usage(codes, sizes, domains, top=12, seed=9)
    for level in range(2):
        counts = brute_counts(codes, domains, level)
        ranked = sorted(counts, key=lambda code: (-sum(counts[code].values()), code))[:12]
        for trace in figure.data[3 * level : 3 * level + 3]:
            assert [int(code) for code, _ in trace.customdata] == ranked
            assert list(trace.y) == [counts[code][trace.name] for code in ranked]
    dead = [size - len(brute_counts(codes, domains, level)) for level, size in enumerate(sizes)]
    shared = [
        sum(len(by) > 1 for by in brute_counts(codes, domains, level).values()) / (sizes[level] - dead[level])
        for level in range(2)
    ]
    assert panel_titles(figure)[0].startswith(
        f"Level 1: {dead[0]} of 32 dead, {100 * shared[0]:.1f} % shared"
    )
    assert title_of(figure).startswith(
        f"Domains share {100 * shared[0]:.1f} % of the used codes at level 1, "
    )
    assert title_of(figure).endswith(f"{sum(dead)} of 96 codes are dead")
    assert (
        note_of(figure)
        == "900 items of 3 domains; the 12 most frequent codes of each level are drawn; seed 9"
    )


def test_code_sharing_counts_codes_and_items_by_number_of_domains(
    catalogue: tuple[np.ndarray, tuple[int, ...], np.ndarray],
) -> None:
    codes, sizes, domains = catalogue
    figure = figures.code_sharing(codes, sizes, domains)
    for position, trace in enumerate(figure.data):
        used_by, of_items = divmod(position, 2)
        for level, size in enumerate(sizes):
            counts = brute_counts(codes, domains, level)
            chosen = [code for code in range(size) if len(counts.get(code, {})) == used_by]
            expected = sum(sum(counts[code].values()) for code in chosen) if of_items else len(chosen)
            assert trace.customdata[level] == expected
            assert trace.x[level] == pytest.approx(100 * expected / (900 if of_items else size))


def test_one_domain_has_no_sharing_to_speak_of() -> None:
    figure = figures.code_usage([[0], [1]], (4,), ["Garden", "Garden"])
    assert title_of(figure) == "One domain: 2 of 4 codes are dead"
    assert panel_titles(figure) == ["Level 1: 2 of 4 dead"]


def test_books_of_different_sizes_are_compared_by_shares(
    catalogue: tuple[np.ndarray, tuple[int, ...], np.ndarray],
) -> None:
    codes, sizes, domains = catalogue
    made = {
        "ours": ItemCodes(codes, sizes, domains.tolist()),
        "first": ItemCodes(codes[:, :1], sizes[:1], domains.tolist()),
    }
    figure = figures.tokenizers_compared(health_table(made))
    health = code_health(codes, sizes, domains)
    lines = [list(trace.y) for trace in figure.data if trace.name == "ours" and trace.type == "scatter"]
    assert lines[0] == pytest.approx([100 * value for value in health.utilisation])
    assert lines[1] == pytest.approx(
        [100 * even / size for even, size in zip(health.perplexity, sizes, strict=True)]
    )
    assert lines[3] == pytest.approx(
        [100 * dead / size for dead, size in zip(health.dead, sizes, strict=True)]
    )
    assert next(len(trace.y) for trace in figure.data if trace.name == "first") == 1
    with pytest.raises(ValueError, match="no rows"):
        figures.tokenizers_compared(health_table(made).head(0))


# --- identifiers


def test_collision_groups_are_counted_inside_a_domain() -> None:
    rows = [("Garden", (0, 0))] * 3 + [("Garden", (0, 1))] + [("Kitchen", (0, 0))] * 2 + [("Kitchen", (0, 1))]
    rows += [("Kitchen", (5, 5))] * 40
    figure = figures.collision_groups([codes for _, codes in rows], [domain for domain, _ in rows])
    drawn = {
        (trace.name, text): count
        for trace in figure.data
        for text, count in zip(trace.customdata, trace.y, strict=True)
        if count
    }
    (large,) = [text for name, text in drawn if name == "Kitchen" and text != "2"]
    low, high = map(int, large.split("–"))
    assert low <= 40 <= high
    assert drawn == {("Garden", "3"): 3, ("Kitchen", "2"): 2, ("Kitchen", large): 40}
    assert title_of(figure).startswith(
        "96 % of the items share their identifier; the largest group has 40 items"
    )


def test_no_collisions_are_said_in_words() -> None:
    figure = figures.collision_groups([[0], [1], [0]], ["a", "a", "b"])
    assert title_of(figure) == "Every identifier belongs to one item of its domain"
    assert sum(sum(trace.y) for trace in figure.data) == 0


def test_policy_costs_title_compares_the_policies_that_move_items() -> None:
    costs = pl.DataFrame(
        {"policy": ["extra_level", "optimal", "nearest_free"], "moved": [0, 5, 4], "cost": [0.0, 1.5, 2.5]}
    )
    figure = figures.policy_costs(costs, n_items=100)
    assert title_of(figure) == (
        "Of the policies that change codes, optimal adds the least distance: 1.5 against 2.5 for nearest_free"
    )
    assert [text.replace("\N{NO-BREAK SPACE}", " ") for text in figure.data[0].text] == [
        "0 (0 %)",
        "5 (5.0 %)",
        "4 (4.0 %)",
    ]


def test_neighbour_overlap_has_a_line_a_tokenizer_in_each_domain() -> None:
    rows = [
        (tokenizer, domain, k, base + 0.01 * k)
        for tokenizer, base in (("separate", 0.1), ("shared", 0.2))
        for domain in ("Garden", "Kitchen")
        for k in (20, 5)
    ]
    overlap = pl.DataFrame(rows, schema=["tokenizer", "domain", "k", "overlap"], orient="row")
    figure = figures.neighbour_overlap(overlap)
    assert [trace.name for trace in figure.data] == ["separate", "shared"] * 2
    assert [list(trace.customdata) for trace in figure.data] == [[5, 20]] * 4
    assert list(figure.data[1].y) == pytest.approx([25.0, 40.0])
    assert title_of(figure) == (
        "Nearby items have more codes in common under shared than under the others, in every domain"
    )
    equal = overlap.with_columns(overlap=pl.lit(0.5))
    assert title_of(figures.neighbour_overlap(equal)).startswith("No single tokenizer")
    with pytest.raises(ValueError, match="'overlap'"):
        figures.neighbour_overlap(overlap.drop("overlap"))


def test_identifier_examples_are_sorted_and_mark_shared_prefixes() -> None:
    codes = np.array([[1, 2, 3], [0, 9, 9], [1, 2, 4], [1, 3, 4]])
    figure = figures.identifier_examples(codes, ["c", "a", "d", "e"], ["Garden"] * 4, items=[2, 0, 3, 1])
    columns = [list(column) for column in figure.data[0].cells.values]
    assert columns[0] == ["a", "c", "d", "e"]
    assert columns[2] == ["0", "1", "<b>1</b>", "<b>1</b>"]
    assert columns[3] == ["9", "2", "<b>2</b>", "3"]
    # The same code under another prefix is not the same prefix.
    assert columns[4] == ["9", "3", "4", "4"]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(0, 5))
def test_chosen_examples_are_distinct_and_seeded(rows: int, seed: int) -> None:
    codes = np.random.default_rng(1).integers(0, 3, (40, 3))
    titles = [f"item {number}" for number in range(40)]
    domains = ["Garden"] * 25 + ["Kitchen"] * 15
    tables = [figures.identifier_examples(codes, titles, domains, rows=rows, seed=seed) for _ in range(2)]
    shown = [list(table.data[0].cells.values[0]) for table in tables]
    assert shown[0] == shown[1]
    assert len(set(shown[0])) == len(shown[0]) <= rows


# --- residuals


def test_atlas_draws_the_same_items_in_every_panel_and_no_more_than_allowed() -> None:
    n, levels = 9_000, 4
    domains = np.repeat(["Garden", "Kitchen", "Studio"], [6_000, 2_970, 30])
    # The item's own number is its x, so that a point can be recognised.
    coordinates = np.zeros((n, levels, 2))
    coordinates[:, :, 0] = np.arange(n)[:, None]
    figure = figures.residual_atlas(coordinates, domains, n_items=12_345, seed=1)
    assert n_points(figure) <= MAX_POINTS
    drawn = [
        np.sort(np.concatenate([trace.x for trace in figure.data[3 * level : 3 * level + 3]]))
        for level in range(levels)
    ]
    assert all(np.array_equal(drawn[0], other) for other in drawn)
    shares = [len(trace.x) / len(drawn[0]) for trace in figure.data[:3]]
    assert shares == pytest.approx([6_000 / n, 2_970 / n, 30 / n], abs=1e-3)
    assert "5,000 items of 12,345, stratified by domain" in note_of(figure)


def test_map_purity_against_sorting_all_distances() -> None:
    generator = np.random.default_rng(0)
    points, domain = generator.normal(size=(60, 2)), generator.integers(0, 3, 60)
    distances = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1)[:, :10]
    assert figures.map_purity(points, domain) == pytest.approx((domain[nearest] == domain[:, None]).mean())


def test_atlas_title_says_which_level_separates() -> None:
    generator = np.random.default_rng(0)
    index = np.repeat([0, 1], 100)
    apart = generator.normal(size=(200, 2)) + 100 * index[:, None]
    mixed = generator.normal(size=(200, 2))
    figure = figures.residual_atlas(np.stack([apart, mixed], axis=1), np.array(["Garden", "Kitchen"])[index])
    of_own = percent(figures.map_purity(mixed, index)).replace("\N{NO-BREAK SPACE}", " ")
    assert title_of(figure) == (
        f"100 % of a point's nearest points are from its own domain at level 1, {of_own} at level 2; by "
        "chance 50 %"
    )


def test_explained_variance_against_plain_sums() -> None:
    generator = np.random.default_rng(0)
    first = generator.normal(size=(50, 6)) + 3
    codewords = [first.round(), (first - first.round()).round(1)]
    residuals = np.stack([first, first - codewords[0]], axis=1)
    explained, norms = figures.explained_variance(residuals, codewords[0] + codewords[1])
    mean = [sum(column) / 50 for column in first.T.tolist()]
    total = sum((value - mean[d]) ** 2 for row in first.tolist() for d, value in enumerate(row))
    for level, left in enumerate([first - codewords[0], first - codewords[0] - codewords[1]]):
        assert explained[level] == pytest.approx(1 - sum(v**2 for row in left.tolist() for v in row) / total)
        assert norms[7, level + 1] == pytest.approx(sum(value**2 for value in left[7].tolist()) ** 0.5)
    figure = figures.levels_leave(1 - explained, norms, ["a"] * 20 + ["b"] * 30, together=True)
    assert list(figure.data[0].y) == pytest.approx(100 * (1 - explained))
    assert list(figure.data[1].y) == pytest.approx(norms[:20].mean(axis=0))
    with pytest.raises(ValueError, match="expected"):
        figures.explained_variance(residuals, first[:10])
