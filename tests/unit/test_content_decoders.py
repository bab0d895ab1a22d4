"""Text and vision decoders: they see codes and masks only, prefixes, padding, missing pictures, learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import genrec_lab.models.tokenizers.content_decoders as decoders
from genrec_lab.models.tokenizers.content_decoders import (
    BidirectionalLayer,
    DecoderConfig,
    TextDecoder,
    VisionDecoder,
)
from genrec_lab.models.tokenizers.diffusion import DiffusionConfig

WIDTH, WORDS, PLACES = 8, 11, 6
CONFIG = DecoderConfig(heads=2, expansion=2, text_places=PLACES)
TINY_DIFFUSION = DiffusionConfig(width=12, depth=1, steps=20, sampling_steps=5, repeats=2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def text_decoder(word_dimension: int = WIDTH, **changes: object) -> TextDecoder:
    return TextDecoder(
        WIDTH, WORDS, word_dimension, CONFIG.model_copy(update=dict(changes)), generator()
    ).eval()


def vision_decoder() -> VisionDecoder:
    model = VisionDecoder(WIDTH, 4, 3, CONFIG, TINY_DIFFUSION, generator())
    with torch.no_grad():  # its output starts at zero, whatever it sees
        model.diffusion.network.output.weight.normal_(generator=generator(1))
        model.diffusion.network.modulation.weight.normal_(generator=generator(2))
    return model.eval()


def texts(batch: int = 3) -> tuple[Tensor, Tensor]:
    ids = torch.randint(WORDS, (batch, PLACES), generator=generator(2))
    lengths = torch.tensor([6, 3, 1])[:batch]
    mask = torch.arange(PLACES) < lengths[:, None]
    return ids * mask, mask


def layer_twin(weights: dict[str, np.ndarray], x: np.ndarray, true: np.ndarray, heads: int) -> np.ndarray:
    """One pre-norm transformer layer, item by item and head by head, in float64."""
    from scipy.special import erf

    def linear(name: str, values: np.ndarray) -> np.ndarray:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, values: np.ndarray) -> np.ndarray:
        centred = values - values.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    out = []
    for item, exists in zip(x, true, strict=True):
        q, k, v = np.split(linear("queries_keys_values", norm("norm_attention", item)), 3, axis=1)
        size, parts = item.shape[1] // heads, []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            scores = np.exp(q[:, part] @ k[exists][:, part].T / np.sqrt(size))
            parts.append(scores / scores.sum(axis=1, keepdims=True) @ v[exists][:, part])
        item = item + linear("attended", np.concatenate(parts, axis=1))
        inner = linear("feed_in", norm("norm_feed", item))
        out.append(norm("norm", item + linear("feed_out", inner * (1 + erf(inner / np.sqrt(2))) / 2)))
    return np.stack(out)


def test_the_layer_against_its_float64_twin() -> None:
    layer = BidirectionalLayer(WIDTH, CONFIG, generator())
    x = drawn(3, 5, WIDTH)
    true = torch.arange(5) < torch.tensor([[5], [2], [1]])
    weights = {name: tensor.double().numpy() for name, tensor in layer.state_dict().items()}
    twin = layer_twin(weights, x.double().numpy(), true.numpy(), 2)
    np.testing.assert_allclose(layer(x, true).detach(), twin, atol=2e-5)


@pytest.mark.parametrize("word_dimension", [WIDTH, 5])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_any_prefix_of_code_vectors_tells_a_text(word_dimension: int, levels: int) -> None:
    model, (ids, mask) = text_decoder(word_dimension), texts()
    content, table = drawn(3, levels, WIDTH), drawn(WORDS, word_dimension, seed=3)
    states = model.places(content, PLACES, mask)
    logits = model.up(states) @ table.T + model.bias
    likelihood = logits.double().log_softmax(-1).gather(2, ids[..., None])[..., 0]
    per_item = -(likelihood * mask).sum(dim=1)
    assert model(content, ids, mask, table).item() == pytest.approx(per_item.mean().item(), rel=1e-5)
    by_token = text_decoder(word_dimension, reduction="code")
    by_token.load_state_dict(model.state_dict())
    expected = per_item.sum().item() / mask.sum().item()
    assert by_token(content, ids, mask, table).item() == pytest.approx(expected, rel=1e-5)


def test_what_lies_beyond_a_text_does_not_matter() -> None:
    model, (ids, mask) = text_decoder(), texts()
    content, table = drawn(3, 3, WIDTH), drawn(WORDS, WIDTH, seed=3)
    loss = model(content, ids, mask, table)
    assert model(content, torch.where(mask, ids, 7), mask, table).item() == loss.item()
    alone = [model(content[[i]], ids[[i], :n], mask[[i], :n], table) for i, n in enumerate((6, 3, 1))]
    assert loss.item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-5)


def test_masked_everywhere_the_words_are_not_seen() -> None:
    """Two texts with the same codes have the same predictions: the loss differs by the targets only."""
    model, (ids, mask) = text_decoder(), texts()
    table = drawn(WORDS, WIDTH, seed=3)
    model.train()
    whole = torch.ones_like(mask)
    losses = [model(drawn(3, 3, WIDTH), torch.full_like(ids, word), whole, table) for word in range(WORDS)]
    # Were anything seen of the words, exp(-loss) of one place would not be a distribution over them.
    one = [model(drawn(1, 3, WIDTH), torch.full((1, 1), word), whole[:1, :1], table) for word in range(WORDS)]
    assert torch.stack(one).neg().exp().sum().item() == pytest.approx(1.0, rel=1e-5)
    assert len({round(loss.item(), 4) for loss in losses}) > 1


class TestMixedMasking:
    def test_it_shows_the_shares_of_the_published_code(self) -> None:
        model = text_decoder(masking="mixed").train()
        ids = torch.full((400, 50), 3)
        is_shown, words = model._shown(ids, generator())
        assert is_shown.float().mean().item() == pytest.approx(0.2, abs=0.01)
        shown = words[is_shown]
        # half of them the word itself, half random, of which one in V is the word too
        assert (shown == 3).float().mean().item() == pytest.approx(0.5 + 0.5 / WORDS, abs=0.02)
        assert len(shown.unique()) == WORDS

    def test_training_sees_words_and_evaluation_does_not(self) -> None:
        model, (ids, mask) = text_decoder(5, masking="mixed"), texts()
        content, table = drawn(3, 3, WIDTH), drawn(WORDS, 5, seed=3)
        hidden = model(content, ids, mask, table, generator())
        assert hidden.item() == model(content, ids, mask, table, generator(1)).item()
        model.train()
        seen = [model(content, ids, mask, table, generator(seed)).item() for seed in (1, 1, *range(2, 20))]
        assert seen[0] == seen[1] and len(set(seen)) > 8

    def test_every_weight_is_trained(self) -> None:
        model, (ids, mask) = text_decoder(5, masking="mixed"), texts()
        model.train()(drawn(3, 3, WIDTH), ids, mask, drawn(WORDS, 5), generator()).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_large_vocabularies_part_by_part_give_the_same_loss_and_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids, mask = texts()
    results = []
    for at_once in (1 << 26, 3 * WORDS):  # all ten words at once, or three
        monkeypatch.setattr(decoders, "_LOGITS_AT_ONCE", at_once)
        model, table = text_decoder(5, reduction="code"), drawn(WORDS, 5, seed=3).requires_grad_()
        content = drawn(3, 3, WIDTH).requires_grad_()
        loss = model(content, ids, mask, table)
        loss.backward()
        results.append([loss, content.grad, table.grad, *(p.grad for p in model.parameters())])
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-6)


def test_a_batch_without_words_is_a_zero_that_reaches_every_weight() -> None:
    model = text_decoder(5)
    ids, mask = texts()
    loss = model(drawn(3, 3, WIDTH), ids, torch.zeros_like(mask), drawn(WORDS, 5))
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_text_longer_than_the_positions_is_refused_with_the_key() -> None:
    with pytest.raises(ValueError, match=r"7 tokens is longer than decoder\.text_places = 6"):
        text_decoder()(
            drawn(1, 3, WIDTH),
            torch.zeros(1, 7, dtype=torch.int64),
            torch.ones(1, 7, dtype=torch.bool),
            drawn(WORDS, WIDTH),
        )


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"decoder\.heads is 3, which does not divide the width 8"):
        BidirectionalLayer(8, DecoderConfig(heads=3))


@pytest.mark.parametrize("levels", [1, 3])
def test_word_scores_are_the_log_of_the_mean_probability_over_places(levels: int) -> None:
    model = text_decoder(5)
    content, table = drawn(4, levels, WIDTH), drawn(WORDS, 5, seed=3)
    scores = model.word_scores(content, table, places=4)
    logits = model.up(model.places(content, 4)) @ table.T + model.bias
    torch.testing.assert_close(scores.exp(), logits.softmax(-1).mean(dim=1))
    assert scores.shape == (4, WORDS)
    assert model.word_scores(content[:0], table).shape == (0, WORDS)


def test_codes_come_to_tell_their_words() -> None:
    """Two items with other codes and other words: after training each one's words score highest."""
    model = text_decoder().train()
    content, table = drawn(2, 3, WIDTH), drawn(WORDS, WIDTH, seed=3)
    ids = torch.tensor([[1, 2, 1, 2, 1, 2], [5, 5, 6, 6, 5, 6]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        model(content, ids, mask, table).backward()
        optimizer.step()
    best = model.word_scores(content, table, places=6).topk(2).indices
    assert [sorted(row) for row in best.tolist()] == [[1, 2], [5, 6]]


class TestVision:
    def test_items_without_a_picture_do_not_count(self) -> None:
        model = vision_decoder()
        content, patches = drawn(3, 3, WIDTH), drawn(3, 4, 3, seed=1)
        has = torch.tensor([True, False, True])
        loss = model(content, patches, has, generator())
        assert loss.item() > 0
        assert loss.item() == model(content, patches * has[:, None, None], has, generator()).item()
        alone = model(content[has], patches[has], has[has], generator())
        assert loss.item() == pytest.approx(alone.item(), rel=1e-6)

    def test_no_picture_in_the_batch_is_a_zero_that_reaches_every_weight(self) -> None:
        model = vision_decoder().train()
        content = drawn(3, 3, WIDTH).requires_grad_()
        loss = model(content, torch.zeros(3, 4, 3), torch.zeros(3, dtype=torch.bool))
        loss.backward()
        assert loss.item() == 0.0
        assert content.grad is not None and not content.grad.any()
        assert all(p.grad is not None and not p.grad.any() for p in model.parameters())

    def test_pictures_reach_codes_through_the_decoder(self) -> None:
        model = vision_decoder().train()
        content = drawn(3, 2, WIDTH).requires_grad_()
        model(content, drawn(3, 4, 3), torch.tensor([True, False, True]), generator()).backward()
        moved = content.grad.abs().sum(dim=(1, 2)) > 0
        assert moved.tolist() == [True, False, True]

    @pytest.mark.parametrize("levels", [1, 3])
    def test_pictures_are_drawn_for_any_prefix_from_the_generator(self, levels: int) -> None:
        model = vision_decoder()
        content = drawn(2, levels, WIDTH)
        first, again, other = (model.sample(content, generator(seed)) for seed in (0, 0, 1))
        assert first.shape == (2, 4, 3) and torch.isfinite(first).all()
        assert torch.equal(first, again) and not torch.equal(first, other)
