"""Ray on two processors gives what plain calls give, with workers that are killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import torch

from genrec_lab.codes import ItemCodes
from genrec_lab.encoders import encode_texts
from genrec_lab.encoders.text import TextConfig
from genrec_lab.lab import chain, prepare_data
from genrec_lab.lab.files import RunError
from genrec_lab.lab.serving import open_served
from genrec_lab.lab.store import existing_run, open_run
from genrec_lab.models import Recommender, T5Config
from genrec_lab.models.hub import CardFacts
from genrec_lab.models.sequential.base import DomainItems
from genrec_lab.models.sequential.sasrec import SASRec
from genrec_lab.models.tokenizers.rqvae import RQVAE, RQVAEConfig
from tests.unit.test_text_vectors import tiny_decoder

pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[scale]'")

from genrec_lab.scale import (
    Cluster,
    ScaleError,
    Workers,
    connected,
    encode_catalogue,
    pipelines,
    read_table,
    recommend_to_users,
    tokenize_catalogue,
)
from genrec_lab.scale.__main__ import main
from genrec_lab.scale.sweep import RunResources, Runs, sweep

REPOSITORY = Path(__file__).parents[2]
TINY = T5Config(d_model=16, d_kv=4, heads=3, d_ff=24, encoder_layers=1, decoder_layers=1,
                relative_buckets=8, relative_max_distance=16)  # fmt: skip
ONE = Workers(processors=0.5, rows=16)
TWO = Workers(count=2, processors=0.5, rows=16)
RUN_FILE = """
run: tiny
dataset: {name: bazaar, items: 300, users: 300}
preset: gmc_tiny
notebooks: [01_data_preparation]
"""


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """One Ray for all tests of this file, because each start takes seconds."""
    with connected(Cluster(processors=2, object_store_megabytes=100)) as started:
        started.data.DataContext.get_current().enable_progress_bars = False
        yield started


class Made(NamedTuple):
    """What the pipelines read: `folder/vectors` in three files, `folder/users.parquet`, and saved models."""

    folder: Path
    vectors: np.ndarray
    tokenizer: RQVAE
    recommender: Recommender


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("scale")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(90, 12)).astype(np.float32)
    (folder / "vectors").mkdir()
    for part in range(3):
        rows = range(30 * part, 30 * part + 30)
        frame = pl.DataFrame({"item": rows, "vector": vectors[list(rows)].tolist()})
        frame.write_parquet(folder / "vectors" / f"{part}.parquet")
    config = RQVAEConfig(hidden=(10,), levels=3, codebook_size=6, dimension=4, epochs=1)
    tokenizer = RQVAE(config).fit(vectors)
    tokenizer.save_pretrained(folder / "tokenizer", CardFacts(dataset="made up"))
    torch.manual_seed(1)
    domains = ["Books" if item < 18 else "Films" for item in range(36)]
    codes = ItemCodes([[item // 6, item % 6] for item in range(36)], (6, 6), domains)
    recommender = Recommender(codes, TINY).eval()
    recommender.save(folder / "recommender")
    # A user of both domains has a row in each.
    users = pl.DataFrame(
        {
            "user": [row // 2 for row in range(90)],
            "domain": [("Books", "Films")[row % 2] for row in range(90)],
            "history": [rng.integers(36, size=1 + row % 5).tolist() for row in range(90)],
        }
    )
    users.write_parquet(folder / "users.parquet")
    return Made(folder, vectors, tokenizer, recommender)


def dying(worker: type, marker: Path, always: bool = False) -> type:
    """A worker whose process is killed at its second rows: the first one that comes there, or every one."""

    class Dying(worker):  # type: ignore[misc]  # defined in a function, so it is sent whole, not by its name
        calls = 0

        def __call__(self, rows: Any) -> Any:
            self.calls += 1
            if self.calls == 2 and (always or not marker.exists()):
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(rows)

    Dying.__name__ = worker.__name__
    return Dying


def test_codes_are_those_of_a_plain_call_though_a_worker_is_killed(
    ray: Any, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "killed"
    monkeypatch.setattr(pipelines, "TokenizeVectors", dying(pipelines.TokenizeVectors, marker))
    tokenize_catalogue(made.folder / "vectors", tmp_path / "codes", made.folder / "tokenizer", TWO)
    assert marker.exists()
    table = read_table(tmp_path / "codes")
    assert table["item"].to_list() == list(range(90))
    expected = made.tokenizer.tokenize(made.vectors).codes
    np.testing.assert_array_equal(np.array(table["codes"].to_list()), expected)


def test_recommendations_are_those_of_a_plain_call_though_a_worker_is_killed(
    ray: Any, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "killed"
    monkeypatch.setattr(pipelines, "RecommendToUsers", dying(pipelines.RecommendToUsers, marker))
    source, target = made.folder / "users.parquet", tmp_path / "ranked"
    recommend_to_users(source, target, made.folder / "recommender", 5, 10, ONE)
    assert marker.exists()
    table, users = read_table(target), pl.read_parquet(source)
    assert table.select("user", "domain").equals(users.select("user", "domain"))
    expected = made.recommender.recommend(users["history"].to_list(), 5, users["domain"].to_list(), beams=10)
    np.testing.assert_array_equal(np.array(table["items"].to_list()), expected.items)
    np.testing.assert_allclose(np.array(table["scores"].to_list()), expected.scores, rtol=1e-5)


@pytest.mark.parametrize("kind", ["t5", "sasrec"])
def test_long_histories_are_read_as_when_serving(kind: str, tmp_path: Path) -> None:
    items = pl.DataFrame({"domain": "Garden", "key": [str(item) for item in range(90)], "title": "Rake"})
    torch.manual_seed(1)
    model: Any = SASRec(SASRec.Config(width=8, max_history=30)).build(DomainItems(np.arange(90)))
    if kind == "t5":
        model = Recommender(
            ItemCodes([[item // 9, item % 9] for item in range(90)], (10, 9), ["Garden"] * 90), TINY
        )
    model.eval().save_pretrained(tmp_path / "it", CardFacts(dataset="made up", max_history=4), items)
    rng = np.random.default_rng(0)
    histories = [rng.permutation(90)[:60].tolist() for _ in range(20)]
    rows = pl.DataFrame({"user": range(20), "domain": "Garden", "history": histories})
    served = open_served(tmp_path / "it")
    for exclude_seen in (False, True):
        asked: dict[str, Any] = {"beams": 20, "exclude_seen": exclude_seen, "deny": [1, 2, 3]}
        found = pipelines.RecommendToUsers(str(tmp_path / "it"), 10, **asked)(rows)
        expected = served.recommend(histories, 10, "Garden", **asked)
        np.testing.assert_array_equal(np.array(found["items"].to_list()), expected.items)
    seen = [set(history) for history in histories]
    assert not any(items & own for items, own in zip(map(set, found["items"]), seen, strict=True))
    recent = [history[-7:] for history in histories]
    found = pipelines.RecommendToUsers(str(tmp_path / "it"), 10, max_history=7)(rows)
    np.testing.assert_array_equal(np.array(found["items"].to_list()), model.recommend(recent, 10).items)
    assert (model.recommend(recent, 10).items != served.recommend(histories, 10, "Garden").items).any()


def test_vectors_are_those_of_a_plain_call(ray: Any, tmp_path: Path) -> None:
    config = TextConfig(kind="mean_pooled", model=str(tiny_decoder(tmp_path / "model")))
    texts = [" ".join(["red", "blue", "lamp"][: 1 + item % 3]) + f" {item}" for item in range(40)]
    source = tmp_path / "items.parquet"
    pl.DataFrame({"item": range(40), "title": "", "text": texts}).write_parquet(source)
    encode_catalogue(source, tmp_path / "vectors", config, ONE)
    found = np.array(read_table(tmp_path / "vectors")["vector"].to_list())
    np.testing.assert_allclose(found, encode_texts(texts, config, progress=False), atol=1e-6)


@pytest.mark.nightly
def test_workers_that_always_die_end_the_pipeline_and_the_shell_goes_on_on_the_cluster(
    ray: Any, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target, tokenizer = made.folder / "vectors", tmp_path / "codes", made.folder / "tokenizer"
    with monkeypatch.context() as patch:
        worker = dying(pipelines.TokenizeVectors, tmp_path / "killed", always=True)
        patch.setattr(pipelines, "TokenizeVectors", worker)
        with pytest.raises(ScaleError, match=r"(?s)parts that are done are kept.*started 2 times"):
            tokenize_catalogue(source, target, tokenizer, ONE.model_copy(update={"restarts": 0}))
    assert not target.exists()
    begun = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob(".codes.partial/*.parquet")}
    assert len(begun) == 1

    command = ["tokenize", str(source), str(target), str(tokenizer), "--rows", "16", "--processors", ".5"]
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, "-m", "genrec_lab.scale", *command, "--address", address],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(f"{target} is finished")
    assert {name: (target / name).stat().st_mtime_ns for name in begun} == begun
    assert {file.suffix for file in target.iterdir()} == {".parquet", ".json"}
    expected = made.tokenizer.tokenize(made.vectors).codes
    np.testing.assert_array_equal(np.array(read_table(target)["codes"].to_list()), expected)

    stamp = target.stat().st_mtime_ns
    tokenize_catalogue(source, target, tokenizer, TWO)  # what is made of the same stays
    assert target.stat().st_mtime_ns == stamp
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codes", "killed"]


def test_what_cannot_be_done_is_told_before_anything_starts(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer, target = made.folder / "tokenizer", tmp_path / "codes"
    with pytest.raises(ScaleError, match=r"'history', 'user'\]; \['item', 'vector'\] are needed"):
        tokenize_catalogue(made.folder / "users.parquet", target, tokenizer)
    with pytest.raises(ScaleError, match="nowhere is neither a parquet file nor a folder"):
        tokenize_catalogue(tmp_path / "nowhere", target, tokenizer)
    with pytest.raises(ScaleError, match=r"nothing holds no config.json; .* from_pretrained"):
        tokenize_catalogue(made.folder / "vectors", target, tmp_path / "nothing")
    with pytest.raises(ScaleError, match="'tfidf', which needs all texts at once"):
        encode_catalogue("texts", target, TextConfig(kind="tfidf"))
    twice, empty = tmp_path / "twice.parquet", tmp_path / "empty.parquet"
    pl.DataFrame({"item": [1, 1], "text": ["a", "b"]}).write_parquet(twice)
    with pytest.raises(ScaleError, match="2 rows with 1 different item; expected one row for each"):
        encode_catalogue(twice, target)
    pl.DataFrame({"item": [1, 2], "text": ["a", None]}).write_parquet(empty)
    with pytest.raises(ScaleError, match=r"lacks values, by column \{'text': 1\}"):
        encode_catalogue(empty, target)
    (tmp_path / "thesis").mkdir()
    with pytest.raises(ScaleError, match="thesis exists, and no pipeline wrote it"):
        tokenize_catalogue(made.folder / "vectors", tmp_path / "thesis", tokenizer)
    with pytest.raises(ScaleError, match="thesis is not the table of a finished pipeline"):
        read_table(tmp_path / "thesis")
    assert main(["recommend", str(empty), str(target), str(made.folder / "recommender")]) == 2
    assert "['user', 'domain', 'history'] are needed" in capsys.readouterr().err
    assert main(["encode", str(empty), str(target), "--text", "tfidf"]) == 2
    assert "--text tfidf: expected key=value" in capsys.readouterr().err
    assert main(["sweep", str(tmp_path / "none.yaml")]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.nightly
def test_a_sweep_ends_as_plain_runs_do_though_a_worker_is_killed(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    file, root = tmp_path / "tiny.yaml", tmp_path / "runs"
    file.write_text(RUN_FILE)
    ended = threading.Event()
    killer = threading.Thread(target=_kill_the_holder, args=[root / "tiny-seed0" / ".chain.holder", ended])
    killer.start()
    try:
        swept = sweep([Runs(file=file, seeds=(0, 1), resources=RunResources(processors=1))], root=root)
    finally:
        ended.set()
        killer.join()
    assert [(one.run, one.failure) for one in swept] == [("tiny-seed0", None), ("tiny-seed1", None)]
    again = chain.run(file, seeds=[0, 1], root=root, dry_run=True)
    assert {step.action for steps in again.steps.values() for step in steps} == {"keep"}
    for seed in (0, 1):
        parameters = existing_run(f"tiny-seed{seed}", root).parameters
        plain = open_run(**{**parameters, "run": f"plain-{seed}"}, root=tmp_path)
        prepare_data(plain)
        by_ray = _outputs(root / f"tiny-seed{seed}")
        assert by_ray == _outputs(plain.folder)
        starts = (root / f"tiny-seed{seed}" / "log.jsonl").read_text().count("chain_started")
        assert starts == (2 if seed == 0 else 1)


def test_what_ray_has_not_got_is_not_waited_for(
    ray: Any, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    many = Workers(count=3, processors=0.75)
    with pytest.raises(ScaleError, match=r"3 workers need 2.25 of CPU, Ray has 2; .* processors=.5"):
        tokenize_catalogue(made.folder / "vectors", tmp_path / "codes", made.folder / "tokenizer", many)
    (tmp_path / "tiny.yaml").write_text(RUN_FILE)
    wanted = Runs(file=tmp_path / "tiny.yaml", resources=RunResources(gpus=1))
    with pytest.raises(ScaleError, match="runs as tiny need 1 of GPU, Ray has 0"):
        sweep([wanted], root=tmp_path)


def _outputs(run: Path) -> Any:
    return json.loads((run / "01_data_preparation" / "data" / "result.json").read_text())["outputs"]


def _kill_the_holder(described: Path, ended: threading.Event) -> None:
    """Kill the process that executes a run's notebooks, a moment after it began."""
    while not ended.wait(0.05):
        try:
            holder = json.loads(described.read_text() or "null")
        except (OSError, ValueError):  # not there yet, or read in the middle of its being written
            continue
        if holder:
            ended.wait(0.5)
            os.kill(holder["pid"], signal.SIGKILL)
            return


def test_a_sweep_refuses_what_a_run_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    file = tmp_path / "tiny.yaml"
    file.write_text(RUN_FILE)
    with pytest.raises(RunError, match="tiny-seed1 names two runs"):
        sweep([Runs(file=file, seeds=(0, 1)), Runs(file=file, seeds=(1,))], root=tmp_path)
    with pytest.raises(RunError, match="the key 'sede'"):
        sweep([Runs(file=file, sets=("sede=1",))], root=tmp_path)
    with pytest.raises(RunError, match="gmc_tinny"):
        sweep([Runs(file=file), Runs(file=file, sets=("run=b", "preset=gmc_tinny"))], root=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml"]


def test_settings_are_strict() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 80"):
        Cluster(object_store_megabytes=1)
    with pytest.raises(ValueError, match="greater than 0"):
        RunResources(processors=0)
