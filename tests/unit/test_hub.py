"""Models given to others: what comes back is what went out, and what was altered or is foreign is refused."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import polars as pl
import pytest
import yaml

from genrec_lab.models import Recommender
from genrec_lab.models.hub import FILES, CardFacts, SharingError
from genrec_lab.models.tokenizers.residual_kmeans import ResidualKMeans, ResidualKMeansConfig
from genrec_lab.models.tokenizers.rqvae import RQVAE, RQVAEConfig
from tests.unit.conftest import tiny_recommender, unique_codes

FACTS = CardFacts(
    dataset="Amazon 2018", fingerprint="f00", metrics={"Recall@10": 0.0616}, license="apache-2.0"
)
ITEMS = pl.DataFrame(
    {
        "item": range(12),
        "domain": ["Garden"] * 6 + ["Shed"] * 6,
        "key": [f"K{number}" for number in range(12)],
        "title": [f"Rake {number}" for number in range(12)],
    }
)
EXAMPLE = Path(__file__).parents[2] / "examples" / "recommend.py"


@pytest.fixture
def model() -> Recommender:
    return tiny_recommender(unique_codes({"Garden": 6, "Shed": 6}, (4, 4, 4)))


@pytest.fixture
def folder(model: Recommender, tmp_path: Path) -> Path:
    return model.save_pretrained(tmp_path / "shared", FACTS, ITEMS)


def test_a_recommender_comes_back_with_its_catalogue(model: Recommender, folder: Path) -> None:
    again = Recommender.from_pretrained(folder)
    histories = [[0, 1], [7, 8, 9]]
    ours, theirs = model.recommend(histories, 3), again.recommend(histories, 3)
    assert np.array_equal(ours.items, theirs.items) and np.array_equal(ours.scores, theirs.scores)
    assert again.shared_items is not None
    assert again.shared_items.equals(ITEMS.select("domain", "key", "title"))
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)


def test_tokenizers_come_back(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    rqvae = RQVAE(RQVAEConfig(hidden=[6], dimension=4, levels=2, codebook_size=4, epochs=1)).fit(vectors)
    rqvae.save_pretrained(tmp_path / "a", FACTS)
    assert np.array_equal(
        RQVAE.from_pretrained(tmp_path / "a").tokenize(vectors).codes, rqvae.tokenize(vectors).codes
    )
    books = ResidualKMeans(ResidualKMeansConfig(levels=2, codebook_size=3)).fit(vectors)
    books.save_pretrained(tmp_path / "b", FACTS)
    assert np.array_equal(ResidualKMeans.from_pretrained(tmp_path / "b").codebooks, books.codebooks)
    with pytest.raises(SharingError, match="holds a ResidualKMeans, not a RQVAE"):
        RQVAE.from_pretrained(tmp_path / "b")


def test_the_card_says_what_it_is(folder: Path) -> None:
    head, _, body = (folder / "README.md").read_text().removeprefix("---\n").partition("---\n")
    assert yaml.safe_load(head)["license"] == "apache-2.0"
    assert "- Recall@10: 0.0616" in body and "| d_model | 16 |" in body and "Amazon 2018" in body


def test_a_card_keeps_hostile_names_in_their_line(model: Recommender, tmp_path: Path) -> None:
    facts = CardFacts(dataset="a\n---\nlicense: x\n<script>", metrics={"a|b\n# c": 1.0}, license="x\nevil: 1")
    text = (model.save_pretrained(tmp_path, facts) / "README.md").read_text()
    head, _, body = text.removeprefix("---\n").partition("---\n")
    assert set(yaml.safe_load(head)) == {"library_name", "license", "tags"}
    assert "<script>" not in body and "\n# c" not in body
    assert "# Recommender, trained on a --- license: x script" in body


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "codes.parquet", "items.parquet"])
@pytest.mark.parametrize("damage", ["altered", "gone"])
def test_a_file_that_is_not_what_was_written_is_refused(folder: Path, name: str, damage: str) -> None:
    if damage == "gone":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(SharingError, match=f"{name} is missing or not what was written"):
        Recommender.from_pretrained(folder)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "class": 5, "sha256": {}}']
)
def test_a_foreign_description_is_refused(folder: Path, content: str) -> None:
    (folder / "shared.json").write_text(content)
    with pytest.raises(SharingError, match=r"shared\.json"):
        Recommender.from_pretrained(folder)


def test_a_description_cannot_name_files_elsewhere(folder: Path) -> None:
    described = json.loads((folder / "shared.json").read_text())
    described["sha256"]["../../etc/passwd"] = "0"
    (folder / "shared.json").write_text(json.dumps(described))
    with pytest.raises(SharingError, match="is missing or not what was written"):
        Recommender.from_pretrained(folder)


@pytest.mark.parametrize("source", ["nowhere", "a/b/c", "../x", "a/..", "https://x/y", "a b/c"])
def test_places_that_are_none_are_refused(source: str) -> None:
    with pytest.raises(SharingError, match="no hub repository; write the latter as owner/name"):
        Recommender.from_pretrained(source)


def test_a_repository_out_of_reach_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **options: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(SharingError, match=r"owner/name: neither a folder .*no network"):
        Recommender.from_pretrained("owner/name")


def test_items_that_do_not_fit_are_refused(model: Recommender, tmp_path: Path) -> None:
    with pytest.raises(SharingError, match="5 rows, the model knows 12 items"):
        model.save_pretrained(tmp_path, FACTS, ITEMS.head(5))
    with pytest.raises(SharingError, match="no column 'title'"):
        model.save_pretrained(tmp_path, FACTS, ITEMS.drop("title"))


def test_only_the_files_go_up_and_no_token_is_written(
    model: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub"
    calls: dict[str, Any] = {}
    secret = "hf_" + "x" * 30

    class Hub:
        def __init__(self, token: str | None) -> None:
            calls["token"] = token

        def create_repo(self, name: str, **options: Any) -> str:
            calls["create"] = options
            return f"https://hub.example/{name}"

        def upload_folder(self, folder_path: str, **options: Any) -> None:
            calls["upload"] = options
            Path(folder_path).rename(hub)
            Path(folder_path).mkdir()

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert model.push_to_hub("me/it", FACTS, ITEMS, token=secret) == "https://hub.example/me/it"
    assert calls["token"] == secret and calls["create"]["private"] is True
    assert calls["upload"]["allow_patterns"] == list(FILES)
    assert all(secret.encode() not in file.read_bytes() for file in hub.iterdir())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: str(hub))
    assert Recommender.from_pretrained("me/it", revision="abc").codes.codes.shape == model.codes.codes.shape


def test_the_example_recommends_by_title(
    model: Recommender, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recommend = runpy.run_path(str(EXAMPLE))["main"]
    assert recommend(str(folder), ["Rake 0", "K1"]) == 0
    wanted = model.recommend([[0, 1]], 5)
    printed = [line.split("  ")[-2:] for line in capsys.readouterr().out.splitlines()]
    assert printed == [[f"Rake {item}", f"(K{item})"] for item in wanted.items[0]]
    assert recommend(str(folder), ["Rake 99"]) == 2
    assert "'Rake 99' is no item of this model; near: Rake" in capsys.readouterr().err
