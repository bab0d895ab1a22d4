"""The explorer's widget without a browser: what the page asks for, and what it is sent."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_lab.codes import ItemCodes
from genrec_lab.viz.explorer import (
    EXPLORER_VIEWS,
    CodedCatalogue,
    ExplorerState,
    RunRecords,
    answers,
    beam_tree,
    points,
)
from genrec_lab.viz.explorer.widget import Explorer
from genrec_lab.viz.projection import Projection

Make = Callable[..., CodedCatalogue]
EVIL = "<script>alert(1)</script>"


class Page:
    """Stands where a browser would: asks, and keeps what is sent, by kind."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer, self.sent = explorer, {}
        self.buffers: dict[str, list[bytes]] = {}
        explorer.send = self._take  # type: ignore[method-assign]

    def _take(self, content: dict[str, Any], buffers: Any = None) -> None:
        self.sent[content["kind"]] = json.loads(json.dumps(content, allow_nan=False))
        self.buffers[content["kind"]] = list(buffers or [])

    def ask(self, act: str, buffers: Any = (), **content: Any) -> dict[str, Any]:
        self.sent = {}
        self.explorer.handle({"act": act, **content}, buffers)
        return self.sent


def state_of(make: Make, folder: Path | None = None, **options: Any) -> ExplorerState:
    catalogue = make(1, 60, **options)
    generator = np.random.default_rng(0)
    users = pl.DataFrame(
        {
            "domain": ["Garden"] * 40,
            "history": generator.integers(0, 60, (40, 3)).tolist(),
            "target": generator.integers(0, 60, 40),
        }
    )
    lists = {"gmc": generator.integers(0, 60, (40, 5))}
    epochs = {"all": [{"epoch": 1, "utilisation": [0.5] * 3}]}
    records = RunRecords(
        epochs,
        (4, 3, 5),
        recommended=lists,
        users=users,
        settings={"tokenizer.levels": 3},
        run={"run": "demo"},
        folder=folder,
    )
    return ExplorerState(catalogue, make(2, 60), records=records)


@pytest.fixture
def page(make_catalogue: Make, tmp_path: Path) -> Page:
    tree = beam_tree([[(1,)], [(1, 0)]], [[-1.0], [-2.0]], (1, 2))
    state = state_of(make_catalogue, tmp_path)
    state.watcher = lambda method, row: (tree, "again()")
    return Page(Explorer(state))


def column(table: dict[str, Any], name: str) -> list[Any]:
    return next(one["values"] for one in table["columns"] if one["name"] == name)


def test_rows_of_the_grid_go_down_and_the_path_comes_back(page: Page) -> None:
    page.ask("start")
    grid = (
        page.ask("select", prefix=[])["selection"]["grid"]
        if page.sent == {}
        else page.sent["selection"]["grid"]
    )
    sizes = np.bincount(page.explorer.state.catalogue.codes.codes[:, 0], minlength=4)
    assert column(grid, "items") == sizes.tolist() and column(grid, "code") == [0, 1, 2, 3]
    largest = int(sizes.argmax())
    sent = page.ask("select", **grid["go"][largest])["selection"]
    assert [step["text"] for step in sent["path"]] == ["All", str(largest), "*"] and sent["back"]
    sent = page.ask("select", **sent["grid"]["go"][0])["selection"]
    assert page.explorer.state.selection.prefix == (largest, 0)
    assert page.ask("back")["selection"]["path"][-2]["text"] == str(largest)
    assert page.ask("forward")["selection"]["forward"] is False


def test_the_grid_has_dead_codes_and_those_of_other_prefixes(make_catalogue: Make) -> None:
    codes = ItemCodes([[0, 0], [1, 1]], (3, 3))
    state = ExplorerState(CodedCatalogue("x", codes, ["a", "b"]))
    assert column(answers.grid(state), "state") == ["alive", "alive", "dead"]
    state.select(prefix=(0,))
    assert column(answers.grid(state), "state") == ["alive", "only elsewhere", "dead"]
    gap = ItemCodes([[0, 0], [2, 1]], [None, None])
    unknown = ExplorerState(CodedCatalogue("x", gap, ["a", "b"]))
    assert column(answers.grid(unknown), "state") == ["alive", "no item", "alive"]
    assert not any("dead" in chip["text"] or "used" in chip["text"] for chip in answers.health(unknown))


