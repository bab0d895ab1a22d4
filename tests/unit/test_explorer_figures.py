"""The explorer's static twins: what they draw is what the state says, and titles stay text."""

from __future__ import annotations

import html
import json
from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go
import polars as pl
import pytest

from genrec_lab.codes import ItemCodes
from genrec_lab.viz import figures
from genrec_lab.viz.explorer import (
    CodedCatalogue,
    ExplorerState,
    RunRecords,
    TwoTokenizers,
    beam_tree,
)
from genrec_lab.viz.figures.training import training_frame
from genrec_lab.viz.projection import Projection

Make = Callable[..., CodedCatalogue]
EVIL = "<script>alert(1)</script> $x$ <b>"


def plain(text: str) -> str:
    return html.unescape(text.replace("<br>", " ")).replace("\N{NO-BREAK SPACE}", " ")


def title_of(figure: go.Figure) -> str:
    return plain(figure.layout.title.text)


def note_of(figure: go.Figure) -> str:
    return plain(figure.layout.title.subtitle.text)


def drawn(figure: go.Figure, name: str) -> go.Scatter | go.Bar:
    return next(trace for trace in figure.data if plain(trace.name or "") == name)


def state_of(make: Make, **options: object) -> ExplorerState:
    lists = np.random.default_rng(0).integers(0, 60, (40, 5))
    records = RunRecords(recommended={"gmc": lists})
    return ExplorerState(make(1, 60, (4, 3, 5), **options), make(2, 60, (4, 3, 5)), records=records)


def every_figure(state: ExplorerState) -> dict[str, go.Figure]:
    """All twins of what is selected."""
    tree = beam_tree([[(1,)], [(1, 0)]], [[-1.0], [-2.0]], (1, 2), [-1.0, -3.0])
    exposures = {name: state.exposure(name) for name in state.records.recommended}
    made = {"beam": figures.beam_way(tree)}
    if len(state.selection.prefix) < state.catalogue.levels:
        made["children"] = figures.prefix_bars(state)
    if state.two is not None:
        made["match"] = figures.tokenizer_match(state.two)
    if exposures:
        made["popularity"] = figures.exposure_by_popularity(exposures)
    return made


def test_bars_of_children_are_their_items_by_domain(make_catalogue: Make) -> None:
    state = state_of(make_catalogue)
    catalogue, codes = state.catalogue, state.catalogue.codes.codes
    largest = int(np.bincount(codes[:, 0]).argmax())
    state.select(prefix=(largest,))
    figure = figures.prefix_bars(state, top=2, seed=4)
    inside = codes[:, 0] == largest
    sizes = np.bincount(codes[inside, 1], minlength=3)
    order = np.argsort(-sizes, kind="stable")[:2]
    for place, name in enumerate(catalogue.domains):
        own = [
            int((inside & (codes[:, 1] == c) & (catalogue.codes.domain_index == place)).sum()) for c in order
        ]
        assert list(drawn(figure, name).x) == own
    assert list(drawn(figure, "share of items").x) == pytest.approx(
        (100 * sizes[order] / sizes.sum()).tolist()
    )
    below = np.array([catalogue.traffic[inside & (codes[:, 1] == code)].sum() for code in range(3)])
    traffic = 100 * below[order] / max(below.sum(), 1)
    assert list(drawn(figure, "share of interactions").x) == pytest.approx(traffic.tolist())
    used = int((sizes > 0).sum())
    assert title_of(figure).startswith(
        f"Below {largest}: {used} of 3 codes used; code {order[0]}, the largest, has "
    )
    assert "the 2 largest of 3 used codes" in note_of(figure) and note_of(figure).endswith("seed 4")
    state.select(prefix=tuple(codes[0].tolist()))
    with pytest.raises(ValueError, match="whole identifier"):
        figures.prefix_bars(state)


def test_dead_codes_are_named_and_have_no_bar() -> None:
    codes = ItemCodes([[0]] * 3, (20,))
    figure = figures.prefix_bars(ExplorerState(CodedCatalogue("x", codes, ["a"] * 3)))
    assert list(figure.data[0].x) == [3] and len(figure.data) == 4
    assert "dead at this level: 1, 2, 3, 4, 5, 6, 7, 8 and 11 more" in note_of(figure)
    assert title_of(figure) == "Level 1: 1 of 20 codes used; code 0, the largest, has 100 % of the items"


