"""What leaves a run: an export is what the run has, and can be recommended from as the run can."""

import json
import shutil
import subprocess
import sys

import numpy as np
import peft
import polars as pl
import pytest
import torch
import yaml

from genrec_lab import cli
from genrec_lab.codes.index_files import read_index_file
from genrec_lab.data import load_dataset, split_of
from genrec_lab.decoding import exact_top_k
from genrec_lab.lab import (
    adapt_to_domains,
    existing_run,
    load_identified,
    load_prepared,
    load_rankings,
    open_run,
    prepare_data,
    rank_test_users,
    train_recommenders,
    train_tokenizers,
)
from genrec_lab.lab.export import export_run
from genrec_lab.lab.files import RunError
from genrec_lab.lab.growing import add_items
from genrec_lab.lab.preflight import check_run
from genrec_lab.lab.serving import open_served, recommend_to_file
from genrec_lab.models import Recommender
from genrec_lab.models.recommenders.base import read_recommender
from genrec_lab.registry import relative_to

ROWS = ("gmc_tiny", "sasrec", "popularity")
METRICS = ["recall", "ndcg", "mrr", "hit_rate", "coverage", "gini", "novelty", "diversity"]
EVALUATION = {"ks": [5, 10], "metrics": METRICS, "sampled": 20}
SHOPS = {"name": "bazaar", "domains": ["Garden", "Kitchen"], "items": 300, "users": 300}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_RUNS", str(root))
        opened = open_run(
            "demo", dataset=SHOPS, preset="gmc_tiny",
            overrides={"compare": ["sasrec", "popularity"], "tokenizer.epochs": 4, "evaluation": EVALUATION},
            seed=0,
        )  # fmt: skip
        for step in (prepare_data, train_tokenizers, train_recommenders, adapt_to_domains, rank_test_users):
            step(opened)
        yield opened


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return export_run(run, tmp_path_factory.mktemp("exported") / "all")


@pytest.fixture(scope="module")
def histories(run, tmp_path_factory):
    """Every test user's history by keys, as a file of JSON lines; and the same as a frame."""
    data = load_prepared(run)
    keys = data.dataset.items["key"]
    users = data.split.test.select(
        data.dataset.sequences["key"].gather(data.split.test["user"]).alias("user"),
        "domain",
        pl.Series("history", [keys.gather(h).to_list() for h in data.split.test["history"].to_list()]),
    )
    file = tmp_path_factory.mktemp("histories") / "users.jsonl"
    users.write_ndjson(file)
    return file, users


def test_data_come_back_as_they_went(run, exported) -> None:
    dataset = load_prepared(run).dataset
    for domain in dataset.domains:
        again = load_dataset(
            "recbole", folder=str(exported / "data" / domain), keep_unseen_items=True,
            text_template="{source_text}",
        )  # fmt: skip
        own = dataset.select(domain)
        assert again.items.select("key", "title", "text").equals(own.items.select("key", "title", "text"))
        assert again.sequences.equals(own.sequences)
    test = (exported / "split" / "Garden" / "Garden.test.inter").read_text().splitlines()
    assert test[0] == "user_id:token\titem_id_list:token_seq\titem_id:token"
    first = load_prepared(run).split.test.row(0, named=True)
    keys = dataset.items["key"]
    history = " ".join(keys[item] for item in first["history"])
    assert test[1] == f"{dataset.sequences['key'][first['user']]}\t{history}\t{keys[first['target']]}"


@pytest.fixture(scope="module")
def rare(run, tmp_path_factory):
    """Another run and its export; some of its items nobody has had."""
    few = {**SHOPS, "users": 60}
    opened = open_run("rare", dataset=few, preset="baselines_tiny", overrides={"compare": ["popularity"]})
    for step in (prepare_data, rank_test_users):
        step(opened)
    return opened, export_run(opened, tmp_path_factory.mktemp("exported") / "rare")


