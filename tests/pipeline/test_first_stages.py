"""What the notebooks 00 to 03 look at, on a tiny run: floor, policies, maps, overlap, the machine."""

import dataclasses
import json

import numpy as np
import polars as pl
import pytest
from joblib import parallel_config

from genrec_lab.encoders.text import TextConfig
from genrec_lab.lab import (
    check_machine,
    compare_policies,
    floor_and_ceiling,
    load_atlas,
    load_prepared,
    load_vectors,
    map_residuals,
    open_run,
    prepare_data,
    rank_test_users,
    train_tokenizers,
)
from genrec_lab.lab.explore import atlas_tasks, neighbour_overlaps
from genrec_lab.lab.prepare import check_tasks, text_model_of
from genrec_lab.lab.rows import facts_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with data and the tokenizers of its own method and of TIGER."""
    opened = open_run(
        "tiny",
        dataset={"name": "bazaar", "items": 300, "users": 300},
        preset="gmc_tiny",
        overrides={"compare": ["tiger"], "tokenizer.epochs": 3},
        root=tmp_path_factory.mktemp("runs"),
    )
    prepare_data(opened)
    return opened


@pytest.fixture(scope="module")
def identified(run):
    return train_tokenizers(run)


def test_popularity_scores_what_counting_by_hand_gives(run):
    found = floor_and_ceiling(run)
    data = load_prepared(run)
    for domain in data.dataset.domains:
        counts = dict.fromkeys(data.dataset.domain_items(domain).tolist(), 0)
        for items in data.dataset.sequences.filter(pl.col("domain") == domain)["items"].to_list():
            for item in items[:-2]:
                counts[item] += 1
        best = sorted(counts, key=lambda item: (-counts[item], item))[:5]
        targets = data.split.valid.filter(pl.col("domain") == domain)["target"].to_list()
        hits = sum(target in best for target in targets) / len(targets)
        row = found.filter(method="popularity", domain=domain, metric="recall", k=5)
        assert row["value"].to_list() == [pytest.approx(hits)]
        assert row["users"].to_list() == [len(targets)]


def test_the_best_possible_is_above_popularity_and_a_sample_names_its_users(run):
    found = floor_and_ceiling(run).pivot(on="method", index=["domain", "metric", "k"], values="value")
    assert (found["best possible"] > found["popularity"]).all()
    sampled = floor_and_ceiling(run, users=50).filter(domain="average")
    assert sampled["users"].unique().to_list() == [50]


def test_policies_are_those_of_the_run_and_only_none_keeps_conflicts(run, identified):
    own = identified[run.config.name]
    table = compare_policies(run, own)
    chosen = table.row(by_predicate=pl.col("policy") == run.config.identifiers.policy, named=True)
    assert chosen["moved"] == own.resolution["moved"]
    assert chosen["cost"] == pytest.approx(own.resolution["cost"])
    rates = dict(table.select("policy", "collision_rate").iter_rows())
    assert rates.pop("none") == own.raw.collision_rate() > 0
    assert set(rates.values()) == {0.0}
    levels = dict(table.select("policy", "levels").iter_rows())
    assert levels["extra_level"] == own.raw.levels + 1


def test_policies_work_on_codebooks_of_a_domain_each(run, identified):
    table = compare_policies(run, identified["tiger"])
    assert table.filter(pl.col("policy") != "none")["collision_rate"].max() == 0.0


@pytest.mark.parametrize("method", ["gmc_tiny", "tiger"])
def test_codewords_and_what_is_left_add_up_to_the_first_residual(identified, method):
    one = identified[method]
    sums, last = one.codeword_sums(), one.residuals[:, -1]
    for item in range(0, one.raw.n_items, 17):
        books = one.codebooks.get("all", one.codebooks.get(str(one.raw.domains[item])))
        rest = last[item] - books[-1][one.raw.codes[item, -1]]
        np.testing.assert_allclose(one.residuals[item, 0], sums[item] + rest, atol=1e-4)


def test_equal_comparable_codes_are_equal_codewords(identified):
    assert identified["gmc_tiny"].comparable_codes() == identified["gmc_tiny"].raw
    apart = identified["tiger"].comparable_codes()
    for level in range(apart.levels):
        used = [set(apart.codes[apart.domain_items(domain), level]) for domain in apart.domain_names]
        assert sum(map(len, used)) == len(set.union(*used))


def test_the_overlap_is_that_of_a_search_by_force(run, identified):
    raw = {name: one.raw for name, one in identified.items()}
    found = neighbour_overlaps(load_vectors(run), raw, ks=(1, 7, 5_000))
    assert found["k"].unique().sort().to_list() == [1, 7]  # no domain has 5,001 items
    vectors = load_vectors(run).astype(np.float64)
    for method in ("gmc_tiny", "tiger"):
        codes = identified[method].raw
        for domain in codes.domain_names:
            items = codes.domain_items(domain)
            shares = []
            for item in items:
                others = items[items != item]
                order = np.argsort(((vectors[others] - vectors[item]) ** 2).sum(axis=1), kind="stable")
                shares.append((codes.codes[others[order[:7]]] == codes.codes[item]).mean())
            row = found.filter(tokenizer=method, domain=domain, k=7)
            assert row["overlap"].to_list() == [pytest.approx(np.mean(shares), abs=2e-3)]


def test_the_atlas_is_drawn_once_and_kept(run, identified, monkeypatch):
    # UMAP compiles for long; its own test is that of the projection
    monkeypatch.setattr("genrec_lab.viz.projection._umap", lambda vectors, seed: vectors[:, :2].astype(float))
    with parallel_config(backend="sequential"):
        atlas = map_residuals(run)
    own = identified[run.config.name]
    assert atlas.tsne.coordinates.shape == atlas.umap.coordinates.shape == (300, own.raw.levels, 2)
    assert np.isfinite(atlas.umap.coordinates).all()
    assert not np.array_equal(atlas.tsne.coordinates, atlas.umap.coordinates)
    maps, overlap = (run.read(task) for task in atlas_tasks(facts_of(run)))
    found = [file.name for folder in (maps, overlap) for file in folder.glob("*.parquet")]
    assert sorted(found) == ["neighbour_overlap.parquet", "tsne.parquet", "umap.parquet"]

    def failing(*_):
        raise AssertionError("it is made again")

    monkeypatch.setattr(type(run), "_work", failing)
    np.testing.assert_array_equal(map_residuals(run).tsne.coordinates, atlas.tsne.coordinates)
    assert load_atlas(run).overlap.equals(atlas.overlap)


def test_the_machine_is_looked_at_once_until_it_is_another_one(run, monkeypatch):
    machine = check_machine(run)
    (task,) = check_tasks(run)
    assert json.loads((run.read(task) / "machine.json").read_text()) == dataclasses.asdict(machine)
    assert machine.packages["python"].startswith("3.")
    assert "TF-IDF" in machine.text_model
    shown = dict(machine.table().iter_rows())
    assert shown["trains on"] == machine.device
    assert shown["processor"].endswith(f"{machine.hardware['cores']} cores")
    written = (run.read(task) / "machine.json").stat().st_mtime_ns
    assert check_machine(run) == machine
    assert (run.read(task) / "machine.json").stat().st_mtime_ns == written
    another = {**machine.hardware, "cores": 128}
    another.pop("free_disk_gb")
    monkeypatch.setattr("genrec_lab.lab.prepare.hardware", lambda: another)
    looked = check_machine(run)
    assert (looked.text_model, looked.hardware["cores"]) == (machine.text_model, 128)
    assert (run.folder / task.place / "machine.json").stat().st_mtime_ns > written


def test_the_text_model_is_named_with_the_place_it_comes_from(tmp_path, monkeypatch):
    assert text_model_of(TextConfig(model=str(tmp_path))) == f"{tmp_path}, a local folder"
    monkeypatch.setattr("genrec_lab.encoders.text.resolve_model", lambda name: f"org/{name}")
    assert text_model_of(TextConfig(model="other")) == "other, from the model hub or its local store"


def test_each_of_a_users_targets_excludes_the_items_before_it_and_no_sample_has_the_users_items(tmp_path):
    """A split by time: four targets of each user, after 36 to 39 items, more than a history holds."""
    sequences = {f"u{user}": [f"i{(user + 7 * place) % 60}" for place in range(40)] for user in range(3)}
    events = [(user, item, time) for user, items in sequences.items() for time, item in enumerate(items)]
    pl.DataFrame(events, schema=["user", "item", "timestamp"], orient="row").write_csv(
        tmp_path / "events.csv"
    )
    pl.DataFrame({"item": [f"i{item}" for item in range(60)]}).write_csv(tmp_path / "items.csv")
    opened = open_run(
        "targets",
        dataset={
            "name": "frames",
            "interactions": str(tmp_path / "events.csv"),
            "items": str(tmp_path / "items.csv"),
            "allow_missing_text": True,
            "split": {"by": "time", "valid_from": 34, "test_from": 36},
        },
        preset="baselines_tiny",
        overrides={
            "compare": ["popularity"],
            "evaluation": {"ks": [60], "exclude_seen": True, "sampled": 10},
        },
        root=tmp_path / "runs",
    )
    prepare_data(opened)
    ranked = rank_test_users(opened)
    dataset = load_prepared(opened).dataset
    keys, users = dataset.items["key"].to_list(), dataset.sequences["key"].to_list()
    sampled = pl.read_parquet(opened.folder / "07_evaluation" / "popularity" / "sampled.parquet")
    assert sampled.height == 12
    for row, (user, target) in enumerate(sampled.select("user", "target").iter_rows()):
        had, place = sequences[users[user]], 36 + row % 4
        whole, sample = (
            {keys[item] for item in items if item >= 0}
            for items in (ranked.items["popularity"][row], sampled["items"][row])
        )
        assert keys[target] == had[place]
        assert whole == set(keys) - set(had[:place])
        assert sample & set(had) == {keys[target]} and len(sample) == 11


def test_a_codebook_larger_than_a_domain_is_refused_before_any_text_is_encoded(tmp_path):
    opened = open_run(
        "large",
        dataset={"name": "bazaar", "items": 300, "users": 300},
        preset="gmc_tiny",
        overrides={"compare": ["tiger"], "tokenizer.codebook_size": 128},
        root=tmp_path,
    )
    prepare_data(opened)
    # the run's own tokenizer has all 300 items, TIGER's only those of its domain
    refused = r"codebook_size of 'tiger' is 128, but 'Garden' has only 100 items; set"
    with pytest.raises(ValueError, match=refused):
        train_tokenizers(opened)
    assert not list(tmp_path.rglob("vectors.safetensors"))
