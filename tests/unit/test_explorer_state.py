"""The explorer's state: exports, slices, and readable answers whatever a run has or lacks."""

from __future__ import annotations

import gc
import io
import json
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_lab.codes import ItemCodes
from genrec_lab.data.item_text import without_entities
from genrec_lab.viz.explorer import (
    EXPLORER_VIEWS,
    CodedCatalogue,
    ExplorerState,
    RunRecords,
    SliceError,
    beam_tree,
    points,
    policy_effects,
)
from genrec_lab.viz.explorer.selection import NamedSlice, load_slice, save_slice, slice_file, slice_names

Make = Callable[..., CodedCatalogue]


def full_state(make: Make, folder: Path | None = None, **options: object) -> ExplorerState:
    """A state with everything that a run may have."""
    catalogue, other = make(1, 60, (4, 3, 5), **options), make(2, 60, (4, 3, 5), **options)
    epochs = {"all": [{"epoch": 1, "utilisation": [0.5, 0.5, 0.5]}]}
    lists = np.random.default_rng(0).integers(0, 60, (9, 5))
    records = RunRecords(epochs, (4, 3, 5), None, {"gmc": lists}, folder)
    state = ExplorerState(catalogue, other, records=records, source="state = make_state()")
    state.watch_beam(beam_tree([[(1,)], [(1, 0)]], [[-1.0], [-2.0]], (1, 0)), "watch_again(state)")
    return state


# --- exports


def test_the_numbers_of_a_view_read_back_and_the_python_makes_them_again(make_catalogue: Make) -> None:
    state = full_state(make_catalogue)
    chosen = ({"prefix": ()}, {"prefix": (1,), "domain": "Garden"}, {"everywhere": (1, 2)}, {"item": 3})
    for selected in chosen:
        state.select(**({"domain": None, "item": None} | selected))
        for name in ("", *EXPLORER_VIEWS):
            shown = state.view(name) if name else None
            if shown is not None and shown.frame is None and not shown.tables:
                assert shown.said, name
                continue
            frame = state.numbers(name)
            back = pl.read_csv(io.StringIO(frame.write_csv(quote_style="non_numeric")), schema=frame.schema)
            assert back.equals(frame), name
            made_again: list[str] = []
            names = {"make_state": lambda: full_state(make_catalogue), "watch_again": made_again.append}
            exec(state.python(name), names)  # noqa: S102 - what the export is for
            again = names["frame"]
            assert isinstance(again, pl.DataFrame)
            assert again.equals(frame), name
            assert len(made_again) == bool(name)


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12), min_size=1, max_size=8
    )
)
@settings(max_examples=50)
def test_titles_of_any_signs_come_through_csv(names: list[str]) -> None:
    catalogue = CodedCatalogue("x", ItemCodes([[0]] * len(names), (1,)), names)
    state = ExplorerState(catalogue)
    state.select(prefix=(0,))
    frame = state.numbers()
    back = pl.read_csv(io.StringIO(frame.write_csv(quote_style="non_numeric")), schema=frame.schema)
    assert back["title"].to_list() == frame["title"].to_list() == without_entities(pl.Series(names)).to_list()


def test_python_quotes_what_names_hold() -> None:
    domain = "'); raise SystemExit('"
    catalogue = CodedCatalogue("x", ItemCodes([[0]], (1,), [domain]), ["a"])
    state = ExplorerState(catalogue)
    state.select(domain=domain)
    names: dict[str, object] = {"state": ExplorerState(catalogue)}
    exec(state.python().replace(state.source, ""), names)  # noqa: S102 - what the export is for
    again = names["state"]
    assert isinstance(again, ExplorerState)
    assert again.selection.domain == domain


def test_what_has_no_numbers_says_why(make_catalogue: Make) -> None:
    with pytest.raises(ValueError, match=r"view 'Atlas'; expected one of .*Sharing"):
        full_state(make_catalogue).numbers("Atlas")
    with pytest.raises(ValueError, match=r"'sasrec', expected one of \['gmc'\]"):
        full_state(make_catalogue).exposure("sasrec")
    for view, said in (("Exposure", "No recommendations yet"), ("Compare", "Only one tokenizer is open")):
        with pytest.raises(ValueError, match=said):
            ExplorerState(make_catalogue(1, 9)).numbers(view)


# --- slices


@given(st.text(max_size=30), st.text(max_size=30))
@settings(max_examples=100)
def test_slices_of_any_name_read_back(
    tmp_path_factory: pytest.TempPathFactory, name: str, other: str
) -> None:
    folder = tmp_path_factory.mktemp("run")
    try:
        chosen = NamedSlice(name, "demo · gmc", 9, [5, 2, 2], (1, 4), "Garden")
    except SliceError:
        assert not name.strip() or any(0xD800 <= ord(sign) <= 0xDFFF for sign in name)
        return
    file = save_slice(folder, chosen)
    assert file.parent == folder / "slices"
    assert load_slice(folder, name) == chosen
    assert chosen.items == (2, 5)
    try:
        second = NamedSlice(other, "demo · gmc", 9, [0])
    except SliceError:
        return
    save_slice(folder, second)
    assert slice_names(folder) == sorted({chosen.name, second.name})
    assert load_slice(folder, other).items == (0,)