@pytest.mark.parametrize("source", ["splits", "recbole"])
def test_an_export_read_by_its_own_run_file_is_what_the_run_had(rare, source) -> None:
    run, folder = rare
    block = (folder / "README.md").read_text().partition("\n    dataset:\n")[2].partition("\n\n")[0]
    options = yaml.safe_load(block)
    if source == "recbole":
        kept = {domain: place.replace("split/", "data/") for domain, place in options["domains"].items()}
        options |= {"name": "recbole", "domains": kept}
    own, columns = load_prepared(run), ["item", "domain", "key", "title", "text"]
    unseen = int(own.dataset.statistics()["items_without_interactions"].sum())
    assert unseen > 0
    with relative_to(folder):
        again = load_dataset(**options)
        fewer = load_dataset(**{**options, "keep_unseen_items": False})
    assert again.items.select(columns).equals(own.dataset.items.select(columns))
    assert again.sequences.equals(own.dataset.sequences)
    split = split_of(again, own.split.max_history)
    for part in ("train", "valid", "test"):
        assert getattr(split, part).equals(getattr(own.split, part))
    assert again.repairs == {} and fewer.n_items == again.n_items - unseen


def test_codes_and_rankings_have_the_sources_keys(run, exported) -> None:
    dataset, rankings = load_prepared(run).dataset, load_rankings(run)
    own, row = run.codes(), exported / "gmc_tiny"
    table = pl.read_parquet(row / "codes.parquet")
    for domain in dataset.domains:
        items = dataset.domain_items(domain)
        found = read_index_file(row / "codes" / f"{domain}.index.json", own.sizes)
        again = found.of_items(dataset.items["key"].gather(items).to_list())
        assert np.array_equal(again.codes, own.codes[items])
        assert np.array_equal(table.filter(domain=domain).select(r"^code_\d+$").to_numpy(), own.codes[items])
    for name in ROWS:
        named = pl.read_parquet(exported / name / "rankings.parquet")
        assert named.columns == ["user", "domain", "rank", "item", "score"]
        items = named["item"].replace_strict(
            dict(zip(dataset.items["key"], range(dataset.n_items), strict=True))
        )
        assert np.array_equal(items.to_numpy().reshape(-1, 10), rankings.items[name])
        assert np.array_equal(named["score"].to_numpy().reshape(-1, 10), rankings.scores[name])
        users = dataset.sequences["key"].gather(rankings.users["user"])
        assert named["user"].to_list() == [user for user in users for _ in range(10)]


@pytest.fixture(scope="module")
def theirs(exported, histories, tmp_path_factory):
    """The folder of what the models of all rows recommend in another process, a file for each row."""
    folder = tmp_path_factory.mktemp("theirs")
    code = (
        "import sys; from pathlib import Path; from genrec_lab.lab.serving import recommend_to_file\n"
        "exported, histories, folder = map(Path, sys.argv[1:4])\n"
        "for row in sys.argv[4:]:\n"
        "    recommend_to_file(exported, histories, folder / f'{row}.parquet', 10, row=row)"
    )
    subprocess.run([sys.executable, "-c", code, exported, histories[0], folder, *ROWS], check=True)
    return folder


@pytest.mark.parametrize("row", ROWS)
def test_models_recommend_what_the_run_does_in_another_process(exported, theirs, row) -> None:
    there = pl.read_parquet(theirs / f"{row}.parquet")
    ours = pl.read_parquet(exported / row / "rankings.parquet")
    assert there.drop("score").equals(ours.drop("score"))
    np.testing.assert_allclose(there["score"], ours["score"], atol=1e-4)


def test_peft_reads_an_exported_adapter(run, exported) -> None:
    row, ours = exported / "gmc_tiny", run.recommender("Kitchen", "gmc_tiny")
    base = Recommender.from_pretrained(row / "base").to_transformers()
    theirs = peft.PeftModel.from_pretrained(base, str(row / "adapters" / "Kitchen"))
    history = ours.codes.domain_items("Kitchen")[:3].tolist()
    read, written = ours.inputs([history]), torch.tensor([[0, 5, 3]])
    with torch.no_grad():
        logits = ours.t5.decode(written[:, None], ours.remember([history]))[:, 0]
        found = theirs(**read, decoder_input_ids=written).logits
    torch.testing.assert_close(found, logits, atol=1e-5, rtol=0)
    merged = read_recommender(row / "models" / "Kitchen").to_transformers()
    torch.testing.assert_close(merged(**read, decoder_input_ids=written).logits, logits, atol=1e-4, rtol=0)


