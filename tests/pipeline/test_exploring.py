"""What the explorer shows of a run: geometry of its codebooks, traffic, a beam, and what is missing."""

import numpy as np
import plotly.graph_objects as go
import polars as pl
import pytest

from genrec_lab.decoding import beam_search
from genrec_lab.lab import (
    RunError,
    explorer_state,
    load_identified,
    load_prepared,
    open_run,
    prepare_data,
    survey_codes,
    train_tokenizers,
    watched_beam,
)
from genrec_lab.lab.explore import explore, survey_tasks
from genrec_lab.lab.rows import facts_of
from genrec_lab.models import Recommender, T5Config
from genrec_lab.viz.explorer import collisions, policy_effects
from genrec_lab.viz.explorer.widget import Explorer
from genrec_lab.viz.figures import prefix_bars, tokenizer_match

SMALL = T5Config(d_model=16, d_kv=4, heads=2, d_ff=16, encoder_layers=1, decoder_layers=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with data and the tokenizers of its own method and of TIGER, and no recommender."""
    opened = open_run(
        "tiny",
        dataset={"name": "bazaar", "items": 300, "users": 300},
        preset="gmc_tiny",
        overrides={"compare": ["tiger"], "tokenizer.epochs": 3},
        root=tmp_path_factory.mktemp("runs"),
    )
    prepare_data(opened)
    train_tokenizers(opened)
    return opened


@pytest.mark.parametrize("method", ["gmc_tiny", "tiger"])
def test_every_item_lies_nearest_to_its_own_codeword(run, method):
    catalogue = explorer_state(run, method).catalogue
    assert catalogue.books == (1 if method == "gmc_tiny" else 3)
    for level, book in enumerate(catalogue.codewords):
        width = len(book) // catalogue.books
        for item in range(0, catalogue.n_items, 7):
            code = catalogue.codes.codes[item, level]
            block = book[code // width * width :][:width]
            distances = np.linalg.norm(block - catalogue.residuals[item, level], axis=1)
            assert catalogue.distances[item, level] == pytest.approx(distances.min(), rel=1e-3, abs=1e-4)


def test_a_run_beside_it_that_cannot_be_opened_is_left_out(run):
    beside = open_run("beside", dataset=run.dataset, preset="gmc_tiny", root=run.folder.parent)
    with beside.edited_manifest() as manifest:
        manifest["parameters"]["overrides"] = {"tokenizer.kind": "gone.py:Gone"}
    assert list(explorer_state(run).records.others()) == ["tiny"]


def test_a_run_and_codes_are_not_compared(run):
    with pytest.raises(ValueError, match="other is a dict; compare a run with a run"):
        explore(run, other={"a": [1, 2]})
    with pytest.raises(ValueError, match="other is a Run; compare a run with a run, and codes with codes"):
        explore({"a": [1, 2]}, other=run)


@pytest.mark.parametrize("method", ["gmc_tiny", "tiger"])
def test_the_codes_of_the_last_epoch_are_the_final_ones(run, method):
    state = explorer_state(run, method)
    assert list(state.codes_by_epoch) == [1, 3]
    first, last = state.codes_by_epoch.values()
    assert last == state.catalogue.codes
    assert first.sizes == last.sizes and np.array_equal(first.domain_index, last.domain_index)
    assert not np.array_equal(first.codes, last.codes)
    state.show_epoch(1)
    assert state.catalogue.codes == first


def test_traffic_counts_the_sequences(run):
    counts = np.zeros(300, dtype=int)
    for items in load_prepared(run).dataset.sequences["items"].to_list():
        for item in items:
            counts[item] += 1
    assert explorer_state(run).catalogue.traffic.tolist() == counts.tolist()


def test_a_run_without_recommender_or_maps_says_so(run):
    state = explorer_state(run, other_method="tiger")
    assert state.view("Exposure").said[0].startswith("No recommendations yet")
    assert state.view("Sharing").said[-1].startswith("The codes of nearest items were not compared yet")
    assert state.numbers("Compare").height
    assert state.two.n_items == 300
    assert state.numbers("Training")["level"].n_unique() == state.catalogue.levels
    assert state.save_slice("mine").n_items == 300
    assert (run.folder / "slices").is_dir()


def test_the_python_of_a_view_opens_the_run_again(run, monkeypatch):
    monkeypatch.setenv("GENREC_RUNS", str(run.folder.parent))
    state = explorer_state(run, "gmc_tiny", run, "tiger")
    state.select(prefix=(int(state.catalogue.codes.codes[0, 0]),))
    for name in ("", "Compare", "Collisions"):
        names = {}
        exec(state.python(name), names)  # noqa: S102 - what the export is for
        assert names["frame"].equals(state.numbers(name))


@pytest.mark.parametrize("method", ["gmc_tiny", "tiger"])
def test_policies_of_a_group_are_those_that_the_run_used(run, method):
    own, state = load_identified(run, method), explorer_state(run, method)
    policy, levels = own.resolution["policy"], state.catalogue.levels
    found = collisions(state.catalogue)
    for place in range(min(found.sizes.size, 20)):
        effects = policy_effects(state.catalogue, found.group(place)).filter(policy=policy)
        for row in effects.iter_rows(named=True):
            block = state.catalogue.codes.codes[row["item"]] - own.raw.codes[row["item"]]
            after = [int(code) for code in row["after"].split(" › ")]
            after[:levels] = (np.array(after[:levels]) - block).tolist()
            assert after == own.codes.codes[row["item"]].tolist()


def test_a_watched_beam_is_the_beam_that_recommends(run, monkeypatch):
    model = Recommender(load_identified(run).codes, SMALL).eval()
    monkeypatch.setattr("genrec_lab.lab.explore.load_adapted", lambda *_: model)
    user = load_prepared(run).split.test.row(4, named=True)
    tree = watched_beam(run, "gmc_tiny", 4, beams=6)
    ranked = beam_search(model, [user["history"]], model.trie(user["domain"]), 6, 6)
    last = tree.nodes.filter(pl.col("level") == model.codes.levels).sort("rank")
    assert last["log_probability"].to_list() == pytest.approx(ranked.scores[0].tolist(), abs=1e-4)
    found = [model.codes.codes[item].tolist() for item in ranked.items[0]]
    assert [list(map(int, prefix.split())) for prefix in last["prefix"]] == found
    assert tree.target == tuple(model.codes.codes[user["target"]].tolist())
    assert tree.results == tuple(ranked.items[0].tolist())
    assert (tree.history, tree.target_item) == (tuple(user["history"]), user["target"])
    everything = model.trie(user["domain"])
    wide = beam_search(model, [user["history"]], everything, len(everything), len(everything))
    place = wide.items[0].tolist().index(user["target"])
    assert tree.steps[-1] == pytest.approx(float(wide.scores[0][place]), abs=1e-4)
    found = len({*tree.results} & {*wide.items[0][:6].tolist()})
    assert tree.exactly == (place + 1, len(everything), found, 6)


def test_a_run_without_tokenizers_names_the_notebook(tmp_path):
    dataset = {"name": "bazaar", "items": 300, "users": 60}
    opened = open_run("empty", dataset=dataset, preset="gmc_tiny", root=tmp_path)
    with pytest.raises(RunError, match=r"Run the notebook 01_data_preparation\.ipynb"):
        explorer_state(opened)
    prepare_data(opened)
    with pytest.raises(RunError, match=r"Run the notebook 02_tokenizer_training\.ipynb"):
        explorer_state(opened)


def test_a_run_that_cannot_be_opened_is_a_sentence_where_somebody_looks(tmp_path, monkeypatch):
    opened = open_run("empty", dataset={"name": "bazaar"}, preset="gmc_tiny", root=tmp_path)
    with pytest.raises(RunError, match=r"01_data_preparation|02_tokenizer_training"):
        explore(opened)
    monkeypatch.setattr("genrec_lab.lab.explore.in_kernel", lambda: True)
    monkeypatch.setattr("genrec_lab.lab.explore.has_front_end", lambda: True)
    shown = explore(opened).value
    assert "of run &#39;empty&#39; cannot be used" in shown and "Run the notebook" in shown


@pytest.mark.parametrize(
    ("kernel", "looked_at", "widget"), [(True, True, True), (True, False, False), (False, False, True)]
)
def test_a_kernel_without_a_front_end_gets_a_figure(run, monkeypatch, capsys, kernel, looked_at, widget):
    monkeypatch.setattr("genrec_lab.lab.explore.in_kernel", lambda: kernel)
    monkeypatch.setattr("genrec_lab.lab.explore.has_front_end", lambda: looked_at)
    opened = explore(run)
    assert isinstance(opened, Explorer if widget else go.Figure)
    assert ("This kernel has no front end" in capsys.readouterr().out) is not widget


def test_the_figure_in_place_of_the_explorer_is_its_first_view(run, monkeypatch):
    monkeypatch.setattr("genrec_lab.lab.explore.in_kernel", lambda: True)
    monkeypatch.setattr("genrec_lab.lab.explore.has_front_end", lambda: False)
    state = explorer_state(run, other_method="tiger")
    expected = prefix_bars(state, seed=state.catalogue.seed)
    assert explore(run).layout.title.text == expected.layout.title.text
    compared, dark = explore(run, other_method="tiger"), explore(run, mode="dark")
    assert compared.layout.title.text == tokenizer_match(state.two, level=0).layout.title.text
    assert dark.layout.template.layout.paper_bgcolor != compared.layout.template.layout.paper_bgcolor


def test_the_survey_is_a_stage_that_needs_no_recommender(run):
    codes = survey_codes(run)
    raw = load_identified(run).raw
    for row in codes.iter_rows(named=True):
        assert row["items"] == (raw.codes[:, row["level"] - 1] == row["code"]).sum()
    (task,) = survey_tasks(facts_of(run))
    folder = run.read(task)
    groups = pl.read_parquet(folder / "collisions.parquet")
    names = np.array(raw.domain_names)[raw.domain_index]
    found = {}
    for domain, identifier in zip(names, map(tuple, raw.codes.tolist()), strict=True):
        found[domain, identifier] = found.get((domain, identifier), 0) + 1
    expected = {(d, " › ".join(map(str, c))): n for (d, c), n in found.items() if n > 1}
    kept = zip(groups["domain"], groups["identifier"], groups["items"], strict=True)
    assert {(domain, identifier): size for domain, identifier, size in kept} == expected
    written = (folder / "codes.parquet").stat().st_mtime_ns
    assert survey_codes(run).equals(codes)
    assert (folder / "codes.parquet").stat().st_mtime_ns == written