@given(
    st.integers(0, 50), st.sampled_from([None, "Garden"]), st.sampled_from([(), (1,), (1, 2)]), st.booleans()
)
@settings(max_examples=40, deadline=None)
def test_the_grid_counts_what_prefix_domain_and_lasso_leave(
    make_catalogue: Make, seed: int, domain: str | None, prefix: tuple[int, ...], lasso: bool
) -> None:
    state = ExplorerState(make_catalogue(seed, 40))
    catalogue, gathered = state.catalogue, tuple(range(3, 40, 2)) if lasso else None
    if domain not in (None, *catalogue.domains):
        return
    state.select(prefix=prefix, domain=domain, lasso=gathered)
    codes, twins = catalogue.codes.codes, Counter()
    for item in range(40):
        twins[(catalogue.codes.domain_index[item], *codes[item])] += 1
    kept = [
        item
        for item in range(40)
        if tuple(codes[item, : len(prefix)]) == prefix
        and domain in (None, catalogue.domains[catalogue.codes.domain_index[item]])
        and (gathered is None or item in gathered)
    ]
    grid = answers.grid(state)
    for code in range(catalogue.codes.sizes[len(prefix)]):
        mine = [item for item in kept if codes[item, len(prefix)] == code]
        assert column(grid, "items")[code] == len(mine)
        same = sum(twins[(catalogue.codes.domain_index[item], *codes[item])] > 1 for item in mine)
        assert column(grid, "twins")[code] == same
        if domain is None:
            most = max(Counter(catalogue.codes.domain_index[mine].tolist()).values(), default=0)
            purity = column(grid, "pure")[code]
            assert purity == (pytest.approx(most / len(mine), abs=1e-4) if mine else None)


def test_coherence_is_the_mean_over_all_pairs(make_catalogue: Make) -> None:
    catalogue = make_catalogue(3, 50)
    unit = catalogue.vectors / np.linalg.norm(catalogue.vectors, axis=1, keepdims=True)
    alike = unit.astype(float) @ unit.T
    groups = catalogue.order.group_numbers(2)
    for group, value in enumerate(catalogue.prefix_pairs(2).by_group()):
        members = np.flatnonzero(groups == group)
        pairs = [alike[a, b] for a in members for b in members if a < b]
        assert np.isnan(value) if not pairs else value == pytest.approx(np.mean(pairs), abs=1e-5)
    low, mean, high = catalogue.chance(10)
    assert low < mean < high and mean == pytest.approx(alike[np.triu_indices(50, 1)].mean(), abs=1e-5)


def test_a_code_under_any_prefix_is_searched_selected_and_set_side_by_side(page: Page) -> None:
    catalogue = page.explorer.state.catalogue
    (hit,) = page.ask("search", text="* 2")["hits"]["hits"]
    assert hit["go"] == {"everywhere": [1, 2]}
    sent = page.ask("select", **hit["go"])["selection"]
    members = np.flatnonzero(catalogue.codes.codes[:, 1] == 2)
    assert sorted(page.explorer.state.items().tolist()) == members.tolist()
    counts = Counter(catalogue.codes.codes[members, 0].tolist())
    listed = dict(zip(column(sent["grid"], "prefix"), column(sent["grid"], "items"), strict=True))
    assert listed == {f"{code} › 2": count for code, count in counts.items()}
    assert page.ask("select", prefix=[1])["selection"]["path"][1]["text"] == "1"
    assert page.explorer.state.selection.everywhere is None


def test_examples_span_the_distances_and_what_differs_is_marked(make_catalogue: Make) -> None:
    state = ExplorerState(make_catalogue(1, 200, (2, 2)))
    state.select(prefix=(0,))
    groups = answers.page(state)["groups"]
    shown = [item for group in groups for item, _ in group["cards"]]
    distances = state.catalogue.distances[state.items(), 0]
    assert state.catalogue.distances[shown[0], 0] == distances.min() and len(set(shown)) == len(shown)
    assert state.catalogue.distances[shown[-1], 0] == distances.max()
    titles = ["red oak chair", "blue oak chair", "green glass vase"]
    twins = ExplorerState(CodedCatalogue("x", ItemCodes([[0], [0], [1]], (2,)), titles))
    twins.select(prefix=(0,))
    (_, first), (_, second) = answers.selected(twins)["items"]
    assert first["marked"] == [("red ", True), ("oak ", False), ("chair ", False)]
    assert second["marked"][0] == ("blue ", True)
    # Items that are shown beside them, as in a list of recommendations, are no twins.
    assert not any("marked" in one for _, one in answers.facts(twins, [0, 2]))


@pytest.mark.parametrize("by", ["code", "domain", "popularity", "distance", "hits of gmc"])
def test_every_item_has_a_place_and_a_colour(page: Page, by: str) -> None:
    page.ask("start")
    page.ask("select", prefix=[1])
    page.ask("colour", by=by)
    values, inside = (
        np.frombuffer(part, kind)
        for part, kind in zip(page.buffers["colours"], (np.int16, np.uint8), strict=True)
    )
    catalogue, sent = page.explorer.state.catalogue, page.sent["colours"]
    assert values.shape == inside.shape == (60,)
    assert (np.flatnonzero(inside) == np.flatnonzero(catalogue.codes.codes[:, 0] == 1)).all()
    assert values.max() < len(sent["palette"]) and {name["colour"] for name in sent["names"]} <= {
        -1,
        *range(len(sent["palette"])),
    }
    if by == "code":
        for name in sent["names"]:
            if name["colour"] >= 0:
                code = name["go"]["prefix"][-1]
                assert (values[catalogue.codes.codes[:, 1] == code] == name["colour"]).all()
    if by == "hits of gmc":
        users, lists = page.explorer.state.records.users, page.explorer.state.records.recommended["gmc"]
        for item in range(60):
            rows = np.flatnonzero(users["target"].to_numpy() == item)
            hits = [item in lists[row] for row in rows]
            expected = -1 if not rows.size else 2 if all(hits) else 1 if any(hits) else 0
            assert values[item] == expected


