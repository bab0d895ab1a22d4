"""Models given to others: what comes back is what went out, and what was altered or is foreign is refused."""

from __future__ import annotations

import hashlib
import io
import json
import runpy
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import polars as pl
import pytest
import torch
import yaml

from genrec_lab.models import LoRAConfig, Popularity, Recommender, SASRec
from genrec_lab.models.hub import FILES, CardFacts, SharingError
from genrec_lab.models.recommenders.adapters import add_lora
from genrec_lab.models.recommenders.base import read_recommender
from genrec_lab.models.sequential.base import DomainItems
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
    codes = unique_codes({"Garden": 6, "Shed": 6}, (4, 4, 4))
    assert codes.domains is not None
    return tiny_recommender(codes.select(np.argsort(codes.domains == "Shed", kind="stable")))


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
    with pytest.raises(SharingError, match=f"{name} is missing or was altered"):
        Recommender.from_pretrained(folder)


def test_a_folder_is_verified_whole(folder: Path) -> None:
    described = json.loads((folder / "shared.json").read_text())
    for dropped in ([*described["sha256"]], ["items.parquet"], ["codes.parquet"], ["model.safetensors"]):
        left = {name: hashed for name, hashed in described["sha256"].items() if name not in dropped}
        (folder / "shared.json").write_text(json.dumps({**described, "sha256": left}))
        with pytest.raises(SharingError, match=r"shared\.json has no hash of (model|items|codes)\."):
            Recommender.from_pretrained(folder)


def written_anew(folder: Path, name: str, content: bytes) -> None:
    """Put other content into a file, with the hash that belongs to it."""
    (folder / name).write_bytes(content)
    described = json.loads((folder / "shared.json").read_text())
    described["sha256"][name] = hashlib.sha256(content).hexdigest()
    (folder / "shared.json").write_text(json.dumps(described))


@pytest.mark.parametrize(
    "items, message",
    [(ITEMS.head(5), "5 rows, but the model has 12 items"), (ITEMS.reverse(), "row 0 is of domain")],
)
def test_a_catalogue_that_does_not_fit_is_refused(folder: Path, items: pl.DataFrame, message: str) -> None:
    buffer = io.BytesIO()
    items.select("domain", "key", "title").write_parquet(buffer)
    written_anew(folder, "items.parquet", buffer.getvalue())
    with pytest.raises(SharingError, match=message):
        Recommender.from_pretrained(folder)


@pytest.mark.parametrize("sizes", [{"d_model": 2**17, "d_ff": 2**17}, {"encoder_layers": 1}])
def test_sizes_that_the_weights_do_not_have_are_refused_before_they_are_allocated(
    folder: Path, sizes: dict[str, int]
) -> None:
    config = json.loads((folder / "config.json").read_text()) | sizes
    written_anew(folder, "config.json", json.dumps(config).encode())
    with pytest.raises(ValueError, match=r"config\.json and codes\.parquet ask for .* of shape"):
        Recommender.from_pretrained(folder)  # 2**17 x 2**17 floats are 64 GB


def test_a_config_of_another_version_says_who_wrote_it(folder: Path) -> None:
    described = json.loads((folder / "shared.json").read_text())
    (folder / "shared.json").write_text(json.dumps({**described, "genrec_lab": "9.0"}))
    config = json.loads((folder / "config.json").read_text()) | {"mixture_of_depths": 3}
    written_anew(folder, "config.json", json.dumps(config).encode())
    with pytest.raises(SharingError, match=r"does not fit the Recommender .*9\.0 wrote it.*mixture"):
        Recommender.from_pretrained(folder)


def test_what_is_not_read_as_it_was_written_is_not_shared(
    model: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = model.save_pretrained(tmp_path / "shared", FACTS)
    before = sorted((file.name, file.read_bytes()) for file in target.iterdir())
    load = Recommender.load.__func__

    def forgetful(cls: type[Recommender], folder: Path) -> Recommender:
        again = load(cls, folder)
        again.t5.encoder_norm.weight.data += 1
        return again

    monkeypatch.setattr(Recommender, "load", classmethod(forgetful))
    with pytest.raises(SharingError, match=r"model\.safetensors of this Recommender changes when read back"):
        model.save_pretrained(target, FACTS)
    assert sorted((file.name, file.read_bytes()) for file in target.iterdir()) == before


def test_an_adapted_model_is_shared_merged(model: Recommender, tmp_path: Path) -> None:
    adapted = add_lora(model, LoRAConfig(rank=2), "Garden")
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    again = Recommender.from_pretrained(adapted.eval().save_pretrained(tmp_path / "s", FACTS, ITEMS))
    ours, theirs = adapted.recommend([[0, 1]], 4), again.recommend([[0, 1]], 4)
    assert np.array_equal(ours.items, theirs.items) and np.allclose(ours.scores, theirs.scores, atol=1e-5)
    assert not np.allclose(ours.scores, model.recommend([[0, 1]], 4).scores, atol=1e-3)


def test_models_over_items_are_shared_too(tmp_path: Path) -> None:
    popular = Popularity().count(np.arange(6), [[1, 1, 2], [5]])
    again = read_recommender(popular.save_pretrained(tmp_path / "p", FACTS, ITEMS))
    assert again.recommend([[0]], 3).items.tolist() == [[1, 2, 5]]
    assert again.recommend_titles(["Rake 0"], 2)["key"].to_list() == ["K1", "K2"]
    with pytest.raises(SharingError, match="4 rows, the model ranks item 5"):
        popular.save_pretrained(tmp_path / "q", FACTS, ITEMS.head(4))
    sasrec = SASRec(SASRec.Config(width=8, heads=1, layers=1))
    sasrec.build(DomainItems(np.arange(6)))
    again = read_recommender(sasrec.save_pretrained(tmp_path / "s", FACTS, ITEMS))
    assert np.array_equal(again.recommend([[0, 3]], 4).items, sasrec.recommend([[0, 3]], 4).items)


def test_titles_and_keys_name_items(model: Recommender) -> None:
    model.shared_items = ITEMS.with_columns(title=pl.lit("Rake") + (pl.col("item") // 2).cast(pl.String))
    found = model.recommend_titles(["Rake0", "K3"], 4, exclude_seen=True)
    wanted = model.recommend([[0, 3]], 4, exclude_seen=True)
    assert found.columns == ["rank", "key", "title", "score"]
    assert found["key"].to_list() == [f"K{item}" for item in wanted.items[0]]
    with pytest.raises(ValueError, match=r"'Rake9' is not the title or key of an item; near: 'Rake\d'"):
        model.recommend_titles(["Rake9"])
    with pytest.raises(ValueError, match="'K7' is not the title or key of an item of Garden"):
        model.recommend_titles(["K7"], domain="Garden")


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
    with pytest.raises(SharingError, match="is missing or was altered"):
        Recommender.from_pretrained(folder)


@pytest.mark.parametrize("source", ["nowhere", "a/b/c", "../x", "a/..", "https://x/y", "a b/c"])
def test_places_that_are_none_are_refused(source: str) -> None:
    with pytest.raises(SharingError, match="nor a hub repository, written as owner/name"):
        Recommender.from_pretrained(source)


def test_a_repository_out_of_reach_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **options: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(SharingError, match=r"owner/name: neither a local folder .*no network"):
        Recommender.from_pretrained("owner/name")


def test_items_that_do_not_fit_are_refused(model: Recommender, tmp_path: Path) -> None:
    with pytest.raises(SharingError, match="5 rows, but the model has 12 items"):
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