def test_the_beam_marks_where_the_target_left() -> None:
    tree = beam_tree([[(1,), (2,)], [(1, 0), (1, 3)]], [[-0.5, -1.0], [-0.9, -1.5]], (2, 4), [-1.0, -2.5])
    figure = figures.beam_way(tree)
    cross = drawn(figure, "where the target left")
    assert (cross.x[0], cross.text[0].strip()) == (2.0, "4 at -2.50")
    assert list(drawn(figure, "on the target's way").text) == ["2"]
    assert title_of(figure) == "The target leaves the beam at level 2 of 2: 1.00 below the last of 2 kept"
    stays = figures.beam_way(beam_tree([[(1,)], [(1, 0)]], [[-0.5], [-0.9]], (1, 0)))
    assert not [trace for trace in stays.data if trace.name == "where the target left"]


def test_exposure_by_popularity_draws_each_methods_shares(make_catalogue: Make) -> None:
    state = state_of(make_catalogue)
    found = state.exposure("gmc")
    groups = figures.exposure_by_popularity({"gmc": found})
    assert list(drawn(groups, "gmc").y) == pytest.approx(
        (100 * found.groups["recommendation_share"].to_numpy()).tolist()
    )
    assert list(groups.data[-1].x) == [found.traffic_gini, found.gini]
    with pytest.raises(ValueError, match="no methods"):
        figures.exposure_by_popularity({})


def test_matched_codes_lie_on_the_diagonal(make_catalogue: Make) -> None:
    a = make_catalogue(4, 50, (5,), geometry=False, name="a")
    renamed = np.array([3, 0, 4, 1, 2])
    b = CodedCatalogue("b", ItemCodes(renamed[a.codes.codes], (5,), a.codes.domains), a.titles.to_list())
    figure = figures.tokenizer_match(TwoTokenizers(a, b))
    table = np.array(figure.data[-1].z, dtype=float)
    assert (np.diag(table) == 100).all()
    assert np.isnan(table[~np.eye(len(table), dtype=bool)]).all()
    assert title_of(figure) == "a and b group the items alike at every level"
    b.keys = list(range(100, 150))
    assert title_of(figures.tokenizer_match(TwoTokenizers(a, b))) == "a and b have no item in common"


def test_epochs_are_drawn_by_level_and_what_is_missing_has_no_panel() -> None:
    records = [{"epoch": e, "utilisation": [0.5, e / 10], "perplexity": [3.0, 2.0]} for e in range(1, 9)]
    figure = figures.codebook_by_epoch(training_frame({"all": records}, (8, 10)))
    assert [plain(note.text) for note in figure.layout.annotations] == [
        "Codes in use",
        "Perplexity",
        "Dead codes",
    ]
    second = [trace for trace in figure.data if trace.name == "level 2"]
    assert list(second[0].y) == pytest.approx([10.0 * e for e in range(1, 9)])
    assert list(second[2].y) == [9, 8, 7, 6, 5, 4, 3, 2]
    assert title_of(figure).startswith("After 8 epochs level 1 uses 50 % of the codes, the lowest share")
    with pytest.raises(ValueError, match=r"scope: 'b', expected one of \['all'\]"):
        figures.codebook_by_epoch(training_frame({"all": records}, (8, 10)), scope="b")
    with pytest.raises(ValueError, match="nothing was recorded"):
        figures.codebook_by_epoch(training_frame({"all": [{"epoch": 1}]}, (8,)))


@pytest.mark.parametrize("prefix", [(), (1,), (1, 2), (1, 2, 3)])
def test_titles_and_names_never_become_markup(prefix: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    codes = ItemCodes(rng.integers(0, 4, (90, 3)), (4, 4, 4), [(EVIL, "Kitchen")[i % 2] for i in range(90)])
    made = {
        name: CodedCatalogue(
            f"{name} {EVIL}",
            codes,
            [f"{EVIL} {i % 7}" for i in range(90)],
            residuals=rng.normal(size=(90, 3, 2)),
            codewords=[rng.normal(size=(4, 2)) for _ in range(3)],
            vectors=rng.normal(size=(90, 3)),
        )
        for name in ("a", "b")
    }
    records = RunRecords(recommended={EVIL: rng.integers(0, 90, (9, 5))})
    state = ExplorerState(made["a"], made["b"], records=records)
    state.select(prefix=prefix)
    for name, figure in every_figure(state).items():
        text = json.dumps(figure.to_plotly_json(), default=lambda value: np.asarray(value).tolist())
        assert "<script" not in text and "$x$" not in text, name


@pytest.mark.parametrize("shape", [(1, (1,)), (3, (2, 2)), (40, (1, 1))])
@pytest.mark.parametrize("geometry", [True, False])
def test_twins_of_small_and_odd_catalogues(
    make_catalogue: Make, shape: tuple[int, tuple[int, ...]], geometry: bool
) -> None:
    items, sizes = shape
    catalogue = make_catalogue(0, items, sizes, ("only",), geometry=geometry)
    records = RunRecords(recommended={"gmc": np.full((2, 2), -1)})
    state = ExplorerState(catalogue, make_catalogue(1, items, sizes, ("only",)), records=records)
    for prefix in ((), tuple(catalogue.codes.codes[0].tolist()), tuple(size - 1 for size in sizes)):
        state.select(prefix=prefix)
        for name, figure in every_figure(state).items():
            assert title_of(figure), name
            assert "nan" not in f"{title_of(figure)} {note_of(figure)}".lower().split(), name


def test_a_frame_without_churn_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="columns"):
        figures.codebook_by_epoch(pl.DataFrame({"epoch": [1]}))