def test_names_that_differ_in_case_only_have_files_of_their_own(tmp_path: Path) -> None:
    files = [
        slice_file(tmp_path, name).name.lower() for name in ("Lamps", "lamps", "../x", "a" * 200, "a" * 199)
    ]
    assert len(set(files)) == 5
    assert all("/" not in name and len(name) < 90 for name in files)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": "genrec_lab.slice.0"}, "not a slice of format"),
        ({"items": [3, 1]}, "not ascending"),
        ({"items": [77]}, "the catalogue has 0..8"),
        ({"items": "many"}, "not a readable slice"),
        ({"colour": 1}, "not a readable slice"),
    ],
)
def test_a_damaged_slice_says_what_is_wrong(tmp_path: Path, change: dict[str, object], message: str) -> None:
    file = save_slice(tmp_path, NamedSlice("mine", "demo", 9, [1, 3]))
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(SliceError, match=message):
        load_slice(tmp_path, "mine")
    assert slice_names(tmp_path) == []


def test_slices_of_a_state(make_catalogue: Make, tmp_path: Path) -> None:
    state = full_state(make_catalogue, tmp_path)
    state.select(prefix=(1,), domain="Garden")
    saved = state.save_slice("mine")
    assert list(saved.items) == sorted(state.items().tolist())
    assert (saved.prefix, saved.domain) == ((1,), "Garden")
    assert state.load_slice("mine") == saved
    assert state.save_slice("lasso", [4, 2]).items == (2, 4)
    assert state.slice_names() == ["lasso", "mine"]
    with pytest.raises(SliceError, match=r"no slice 'other'.*\['lasso', 'mine'\]"):
        state.load_slice("other")
    small = ExplorerState(make_catalogue(0, 5), records=RunRecords(folder=tmp_path))
    with pytest.raises(ValueError, match="made of 60 items, made up has 5"):
        small.load_slice("mine")
    with pytest.raises(ValueError, match="no run folder"):
        ExplorerState(make_catalogue(0, 5)).save_slice("x")
    assert ExplorerState(make_catalogue(0, 5)).slice_names() == []


# --- runs that lack things


@pytest.mark.parametrize(
    "items, sizes, domains",
    [
        (1, (1,), ("one",)),
        (3, (2,), ("one",)),
        (3, (4, 4), ("one", "two")),
        (50, (1, 1, 1), ("one", "two")),
        (50, (300, 2), ("one",)),
    ],
)
@pytest.mark.parametrize("geometry", [True, False])
def test_small_and_odd_catalogues_answer_everything(
    make_catalogue: Make, items: int, sizes: tuple[int, ...], domains: tuple[str, ...], geometry: bool
) -> None:
    catalogue = make_catalogue(0, items, sizes, domains, geometry=geometry)
    other = make_catalogue(1, max(items - 1, 1), (*sizes, 2), domains, geometry=geometry)
    for state in (ExplorerState(catalogue), ExplorerState(catalogue, other)):
        whole = tuple(catalogue.codes.codes[0].tolist())
        nobody = tuple(size - 1 for size in sizes)
        for prefix in ((), whole[:1], whole, nobody):
            state.select(prefix=prefix)
            assert state.numbers().width and state.python()
            for name in EXPLORER_VIEWS:
                shown = state.view(name)
                assert shown.tables or shown.said, name


def test_one_code_for_all(make_catalogue: Make) -> None:
    catalogue = CodedCatalogue("x", ItemCodes(np.zeros((2000, 2), int), (256, 256)), ["oak lamp"] * 2000)
    state = ExplorerState(catalogue)
    assert state.collisions().sizes.tolist() == [2000]
    assert state.numbers()["state"].to_list().count("dead") == 255
    effects = policy_effects(catalogue, state.collisions().group(0))
    assert effects.filter(policy="extra_level")["after"].n_unique() == 2000


# --- the codes of an epoch


def state_with_epochs(make: Make) -> ExplorerState:
    """Epoch 1 has codes of its own, epoch 4 half of the final ones."""
    catalogue = make(1, 60, (4, 3, 5))
    others = np.random.default_rng(9).integers(0, (4, 3, 5), (60, 3))
    halves = np.where(np.arange(60)[:, None] < 30, catalogue.codes.codes, others)
    codes = {
        epoch: ItemCodes(one, (4, 3, 5), catalogue.codes.domains) for epoch, one in ((1, others), (4, halves))
    }
    records = {"all": [{"epoch": 1, "utilisation": [0.5, 0.5, 0.5]}]}
    return ExplorerState(catalogue, records=RunRecords(records, (4, 3, 5), codes_by_epoch=lambda: codes))


