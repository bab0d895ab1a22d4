"""LoRA adapters: what is trained, what stays, what it adds, and their files."""

from __future__ import annotations

import json

import numpy as np
import peft
import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn

from genrec_lab.codes import ItemCodes
from genrec_lab.models import Recommender, T5Config
from genrec_lab.models.recommenders.adapters import (
    LoRAConfig,
    add_lora,
    count_parameters,
    load_lora,
    save_lora,
)

HISTORIES = [[1, 2, 3], [4], [0, 5]]
DOMAINS = ["Movies", "Home & Kitchen", "a.b", "Büro", "keys", "weight", "lora_A", "q", "7"]


@pytest.fixture(scope="module")
def base(make_codes, make_recommender) -> Recommender:
    return make_recommender(make_codes({"a": 20, "b": 8}, (4, 5, 3)), sharpness=3.0)


def train(model: Recommender, steps: int = 3) -> None:
    """Train what requires gradients, away from where it is."""
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1
    )
    for _ in range(steps):
        optimizer.zero_grad()
        model.pair_loss(torch.tensor([[1, 2, 3], [4, 5, -1]]), torch.tensor([6, 7])).backward()
        optimizer.step()


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_ranking(one: Recommender, other: Recommender) -> bool:
    a, b = (model.recommend(HISTORIES, 20, "a") for model in (one, other))
    return bool(np.array_equal(a.items, b.items) and np.allclose(a.scores, b.scores, atol=1e-5))


def test_a_fresh_adapter_ranks_as_the_base(base) -> None:
    assert same_ranking(add_lora(base, LoRAConfig(rank=4), "a"), base)


def test_training_moves_the_adapter_and_nothing_of_the_base(base) -> None:
    before = tensors(base)
    adapted = add_lora(base, LoRAConfig(rank=4, dropout=0.1), "a").train()
    frozen = {name: tensor for name, tensor in tensors(adapted).items() if "lora_" not in name}
    fresh = {name: tensor for name, tensor in tensors(adapted).items() if "lora_" in name}
    train(adapted)
    after = tensors(adapted)
    assert len(frozen) == len(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in frozen.items())
    assert fresh
    assert all(not torch.equal(after[name], tensor) for name, tensor in fresh.items())
    assert all(torch.equal(base.state_dict()[name], tensor) for name, tensor in before.items())
    assert not same_ranking(adapted, base)


def test_gradients_reach_the_adapter_only(base) -> None:
    adapted = add_lora(base, LoRAConfig(rank=2), "a").train()
    adapted.pair_loss(torch.tensor([[1]]), torch.tensor([2])).backward()
    assert {name for name, p in adapted.named_parameters() if p.grad is not None} == {
        name for name, _ in adapted.named_parameters() if "lora_" in name
    }
    assert all(p.requires_grad for p in base.parameters())


def test_the_update_is_alpha_over_rank_times_two_matrices(base) -> None:
    adapted = add_lora(base, LoRAConfig(rank=4, alpha=6.0), "a")
    layer = adapted.t5.encoder[0].attention.q
    (down,), (up,) = layer.lora_A.values(), layer.lora_B.values()
    with torch.no_grad():
        up.weight.normal_()
    x = torch.randn(5, 16)
    expected = base.t5.encoder[0].attention.q(x) + 6.0 / 4 * (x @ down.weight.T @ up.weight.T)
    torch.testing.assert_close(layer(x), expected)


# --- how many parameters


@pytest.mark.parametrize(
    "targets, one_rank",
    [
        # D 16, H * K = 12, d_ff 24; 6 attentions (2 encoder, 2 + 2 decoder), 4 feed-forward layers.
        (("q", "k", "v"), 6 * 3 * (16 + 12)),
        (("q",), 6 * (16 + 12)),
        (("o",), 6 * (12 + 16)),
        (("wi", "wo"), 4 * 2 * (16 + 24)),
        (("q", "k", "v", "o", "wi", "wo"), 6 * 4 * 28 + 4 * 2 * 40),
    ],
)
@pytest.mark.parametrize("rank", [1, 5])
def test_the_trained_share_is_as_counted_by_hand(base, targets, one_rank, rank) -> None:
    everything = sum(p.numel() for p in base.parameters())
    counted = count_parameters(add_lora(base, LoRAConfig(rank=rank, targets=targets), "a"))
    assert counted.trained == rank * one_rank
    assert counted.all == everything + rank * one_rank
    assert counted.share == counted.trained / counted.all


