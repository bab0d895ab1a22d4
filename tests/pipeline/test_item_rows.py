"""Rows over items in a run: what they learn from, phases, domains, skipped rows, runs of baselines alone."""

from __future__ import annotations

import json
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from genrec_lab.evaluation import ndcg_at_k
from genrec_lab.lab import (
    adapt_to_domains,
    describe_adaptation,
    describe_skipped,
    end_without_codes,
    lead_row,
    load_history,
    load_prepared,
    load_vectors,
    open_run,
    prepare_data,
    rank_test_users,
    show_beside_papers,
    shown_row,
    train_recommenders,
    train_tokenizers,
)
from genrec_lab.lab.chain import tasks_of
from genrec_lab.lab.files import RunError
from genrec_lab.lab.prepare import facts_in
from genrec_lab.lab.recommend import load_item_model, training_tasks
from genrec_lab.lab.report import build_report
from genrec_lab.lab.rows import Facts, facts_of
from genrec_lab.lab.store import Task
from genrec_lab.models.recommenders.base import ITEM_MODELS, TrainingData
from genrec_lab.models.sequential.base import DomainItems, Phase
from genrec_lab.models.sequential.sasrec import SASRec
from genrec_lab.viz import live

ROWS = ["sasrec", "hgn", "popularity", "tiger"]


def write_toys(folder, name="Toys", users=30, seed=0):
    """Sequences without texts, in which every user's last two items stand nowhere else."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    shared = {user: rng.choice(20, rng.integers(2, 6), replace=False).tolist() for user in range(users)}
    sequences = {str(user): [*items, 100 + user, 200 + user] for user, items in shared.items()}
    (folder / f"{name}.inter.json").write_text(json.dumps(sequences))
    return folder


def opened(root, dataset, compare, preset="baselines_tiny", **overrides):
    fast = {"rows.sasrec.training.epochs": 1, "rows.hgn.training.epochs": 1, **overrides}
    overrides = {"compare": compare, **fast}
    return open_run("toys", dataset=dataset, preset=preset, overrides=overrides, root=root, change=True)


def executed(run):
    prepare_data(run)
    train_tokenizers(run)
    train_recommenders(run)
    return rank_test_users(run)


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A run of baselines on sequences without texts, from end to end."""
    root = tmp_path_factory.mktemp("toys")
    folder = write_toys(root / "data")
    dataset = {"name": "lcrec", "domains": {"Toys": str(folder)}, "allow_missing_text": True}
    run = opened(root / "runs", dataset, ROWS)
    return run, executed(run)


# --- a run whose data have no texts


def test_a_row_that_the_data_cannot_feed_is_skipped_and_says_why(toys):
    run, rankings = toys
    why = "it needs item texts, and Toys has none"
    assert run.skipped() == {"tiger": why}
    assert describe_skipped(run) == f"tiger is skipped: {why}."
    assert set(rankings.items) == {"sasrec", "hgn", "popularity"}
    assert run.metrics()["method"].unique(maintain_order=True).to_list() == ["sasrec", "hgn", "popularity"]
    page = build_report(run).read_text(encoding="utf-8")
    assert "Rows that were skipped" in page
    assert why in page


def test_metrics_are_those_of_the_rankings(toys):
    run, rankings = toys
    for row, items in rankings.items.items():
        expected = ndcg_at_k(items, rankings.users["target"].to_numpy(), 10)
        recorded = run.metrics().filter(method=row, domain="Toys", metric="ndcg", k=10)["value"]
        assert recorded.to_list() == [pytest.approx(expected)]


def test_a_row_is_ranked_by_its_stored_model_for_the_user_that_asks(toys):
    run, rankings = toys
    model = load_item_model(run, "hgn", "Toys")
    users, histories = rankings.users["user"].to_list(), rankings.users["history"].to_list()
    np.testing.assert_array_equal(model.recommend(histories, 10, users).items, rankings.items["hgn"])
    assert (model.score(histories, users) != model.score(histories)).any()


def test_nothing_is_learnt_from_validation_and_test_items(toys):
    """The last two items of each user stand nowhere else, so no batch may hold them."""
    run, _ = toys
    data = load_prepared(run)
    held_back = {item for items in data.dataset.sequences["items"].to_list() for item in items[-2:]}
    learnt = TrainingData.of(data.dataset, data.split).of_domains("Toys")
    sequences, users = learnt.sequences["items"].to_list(), learnt.sequences["user"].to_list()
    assert users == data.dataset.sequences["user"].to_list()
    domain = DomainItems(learnt.items["item"].to_numpy(), np.array(users))
    for row in run.config.rows.values():
        model_class = ITEM_MODELS.find(row.model.kind)
        if model_class.needs:
            continue
        model = model_class(row.model).build(domain)
        for phase in model_class.phases:
            model.begin(phase.name)
            for batch in model.batches(sequences, users, 7)(0, 0):
                for name in ("sequences", "wanted"):
                    places = batch.get(name, torch.empty(0, dtype=torch.long))
                    places = places[(places >= 0) & (places < len(domain.items))].numpy()
                    assert held_back.isdisjoint(domain.items[places].tolist())