def test_a_run_recommends_by_titles(run) -> None:
    """README's first Python."""
    titles = load_prepared(run).dataset.items.filter(domain="Garden")["title"].head(2).to_list()
    for row in (None, *ROWS):
        found = existing_run("demo").recommender("Garden", row).recommend_titles(titles, 5, exclude_seen=True)
        assert found["rank"].to_list() == [1, 2, 3, 4, 5] and not set(titles) & set(found["title"])
    with pytest.raises(ValueError, match="near: "):
        run.recommender("Garden").recommend_titles([titles[0] + "!"])


def test_lists_are_obeyed_and_a_row_may_end_early(run, exported, histories, tmp_path) -> None:
    garden = histories[1].filter(domain="Garden")
    some = load_prepared(run).dataset.items.filter(domain="Garden")["key"].head(6).to_list()
    (tmp_path / "allow.txt").write_text("\n".join(some))
    (tmp_path / "deny.csv").write_text(f"item\n{some[0]}\n")
    garden.write_parquet(tmp_path / "garden.parquet")
    for row in ROWS:
        out = recommend_to_file(
            exported, tmp_path / "garden.parquet", tmp_path / f"{row}.csv", 10, row=row, exclude_seen=True,
            allow=tmp_path / "allow.txt", deny=tmp_path / "deny.csv",
        )  # fmt: skip
        given = pl.read_csv(out).group_by("user").agg("item")
        for user, history in garden.select("user", "history").iter_rows():
            wanted = set(some[1:]) - set(history)
            assert set(given.filter(user=user)["item"].explode()) - {None} == wanted


@pytest.mark.parametrize(
    "content, message",
    [
        (
            '{"user": "a", "history": ["nowhere"], "domain": "Garden"}\n',
            "1 of 1 items of histories are unknown",
        ),
        ('{"user": "a", "history": ["nowhere"]}\n', "the first is 'nowhere' of user 'a'. Leave them out"),
        ('{"user": "a", "history": []}\n', "the history of user 'a' does not say to which domain"),
        ('{"user": "a", "history": [], "domain": "Attic"}\n', "does not serve 'Attic'"),
        ('{"user": "a"}\n', "line 1: .*expected"),
        ('{"user": "a", "history": [0.5]}\n', "line 1: .*expected"),
        ("[" * 100_000 + "\n", "line 1: not JSON"),
        ('{"user": "a", "history": ["' + "x" * 10_000_000 + '"]}\n', "line 1: longer than 1,000,000 bytes"),
        ("\n\n", "holds no histories"),
        ('{"user": 1, "history": []}\n{"user": "1", "history": []}\n', "has user '1' in 2 rows"),
    ],
)
def test_files_of_histories_that_cannot_be_used(exported, tmp_path, content, message) -> None:
    file = tmp_path / "users.jsonl"
    file.write_text(content)
    with pytest.raises(RunError, match=message):
        recommend_to_file(exported, file, tmp_path / "out.csv", 3)
    assert not (tmp_path / "out.csv").exists()


