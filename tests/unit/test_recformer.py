"""RecFormer: what its encoder reads of an item and a history, its two stages, its losses, its files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from genrec_lab.models.recommenders.base import TrainingData
from genrec_lab.models.sequential.base import DomainItems
from genrec_lab.models.sequential.batches import DrawnPrefixes
from genrec_lab.models.sequential.longformer import KEY, START, VALUE, ItemLanguage, key_values
from genrec_lab.models.sequential.recformer import RecFormer, RecFormerConfig
from genrec_lab.training import TrainingConfig, fit
from tests.unit.test_content_models import ITEMS, SEQUENCES, domain_of

SIZES: dict[str, Any] = {
    "width": 32,
    "layers": 1,
    "feed_forward": 32,
    "dropout": 0.0,
    "vocabulary": 320,
    "window": 16,
    "max_history": 5,
}


def recformer(**changes: Any) -> RecFormer:
    torch.manual_seed(0)
    return RecFormer(RecFormerConfig.model_validate({**SIZES, **changes})).build(domain_of())


class _Letters:
    """A tokenizer of which every letter is a token, so that ids can be counted by hand."""

    bos_token_id, pad_token_id, mask_token_id = 1, 0, 2

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(letter) for letter in text.strip()]}


# --- text


def test_keys_and_values_are_the_title_and_the_first_attributes_that_are_not_empty() -> None:
    items = pl.DataFrame(
        {
            "title": ["Lamp", "", ""],
            "text": ["Lamp Acme", "only this", "x"],
            "key": ["a", "b", "c"],
            "description": ["long prose", "long", ""],
            "brand": ["Acme", None, None],
            "categories": ["Home,Light", "", "Home"],
            "size": [3.0, None, None],
        }
    )
    assert key_values(items, 3) == [
        [("title", "Lamp"), ("brand", "Acme"), ("categories", "Home,Light")],
        [("text", "only this")],
        [("categories", "Home")],
    ]
    assert key_values(items, 9)[0][-1] == ("size", "3")


def test_item_positions_count_from_the_newest_item_and_kinds_tell_keys_from_values() -> None:
    language = ItemLanguage(_Letters())
    items = pl.DataFrame({"title": ["ab", "c"], "brand": ["", "de"], "text": ["ab", "c de"]})
    written = language.of_items(items, most=3, tokens=6)
    # "title" has five letters: of its value only one fits into six tokens.
    assert [chr(i) for i in written[0][0]] == list("titlea")
    assert written[0][1].tolist() == [KEY] * 5 + [VALUE]
    assert [chr(i) for i in written[1][0]] == [*"titlec", *"brandd"]
    tokens = language.batch(written, [[0, 1, 0], [1]], max_tokens=100, multiple=4)
    assert tokens.ids.shape == (2, 28)  # 1 + 6 + 12 + 6 = 25, and up to a multiple of 4
    assert tokens.items[0].tolist() == [0] + [1] * 6 + [2] * 12 + [3] * 6 + [0] * 3
    assert tokens.items[1].tolist() == [0] + [1] * 12 + [0] * 15
    assert tokens.kinds[0, :7].tolist() == [START] + [KEY] * 5 + [VALUE]
    assert tokens.ids[0, 0] == 1
    assert "".join(chr(i) for i in tokens.ids[0, 7:19]) == "titlecbrandd"
    assert tokens.real.sum(1).tolist() == [25, 13]
    assert not tokens.ids[~tokens.real].any()


def test_what_is_too_long_is_cut_at_the_old_end() -> None:
    language = ItemLanguage(_Letters())
    items = pl.DataFrame({"title": ["old", "new"], "text": ["old", "new"]})
    tokens = language.batch(language.of_items(items, 1, 32), [[0, 1]], max_tokens=12, multiple=2)
    assert "".join(chr(i) for i in tokens.ids[0, 1:]) == "titlenewtit"
    assert tokens.items[0].tolist() == [0] + [1] * 8 + [2] * 3


def test_the_tokenizer_writes_any_text_and_is_read_as_it_was_written(tmp_path: Path) -> None:
    language = ItemLanguage.learnt(domain_of().words, most=3, vocabulary=320)
    language.write(tmp_path)
    text = "Elm bowl, 木の皿 🥣"
    ids = ItemLanguage.read(tmp_path)._ids(text)
    assert ids == language._ids(text)
    assert language.tokenizer.decode(ids).strip() == text
    assert len(language.tokenizer) <= 320


# --- prefixes


def test_prefix_batches_take_all_targets_or_draw_some() -> None:
    sequences = [[3, 4, 8, 10, 11, 17, 20], [23], [4, 3]]
    taken = [row for batch in DrawnPrefixes(ITEMS, sequences, 4, 3)(0, 0) for row in rows_of(batch)]
    whole = [(s[max(0, i - 3) : i], s[i]) for s in sequences for i in range(1, len(s))]
    assert sorted(taken) == sorted(whole)
    drawing = DrawnPrefixes(ITEMS, sequences, 4, 3, per_sequence=1, later_half=True)
    drawn = [row for epoch in range(40) for batch in drawing(epoch, 0) for row in rows_of(batch)]
    assert len(drawn) == 80
    assert {target for _, target in drawn} == {10, 11, 17, 20, 3}  # none of the first half of the long one
    assert len(drawing) == 1
    assert all(row in whole for row in drawn)


def test_random_weights_tell_items_apart(monkeypatch) -> None:
    """The start token carries the text: cosines of any two items are not all but 1, as BERT starts them."""

    def room() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            vectors = torch.nn.functional.normalize(recformer(width=64).eval().item_vectors(), dim=-1)
        cosines = vectors @ vectors.T
        return 1 - cosines[~torch.eye(len(cosines), dtype=torch.bool)].mean().item()

    ours = room()
    monkeypatch.setattr(
        "genrec_lab.models.sequential.longformer._start_reading", lambda longformer: longformer
    )
    assert ours > 5 * room()


def rows_of(batch: dict[str, torch.Tensor]) -> list[tuple[list[int], int]]:
    histories = [ITEMS[[p for p in row if p >= 0]].tolist() for row in batch["sequences"].tolist()]
    return list(zip(histories, ITEMS[batch["wanted"].numpy()].tolist(), strict=True))


# --- the network and its losses


def test_only_order_and_text_tell_histories_apart() -> None:
    """The state of a history is that of its text: equal items at other indices are read alike."""
    twins = domain_of().words.with_columns(pl.lit("Elm bowl").alias("title"), pl.lit("x").alias("brand"))
    twins = twins.with_columns(pl.lit("y").alias("categories"))
    torch.manual_seed(0)
    model = RecFormer(RecFormerConfig.model_validate(SIZES)).build(DomainItems(ITEMS, words=twins)).eval()
    with torch.no_grad():
        vectors = model.item_vectors()
    torch.testing.assert_close(vectors, vectors[:1].expand_as(vectors))
    scores = model.score([[3, 4], [8, 23]])
    np.testing.assert_allclose(scores, -math.log(8), atol=1e-4)


def test_items_are_encoded_alike_in_any_batch_and_beside_longer_ones(monkeypatch) -> None:
    model = recformer().eval()
    with torch.no_grad():
        all_at_once = model.item_vectors()
        monkeypatch.setattr("genrec_lab.models.sequential.recformer._TOKENS_TOGETHER", 1)
        torch.testing.assert_close(model.item_vectors(), all_at_once, atol=1e-5, rtol=1e-5)


def test_masked_tokens_are_told_from_what_is_left() -> None:
    """With the seed fixed, the loss is the cross-entropy at the chosen places of the text with masks."""
    model = recformer(mask_share=0.4).eval()
    tokens = model.tokens([[0, 3], [5]])
    with torch.no_grad():
        torch.manual_seed(4)
        loss = model.masked_loss([tokens]).item()
        torch.manual_seed(4)
        chosen = torch.rand(tokens.ids.shape) < 0.4
        fate = torch.rand(tokens.ids.shape)
        anything = torch.randint_like(tokens.ids, len(model.language.tokenizer))
        ids, places = tokens.ids.clone(), []
        for row in range(2):
            for place in range(1, tokens.ids.shape[1]):
                if chosen[row, place] and tokens.real[row, place]:
                    places.append((row, place))
                    if fate[row, place] < 0.8:
                        ids[row, place] = model.language.tokenizer.mask_token_id
                    elif fate[row, place] >= 0.9:
                        ids[row, place] = anything[row, place]
        states = model.states(tokens._replace(ids=ids))
        table = model.longformer.get_input_embeddings().weight
        told = [(model.head(states[place]) @ table.T + model.head_bias).log_softmax(-1) for place in places]
        expected = -sum(float(p[tokens.ids[at]]) for p, at in zip(told, places, strict=True)) / len(places)
    assert len(places) > 5
    assert loss == pytest.approx(expected, rel=1e-4)


def test_no_masked_token_is_no_loss() -> None:
    model = recformer(mask_share=0.0)
    loss = model.masked_loss([model.tokens([[0]])])
    loss.backward()
    assert loss.item() == 0


def test_pretraining_adds_the_masked_losses_of_both_sides_to_the_contrast() -> None:
    model = recformer(mask_weight=0.0).eval()
    model.begin("pretraining")
    batch = {"sequences": torch.tensor([[0, 1, 2], [3, -1, -1]]), "wanted": torch.tensor([4, 5])}
    with torch.no_grad():
        a = torch.stack([model.states(model.tokens([h]))[0, 0] for h in ([0, 1, 2], [3])])
        b = torch.stack([model.states(model.tokens([[i]]))[0, 0] for i in (4, 5)])
        cosine = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1) / 0.05
        contrast = -cosine.log_softmax(-1).diagonal().mean().item()
        assert model(**batch).item() == pytest.approx(contrast, rel=1e-3)
        masked = recformer(mask_weight=0.5).eval()
        masked.load_state_dict(model.state_dict())
        masked.begin("pretraining")
        torch.manual_seed(2)
        loss = masked(**batch).item()
        torch.manual_seed(2)
        read = [
            sorted(h, key=lambda one: int(masked.tokens([one]).real.sum()))
            for h in ([[3], [0, 1, 2]], [[4], [5]])
        ]
        parts = [masked.masked_loss([masked.tokens(histories)]).item() for histories in read]
    assert loss == pytest.approx(contrast + 0.5 * sum(parts), rel=1e-3)


# --- stages


def test_items_are_read_anew_each_epoch_of_the_first_stage_and_fixed_in_the_second() -> None:
    model = recformer(prefixes=None)
    once = TrainingConfig(epochs=1, batch_size=4, learning_rate=1e-2, schedule="constant", precision="fp32")
    model.begin("moving items")
    batches = model.batches(SEQUENCES, [0, 1, 2, 3], 4)
    fit(model, batches, once)
    with torch.no_grad():
        moved = model.eval().item_vectors()
    assert not torch.allclose(model.table, moved, atol=1e-4)
    next(iter(batches(1, 0)))  # the next epoch begins
    torch.testing.assert_close(model.table, moved)
    model.begin("fixed items")
    fixed = model.table.clone()
    fit(model, model.batches(SEQUENCES, [0, 1, 2, 3], 4), once)
    torch.testing.assert_close(model.table, fixed, atol=0, rtol=0)


def test_scores_of_the_first_stage_use_the_items_of_the_moment() -> None:
    model = recformer().eval()
    model.begin("moving items")
    before = model.score([[3, 4]])
    with torch.no_grad():
        model.longformer.get_input_embeddings().weight.mul_(-1.0)
        moved = model.item_vectors()
        state = model.states(model.tokens([[0, 1]]))[0, 0]
        expected = torch.nn.functional.cosine_similarity(state[None], moved, dim=-1) / 0.05
    np.testing.assert_allclose(model.score([[3, 4]])[0], expected.log_softmax(-1).numpy(), atol=1e-4)
    assert np.abs(model.score([[3, 4]]) - before).max() > 1e-3
    ranked = model.recommend([[3, 4]], 8)
    np.testing.assert_allclose(np.sort(ranked.scores[0]), np.sort(model.score([[3, 4]])[0]), atol=1e-5)


def test_it_learns_what_follows_what() -> None:
    sizes = {"max_attributes": 1, "prefixes": None, "mask_weight": 0.0}
    training = TrainingConfig(
        epochs=40, batch_size=16, learning_rate=3e-3, schedule="constant", precision="fp32"
    )
    pretrained, model = recformer(**sizes), recformer(**sizes)
    pretrained.begin("pretraining")
    fit(pretrained, pretrained.batches(SEQUENCES, [0, 1, 2, 3], 16), training)
    model.start_from(pretrained)
    for phase, epochs in (("moving items", 3), ("fixed items", 20)):
        model.begin(phase)
        brief = training.model_copy(update={"epochs": epochs, "learning_rate": 1e-3})
        fit(model, model.batches(SEQUENCES, [0, 1, 2, 3], 16), brief)
    after = {s[i]: s[i + 1] for s in SEQUENCES for i in range(len(s) - 1)}
    ranked = model.recommend([sequence[:-1] for sequence in SEQUENCES], 1).items[:, 0]
    assert ranked.tolist() == [after[sequence[-2]] for sequence in SEQUENCES]


def test_a_second_stage_that_only_harms_leaves_the_weights_of_the_first() -> None:
    domain = domain_of()
    sequences = pl.DataFrame({"user": range(4), "domain": "x", "items": [s[:-1] for s in SEQUENCES]})
    held_out = zip(range(4), ["x"] * 4, [s[:-1] for s in SEQUENCES], [s[-1] for s in SEQUENCES], strict=True)
    valid = pl.DataFrame(list(held_out), schema=["user", "domain", "history", "target"], orient="row")
    items = domain.words.with_columns(item=pl.Series(domain.items), domain=pl.lit("x"))
    budget = TrainingConfig(epochs=3, batch_size=4, learning_rate=1e-2, precision="fp32")

    class Harmed(RecFormer):
        def begin(self, phase: str) -> None:
            super().begin(phase)
            self.harmful = phase == "fixed items"

        def forward(self, sequences: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            return super().forward(sequences, wanted) * (-1 if self.harmful else 1)

    model = Harmed(RecFormerConfig.model_validate({**SIZES, "mask_weight": 0.0, "prefixes": None}))
    model.fit(TrainingData(items, sequences, valid), training=budget, pretraining=budget)
    first, second = model.results_["moving items"], model.results_["fixed items"]
    assert second.best_value is not None and first.best_value is not None
    assert second.best_value >= first.best_value
    assert [record.epoch for record in second.history] == [0, 1, 2, 3]
    assert second.history[0].metrics["ndcg@10"] == first.best_value


def test_a_new_domain_is_written_in_the_tokens_of_pretraining() -> None:
    source = recformer()
    assert source.written
    other = domain_of(np.array([30, 31, 35]), seed=3)
    target = RecFormer(RecFormerConfig.model_validate(SIZES)).build(other)
    target.start_from(source)
    assert target.language is source.language
    assert target.score([[30]]).shape == (1, 3)


# --- a released encoder, files, errors


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Longformer with random weights in a folder, as a released one is."""
    from transformers import LongformerConfig, LongformerForMaskedLM

    folder = tmp_path_factory.mktemp("longformer")
    ItemLanguage.learnt(domain_of().words, 3, 320).write(folder)
    sizes = LongformerConfig(
        vocab_size=320,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        attention_window=512,
        max_position_embeddings=300,
        pad_token_id=0,
    )
    torch.manual_seed(1)
    LongformerForMaskedLM(sizes).save_pretrained(folder)
    return folder


def test_a_released_encoder_gives_weights_tokens_and_sizes(released: Path, tmp_path: Path) -> None:
    from transformers import LongformerModel

    model = recformer(encoder=str(released), max_tokens=64)
    assert model.longformer.config.attention_window == [16, 16]
    theirs = LongformerModel.from_pretrained(released).state_dict()
    ours = model.longformer.state_dict()
    assert len(ours) > 20
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], atol=0, rtol=0)
    scores = model.score([[3, 4]])
    assert scores.shape == (1, 8)
    # What was saved does not ask for the released folder again.
    folder = model.save(tmp_path / "model")
    config = (folder / "config.json").read_text().replace(str(released), "/nowhere")
    (folder / "config.json").write_text(config)
    np.testing.assert_array_equal(RecFormer.load(folder).score([[3, 4]]), scores)


def test_what_is_no_longformer_is_refused_with_the_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"recformer\.encoder is .*neither a folder with a Longformer"):
        recformer(encoder=str(tmp_path))
    with pytest.raises(ValueError, match=r"recformer\.window is 7; expected an even number"):
        recformer(window=7)
    with pytest.raises(ValueError, match=r"recformer\.width is 32, which is not divisible by 5 heads"):
        recformer(heads=5)
