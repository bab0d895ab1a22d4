"""Loading Qwen2-VL: the random models that take the real ones' path, and what is refused on it."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from benchmarks.random_qwen import QWEN2_VL_2B_TEXT, QWEN2_VL_2B_VISION, random_qwen, tiny_qwen
from genrec_lab.encoders import qwen_models
from genrec_lab.encoders.qwen import QwenConfig
from genrec_lab.encoders.qwen_models import (
    LoadedQwen,
    QwenMemoryError,
    QwenModelError,
    load_qwen,
    memory_advice,
)

TEXTS = ("a red garden kettle", "steel pipe with a steel fitting", "wooden chair")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen(tmp_path_factory.mktemp("qwen"), TEXTS * 5, hidden=64, layers=2, vocabulary=400)


def loaded(folder: Path) -> LoadedQwen:
    return load_qwen(str(folder), "float32", 4, 12)


class TestTinyModel:
    def test_a_seed_gives_the_same_model(self, folder: Path, tmp_path: Path) -> None:
        torch.manual_seed(99)
        state = torch.get_rng_state()
        again = tiny_qwen(tmp_path, TEXTS * 5, hidden=64, layers=2, vocabulary=400)
        assert torch.equal(torch.get_rng_state(), state)
        one, other = (load_file(where / "model.safetensors") for where in (folder, again))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        assert (again / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()

    def test_its_tokenizer_writes_any_text(self, folder: Path) -> None:
        tokenizer = loaded(folder).tokenizer
        for text in ("Zürich 水 🫖\n\ttwo", "naïve 'quoted' 100%"):
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
        assert len(tokenizer("a red garden kettle")["input_ids"]) == 4

    def test_a_width_that_does_not_fit(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"hidden = 100; expected a multiple of 64"):
            tiny_qwen(tmp_path, TEXTS, hidden=100)


def test_the_real_sizes_make_the_published_number_of_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Qwen2VLForConditionalGeneration

    class Made(Exception):
        pass

    made: list[int] = []
    build = Qwen2VLForConditionalGeneration._from_config

    def on_meta(config: object, dtype: torch.dtype) -> torch.nn.Module:
        with torch.device("meta"):
            model = build(config, dtype=dtype)
        made.append(sum(p.numel() for p in model.parameters()))
        raise Made

    monkeypatch.setattr(Qwen2VLForConditionalGeneration, "_from_config", on_meta)
    with pytest.raises(Made):
        random_qwen(Path("nowhere"), TEXTS, QWEN2_VL_2B_TEXT, QWEN2_VL_2B_VISION, dtype="bfloat16")
    assert made == [2_208_985_600]  # the model card of Qwen2-VL-2B says 2.21 B


class TestErrors:
    def test_a_folder_of_another_model(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
        with pytest.raises(QwenModelError, match=r"is a bert, expected a qwen2_vl"):
            loaded(tmp_path)

    def test_a_folder_without_a_model(self, tmp_path: Path) -> None:
        with pytest.raises(QwenModelError, match=r"has no config.json that can be read"):
            loaded(tmp_path)

    def test_a_folder_without_weights(self, folder: Path, tmp_path: Path) -> None:
        for file in folder.iterdir():
            if file.suffix != ".safetensors":
                (tmp_path / file.name).write_bytes(file.read_bytes())
        with pytest.raises(QwenModelError, match=r"is not complete .*; fetch its weights"):
            loaded(tmp_path)

    def test_a_name_that_nobody_knows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(name: str) -> None:
            raise qwen_models.HubError("no network")

        monkeypatch.setattr(qwen_models, "find_on_hub", refuse)
        with pytest.raises(QwenModelError, match=r'"no/such" is neither a local folder nor .*\(no network\)'):
            loaded(Path("no/such"))

    def test_weights_larger_than_the_memory(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(qwen_models, "_free_memory", lambda: 1000)
        with pytest.raises(QwenMemoryError, match=r'GB of memory are free; .* dtype = "bfloat16"'):
            loaded(folder)

    def test_other_errors_pass_as_they_are(self) -> None:
        with pytest.raises(RuntimeError, match="shapes differ") as caught, memory_advice("testing"):
            raise RuntimeError("shapes differ")
        assert not isinstance(caught.value, MemoryError)

    def test_bounds_in_the_wrong_order(self) -> None:
        with pytest.raises(ValidationError, match=r"min_visual_tokens = 9 is above max_visual_tokens = 4"):
            QwenConfig(min_visual_tokens=9, max_visual_tokens=4)