def stepped(make_catalogue: Make) -> tuple[CodedCatalogue, Projection, np.ndarray, go.Figure]:
    catalogue = make_catalogue(4, 90)
    rng = np.random.default_rng(5)
    shown = np.sort(rng.choice(90, 40, replace=False))
    projection = Projection(rng.normal(size=(40, 3, 2)).astype(np.float32), shown, "tsne", 5, 90)
    assert catalogue.codewords is not None and catalogue.residuals is not None
    chosen = np.stack(
        [book[catalogue.codes.codes[:, level]] for level, book in enumerate(catalogue.codewords)], axis=1
    )
    domains = np.array(catalogue.domains)[catalogue.codes.domain_index]
    drawn = figures.residual_stepper(
        projection,
        catalogue.residuals,
        catalogue.residuals - chosen,
        catalogue.codes.codes,
        domains.tolist(),
        ["<b>" + title for title in catalogue.titles.to_list()],
    )
    return catalogue, projection, chosen, drawn


def test_each_step_shows_one_level_and_all_its_items(make_catalogue: Make) -> None:
    catalogue, projection, chosen, drawn = stepped(make_catalogue)
    steps = drawn.layout.sliders[0].steps
    seen = np.array([step.args[0]["visible"] for step in steps])
    assert (seen.sum(axis=0) == 1).all() and seen.shape == (3, len(drawn.data))
    assert [trace.visible for trace in drawn.data] == seen[0].tolist()
    for level in range(3):
        traces = [trace for trace, on in zip(drawn.data, seen[level], strict=True) if on]
        maps = [trace for trace in traces if trace.type == "scatter" and trace.mode == "markers"]
        found = [text for trace in maps for text in trace.text]
        assert len(found) == 40
        expected = []
        for item in projection.items.tolist():
            residual = catalogue.residuals[item, level].astype(float)
            left = np.linalg.norm(residual - chosen[item, level])
            norms = f"norm {np.linalg.norm(residual):.3g} before, {left:.3g} after"
            expected.append(f"code {catalogue.codes.codes[item, level]}; {norms}")
        assert sorted(text.split("<br>")[1] for text in found) == sorted(expected)
        assert not any("<b>" in text for text in found)
        before, after = (trace for trace in traces if trace.type == "bar")
        lengths = np.linalg.norm(catalogue.residuals.astype(float), axis=2).mean(axis=0)
        np.testing.assert_allclose(before.y, lengths, rtol=1e-5)
        np.testing.assert_allclose(
            after.y, np.linalg.norm(catalogue.residuals - chosen, axis=2).mean(axis=0), rtol=1e-5
        )
        assert np.argmax(before.marker.opacity) == level


def test_the_numbers_on_a_step_stand_amid_the_items_of_their_code(make_catalogue: Make) -> None:
    catalogue, projection, _, drawn = stepped(make_catalogue)
    numbers = [trace for trace in drawn.data if trace.type == "scatter" and trace.mode == "text"]
    for level, trace in enumerate(numbers):
        points = projection.coordinates[:, level].astype(float)
        centre, size = (points.min(0) + points.max(0)) / 2, (points.max(0) - points.min(0)).max()
        codes = catalogue.codes.codes[projection.items, level]
        for text, x, y in zip(trace.text, trace.x, trace.y, strict=True):
            own = points[codes == int(text[3:-4])]
            np.testing.assert_allclose([x, y], 2 * (np.median(own, axis=0) - centre) / size, atol=1e-5)
        shown = {int(text[3:-4]) for text in trace.text}
        counts = np.bincount(codes)
        left_out = np.delete(counts, sorted(shown))
        assert counts[sorted(shown)].min() >= left_out.max(initial=0)


def test_a_step_of_other_shapes_is_refused(make_catalogue: Make) -> None:
    catalogue, projection, chosen, _ = stepped(make_catalogue)
    codes, domains = catalogue.codes.codes, ["a"] * 90
    with pytest.raises(ValueError, match=r"expected \(N, L, d\) twice"):
        figures.residual_stepper(projection, catalogue.residuals, chosen[:, :2], codes, domains)
    with pytest.raises(ValueError, match="expected a map of these residuals"):
        figures.residual_stepper(projection, catalogue.residuals[:80], chosen[:80], codes[:80], domains[:80])