def test_there_are_no_codes_to_look_at(toys, capsys):
    run, _ = toys
    assert shown_row(run) == "sasrec"
    with pytest.raises(RunError, match="has only rows over items, so there are no codes"):
        lead_row(run)
    assert describe_adaptation(run) == "No row of this run is generative, so nothing is adapted."
    assert adapt_to_domains(run).is_empty()
    end_without_codes(run)
    assert (
        "Nothing to show from here on: no row of the run 'toys' gives items codes." in capsys.readouterr().out
    )
    assert not list(run.folder.rglob("vectors.safetensors"))


@pytest.mark.parametrize("stage", ["03_residual_atlas", "04_codebook_explorer", "06_domain_adaptation"])
def test_what_earlier_rows_left_in_a_stage_does_not_stand_in_the_way(tmp_path, capsys, stage):
    """A notebook that ends early makes no result; those of other rows are none of this run's."""
    dataset = {"name": "bazaar", "items": 300, "users": 60}
    before = opened(tmp_path, dataset, ["sasrec", "tiger"])
    prepare_data(before)
    before.make(Task(stage, "of_tiger", write_nothing))
    end_without_codes(before)
    assert not capsys.readouterr().out
    run = opened(tmp_path, dataset, ["sasrec"])
    end_without_codes(run)
    assert "no row of the run 'toys' gives items codes" in capsys.readouterr().out
    assert tasks_of(run, stage) == []  # so the chain has nothing to ask for
    assert run.metrics().is_empty()


def write_nothing(work):
    (work.folder / "nothing.json").write_text("[]")


def test_texts_are_encoded_only_where_a_row_reads_them(tmp_path, monkeypatch):
    encoded = []

    def encode(texts, *_, **__):
        encoded.append(len(texts))
        return np.ones((len(texts), 4), dtype=np.float32)

    monkeypatch.setattr("genrec_lab.lab.tokenise.encode_texts", encode)
    dataset = {"name": "bazaar", "items": 300, "users": 60}
    for compare, times in {("sasrec", "hgn", "popularity"): 0, ("sasrec", "unisrec"): 1}.items():
        run = opened(tmp_path / "-".join(compare), dataset, list(compare))
        prepare_data(run)
        train_tokenizers(run)
        assert len(encoded) == times
        if times:
            assert load_vectors(run).shape == (300, 4)
        else:
            with pytest.raises(RunError, match=r"has no text vectors: .* no row reads them"):
                load_vectors(run)


def test_no_paper_has_these_data(toys, capsys):
    run, _ = toys
    assert show_beside_papers(run) == []
    assert capsys.readouterr().out == "No table of the papers has rows on these data.\n"


def test_a_papers_table_is_a_figure_of_the_run_and_stands_in_its_report(toys, monkeypatch):
    run, _ = toys
    frame = run.metrics().filter(domain="Toys", method="sasrec").with_columns(
        domain=pl.lit("Instruments"), users=pl.lit(24772, pl.Int64)
    )  # fmt: skip
    (figure,) = show_beside_papers(run, frame)
    assert list(figure.data[0].cells.values[2]) == ["recall@5", "recall@10", "ndcg@5", "ndcg@10"]
    assert (run.folder / "figures" / "beside_gmc_table_3.json").is_file()
    monkeypatch.setattr(type(run), "metrics", lambda self: frame)
    page = build_report(run).read_text(encoding="utf-8")
    assert "Compared with GMC Table 3" in page and "Rows of GMC Table 3 compared with ours" in page


def test_a_generative_method_of_its_own_needs_texts(tmp_path):
    folder = write_toys(tmp_path / "data")
    dataset = {"name": "lcrec", "domains": {"Toys": str(folder)}, "allow_missing_text": True}
    run = opened(tmp_path / "runs", dataset, ["sasrec"], preset="gmc_tiny")
    prepare_data(run)
    with pytest.raises(
        ValueError, match=r"gmc_tiny cannot be run with these data: it needs item texts.*'baselines'"
    ):
        train_tokenizers(run)


# --- a notebook that ends early


def test_the_cells_below_an_end_do_nothing(monkeypatch, capsys):
    shell = InteractiveShell()
    monkeypatch.setattr(live, "in_kernel", lambda: True)
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    shell.run_cell("before = 1")
    live.end_notebook("nothing is there.")
    assert shell.run_cell("after = before + 1\nraise ValueError").success
    assert shell.user_ns["before"] == 1
    assert "after" not in shell.user_ns
    assert "Nothing to show from here on: nothing is there." in capsys.readouterr().out