def test_gmcs_adapter_has_the_papers_share() -> None:
    # Rank 16 on q, k, v of 2 + 4 attentions: 18 pairs of 16 x (192 + 384). GMC 5.3: 0.17M, 3.7 % of 4.3M.
    codes = ItemCodes([[0] * 4], (256,) * 4)
    body = T5Config(d_model=192, d_kv=64, heads=6, d_ff=1536, encoder_layers=2, decoder_layers=2)
    base = Recommender(codes, body)
    assert count_parameters(base).trained == count_parameters(base).all == 4_328_448
    counted = count_parameters(add_lora(base, LoRAConfig(), "a"))
    assert counted.trained == 165_888
    assert str(counted) == "165,888 of 4,494,336 parameters are trained (3.7%)"


# --- files


@pytest.mark.parametrize("domain", DOMAINS)
def test_an_adapter_is_loaded_as_it_was_saved(tmp_path, base, domain) -> None:
    config = LoRAConfig(rank=3, alpha=5.0, dropout=0.2, targets=("q", "wo"))
    adapted = add_lora(base, config, domain).train()
    train(adapted)
    folder = save_lora(adapted.eval(), config, domain, tmp_path / "adapter")
    loaded = load_lora(base, domain, folder)
    assert not loaded.training
    expected = tensors(adapted)
    assert tensors(loaded).keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(loaded).items())
    assert same_ranking(loaded, adapted)
    assert not same_ranking(loaded, base)


@pytest.mark.parametrize("targets", [("q", "k", "v"), ("v", "k", "q"), ("k", "q", "v"), ("wo", "v", "q")])
def test_an_adapter_is_written_equally_by_every_process(tmp_path, base, targets) -> None:
    config = LoRAConfig(targets=targets)
    folder = save_lora(add_lora(base, config, "a"), config, "a", tmp_path)
    assert json.loads((folder / "adapter_config.json").read_text())["target_modules"] == list(targets)


def test_the_folder_holds_the_adapter_alone(tmp_path, base) -> None:
    config = LoRAConfig(rank=2)
    folder = save_lora(add_lora(base, config, "a"), config, "a", tmp_path)
    assert {file.name for file in folder.iterdir()} == {
        "adapter_model.safetensors", "adapter_config.json", "lora.json"
    }  # fmt: skip
    weights = load_file(folder / "adapter_model.safetensors")
    assert all(".lora_" in name for name in weights)
    assert sum(tensor.numel() for tensor in weights.values()) == 2 * 6 * 3 * 28
    assert json.loads((folder / "lora.json").read_text())["rank"] == 2


@pytest.mark.parametrize("domain", DOMAINS)
def test_peft_reads_the_folder(tmp_path, base, domain) -> None:
    config = LoRAConfig(rank=3, alpha=5.0)
    adapted = add_lora(base, config, domain).train()
    train(adapted)
    save_lora(adapted.eval(), config, domain, tmp_path)
    theirs = peft.PeftModel.from_pretrained(Recommender.load(base.save(tmp_path / "base")).t5, str(tmp_path))
    inputs = base.inputs(HISTORIES)
    written = torch.tensor([[0, 2, 7], [0, 3, 8], [0, 2, 2]])
    with torch.no_grad():
        expected = adapted.t5(inputs["input_ids"], inputs["attention_mask"], written)
        found = theirs(inputs["input_ids"], inputs["attention_mask"], written)
        without = base.t5(inputs["input_ids"], inputs["attention_mask"], written)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(found, without, atol=1e-3)


