"""The whole tokenizer around a toy encoder: objective, ablations, warm-up, transfer, decoding."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from genrec_lab.losses import co_occurrence_alignment_loss
from genrec_lab.models.tokenizers.content_decoders import DecoderConfig
from genrec_lab.models.tokenizers.diffusion import DiffusionConfig
from genrec_lab.models.tokenizers.tree_network import TreeNetwork, TreeTokenizerConfig
from genrec_lab.models.tokenizers.tree_quantizer import TreeQuantizerConfig

LEVELS, WORDS, TOKENS, CHANNELS = 3, 13, 4, 12
CONFIG = TreeTokenizerConfig(
    quantizer=TreeQuantizerConfig(root_size=6, leaf_size=9, dimension=4),
    decoder=DecoderConfig(heads=2, expansion=2, text_places=8),
    diffusion=DiffusionConfig(width=16, depth=1, steps=20, sampling_steps=4, repeats=2),
    adapter_hidden=10,
    adapter_dropout=0.0,
)


class ToyPictures:
    """Pictures of 4 px in four patches of 2 px, from -1..1 to about 0..1 (and beyond)."""

    tokens, channels = TOKENS, CHANNELS

    def to_images(self, tokens: Tensor) -> Tensor:
        cut = tokens.reshape(-1, 2, 2, 3, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, 4, 4)
        return 2 * cut + 0.5


class ToyEncoder(nn.Module):
    """A frozen layer, a trained one, and a buffer; counts how often it is asked."""

    def __init__(self, levels: int = LEVELS, dimension: int = 8, words: int = WORDS, seed: int = 0) -> None:
        super().__init__()
        self.levels, self.dimension, self.picture = levels, dimension, ToyPictures()
        draw = torch.Generator().manual_seed(seed)
        self.backbone = nn.Parameter(
            torch.randn(5, 6, generator=torch.Generator().manual_seed(99)), requires_grad=False
        )
        self.trained = nn.Parameter(0.5 * torch.randn(6, levels * dimension, generator=draw))
        self.register_buffer("words", torch.randn(words, 7, generator=draw))
        self.calls = 0

    def word_table(self) -> Tensor:
        return self.words

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        self.calls += 1
        states = torch.tanh(batch["encoder_features"] @ self.backbone) @ self.trained
        return states.unflatten(-1, (self.levels, self.dimension))


def items(batch: int = 6, seed: int = 0, pictures: bool = True) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(5) < torch.randint(1, 6, (batch, 1), generator=draw)
    has = (torch.rand(batch, generator=draw) < 0.7) & pictures
    has[0] = pictures
    patches = torch.rand(batch, TOKENS, CHANNELS, generator=draw) * 2 - 1
    return {
        "text_ids": torch.randint(WORDS, (batch, 5), generator=draw) * mask,
        "text_mask": mask,
        "patches": patches * has[:, None, None],
        "has_picture": has,
        "encoder_features": torch.randn(batch, 5, generator=draw),
    }


def tokenizer(seed: int = 0, encoder: nn.Module | None = None, **changes: object) -> TreeNetwork:
    config = CONFIG.model_copy(update=dict(changes))
    return TreeNetwork(encoder or ToyEncoder(), config, torch.Generator().manual_seed(seed)).eval()


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def train(model: TreeNetwork, steps: int, pictures: bool = True) -> list[float]:
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    losses = []
    for step in range(steps):
        loss = model(items(pictures=pictures), items(seed=1, pictures=pictures), generator=draw(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def rows(batch: dict[str, Tensor], which: slice | list[int]) -> dict[str, Tensor]:
    return {name: tensor[which] for name, tensor in batch.items()}


class TestObjective:
    def test_it_is_eq_13_of_its_parts(self) -> None:
        model = tokenizer()
        loss = model(items(), items(seed=1), generator=draw())
        part = {name: value.item() for name, value in model.parts.items()}
        assert all(value > 0 for value in part.values()), part
        raw = part["text"] + 3 * part["picture"]
        neighbour = part["neighbour_text"] + 3 * part["neighbour_picture"]
        expected = raw + 200 * part["code"] + 0.01 * part["alignment"] + 0.03 * neighbour
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        assert not any(value.requires_grad for value in model.parts.values())

    def test_each_part_is_what_its_module_gives(self) -> None:
        model, mine, other = tokenizer(), items(), items(seed=1)
        model(mine, other, generator=(shared := draw()))
        h, h_2 = model.encoder(mine), model.encoder(other)
        quantized = model.quantizer(model.adapter(h))
        seen, table, again = model.projection(quantized.vectors), model.encoder.words, draw()
        expected = {"code": quantized.loss, "alignment": co_occurrence_alignment_loss(h, h_2, 0.1)}
        for name, batch in (("", mine), ("neighbour_", other)):
            expected[f"{name}text"] = model.text(seen, batch["text_ids"], batch["text_mask"], table, again)
            expected[f"{name}picture"] = model.vision(seen, batch["patches"], batch["has_picture"], again)
        assert set(expected) == set(model.parts)
        for name, value in expected.items():
            assert model.parts[name].item() == pytest.approx(value.item(), rel=1e-5), name
        assert torch.equal(shared.get_state(), again.get_state())

    def test_alignment_on_the_adapted_vectors_is_a_mean_of_levels_in_the_published_code(self) -> None:
        model = tokenizer(alignment_on="adapted", alignment_reduction="code")
        model(items(), items(seed=1))
        a, b = (model.adapter(model.encoder(batch)) for batch in (items(), items(seed=1)))
        expected = co_occurrence_alignment_loss(a, b, 0.1, "code").item()
        assert model.parts["alignment"].item() == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("masking", ["all", "mixed"])
    def test_it_reaches_every_weight_but_the_frozen_ones(self, masking: str) -> None:
        model = tokenizer(decoder=CONFIG.decoder.model_copy(update={"masking": masking})).train()
        with torch.no_grad():  # the diffusion network's output starts at zero and hides what is before it
            for parameter in model.vision.diffusion.parameters():
                parameter.normal_(0, 0.3, generator=draw(1))
        model(items(), items(seed=1), generator=draw()).backward()
        for name, parameter in model.named_parameters():
            if name == "encoder.backbone":
                assert parameter.grad is None
            else:
                assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name

    def test_a_batch_without_any_picture_is_normal(self) -> None:
        model = tokenizer().train()
        loss = model(items(pictures=False), items(seed=1, pictures=False))
        loss.backward()
        assert model.parts["picture"].item() == model.parts["neighbour_picture"].item() == 0.0
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name

    def test_a_batch_of_one(self) -> None:
        model = tokenizer().train()
        loss = model(items(1), items(1, seed=1))
        loss.backward()
        assert torch.isfinite(loss) and model.parts["alignment"].item() == pytest.approx(0.0, abs=1e-6)

    def test_training_lowers_it(self) -> None:
        losses = train(tokenizer(), 60)
        assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


class TestAblations:
    @pytest.mark.parametrize(
        "mu, eta, encoded, decoded",
        [(0.01, 0.03, 2, 2), (0.0, 0.03, 1, 2), (0.01, 0.0, 2, 1), (0.0, 0.0, 1, 1)],
    )
    def test_what_no_weight_asks_for_is_not_computed(
        self, monkeypatch: pytest.MonkeyPatch, mu: float, eta: float, encoded: int, decoded: int
    ) -> None:
        model, calls = tokenizer(mu=mu, eta=eta), SimpleNamespace(text=0)
        forward = model.text.forward

        def counted(*arguments: object) -> Tensor:
            calls.text += 1
            return forward(*arguments)

        monkeypatch.setattr(model.text, "forward", counted)
        model(items(), items(seed=1))
        assert (model.encoder.calls, calls.text) == (encoded, decoded)
        assert (model.parts["alignment"].item() > 0) is (mu > 0)
        assert (model.parts["neighbour_text"].item() > 0) is (eta > 0)

    def test_neighbours_may_be_left_out_only_where_nothing_needs_them(self) -> None:
        assert tokenizer(mu=0.0, eta=0.0)(items()).item() > 0
        with pytest.raises(ValueError, match=r"no neighbours were given, but tokenizer\.mu = 0\.0 .* 0\.03"):
            tokenizer(mu=0.0)(items())

    def test_plain_levels_train_too(self) -> None:
        plain = CONFIG.quantizer.model_copy(update={"structure": "levels"})
        losses = train(tokenizer(quantizer=plain), 40)
        assert np.mean(losses[-5:]) < np.mean(losses[:5])


class TestWarmUp:
    def test_it_passes_continuous_vectors_and_no_code_loss_for_so_many_training_batches(self) -> None:
        model = tokenizer(warm_up_steps=2, mu=0.0, eta=0.0).train()
        codes = []
        for step in range(3):
            loss = model(items(), generator=draw(step))
            loss.backward()
            codes.append(model.parts["code"].item())
        assert codes[:2] == [0.0, 0.0] and codes[2] > 0
        assert int(model.steps) == 3
        assert all(book.matrix.grad is not None for book in model.quantizer.books)

    def test_the_decoders_see_the_adapters_vectors_in_it(self) -> None:
        model = tokenizer(warm_up_steps=1, mu=0.0, eta=0.0).train()
        batch = items()
        model(batch, generator=draw())
        seen = model.projection(model.adapter(model.encoder(batch)))
        expected = model.text(seen, batch["text_ids"], batch["text_mask"], model.encoder.words)
        assert model.parts["text"].item() == pytest.approx(expected.item(), rel=1e-5)

    def test_evaluation_neither_advances_nor_sees_it(self) -> None:
        model, without = tokenizer(warm_up_steps=5), tokenizer()
        for _ in range(3):
            loss = model(items(), items(seed=1), generator=draw())
        assert int(model.steps) == 0
        assert loss.item() == without(items(), items(seed=1), generator=draw()).item()
        np.testing.assert_array_equal(model.tokenize([items()]).codes, without.tokenize([items()]).codes)

    def test_it_goes_on_where_a_file_left_it(self, tmp_path: Path) -> None:
        model = tokenizer(warm_up_steps=5)
        train(model, 3)
        model.save(tmp_path)
        assert int(TreeNetwork.load(tmp_path, ToyEncoder()).steps) == 3

    def test_transfer_has_none(self) -> None:
        model = tokenizer(warm_up_steps=300)
        model.freeze_for_transfer()
        model.train()(items(), items(seed=1))
        assert model.parts["code"].item() > 0


class TestTokenize:
    def test_batches_do_not_matter_and_the_parts_belong_together(self) -> None:
        model, catalogue = tokenizer().train(), items(20)
        whole = model.tokenize([catalogue])
        split = model.tokenize(rows(catalogue, slice(start, start + 7)) for start in (0, 7, 14))
        assert model.training
        np.testing.assert_array_equal(whole.codes, split.codes)
        for a, b in zip(whole[1:3], split[1:3], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
        assert split.loss == pytest.approx(whole.loss, rel=1e-5)
        assert whole.codes.shape == (20, 3) and whole.codes.dtype == np.int64
        content = model.eval()._encode(catalogue)[1].detach().numpy()
        np.testing.assert_allclose(whole.residuals.cumsum(axis=1), content, atol=1e-5)
        restored = model.quantizer.from_codes(torch.from_numpy(whole.codes)).detach().numpy()
        np.testing.assert_allclose(whole.vectors, restored, atol=1e-6)

    def test_no_batch_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="no batch of items"):
            tokenizer().tokenize([])

    def test_content_that_is_not_finite_names_the_item(self) -> None:
        bad = items(4)
        bad["encoder_features"][2] = torch.nan
        with pytest.raises(ValueError, match=r"item 8 \(and 0 more"):
            tokenizer().tokenize([items(6), bad])


class TestPlacing:
    def placed(self, warm_up_steps: int) -> TreeNetwork:
        quantizer = CONFIG.quantizer.model_copy(update={"kmeans_start": True})
        return tokenizer(quantizer=quantizer, warm_up_steps=warm_up_steps)

    def test_codewords_are_placed_on_what_the_warm_up_has_learnt(self) -> None:
        model, plain = self.placed(3), tokenizer(warm_up_steps=3)
        train(model, 3)
        before = model.quantizer.codebooks()[0].detach().clone()
        train(model, 1)
        assert not torch.equal(model.quantizer.codebooks()[0], before)
        train(plain, 4)
        catalogue = items(6)  # what it was trained on
        assert model.tokenize([catalogue]).loss < 0.5 * plain.tokenize([catalogue]).loss

    def test_they_are_placed_once_and_not_by_evaluation(self) -> None:
        model = self.placed(2)
        train(model, 2)
        model.tokenize([items(6)])
        assert not model.is_placed
        train(model, 1)
        assert model.is_placed
        with torch.no_grad():
            marked = model.quantizer.books[0].matrix.add_(100.0).clone()
        train(model, 1)
        assert (model.quantizer.books[0].matrix - marked).abs().max() < 1

    def test_fine_tuning_keeps_the_codewords(self) -> None:
        model = self.placed(50)
        train(model, 2)
        before = [book.matrix.detach().clone() for book in model.quantizer.books]
        model.freeze_for_transfer()
        train(model, 2)
        assert all(torch.equal(b.matrix, old) for b, old in zip(model.quantizer.books, before, strict=True))

    def test_a_file_holds_no_content(self, tmp_path: Path) -> None:
        model = self.placed(5)
        train(model, 1)
        model.save(tmp_path)
        assert "seen" not in load_file(tmp_path / "model.safetensors")


class TestStandardised:
    def test_what_is_quantised_has_mean_0_and_variance_1(self) -> None:
        model = tokenizer(standardise=True).train()
        found: list[Tensor] = []
        model.quantizer.register_forward_pre_hook(lambda _, given: found.append(given[0].detach()))
        model(items(64), items(64, seed=1))
        content = found[0].double()
        torch.testing.assert_close(content.mean(dim=0), torch.zeros(LEVELS, 4).double(), atol=1e-5, rtol=0)
        variance = content.var(dim=0, unbiased=False)
        torch.testing.assert_close(variance, torch.ones(LEVELS, 4).double(), atol=0.02, rtol=0)

    def test_an_item_has_the_same_codes_in_whatever_batch(self) -> None:
        model, catalogue = tokenizer(standardise=True), items(6)
        train(model, 20)
        whole = model.tokenize([catalogue]).codes
        parts = model.tokenize([rows(catalogue, slice(i, i + 1)) for i in range(6)]).codes
        np.testing.assert_array_equal(whole, parts)

    def test_a_batch_of_one_trains(self) -> None:
        model = tokenizer(standardise=True).train()
        loss = model(items(1), items(1, seed=1))
        loss.backward()
        assert loss.isfinite()

    def test_the_measure_is_saved(self, tmp_path: Path) -> None:
        model = tokenizer(standardise=True)
        train(model, 5)
        model.save(tmp_path)
        loaded = TreeNetwork.load(tmp_path, ToyEncoder())
        np.testing.assert_array_equal(loaded.tokenize([items()]).codes, model.tokenize([items()]).codes)


class TestTransfer:
    @pytest.mark.parametrize("full", [False, True])
    def test_matrices_are_fixed_and_everything_else_moves(self, full: bool) -> None:
        model = tokenizer()
        train(model, 5)
        model.freeze_for_transfer(full=full)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        train(model, 2)
        moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        matrices = {"quantizer.books.0.matrix", "quantizer.books.1.matrix"}
        assert matrices <= set(before)
        assert moved == set(before) - {"encoder.backbone"} - (set() if full else matrices)

    def test_another_catalogues_words_start_with_a_new_bias(self) -> None:
        model = tokenizer()
        train(model, 3)
        assert model.text.bias.abs().sum() > 0
        model.encoder.words = torch.randn(20, 7)
        model.take_vocabulary()
        assert model.text.bias.shape == (20,) and not model.text.bias.any()
        assert model.decode_words(torch.tensor([[0, 1]])).shape == (1, 20)


class TestWhatACodeMeans:
    @pytest.mark.parametrize("levels", [1, 2, 3])
    def test_words_of_any_prefix(self, levels: int) -> None:
        model = tokenizer().train()
        prefix = torch.zeros(2, levels, dtype=torch.int64)
        scores = model.decode_words(prefix)
        assert scores.shape == (2, WORDS) and not scores.requires_grad
        assert (scores < 0).all() and torch.equal(scores[0], scores[1])
        expected = model.text.word_scores(
            model.projection(model.quantizer.from_codes(prefix)), model.encoder.words
        )
        torch.testing.assert_close(scores, expected)

    @pytest.mark.parametrize("levels", [1, 3])
    def test_pictures_of_any_prefix_lie_in_0_to_1_and_come_from_the_generator(self, levels: int) -> None:
        model = tokenizer()
        train(model, 2)
        prefix = torch.tensor([[1, 2, 3], [4, 5, 6]])[:, :levels]
        first, again, other = (model.decode_pictures(prefix, draw(seed)) for seed in (0, 0, 1))
        assert first.shape == (2, 3, 4, 4)
        assert first.min() >= 0 and first.max() <= 1
        assert torch.equal(first, again) and not torch.equal(first, other)

    def test_a_tokenizer_that_saw_no_picture_says_so(self) -> None:
        model = tokenizer()
        train(model, 1, pictures=False)
        with pytest.raises(ValueError, match="was trained without pictures"):
            model.decode_pictures(torch.zeros(1, 1, dtype=torch.int64))

    def test_codes_come_to_tell_their_items_words(self) -> None:
        """Two kinds of items with words of their own: each kind's codes score its own words highest."""
        batch = items(8)
        kind = torch.arange(8) % 2
        batch["text_mask"] = torch.ones(8, 5, dtype=torch.bool)
        batch["text_ids"] = torch.where(kind[:, None] == 0, 3, 7).expand(8, 5).clone()
        batch["encoder_features"] = (2.0 * kind[:, None] - 1) * torch.ones(8, 5)
        model = tokenizer(mu=0.0, eta=0.0, lambda_code=1.0).train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
        for step in range(80):
            optimizer.zero_grad()
            model(batch, generator=draw(step)).backward()
            optimizer.step()
        codes = torch.from_numpy(model.tokenize([batch]).codes)
        best = model.decode_words(codes).argmax(dim=1)
        assert best.tolist() == [3, 7] * 4


def test_an_encoder_with_other_levels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gives 2 representations .* tokenizer\.quantizer\.levels is 3"):
        tokenizer(encoder=ToyEncoder(levels=2))


def test_the_generator_decides_all_weights_beside_the_encoders() -> None:
    torch.manual_seed(1)
    one = tokenizer(seed=3)
    torch.manual_seed(2)
    again, other = tokenizer(seed=3), tokenizer(seed=4)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not torch.equal(one.projection.weight, other.projection.weight)


def test_codes_under_autocast_are_those_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tokenizer(), items(50)
    content = model.encoder(batch)
    monkeypatch.setattr(model.encoder, "forward", lambda batch: content)
    model(batch, batch)
    plain = model.parts
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(batch, batch)
    # The decoders may compute in bfloat16; what is quantised and aligned must not.
    assert model.parts["code"].item() == plain["code"].item()
    assert model.parts["alignment"].item() == plain["alignment"].item()
    assert loss.dtype == torch.float32