# --- phases, needs, domains


class PhasedSASRec(SASRec):
    """SASRec that is pre-trained on all domains, and reads nothing but says that it needs texts."""

    needs: ClassVar = ("text", "words")
    phases: ClassVar = (
        Phase("pretraining", shared=True, budget="pretraining", validated=False), Phase("warming"), Phase()
    )  # fmt: skip
    begun: ClassVar[list] = []

    def begin(self, phase):
        super().begin(phase)
        places = self.places.weight.detach().clone()
        self.begun.append((phase, self.items.tolist(), self.domain.text, self.domain.words, places))


@pytest.fixture
def phased(tmp_path, monkeypatch):
    monkeypatch.setitem(ITEM_MODELS._components, "sasrec", PhasedSASRec)
    monkeypatch.setattr(PhasedSASRec, "begun", [])

    def run_with(**overrides):
        budgets = {"rows.sasrec.pretraining.epochs": 2, "rows.sasrec.training.validate_every": 1}
        dataset = {"name": "bazaar", "items": 300, "users": 300}
        run = opened(tmp_path / "runs", dataset, ["sasrec"], **budgets, **overrides)
        executed(run)
        return run

    return run_with


def test_a_shared_phase_is_trained_once_and_each_domain_goes_on_from_it(phased):
    run = phased()
    dataset, vectors = load_prepared(run).dataset, load_vectors(run)
    begun = [(phase, items) for phase, items, *_ in PhasedSASRec.begun]
    of_domains = {domain: dataset.domain_items(domain).tolist() for domain in dataset.domains}
    assert begun == [
        ("pretraining", list(range(dataset.n_items))),
        *((phase, items) for items in of_domains.values() for phase in ("warming", "training")),
    ]
    places = [weights for *_, weights in PhasedSASRec.begun]
    assert not torch.equal(places[0], places[1])  # two epochs have moved them
    assert torch.equal(places[1], places[3])  # and every domain starts from where they went
    for _, items, text, words, _ in PhasedSASRec.begun:
        np.testing.assert_array_equal(text, vectors[items])
        assert words["item"].to_list() == items
    histories = load_history(run)["sasrec"]
    scopes = {"pretraining", *of_domains, *(f"{domain} warming" for domain in of_domains)}
    assert set(histories) == scopes
    assert all("ndcg@10" not in record["metrics"] for record in histories["pretraining"])
    assert all("ndcg@10" in record["metrics"] for record in histories["Garden"])


def test_pretraining_sees_the_targets_only_where_it_is_told_to(phased):
    run = phased(**{"transfer.targets": ["Studio"]})
    dataset = load_prepared(run).dataset
    studio = set(dataset.domain_items("Studio").tolist())
    (_, pretrained_on, *_), *others = PhasedSASRec.begun
    assert set(pretrained_on) == set(range(dataset.n_items)) - studio
    assert all(set(items) == studio for _, items, *_ in others)
    assert run.metrics().filter(method="sasrec")["domain"].unique(maintain_order=True).to_list() == [
        "Studio", "average"
    ]  # fmt: skip
    PhasedSASRec.begun.clear()
    phased(**{"transfer.targets": ["Studio"], "transfer.pretrain_on_targets": True})
    (_, pretrained_on, *_), *others = PhasedSASRec.begun
    assert len(pretrained_on) == dataset.n_items
    assert all(set(items) == studio for _, items, *_ in others)


def test_a_need_is_looked_for_in_every_domain(tmp_path, monkeypatch):
    """Pictures of one domain alone do not help the others."""
    run = opened(tmp_path / "runs", {"name": "bazaar", "items": 300, "users": 300}, ["sasrec"])
    dataset = prepare_data(run).dataset
    for needs, why in (
        (("text",), None), (("words",), None), ((), None),
        (("text", "pictures"), "it needs item pictures, and Garden has none"),
    ):  # fmt: skip
        monkeypatch.setattr(SASRec, "needs", needs)
        assert Facts(run, facts_in(dataset)).skipped == ({} if why is None else {"sasrec": why})


def test_what_is_finished_is_read_and_not_trained_again(toys):
    run, rankings = toys

    def written():
        folders = [run.read(task) for task in training_tasks(facts_of(run))]
        return {folder: (folder / "result.json").stat().st_mtime_ns for folder in folders}

    trained = written()
    again = train_recommenders(run)
    assert written() == trained
    assert set(again) == {"sasrec", "hgn"}
    assert all(set(scopes) == {"Toys"} for scopes in again.values())
    np.testing.assert_array_equal(rank_test_users(run).items["sasrec"], rankings.items["sasrec"])