def test_the_commands(run, exported, histories, tmp_path, capsys) -> None:
    out = tmp_path / "out.parquet"
    file = tmp_path / "short.csv"
    key = load_prepared(run).dataset.items.filter(domain="Kitchen")["key"][0]
    file.write_text(f"user,item\nu,{key}\nu,strange\nv,{key}\n")
    asked = ["recommend", "demo", "--histories", str(file), "--top-k", "3", "--out", str(out)]
    assert cli.main(asked) == cli.REFUSED
    assert "1 of 3 items of histories are unknown to demo, the first is 'strange'" in capsys.readouterr().err
    assert cli.main([*asked, "--unknown", "drop"]) == 0
    found = pl.read_parquet(out)
    assert found["user"].to_list() == ["u"] * 3 + ["v"] * 3 and set(found["domain"]) == {"Kitchen"}
    assert found["item"].to_list()[:3] == found["item"].to_list()[3:]
    (tmp_path / "allow").write_text("strange\n")
    assert cli.main([*asked, "--unknown", "drop", "--allow", str(tmp_path / "allow")]) == cli.REFUSED
    assert "1 of 1 items are unknown" in capsys.readouterr().err
    assert cli.main(["export", "demo", "--row", "gmc", "--to", str(tmp_path / "x")]) == cli.REFUSED
    assert "did you mean 'gmc_tiny'" in capsys.readouterr().err
    assert cli.main(["export", "demo", "--to", str(exported)]) == cli.REFUSED
    capsys.readouterr()
    assert cli.main(["explore", "demo", "--items", str(file)]) == cli.REFUSED
    assert capsys.readouterr().err == "error: items is given with a run, which has its own; leave it out.\n"
    assert cli.main(["explore", "demo", "--row", "sasrec"]) == cli.REFUSED
    said = "error: Run 'demo' has no tokenizer for row 'sasrec'; it has those of gmc_tiny.\n"
    assert capsys.readouterr().err == said
    for target in (["export", "demo", "--to"], ["add-items", "demo", "--items", str(file), "--out"]):
        assert cli.main([*target, "/no_such_root/new"]) == cli.REFUSED
        assert "there is no folder /no_such_root; make it first" in capsys.readouterr().err
    assert cli.main(["doctor", "demo"]) == 0 and capsys.readouterr().out == "demo: nothing is damaged\n"
    assert cli.main(["export", "demo", "--row", "sasrec", "--to", str(tmp_path / "x")]) == 0
    assert list(json.loads((tmp_path / "x" / "export.json").read_text())["rows"]) == ["sasrec"]


def test_an_altered_model_is_not_asked(exported, tmp_path) -> None:
    shutil.copytree(exported, tmp_path / "copy")
    (tmp_path / "copy" / "gmc_tiny" / "models" / "Garden" / "codes.parquet").write_bytes(b"")
    with pytest.raises(RunError, match=r"codes\.parquet is missing or was altered"):
        open_served(tmp_path / "copy").model("Garden")


def test_new_items_get_identifiers_and_no_old_one_moves(run, exported, histories, tmp_path, capsys) -> None:
    """Copies of old items under new keys: the frozen tokenizer puts each where the old one is."""
    dataset, own = load_prepared(run).dataset, run.codes()
    some = dataset.items.filter(domain="Garden").head(7).with_columns(key="new-" + pl.col("key"))
    some.select("key", "domain", "title", "text").write_csv(tmp_path / "new.csv")
    asked = ["add-items", str(exported), "--items", str(tmp_path / "new.csv"), "--out", str(tmp_path / "out")]
    assert cli.main(asked) == 0
    said = capsys.readouterr().err
    assert "Garden: added 7 items to 150" in said and "Kitchen" not in said
    for domain in dataset.domains:
        model = read_recommender(tmp_path / "out" / "gmc_tiny" / "models" / domain)
        assert np.array_equal(model.codes.codes[:300], own.codes) and model.codes.unique
        assert model.shared_items["key"].to_list() == [*dataset.items["key"], *some["key"]]
    model = read_recommender(tmp_path / "out" / "gmc_tiny" / "models" / "Garden")
    raw = load_identified(run).raw.codes[some["item"].to_numpy()]
    assert (model.codes.codes[300:, :-1] == raw[:, :-1]).all()  # the prefix has room, so it is the old one's
    # at once recommended, as scoring everything has it
    history = dataset.domain_items("Garden")[:3].tolist()
    best = exact_top_k(model, [history], model.trie("Garden"), 20)
    found = model.recommend([history], 20, "Garden", beams=len(model.trie("Garden")))
    assert np.array_equal(found.items, best.items)
    assert set(model.recommend([history], 7, "Garden", allow=range(300, 307)).items[0]) == set(
        range(300, 307)
    )
    # and further ones come to those
    pl.DataFrame({"item": ["later"], "title": ["A red rake"], "domain": ["Kitchen"]}).write_parquet(
        tmp_path / "l.parquet"
    )
    sentences: list[str] = []
    add_items(tmp_path / "out", tmp_path / "l.parquet", tmp_path / "more", say=sentences.append)
    assert [each.partition(";")[0] for each in sentences] == ["Kitchen: added 1 item to 150"]
    more = read_recommender(tmp_path / "more" / "gmc_tiny" / "models" / "Kitchen")
    assert np.array_equal(more.codes.codes[:307], model.codes.codes) and more.codes.n_items == 308
    recommend_to_file(tmp_path / "more", histories[0], tmp_path / "f.csv", 5, exclude_seen=True)