def test_items_outside_the_sample_stand_among_the_nearest_of_it(make_catalogue: Make) -> None:
    state = ExplorerState(make_catalogue(1, 60))
    kept = np.arange(0, 60, 2)
    coordinates = np.random.default_rng(0).normal(size=(30, 3, 2)).astype(np.float32)
    state.maps = {"t-SNE": Projection(coordinates, kept, "tsne", 0, 60)}
    found, seen = points.places(state, "t-SNE", 1), state.catalogue.residuals[:, 1]
    codes = state.catalogue.codes.codes[:, 1]
    np.testing.assert_array_equal(found[kept], coordinates[:, 1])
    for item in range(1, 60, 2):
        same = np.flatnonzero(codes[kept] == codes[item])
        same = same if same.size >= 3 else np.arange(30)
        near = same[np.argsort(np.linalg.norm(seen[kept[same]] - seen[item], axis=1))[:3]]
        low, high = coordinates[near, 1].min(axis=0), coordinates[near, 1].max(axis=0)
        assert (found[item] >= low - 1e-4).all() and (found[item] <= high + 1e-4).all()
    by_codes = points.places(state, points.BY_CODES, 0)
    assert np.isfinite(by_codes).all() and len(np.unique(by_codes, axis=0)) == 60


def test_a_lasso_is_kept_over_tabs_and_saved_as_a_slice(page: Page) -> None:
    page.ask("start")
    sent = page.ask("lasso", [np.array([7, 3, 3], dtype=np.int32).tobytes()])["selection"]
    assert sent["page"]["heading"] == "In the lasso" and sent["lasso"]
    page.ask("tab", name="Collisions")
    assert sorted(page.explorer.state.items().tolist()) == [3, 7]
    page.ask("keep", name="two")
    assert page.explorer.state.load_slice("two").items == (3, 7)
    assert page.ask("lasso", [b""])["selection"]["lasso"] is False
    page.ask("slice", name="two")
    assert page.explorer.state.selection.lasso == (3, 7)


@pytest.mark.parametrize("tab", list(EXPLORER_VIEWS))
@pytest.mark.parametrize(
    "chosen", [{"prefix": [1]}, {"everywhere": [1, 1]}, {"item": 5}, {"domain": "Garden"}]
)
def test_every_view_answers_every_selection_and_each_row_leads_somewhere(
    page: Page, tab: str, chosen: dict[str, Any]
) -> None:
    page.ask("select", **chosen)
    sent = page.ask("tab", name=tab)["tab"]
    assert not any("failed" in text for text in sent["said"]), sent["said"]
    for part in sent["parts"]:
        table = part.get("table", {"go": [], "columns": []})
        assert all(len(one["values"]) == len(table["go"]) for one in table["columns"])
        for go in [one for one in table["go"] if one and "act" not in one][:3]:
            assert "selection" in page.ask("select", **{"domain": None, **go}) or page.sent == {}


def test_a_user_is_watched_and_a_remedy_is_written(page: Page, tmp_path: Path) -> None:
    page.ask("tab", name="Recommender")
    sent = page.ask("watch", method="gmc", row=0)
    assert any("figure" in part for part in sent["tab"]["parts"])
    assert "again()" in page.ask("python")["code"]["text"]
    said = page.ask("write", setting="tokenizer.levels", value="4")["said"]["text"]
    written = tmp_path / "exports" / "demo-levels-4.yaml"
    assert str(written) in said and "tokenizer.levels: 4" in written.read_text()
    assert "expected one of" in page.ask("write", setting="tokenizer.levels", value="9")["said"]["text"]


def test_what_the_page_may_not_ask_is_refused_or_ignored(page: Page) -> None:
    assert page.ask("__init__") == {} and page.ask("selected") == {}
    assert "expected 0..59" in page.ask("select", item=60)["said"]["text"]
    assert "expected one of" in page.ask("map", method="../x")["said"]["text"]
    assert page.ask("hover", item=10**6) == {}
    page.explorer.handle("text"), page.explorer.handle({"act": ["select"]})


def test_titles_stay_text_and_entities_are_read(make_catalogue: Make) -> None:
    catalogue = CodedCatalogue("x", ItemCodes([[0], [0], [1]], (2,)), [EVIL, "Bread &amp; Butter", ""])
    explorer = Explorer(ExplorerState(catalogue))
    html = explorer._repr_mimebundle_()
    html = (html[0] if isinstance(html, tuple) else html)["text/html"]
    assert "<script" not in html and catalogue.titles[1] == "Bread & Butter"
    page = Page(explorer)
    page.ask("start")
    assert page.ask("search", text="butter")["hits"]["hits"][0]["go"] == {"item": 1}
