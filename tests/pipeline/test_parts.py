"""What stays of a stage when other rows of the run change: each part only with what it was made from."""

import json
from pathlib import Path

import pytest
from genrec_lab.lab.parts import part
from genrec_lab.lab.stages import (
    adapt_to_domains,
    prepare_data,
    rank_test_users,
    train_recommenders,
    train_tokenizers,
)

from genrec_lab.lab import open_run, sharing

STAGE = "02_tokenizer_training"


class Killed(BaseException):
    """A kill, as far as a stage can notice one."""


def work(run, parts, killed_at=None):
    """A stage with some parts, {name: what it is made from}; returns those that were made now."""
    made_now = []
    with run.stage(STAGE, uses=("tokenizer",)) as stage:
        if stage.is_finished:
            return None
        for name, made_from in parts.items():
            with part(stage, name, {"from": made_from}) as made:
                if name == killed_at:
                    raise Killed
                if not made:
                    (stage.folder / name / "inner").mkdir(parents=True)
                    (stage.folder / name / "inner" / "weights.txt").write_text(f"{name} of {made_from}")
                    made_now.append(name)
    return made_now


def weights(run, name):
    return (run.read_stage(STAGE) / name / "inner" / "weights.txt").read_text()


def changed(opened, levels):
    return opened(overrides={"tokenizer.levels": levels})


def test_parts_made_from_the_same_are_taken_over_under_another_key(opened):
    assert work(opened(), {"a": 1, "b": 1}) == ["a", "b"]
    run = changed(opened, 5)
    assert work(run, {"a": 1, "b": 2, "c": 1}) == ["b", "c"]
    assert [weights(run, name) for name in "abc"] == ["a of 1", "b of 2", "c of 1"]
    assert work(run, {"a": 1}) is None
    assert not (run.folder / "replaced" / STAGE).exists()
    # And once more, so a part that was taken over can be taken over again.
    assert work(changed(opened, 6), {"a": 1, "c": 1, "b": 1}) == ["b"]


@pytest.mark.parametrize("levels", [None, 5])
def test_whole_parts_of_a_killed_stage_stay_and_the_broken_one_is_made_again(opened, levels):
    run = opened()
    with pytest.raises(Killed):
        work(run, {"a": 1, "b": 1, "c": 1}, killed_at="c")
    (run.folder / STAGE / "c").mkdir()
    again = run if levels is None else changed(opened, levels)
    assert work(again, {"a": 1, "b": 2, "c": 1}) == ["b", "c"]
    assert weights(again, "a") == "a of 1"


def test_parts_survive_several_kills_with_changes_between_them(opened):
    assert work(opened(), {"a": 1, "b": 1, "c": 1}) == ["a", "b", "c"]
    with pytest.raises(Killed):
        work(changed(opened, 5), {"a": 2, "b": 1, "c": 1}, killed_at="b")
    with pytest.raises(Killed):
        work(changed(opened, 6), {"a": 2, "b": 1, "c": 1}, killed_at="c")
    # The finished execution's parts, and what the killed ones made since.
    assert work(changed(opened, 7), {"a": 2, "b": 1, "c": 1}) == []


@pytest.mark.parametrize("harm", ["content", "missing", "record"])
def test_a_damaged_part_is_made_again(opened, harm):
    run = opened()
    work(run, {"a": 1})
    inside = run.folder / STAGE / "a"
    if harm == "content":
        (inside / "inner" / "weights.txt").write_text("A of 1")
    elif harm == "missing":
        (inside / "inner" / "weights.txt").unlink()
    else:
        (inside / "part.json").write_text("{")
    assert work(changed(opened, 5), {"a": 1}) == ["a"]


def test_a_part_that_other_code_made_is_told_of(opened, capsys):
    run = opened()
    work(run, {"a": 1, "b": 1})
    for name, revision in {"a": "f" * 40, "b": None}.items():
        file = run.folder / STAGE / name / "part.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"revision": revision}))
    assert work(changed(opened, 5), {"a": 1, "b": 1}) == []
    of_a, of_b = capsys.readouterr().out.splitlines()
    assert "revision ffffffffffff made it, and this is" in of_a
    assert "revision" not in of_b


