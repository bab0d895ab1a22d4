"""Recommender: inputs, recommendations by domain, files, exchange with transformers, what it refuses."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import T5Config as TheirConfig
from transformers import T5ForConditionalGeneration

from genrec_lab.codes import ItemCodes
from genrec_lab.decoding import Ranked, beam_search
from genrec_lab.models import Recommender, T5Config

SIZES = (4, 5, 3)


@pytest.fixture(scope="module")
def codes(make_codes) -> ItemCodes:
    return make_codes({"a": 20, "b": 9, "c": 1}, SIZES)


@pytest.fixture(scope="module")
def model(codes, make_recommender) -> Recommender:
    return make_recommender(codes, sharpness=3.0)


def assert_equal(one: Ranked, other: Ranked) -> None:
    np.testing.assert_array_equal(one.items, other.items)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


# --- inputs


def test_inputs_are_the_identifiers_oldest_first_and_an_end(make_recommender) -> None:
    # Pad 0, end 1, level 1 from 2 on, level 2 from 5 on.
    model = make_recommender(ItemCodes([[0, 1], [2, 0], [1, 2]], (3, 3)))
    inputs = model.inputs([[1, 0], [2], []])
    assert inputs["input_ids"].tolist() == [[4, 5, 2, 6, 1], [3, 7, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert inputs["input_ids"].dtype == inputs["attention_mask"].dtype == torch.int64


def test_shared_levels_share_tokens(make_recommender) -> None:
    model = make_recommender(ItemCodes([[1, 2, 2]], (2, 3, 3), shared_levels=(1, 2)))
    assert model.inputs([[0]])["input_ids"].tolist() == [[3, 6, 6, 1]]
    assert model.t5.embedding.num_embeddings == 2 + 2 + 3


@pytest.mark.parametrize("kind", [tuple, np.array, torch.tensor])
def test_histories_may_be_any_sequence_of_integers(model, kind) -> None:
    expected = model.inputs([[3, 1], [2]])
    found = model.inputs([kind([3, 1]), kind([2])])
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_nobody_has_empty_inputs(model) -> None:
    assert model.inputs([])["input_ids"].shape == (0, 1)


# --- loss


def test_the_loss_is_the_mean_over_target_tokens(model, force) -> None:
    histories, targets = [[3, 1, 4], [5], [2, 2]], [0, 7, 7]
    padded = torch.tensor([[3, 1, 4], [5, -1, -1], [2, 2, -1]])
    by_force = [
        force(model, history, [target])[0] for history, target in zip(histories, targets, strict=True)
    ]
    with torch.no_grad():
        loss = model(histories=padded, targets=torch.tensor(targets)).item()
        wider = model.pair_loss(F.pad(padded, (0, 6), value=-1), torch.tensor(targets)).item()
    assert loss == pytest.approx(-np.mean(by_force) / len(SIZES), abs=1e-5)
    assert wider == pytest.approx(loss, abs=1e-6)


def test_a_temperature_sharpens_the_loss_and_no_ranking(codes, make_recommender) -> None:
    """Every logit over the temperature in the loss; scores are those of the logits as they are."""
    plain, sharp = (make_recommender(codes, sharpness=3.0) for _ in range(2))
    sharp.temperature = 0.7
    histories, targets = torch.tensor([[3, 1], [2, -1]]), torch.tensor([5, 7])
    tokens, mask = plain._tokens(histories)
    wanted = plain.item_tokens[targets]
    logits = plain.t5(tokens, mask, F.pad(wanted[:, :-1], (1, 0), value=0)).double()
    shares = torch.exp(logits / 0.7) / torch.exp(logits / 0.7).sum(-1, keepdim=True)
    expected = -torch.log(shares.gather(-1, wanted[..., None])).mean()
    assert sharp(histories=histories, targets=targets).item() == pytest.approx(expected.item(), rel=1e-5)
    assert sharp(histories=histories, targets=targets) != plain(histories=histories, targets=targets)
    assert_equal(sharp.recommend([[3, 1]], 5, "a"), plain.recommend([[3, 1]], 5, "a"))


@pytest.fixture
def reading_the_past(model) -> Iterator[Recommender]:
    model.reads_whole = False
    yield model
    model.reads_whole = True


SEQUENCES = [[3, 1, 4, 1], [5, 9], [2, 6, 5]]


def stretches_of(sequences: list[list[int]], width: int = 4) -> torch.Tensor:
    return torch.tensor([items + [-1] * (width - len(items)) for items in sequences])


def scored_alone(model: Recommender, history: list[int], item: int) -> float:
    """Log-probability of an item after a history that is read by itself, a code at a time."""
    memory, codes = model.remember([history]), model.codes.codes[item]
    steps = [
        model.continuations(memory, torch.tensor(codes[None, :level]))[0, codes[level]].item()
        for level in range(len(codes))
    ]
    return sum(steps)


def test_one_pass_learns_each_place_as_its_history_alone_would(reading_the_past) -> None:
    model = reading_the_past
    wanted = [(0, 1), (0, 2), (0, 3), (1, 1), (2, 1), (2, 2)]
    with torch.no_grad():
        alone = [scored_alone(model, SEQUENCES[row][:place], SEQUENCES[row][place]) for row, place in wanted]
    rows, places = torch.tensor(wanted).T
    with torch.no_grad():
        loss = model(rows=rows, places=places, sequences=stretches_of(SEQUENCES)).item()
        wider = model(rows=rows, places=places, sequences=stretches_of(SEQUENCES, width=7)).item()
    assert loss == pytest.approx(-np.mean(alone) / len(SIZES), abs=1e-5)
    assert wider == pytest.approx(loss, abs=1e-6)


def test_one_pass_may_leave_the_first_places_to_be_read_only(reading_the_past) -> None:
    model = reading_the_past
    with torch.no_grad():
        alone = [scored_alone(model, [3, 1], 4), scored_alone(model, [2, 6], 5)]
        loss = model.stretch_loss(torch.tensor([0, 2]), torch.tensor([2, 2]), stretches_of(SEQUENCES))
    assert loss.item() == pytest.approx(-np.mean(alone) / len(SIZES), abs=1e-5)


def test_in_one_pass_no_place_reads_a_later_item(model) -> None:
    rows, places = torch.tensor([0, 0]), torch.tensor([1, 2])
    with torch.no_grad():
        losses = [
            model.stretch_loss(rows, places, torch.tensor([[3, 1, 4, last]])).item() for last in (1, 7, -1)
        ]
        other = model.stretch_loss(rows, places, torch.tensor([[3, 1, 5, 1]])).item()
    assert losses[0] == losses[1] == pytest.approx(losses[2], abs=1e-6)
    assert other != pytest.approx(losses[0], abs=1e-3)


def test_a_recommender_that_reads_the_past_says_so_in_its_files(codes, tmp_path) -> None:
    config = T5Config(d_model=16, d_kv=4, heads=3, d_ff=24, encoder_layers=1, decoder_layers=1, reads="past")
    torch.manual_seed(0)
    model = Recommender(codes, config).eval()
    assert model.inputs([[3, 1], [2]])["input_ids"].shape == (2, 2 * len(SIZES))  # no end token
    read = Recommender.load(model.save(tmp_path / "past"))
    assert_equal(read.recommend([[3, 1, 4]], 3, "a"), model.recommend([[3, 1, 4]], 3, "a"))


@pytest.mark.parametrize("histories", [[[3, 1, 4]], [[3], [1, 4, 1, 5], [9, 2]]])
def test_transformers_reads_the_past_with_equal_logits(codes, histories) -> None:
    config = T5Config(d_model=16, d_kv=4, heads=3, d_ff=24, encoder_layers=2, decoder_layers=2, reads="past")
    torch.manual_seed(0)
    model = Recommender(codes, config).eval()
    theirs, read = model.to_transformers(), model.inputs(histories)
    written = torch.randint(2, codes.vocabulary_size, (len(histories), 4))
    items = torch.arange(read["input_ids"].shape[1]) // codes.levels
    with torch.no_grad():
        ours = model.t5.encode(read["input_ids"], read["attention_mask"], items)
        memory = model.t5.remember(ours, read["attention_mask"])
        logits = theirs(**read, decoder_input_ids=written).logits
        torch.testing.assert_close(logits, model.t5.decode(written[:, None], memory)[:, 0], atol=1e-4, rtol=0)
    again = Recommender.from_transformers(theirs, codes)
    assert_equal(again.recommend(histories, 3, "a"), model.recommend(histories, 3, "a"))
    # generate encodes by itself, and must mask as well
    best = theirs.generate(**read, max_new_tokens=codes.levels, num_beams=1, do_sample=False)[:, 1]
    assert torch.equal(best, logits_of_first(model, histories).argmax(-1))


def logits_of_first(model: Recommender, histories: list[list[int]]) -> torch.Tensor:
    memory = model.remember(histories)
    start = torch.zeros((len(histories), 1), dtype=torch.long)
    return model.t5.step(start, memory)[0][:, 0].detach()


def test_a_whole_history_is_read_otherwise(model) -> None:
    """The two encoders differ, which is why a training in one pass is followed by whole histories."""
    whole = model.recommend([[3, 1, 4]], 3, "a").scores
    model.reads_whole = False
    past = model.recommend([[3, 1, 4]], 3, "a").scores
    model.reads_whole = True
    assert not np.allclose(whole, past, atol=1e-3)


# --- recommending


def test_one_domain_for_all_users(model, codes) -> None:
    histories = [[1, 2, 3], [4], [5, 6, 7, 8]]
    ranked = model.recommend(histories, 5, "b")
    assert set(ranked.items.flatten().tolist()) <= set(codes.domain_items("b").tolist())
    # Users are sorted by length on the way; each gets the own row back.
    assert_equal(ranked, beam_search(model, histories, model.trie("b"), 20, 5))


def test_a_domain_for_each_user(model, codes) -> None:
    histories, domains = [[1, 2, 3], [4], [5, 6], [7]], ["b", "a", "b", "a"]
    ranked = model.recommend(histories, 5, domains)
    for row, domain in enumerate(domains):
        assert set(ranked.items[row].tolist()) <= set(codes.domain_items(domain).tolist())
        assert_equal(Ranked(*(part[[row]] for part in ranked)), model.recommend([histories[row]], 5, domain))


def test_without_a_domain_it_is_that_of_the_history(model, codes) -> None:
    in_a, in_b = codes.domain_items("a"), codes.domain_items("b")
    histories = [[in_b[1], in_b[0]], [in_a[1], in_a[3]], [in_b[2]]]
    assert_equal(model.recommend(histories, 4), model.recommend(histories, 4, ["b", "a", "b"]))
    histories[1] = [in_a[1], in_b[1], in_a[3]]
    with pytest.raises(ValueError, match="history 1 crosses domains: its last item is of a, another of b"):
        model.recommend(histories, 4)
    with pytest.raises(ValueError, match="give the items of each domain as a history of their own, or pass"):
        model.score(histories[1:2])
    assert set(model.recommend(histories, 4, "b").items.ravel()) <= set(in_b)


def test_without_domains_all_items_are_one_catalogue(make_codes, make_recommender) -> None:
    codes = ItemCodes(make_codes({"x": 8}, SIZES).codes, SIZES)
    model = make_recommender(codes)
    ranked = model.recommend([[], [1]], 8)
    assert [sorted(row) for row in ranked.items.tolist()] == [list(range(8))] * 2
    assert_equal(ranked, model.recommend([[], [1]], 8, "all"))


def test_domains_named_by_numbers(make_recommender) -> None:
    model = make_recommender(ItemCodes([[0, 0], [0, 0], [1, 1]], (2, 2), domains=[7, 8, 8]))
    assert model.recommend([[0], [1]], 1, [8, 7]).items[1].tolist() == [0]
    assert set(model.recommend([[0]], 2, 8).items[0].tolist()) == {1, 2}


def test_equal_identifiers_in_two_domains_are_told_apart(make_recommender) -> None:
    model = make_recommender(ItemCodes([[0, 0], [0, 0]], (2, 2), domains=["a", "b"]))
    ranked = model.recommend([[0], [0]], 1, ["a", "b"])
    assert ranked.items.tolist() == [[0], [1]]
    assert ranked.scores[0] == ranked.scores[1]


def test_a_domain_with_fewer_items_ends_in_none(model, codes) -> None:
    ranked = model.recommend([[1]], 4, "c")
    assert ranked.items.tolist() == [[int(codes.domain_items("c")[0]), -1, -1, -1]]
    assert np.isneginf(ranked.scores[0, 1:]).all()


def test_the_default_width_is_twenty_or_top_k(model) -> None:
    histories = [[1, 2], [3]]
    assert_equal(model.recommend(histories, 4, "a"), model.recommend(histories, 4, "a", beams=20))
    assert_equal(model.recommend(histories, 25, "a"), model.recommend(histories, 25, "a", beams=25))


def test_nobody_gets_no_row(model) -> None:
    assert model.recommend([], 3, "a").items.shape == (0, 3)


def test_recommending_in_training_mode_is_without_dropout(codes, make_recommender) -> None:
    model = make_recommender(codes)
    expected = model.recommend([[1, 2]], 5, "a")
    model.train()
    assert_equal(model.recommend([[1, 2]], 5, "a"), expected)
    assert model.training


def test_recommending_leaves_no_gradient_and_training_goes_on(codes, make_recommender) -> None:
    model = make_recommender(codes).train()
    ranked = model.recommend([[1]], 3, "a")
    assert isinstance(ranked.scores, np.ndarray)
    model.pair_loss(torch.tensor([[1]]), torch.tensor([2])).backward()
    assert model.t5.embedding.weight.grad is not None


# --- files


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
def test_what_is_saved_is_loaded(tmp_path, codes, make_recommender, tiny_config, feed_forward) -> None:
    config = tiny_config.model_copy(update={"feed_forward": feed_forward, "scale_output": False})
    model = make_recommender(codes, config=config)
    folder = model.save(tmp_path / "deep" / "folder")
    loaded = Recommender.load(str(folder))
    assert loaded.config == config
    assert loaded.codes == codes
    assert not loaded.training
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    histories = [[1, 2, 3], [4]]
    np.testing.assert_array_equal(
        loaded.recommend(histories, 5, "a").items, model.recommend(histories, 5, "a").items
    )
    # Nothing in the folder needs unpickling.
    assert {file.suffix for file in folder.iterdir()} == {".parquet", ".json", ".safetensors"}


@pytest.mark.parametrize("missing", ["codes.parquet", "config.json", "model.safetensors"])
def test_a_folder_with_a_file_missing_is_refused(tmp_path, model, missing) -> None:
    (model.save(tmp_path) / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{missing} is missing; expected a folder written by"):
        Recommender.load(tmp_path)


# --- exchange


def their_t5(codes: ItemCodes, **settings: object) -> T5ForConditionalGeneration:
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(
        TheirConfig(**({"vocab_size": codes.vocabulary_size} | sizes | settings))
    )


def test_a_recommender_of_transformers_weights_ranks_as_they_score(codes, force) -> None:
    torch.manual_seed(0)
    model = Recommender.from_transformers(their_t5(codes), codes)
    items = codes.domain_items("b")
    ranked = model.recommend([[0, 1]], 9, "b")
    scores = dict(zip(items.tolist(), force(model, [0, 1], items), strict=True))
    np.testing.assert_allclose(ranked.scores[0], [scores[i] for i in ranked.items[0].tolist()], atol=1e-4)


def test_another_vocabulary_is_refused(codes) -> None:
    with pytest.raises(ValueError, match="vocab_size is 50; the identifiers need 14 tokens"):
        Recommender.from_transformers(their_t5(codes, vocab_size=50), codes)


def test_another_norm_is_refused(codes) -> None:
    with pytest.raises(ValueError, match=r"layer_norm_epsilon is 0\.001; expected 1e-06"):
        Recommender.from_transformers(their_t5(codes, layer_norm_epsilon=1e-3), codes)


def test_an_untied_head_is_refused(codes) -> None:
    theirs = their_t5(codes)
    theirs.lm_head.weight = torch.nn.Parameter(theirs.shared.weight + 1.0)
    with pytest.raises(ValueError, match="output head is not its embedding table"):
        Recommender.from_transformers(theirs, codes)


# --- what it refuses


@pytest.mark.parametrize("item", [30, 10**9, -1, -2])
def test_an_unknown_item_is_named(model, item) -> None:
    for call in (model.inputs, lambda h: model.recommend(h, 3, "a"), lambda h: model.recommend(h, 3)):
        with pytest.raises(ValueError, match=rf"history 1 holds item {item}; expected .* from 0 to 29"):
            call([[1, 2], [3, item]])


def test_items_that_are_no_integers_are_refused(model) -> None:
    with pytest.raises(ValueError, match=r"history 0 holds float64 values; expected item indices"):
        model.inputs([[1.5, 2.0]])


def test_an_unknown_domain_is_refused(model) -> None:
    with pytest.raises(ValueError, match=r"domain is 'toys'; expected one of \['.', '.', '.'\]"):
        model.recommend([[1]], 3, "toys")


def test_domains_must_be_as_many_as_histories(model) -> None:
    with pytest.raises(ValueError, match="domain has 1 names for 2 histories; expected one per history"):
        model.recommend([[1], [2]], 3, ["a"])


def test_an_empty_history_needs_its_domain(model) -> None:
    with pytest.raises(ValueError, match="history 1 is empty, so its domain is unknown; pass domain="):
        model.recommend([[1], []], 3)
    assert model.recommend([[1], []], 3, "a").items.shape == (2, 3)


def test_more_items_than_beams_are_refused(model) -> None:
    with pytest.raises(ValueError, match="top_k is 10 and beams is 5"):
        model.recommend([[1]], 10, "a", beams=5)


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(ValueError, match="d_modell"):
        T5Config.model_validate({"d_modell": 64})


def test_a_fresh_recommender_knows_nothing(make_codes) -> None:
    """The initial loss is that of guessing among all tokens, and the spread of a random start more."""
    codes = make_codes({"a": 500}, (32, 32, 32))
    torch.manual_seed(0)
    model = Recommender(codes).eval()
    with torch.no_grad():
        loss = model.pair_loss(torch.arange(64)[:, None], torch.arange(100, 164)).item()
    assert math.log(98) - 0.1 < loss < math.log(98) + 1.5