@pytest.mark.parametrize(
    "table, message",
    [
        ({"key": ["k"], "title": ["t"]}, "no column 'domain'"),
        ({"key": ["k"], "domain": ["Attic"]}, "items of 'Attic'; the models serve Garden, Kitchen"),
        ({"title": ["t"], "domain": ["Garden"]}, "expected 'key' or 'item'"),
        ({"key": ["k", "k"], "domain": ["Garden"] * 2}, "item 'k' of Garden twice"),
        ({"key": ["garden-0000000"], "domain": ["Garden"]}, "which the catalogue already has"),
        ({"key": [], "domain": []}, "holds no item"),
    ],
)
def test_items_that_cannot_be_added(exported, tmp_path, table, message) -> None:
    pl.DataFrame(table, schema=dict.fromkeys(table, pl.String)).write_csv(tmp_path / "new.csv")
    with pytest.raises(RunError, match=message):
        add_items(exported, tmp_path / "new.csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_row_over_items_names_none(exported, tmp_path) -> None:
    (tmp_path / "new.csv").write_text("key,domain\nk,Garden\n")
    with pytest.raises(RunError, match=r"row 'sasrec' of .* cannot give codes to new items"):
        add_items(exported, tmp_path / "new.csv", tmp_path / "out", "sasrec")


def test_all_metrics_are_computed_from_rankings_and_those_of_samples_beside_them(run) -> None:
    metrics = run.metrics()
    for row in ROWS:
        of_row = metrics.filter(method=row, domain="average", k=10)
        found = dict(of_row.select("metric", "value").iter_rows())
        assert set(found) == {*METRICS, *(f"{name}_of_20_sampled" for name in METRICS)}
        assert found["hit_rate"] == found["recall"] < found["recall_of_20_sampled"]
        assert found["mrr"] <= found["ndcg"] <= found["recall"]
    assert metrics.filter(method="popularity", domain="Garden", metric="coverage", k=10)["value"][
        0
    ] == pytest.approx(1 / 15)


def test_a_sample_is_the_target_and_so_many_strange_items(run) -> None:
    data = load_prepared(run)
    frames = [pl.read_parquet(run.folder / "07_evaluation" / row / "sampled.parquet") for row in ROWS]
    for user, target, *ranked in zip(
        frames[0]["user"], frames[0]["target"], *(frame["items"].to_list() for frame in frames), strict=True
    ):
        had = set(data.dataset.sequences["items"][user][:-1]) - {target}
        assert all(len(set(items)) == 10 and not had & set(items) for items in ranked)
        assert len(set().union(*map(set, ranked))) <= 21


def test_what_a_user_has_is_not_ranked_where_the_run_file_says_so(run, capsys) -> None:
    before = load_rankings(run)
    parameters = {name: run.parameters[name] for name in ("dataset", "preset", "seed")}
    overrides = {**run.parameters["overrides"], "evaluation": {"exclude_seen": True}}
    changed = open_run("demo", change=True, overrides=overrides, **parameters)
    try:
        after = rank_test_users(changed)
        told = capsys.readouterr().out
        data, again = load_prepared(run), 0
        for place, (user, target) in enumerate(after.users.select("user", "target").iter_rows()):
            had = set(data.dataset.sequences["items"][user][:-1])
            again += target in had
            assert not any(had & set(after.items[row][place].tolist()) for row in ROWS)
        assert any((before.items[row] != after.items[row]).any() for row in ROWS)
        sentence = f"exclude_seen: {again} of {after.users.height} test users already had their target"
        assert (sentence in told) == (again > 0)
    finally:  # the rankings of before are put back
        rank_test_users(open_run("demo", change=True, overrides=run.parameters["overrides"], **parameters))


def test_sampled_metrics_are_warned_of(tmp_path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "run: x\npreset: gmc_tiny\ndataset: {name: bazaar}\noverrides: {evaluation: {sampled: 99}}\n"
    )
    assert any("sample of the catalogue" in warning for warning in check_run(file).warnings)