def test_nothing_is_taken_over_where_several_processes_share_the_work(opened, monkeypatch):
    work(opened(), {"a": 1})
    monkeypatch.setattr(sharing, "several", lambda: True)
    assert work(changed(opened, 5), {"a": 1}) == ["a"]


def test_a_stage_that_is_forgotten_is_made_from_its_start(opened):
    run = opened()
    with pytest.raises(Killed):
        work(run, {"a": 1, "b": 1}, killed_at="b")
    run.forget(STAGE)
    assert work(run, {"a": 1, "b": 1}) == ["a", "b"]


# --- the rows of a run

STAGES = (prepare_data, train_tokenizers, train_recommenders, adapt_to_domains, rank_test_users)


def rows(root, compare, **overrides):
    run = open_run(
        "rows",
        dataset={"name": "bazaar", "domains": ["Garden", "Kitchen"], "items": 300, "users": 450},
        preset="gmc_tiny",
        overrides={"compare": compare, "tokenizer.epochs": 4, **overrides},
        root=root,
    )
    for stage in STAGES:
        stage(run)
    return run


def taken_over(capsys):
    printed = capsys.readouterr().out.splitlines()
    return sorted(line.split(":")[0] for line in printed if ": taken over, for nothing" in line)


def metrics(run, method):
    return run.metrics().filter(method=method).drop("seed").sort("domain", "metric", "k")["value"].to_list()


def modified(run, pattern):
    return {file: file.read_bytes() for file in Path(run.folder).glob(pattern)}


def test_a_row_more_leaves_the_others_as_they_are(tmp_path, capsys):
    before = rows(tmp_path, ["sasrec", "tiger"])
    weights_before = modified(before, "05_recommender_training/*/*/model.safetensors")
    values = {name: metrics(before, name) for name in ("gmc_tiny", "tiger", "sasrec")}
    assert taken_over(capsys) == []
    run = rows(tmp_path, ["sasrec", "tiger", "gru4rec"])
    # SASRec and both generative rows in 05, their tokenizers in 02, the adapted one in 06.
    assert taken_over(capsys) == ["gmc_tiny", "gmc_tiny", "gmc_tiny", "sasrec", "tiger", "tiger"]
    now = modified(run, "05_recommender_training/*/*/model.safetensors")
    assert {file: now[file] for file in weights_before} == weights_before
    assert len(now) > len(weights_before)
    assert {name: metrics(run, name) for name in values} == values
    assert metrics(run, "gru4rec")


def test_a_changed_row_is_trained_again_and_no_other(tmp_path, capsys):
    rows(tmp_path, ["sasrec", "tiger"])
    capsys.readouterr()
    rows(tmp_path, ["sasrec", "tiger"], **{"rows.sasrec.training.epochs": 1})
    # In 05, and in 06, which reads 05 but nothing of SASRec.
    assert taken_over(capsys) == ["gmc_tiny", "gmc_tiny", "tiger"]
    rows(tmp_path, ["sasrec", "tiger"], **{"rows.sasrec.training.epochs": 1, "training.learning_rate": 2e-3})
    assert taken_over(capsys) == ["sasrec"]


def test_another_tokenizer_leaves_rows_over_items_and_those_with_their_own(tmp_path, capsys):
    run = rows(tmp_path, ["sasrec", "gmc_without_dcl"])
    capsys.readouterr()
    rows(tmp_path, ["sasrec", "gmc_without_dcl"], **{"tokenizer.contrastive_weight": 0.5})
    # The variant has a weight of 0 whatever the method's is: 02, 05 and 06.
    assert taken_over(capsys) == ["gmc_without_dcl"] * 3 + ["sasrec"]
    changes = json.loads((run.folder / "06_domain_adaptation" / "changes.json").read_text())
    assert {record["method"] for record in changes} == {"gmc_tiny", "gmc_without_dcl"}