def test_an_epoch_shows_its_codes_in_all_views_until_the_final_ones_are_back(make_catalogue: Make) -> None:
    state, final = state_with_epochs(make_catalogue), make_catalogue(1, 60, (4, 3, 5))
    others = state.codes_by_epoch[1]
    alone = CodedCatalogue("x", others, final.titles.to_list(), traffic=final.traffic, vectors=final.vectors)
    twin = ExplorerState(alone)
    before = state.select(prefix=(2,))
    state.show_epoch(1)
    for prefix in ((), (2,), (2, 1)):
        state.select(prefix=prefix)
        twin.select(prefix=prefix)
        assert state.items().tolist() == twin.items().tolist()
        assert state.catalogue.labels(prefix) == twin.catalogue.labels(prefix)
        for name in ("", "Sharing", "Collisions"):
            assert state.numbers(name).equals(twin.numbers(name)), name
    assert state.catalogue.health == twin.catalogue.health
    assert state.catalogue.words_everywhere(1) == twin.catalogue.words_everywhere(1)
    assert state.view("Exposure").said == [
        "Exposure belongs to the final codes; this shows those of epoch 1."
    ]
    assert "state.show_epoch(1)" in state.python()
    state.show_epoch(None)
    assert state.select(prefix=(2,)) == before
    assert state.items().tolist() == ExplorerState(final).catalogue.order.members((2,)).tolist()
    assert state.two is None and "show_epoch" not in state.python()


def test_members_of_a_code_by_epoch(make_catalogue: Make) -> None:
    state = state_with_epochs(make_catalogue)
    codes = {
        **{str(e): one.codes for e, one in state.codes_by_epoch.items()},
        "final": state.final.codes.codes,
    }
    for selected, is_in in (
        ({"prefix": (2, 1)}, lambda row: tuple(row[:2]) == (2, 1)),
        ({"everywhere": (1, 0)}, lambda row: row[1] == 0),
    ):
        state.select(**selected)
        table = state.view("Training").tables[0]
        had: set[int] = set()
        last = {item for item, row in enumerate(codes["final"].tolist()) if is_in(row)}
        for place, (epoch, rows) in enumerate(codes.items()):
            now = {item for item, row in enumerate(rows.tolist()) if is_in(row)}
            had = now if place == 0 else had
            expected = (epoch, len(now), len(now - had), len(had - now), len(now & last))
            assert table.frame.row(place) == expected
            had = now
        assert [one and one["value"] for one in table.go] == ["1", "4", ""]
    state.select(prefix=(), domain="Garden")
    own = state.final.codes.domain_items("Garden")
    shares = state.view("Training").tables[0].frame
    for epoch, rows in codes.items():
        same = rows[own] == codes["final"][own]
        expected = [*same.mean(axis=0), same.all(axis=1).mean()]
        assert shares.filter(epoch=epoch).row(0)[1:] == pytest.approx(expected)


def test_a_selected_item_stays_selected_and_flows_lead_to_the_final_codes(make_catalogue: Make) -> None:
    state = state_with_epochs(make_catalogue)
    state.select(item=7)
    state.show_epoch(1)
    assert state.selection.item == 7
    assert state.selection.prefix == tuple(state.codes_by_epoch[1].codes[7].tolist())
    state.select(prefix=())
    flows = state.view("Compare").tables[1].frame
    one, other = state.codes_by_epoch[1].codes[:, 0], state.final.codes.codes[:, 0]
    assert flows["items"].sum() == 60
    for a, b, items in flows.select("code_a", "code_b", "items").iter_rows():
        assert items == ((one == a) & (other == b)).sum()
    with pytest.raises(ValueError, match=r"epoch: 3, expected one of \[1, 4\] or None"):
        state.show_epoch(3)
    assert state.epoch == 1


def test_without_kept_codes_the_training_says_so(make_catalogue: Make) -> None:
    assert "not kept" in full_state(make_catalogue).view("Training").said[0]


def test_a_closed_explorer_is_freed(make_catalogue: Make) -> None:
    state = state_with_epochs(make_catalogue)
    state.show_epoch(1)
    state.select(prefix=(2,))
    for name in EXPLORER_VIEWS:
        state.view(name)
    points.coloured(state, "code", points.places(state, points.BY_CODES, 0))
    alive = [weakref.ref(one) for one in (state, state.catalogue, state.final, state.catalogue.order)]
    del state
    gc.collect()
    assert [one() for one in alive] == [None] * 4
