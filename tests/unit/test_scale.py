"""Ray on two processors gives what plain calls give, with workers that die on the way."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from genrec_lab.codes import ItemCodes
from genrec_lab.models import Recommender, T5Config
from genrec_lab.models.rqvae import RQVAE, RQVAEConfig
from genrec_lab.run.files import RunError

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[scale]'")

from genrec_lab.scale import (  # noqa: E402 - after the test for Ray
    Cluster,
    ScaleError,
    connected,
    encode_catalogue,
    pipelines,
    read_table,
    recommend_to_users,
    sweep,
    tokenize_catalogue,
)
from genrec_lab.scale.pipelines import RecommendToUsers, TokenizeVectors, Workers, through  # noqa: E402

TINY = T5Config(d_model=16, d_kv=4, heads=3, d_ff=24, encoder_layers=1, decoder_layers=1,
                relative_buckets=8, relative_max_distance=16)  # fmt: skip
TWO = Workers(count=2, processors=0.5, rows=16)


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    """One Ray for all tests of this file, for each start takes seconds."""
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(connected(Cluster(processors=2, object_store_megabytes=100)))
        except ScaleError as error:  # its parts wait 15 seconds for each other, which a busy machine exceeds
            pytest.skip(f"Ray cannot start on this machine now: {error}")
        opened.data.DataContext.get_current().enable_progress_bars = False
        yield


class DiesOnce:
    """Kills its own process at the second batch, once in all."""

    def __init__(self, marker: str, **options: Any) -> None:
        self.inner = (TokenizeVectors if "top_k" not in options else RecommendToUsers)(**options)
        self.marker, self.batches = Path(marker), 0

    def __call__(self, batch: Any) -> Any:
        self.batches += 1
        if self.batches == 2 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner(batch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, RQVAE, Recommender]:
    """Vectors of 90 items in three files, a tokenizer, a recommender, 90 users; all saved in a folder."""
    folder = tmp_path_factory.mktemp("scale")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(90, 12)).astype(np.float32)
    (folder / "vectors").mkdir()
    for part in range(3):
        rows = range(30 * part, 30 * part + 30)
        frame = pl.DataFrame({"item": rows, "vector": vectors[list(rows)].tolist()})
        frame.write_parquet(folder / "vectors" / f"{part}.parquet")
    config = RQVAEConfig(hidden=(10,), levels=3, codebook_size=6, dimension=4)
    tokenizer = RQVAE(12, config, torch.Generator().manual_seed(0)).eval()
    tokenizer.save(folder / "tokenizer")
    torch.manual_seed(1)
    codes = ItemCodes([[item // 6, item % 6] for item in range(36)], (6, 6))
    recommender = Recommender(codes, TINY).eval()
    recommender.save(folder / "recommender")
    histories = [rng.integers(36, size=1 + user % 5).tolist() for user in range(90)]
    pl.DataFrame({"user": range(90), "history": histories}).write_parquet(folder / "users.parquet")
    return folder, vectors, tokenizer, recommender


@pytest.mark.parametrize("dies", [False, True])
def test_codes_are_those_of_a_plain_call(
    made: tuple[Path, np.ndarray, RQVAE, Recommender], tmp_path: Path, dies: bool
) -> None:
    folder, vectors, tokenizer, _ = made
    if dies:
        options = {"marker": str(tmp_path / "died"), "folder": str(folder / "tokenizer")}
        _by_value()
        through(DiesOnce, options, folder / "vectors", tmp_path / "codes", ("item", "vector"), TWO, None)
        assert (tmp_path / "died").exists()
    else:
        tokenize_catalogue(folder / "vectors", tmp_path / "codes", folder / "tokenizer", TWO)
    table = read_table(tmp_path / "codes")
    assert table["item"].to_list() == list(range(90))
    np.testing.assert_array_equal(np.stack(table["codes"].to_numpy()), tokenizer.tokenize(vectors).codes)


@pytest.mark.parametrize("dies", [False, True])
def test_recommendations_are_those_of_a_plain_call(
    made: tuple[Path, np.ndarray, RQVAE, Recommender], tmp_path: Path, dies: bool
) -> None:
    folder, _, _, recommender = made
    source, target = folder / "users.parquet", tmp_path / "ranked"
    if dies:
        options = {
            "marker": str(tmp_path / "died"),
            "folder": str(folder / "recommender"),
            "top_k": 5,
            "beams": 10,
        }
        _by_value()
        through(DiesOnce, options, source, target, ("user", "history"), TWO, None)
        assert (tmp_path / "died").exists()
    else:
        recommend_to_users(source, target, folder / "recommender", 5, 10, TWO)
    table = read_table(target)
    histories = pl.read_parquet(source)["history"].to_list()
    expected = recommender.recommend(histories, 5, beams=10)
    assert table["user"].to_list() == list(range(90))
    np.testing.assert_array_equal(np.stack(table["items"].to_numpy()), expected.items)
    np.testing.assert_allclose(np.stack(table["scores"].to_numpy()), expected.scores, rtol=1e-5)


def test_a_table_that_is_whole_is_left_and_a_half_one_is_made_anew(
    made: tuple[Path, np.ndarray, RQVAE, Recommender], tmp_path: Path
) -> None:
    folder, target = made[0], tmp_path / "codes"
    target.mkdir()
    (target / "part.parquet").write_bytes(b"PAR1 half")
    with pytest.raises(ScaleError, match="codes is not whole"):
        read_table(target)
    tokenize_catalogue(folder / "vectors", target, folder / "tokenizer", TWO)
    stamp = target.stat().st_mtime_ns
    tokenize_catalogue(folder / "nothing", target, folder / "tokenizer", TWO)
    assert read_table(target).height == 90
    assert target.stat().st_mtime_ns == stamp


def test_what_is_missing_is_named(made: tuple[Path, np.ndarray, RQVAE, Recommender], tmp_path: Path) -> None:
    with pytest.raises(ScaleError, match=r"columns \['history', 'user'\]; \['item', 'vector'\] are needed"):
        tokenize_catalogue(made[0] / "users.parquet", tmp_path / "codes", made[0] / "tokenizer")
    with pytest.raises(ScaleError, match="'tfidf', which counts the words of all texts"):
        encode_catalogue("texts", tmp_path / "vectors", pipelines.TextConfig(kind="tfidf"))


def test_a_sweep_runs_every_file_and_tells_of_those_that_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Path(__file__).parents[2]
    monkeypatch.chdir(repository)
    smoke = repository / "papermill_runs" / "smoke.yaml"
    with pytest.raises(RunError, match="smoke names two runs"):
        sweep([(smoke, []), (smoke, [])], root=tmp_path)
    # Without a folder for runs each chain is refused: that they were started, with their settings, shows.
    root = tmp_path / "file"
    root.write_text("no folder")
    swept = sweep([(smoke, []), (smoke, ["run=other"])], root=root)
    assert [one.run for one in swept] == ["smoke", "other"]
    assert [one.folder.name for one in swept] == ["smoke", "other"]
    assert all(one.code != 0 and "file" in one.said for one in swept)


def test_cluster_settings_are_strict() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 80"):
        Cluster(object_store_megabytes=1)


def _by_value() -> None:
    """Send this module's classes whole to the workers, which do not know the tests."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