@pytest.mark.parametrize("missing", ["adapter_model.safetensors", "lora.json"])
def test_a_folder_without_an_adapter_is_refused(tmp_path, base, missing) -> None:
    config = LoRAConfig(rank=2)
    (save_lora(add_lora(base, config, "a"), config, "a", tmp_path) / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{missing} is missing; expected the folder of an adapter"):
        load_lora(base, "a", tmp_path)


def test_the_adapter_of_another_model_is_refused(tmp_path, base, tiny_config, make_recommender) -> None:
    larger = tiny_config.model_copy(update={"decoder_layers": 3})
    other, config = make_recommender(base.codes, config=larger), LoRAConfig(rank=2)
    save_lora(add_lora(other, config, "a"), config, "a", tmp_path)
    with pytest.raises(ValueError, match=r"holds an adapter of another model: unexpected .*decoder\.2"):
        load_lora(base, "a", tmp_path)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rank": 0}, "rank"),
        ({"alpha": 0.0}, "alpha"),
        ({"targets": ()}, "targets"),
        ({"targets": ("queries",)}, "queries"),
        ({"ranks": 8}, "ranks"),
    ],
)
def test_impossible_sizes_are_refused(settings, message) -> None:
    with pytest.raises(ValidationError, match=message):
        LoRAConfig.model_validate(settings)


# --- leaving this package


@pytest.mark.parametrize("targets", [("q", "k", "v"), ("o", "wi", "wo")])
@pytest.mark.parametrize("form", [{}, {"reads": "past"}, {"feed_forward": "gated-gelu"}])
def test_peft_reads_an_adapter_on_transformers_model(tmp_path, base, make_recommender, targets, form) -> None:
    start = make_recommender(base.codes, config=base.config.model_copy(update=form), sharpness=3.0)
    config = LoRAConfig(rank=3, alpha=5.0, targets=targets)
    adapted = add_lora(start, config, "a.b").train()
    train(adapted)
    save_lora(adapted.eval(), config, "a.b", tmp_path, named=adapted.transformers_name)
    theirs = PeftModel.from_pretrained(adapted.unadapted().to_transformers(), str(tmp_path))
    read, written = adapted.inputs([[1, 2, 3]]), torch.tensor([[0, 5, 3]])
    with torch.no_grad():
        memory = adapted.remember([[1, 2, 3]])
        ours = adapted.t5.decode(written[:, None], memory)[:, 0]
        torch.testing.assert_close(theirs(**read, decoder_input_ids=written).logits, ours, atol=1e-5, rtol=0)
        merged = adapted.to_transformers()(**read, decoder_input_ids=written).logits
        torch.testing.assert_close(merged, ours, atol=1e-4, rtol=0)
    assert not same_ranking(adapted.unadapted(), adapted)


def test_an_adapted_model_is_saved_merged(tmp_path, base) -> None:
    adapted = add_lora(base, LoRAConfig(rank=3, alpha=5.0, targets=("q", "wo")), "a").train()
    train(adapted)
    loaded = Recommender.load(adapted.eval().save(tmp_path))
    assert loaded.adapter is None and tensors(loaded).keys() == tensors(base).keys()
    assert same_ranking(loaded, adapted) and not same_ranking(loaded, base)
    assert all(torch.equal(one, tensors(base)[name]) for name, one in tensors(adapted.unadapted()).items())


def test_an_adapter_for_another_base_of_the_same_sizes_is_refused(tmp_path, base, make_recommender) -> None:
    config = LoRAConfig(rank=2)
    save_lora(add_lora(base, config, "a"), config, "a", tmp_path)
    other = make_recommender(base.codes, config=base.config, seed=5)
    with pytest.raises(ValueError, match="was trained on a different base of the same sizes"):
        load_lora(other, "a", tmp_path)


def test_an_adapter_of_another_rank_than_its_file_says_is_refused(tmp_path, base) -> None:
    config = LoRAConfig(rank=2)
    save_lora(add_lora(base, config, "a"), config, "a", tmp_path)
    (tmp_path / "lora.json").write_text(LoRAConfig(rank=2**31).model_dump_json())
    with pytest.raises(ValueError, match=r"lora\.json says rank 2147483648, the weights have \[2\]"):
        load_lora(base, "a", tmp_path)
