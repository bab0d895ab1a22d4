"""Files and settings of the tokenizer: what is written, what fits, where paper and published code differ."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genrec_lab.data import Dataset
from genrec_lab.encoders.compact import CompactConfig
from genrec_lab.encoders.pictures import PictureTarget
from genrec_lab.models.tokenizers.base import ItemContent
from genrec_lab.models.tokenizers.content_decoders import DecoderConfig
from genrec_lab.models.tokenizers.diffusion import DiffusionConfig
from genrec_lab.models.tokenizers.tree import TreeTokenizer, for_fidelity
from genrec_lab.models.tokenizers.tree_network import TreeNetwork, TreeTokenizerConfig
from genrec_lab.models.tokenizers.tree_quantizer import TreeQuantizerConfig
from genrec_lab.training import TrainingConfig

CONFIG = TreeTokenizerConfig(
    quantizer=TreeQuantizerConfig(root_size=6, leaf_size=9, dimension=4),
    decoder=DecoderConfig(heads=2, expansion=2, text_places=8),
    diffusion=DiffusionConfig(width=16, depth=1, steps=20, sampling_steps=4),
    adapter_hidden=10,
)


class Encoder(nn.Module):
    """Weights of every sort: frozen, trained, trained under two names, and a buffer."""

    def __init__(self, dimension: int = 8, words: int = 13, seed: int = 0) -> None:
        super().__init__()
        self.levels, self.dimension = 3, dimension
        self.picture = SimpleNamespace(tokens=4, channels=12)
        draw = torch.Generator().manual_seed(seed)
        self.backbone = nn.Parameter(torch.ones(5, 6), requires_grad=False)
        self.trained = nn.Parameter(torch.randn(6, 4, generator=draw))
        self.head = nn.Linear(7, words, bias=False)
        self.tied = nn.Linear(7, words, bias=False)
        self.tied.weight = self.head.weight
        with torch.no_grad():
            self.head.weight.normal_(generator=draw)
        self.register_buffer("mean", torch.randn(2, generator=draw))

    def word_table(self) -> Tensor:
        return self.head.weight


def tokenizer(seed: int = 0, encoder: Encoder | None = None) -> TreeNetwork:
    model = TreeNetwork(encoder or Encoder(), CONFIG, torch.Generator().manual_seed(seed))
    with torch.no_grad():  # nothing as it starts, counters included
        for tensor in (model.text.bias, model.vision.diffusion.largest, model.steps):
            tensor.fill_(7)
    return model


class TestFiles:
    def test_all_but_the_frozen_network_comes_back(self, tmp_path: Path) -> None:
        model = tokenizer()
        model.freeze_for_transfer()
        model.save(tmp_path)
        stored = load_file(tmp_path / "model.safetensors")
        assert {"encoder.trained", "encoder.mean", "quantizer.books.0.matrix"} <= set(stored)
        assert "encoder.backbone" not in stored
        assert "encoder.head.weight" in stored and "encoder.tied.weight" not in stored
        again = TreeNetwork.load(tmp_path, Encoder(seed=5))
        assert again.config == CONFIG and not again.training
        for name, tensor in again.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name]), name
        assert again.encoder.tied.weight is again.encoder.head.weight

    def test_a_trained_part_that_is_frozen_later_is_still_written(self, tmp_path: Path) -> None:
        model = tokenizer()
        model.encoder.trained.requires_grad_(False)
        model.save(tmp_path)
        again = TreeNetwork.load(tmp_path, Encoder(seed=5))
        assert torch.equal(again.encoder.trained, model.encoder.trained)

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"dimension": 10}, r"safetensors has \(10, 8\) for adapter.*expects \(10, 10\)"),
            ({"words": 20}, r"has \(13, 7\) for encoder\.head\.weight.*expects \(20, 7\)"),
        ],
    )
    def test_another_encoder_is_refused(self, tmp_path: Path, changes: dict[str, int], message: str) -> None:
        tokenizer().save(tmp_path)
        with pytest.raises(ValueError, match=message):
            TreeNetwork.load(tmp_path, Encoder(**changes))

    @pytest.mark.parametrize("missing", ["projection.bias", "encoder.trained"])
    def test_a_file_without_a_weight_is_refused(self, tmp_path: Path, missing: str) -> None:
        tokenizer().save(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        del weights[missing]
        save_file(weights, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=f"has nothing for {missing}"):
            TreeNetwork.load(tmp_path, Encoder())

    def test_its_settings_are_plain_json(self, tmp_path: Path) -> None:
        tokenizer().save(tmp_path)
        settings = json.loads((tmp_path / "config.json").read_text())
        assert settings["kind"] == "tree" and settings["quantizer"]["leaf_size"] == 9


class TestFidelity:
    def test_where_paper_and_code_disagree(self) -> None:
        paper, code = for_fidelity("paper").model_dump(), for_fidelity("code").model_dump()
        changed = {
            f"{name}.{key}" if isinstance(value, dict) else name
            for name, value in paper.items()
            for key in (value if isinstance(value, dict) else [""])
            if (code[name][key] != value[key] if isinstance(value, dict) else code[name] != value)
        }
        assert changed == {
            "quantizer.reduction",
            "decoder.masking",
            "decoder.reduction",
            "alpha",
            "alignment_on",
            "alignment_reduction",
            "warm_up_steps",
        }

    def test_an_unknown_one_is_refused(self) -> None:
        with pytest.raises(ValueError, match='fidelity is \'both\'; expected "paper" or "code"'):
            for_fidelity("both")


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    words = [f"A {colour} {thing}" for colour in ("red", "blue", "green") for thing in ("bowl", "chair")]
    items = pl.DataFrame({"item": range(6), "domain": "Shop", "title": words, "text": words})
    sequences = pl.DataFrame({"user": range(4), "domain": "Shop", "items": [[0, 1, 2, 3, 4, 5]] * 4})
    dataset = Dataset("mine", items, sequences)
    encoder = CompactConfig(
        levels=3, dimension=16, heads=2, layers=1, dropout=0.0, max_tokens=6, vocabulary=4,
        text_model="hash", picture_model="pixels", picture=PictureTarget(size=8, patch=2),
    )  # fmt: skip
    training = TrainingConfig(epochs=1, batch_size=16, schedule="constant", warmup=0.0)

    def codes(
        data: Dataset = dataset, seed: int = 0, folder: Path | None = tmp_path, epochs: int = 1
    ) -> list[list[int]]:
        config = training.model_copy(update={"epochs": epochs})
        content = ItemContent.from_dataset(data)
        made = TreeTokenizer(CONFIG, content=encoder, tokenizer_training=config)
        return made.fit(content, seed=seed, checkpoint=folder).encode(content).tolist()

    first = codes()
    assert first == codes() == codes(folder=None)
    with pytest.raises(ValueError, match="a training with seed = 0, this one has 7; delete it"):
        codes(seed=7)
    other = Dataset(dataset.name, dataset.items.with_columns(pl.col("text") + "!"), dataset.sequences)
    with pytest.raises(ValueError, match="a training with items = "):
        codes(other)
    assert codes(epochs=2) == codes(folder=None, epochs=2)
