"""The causal recommender against a twin in numpy that computes every sequence whole, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from genrec_lab.codes import EOS, ItemCodes
from genrec_lab.decoding import CodeTrie, beam_search, exact_top_k
from genrec_lab.models.recommenders.base import read_recommender
from genrec_lab.models.recommenders.causal import CausalConfig, CausalRecommender

SIZES = (4, 5, 3)
HISTORIES = [[3, 1, 4], [], [7], [0, 1, 2, 3, 4, 5, 6, 7], [5, 5]]
TINY = CausalConfig(
    d_model=16, d_kv=4, heads=3, d_ff=24, layers=2, relative_buckets=8, relative_max_distance=16
)


@pytest.fixture(scope="module")
def codes(make_codes) -> ItemCodes:
    return make_codes({"a": 20, "b": 7}, SIZES)


@pytest.fixture(scope="module")
def model(codes) -> CausalRecommender:
    return causal(codes)


def causal(codes: ItemCodes, config: CausalConfig = TINY, sharpness: float = 3.0) -> CausalRecommender:
    torch.manual_seed(0)
    model = CausalRecommender(codes, config)
    with torch.no_grad():
        model.transformer.norm.weight.mul_(sharpness)
    return model.eval()


def log_probs_by_force(model: CausalRecommender, items: list[int]) -> np.ndarray:
    """Log-probabilities (S, V) after the begin token and each token of the items."""
    weights = {name: value.double().numpy() for name, value in model.transformer.state_dict().items()}
    c, levels = model.config, model.codes.levels
    tokens = [EOS, *model.codes.tokens()[items].flatten().tolist()]
    x = weights["embedding.weight"][tokens]
    x = x + weights["level.weight"][[(place - 1) % levels for place in range(len(tokens))]]
    places = torch.arange(len(tokens))
    buckets = T5Attention._relative_position_bucket(
        places[None, :] - places[:, None],
        bidirectional=False,
        num_buckets=c.relative_buckets,
        max_distance=c.relative_max_distance,
    )
    bias = weights["bias.weight"][buckets.numpy()]  # (S, S, H)

    def norm(h: np.ndarray, name: str) -> np.ndarray:
        return h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-6) * weights[f"{name}.weight"]

    for layer in range(c.layers):
        own = f"blocks.{layer}"
        h = norm(x, f"{own}.attention_norm")
        q, k, v = (h @ weights[f"{own}.attention.{which}.weight"].T for which in "qkv")
        heads = []
        for head in range(c.heads):
            part = slice(head * c.d_kv, (head + 1) * c.d_kv)
            scores = q[:, part] @ k[:, part].T + bias[:, :, head]
            scores[np.triu_indices(len(tokens), 1)] = -np.inf
            attention = np.exp(scores - scores.max(1, keepdims=True))
            heads.append(attention / attention.sum(1, keepdims=True) @ v[:, part])
        x = x + np.concatenate(heads, 1) @ weights[f"{own}.attention.o.weight"].T
        h = norm(x, f"{own}.feed_forward_norm")
        hidden = np.maximum(h @ weights[f"{own}.feed_forward.wi.weight"].T, 0)
        x = x + hidden @ weights[f"{own}.feed_forward.wo.weight"].T
    logits = norm(x, "norm") * c.d_model**-0.5 @ weights["embedding.weight"].T
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def score_by_force(model: CausalRecommender, history: list[int], item: int) -> float:
    """Log-probability of an item's identifier after a history."""
    levels = model.codes.levels
    log_probs = log_probs_by_force(model, [*history, item])
    written = model.codes.tokens()[item]
    return sum(log_probs[len(history) * levels + level, written[level]] for level in range(levels))


def test_the_loss_is_that_of_whole_sequences_by_force(model) -> None:
    sequences = [[3, 1, 4, 9], [7, 2]]
    wanted = [(0, 1), (0, 3), (1, 1)]
    rows, places = torch.tensor(wanted).T
    with torch.no_grad():
        loss = model(rows=rows, places=places, sequences=torch.tensor([[3, 1, 4, 9], [7, 2, -1, -1]])).item()
    by_force = [score_by_force(model, sequences[row][:place], sequences[row][place]) for row, place in wanted]
    assert loss == pytest.approx(-np.mean(by_force) / len(SIZES), abs=1e-5)


@pytest.mark.parametrize("search", ["beam", "exact"])
@pytest.mark.parametrize("domain", ["a", "b"])
def test_decoding_ranks_as_scoring_every_item_by_force(model, codes, domain, search) -> None:
    items = codes.domain_items(domain)
    trie = CodeTrie(codes.codes[items], items)
    ranked = (
        beam_search(model, HISTORIES, trie, beams=len(items), top_k=len(items))
        if search == "beam"
        else exact_top_k(model, HISTORIES, trie, len(items))
    )
    for row, history in enumerate(HISTORIES):
        expected = {item: score_by_force(model, history, item) for item in items.tolist()}
        assert sorted(ranked.items[row].tolist()) == items.tolist()
        found = [expected[item] for item in ranked.items[row].tolist()]
        np.testing.assert_allclose(ranked.scores[row], found, atol=1e-4, rtol=1e-5)


def test_a_history_is_scored_alike_alone_and_among_others(model) -> None:
    together = model.recommend(HISTORIES, 5, "a", beams=20)
    for row, history in enumerate(HISTORIES):
        alone = model.recommend([history], 5, "a", beams=20)
        np.testing.assert_array_equal(alone.items[0], together.items[row])
        np.testing.assert_allclose(alone.scores[0], together.scores[row], atol=1e-5)


def test_no_place_reads_what_comes_after_it(model) -> None:
    rows, places = torch.tensor([0, 0]), torch.tensor([1, 2])
    with torch.no_grad():
        losses = [
            model(rows=rows, places=places, sequences=torch.tensor([[3, 1, 4, z]])).item() for z in (9, 2)
        ]
        other = model(rows=rows, places=places, sequences=torch.tensor([[3, 1, 5, 9]])).item()
    assert losses[0] == losses[1]
    assert other != pytest.approx(losses[0], abs=1e-3)


def test_levels_that_share_their_tokens_are_told_apart() -> None:
    """UTGRec's levels 2..L have one vocabulary; the sequence alone does not say which level comes next."""
    shared = ItemCodes([[0, 1, 1], [1, 0, 1], [1, 1, 0]], (2, 2, 2), shared_levels=(1, 2))
    model = causal(shared)
    ranked = model.recommend([[0, 2]], 3, beams=3)
    for item, score in zip(ranked.items[0].tolist(), ranked.scores[0].tolist(), strict=True):
        assert score == pytest.approx(score_by_force(model, [0, 2], item), abs=1e-4)


def test_inputs_are_padded_left_and_begin_with_a_token_that_no_item_has(codes) -> None:
    model = causal(ItemCodes([[0, 1], [2, 0], [1, 2]], (3, 3)))
    inputs = model.inputs([[1, 0], [2], []])
    assert inputs["input_ids"].tolist() == [[1, 4, 5, 2, 6], [0, 0, 1, 3, 7], [0, 0, 0, 0, 1]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1]]


def test_a_saved_recommender_ranks_as_before_and_is_read_by_its_kind(model, tmp_path) -> None:
    read = read_recommender(model.save(tmp_path / "causal"))
    assert isinstance(read, CausalRecommender)
    assert read.config == model.config
    one, other = (m.recommend(HISTORIES, 4, "a") for m in (model, read))
    np.testing.assert_array_equal(one.items, other.items)
    np.testing.assert_array_equal(one.scores, other.scores)


def test_it_learns_a_rule_that_the_last_item_decides(make_codes) -> None:
    """Item i is followed by item i + 1: after some steps that is what it recommends."""
    codes = make_codes({"a": 12}, SIZES)
    torch.manual_seed(0)
    model = CausalRecommender(codes, TINY.model_copy(update={"dropout": 0.0}))
    sequences = torch.tensor([[(start + step) % 12 for step in range(5)] for start in range(12)])
    rows = torch.arange(12).repeat_interleave(4)
    places = torch.arange(1, 5).repeat(12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(120):
        optimizer.zero_grad()
        loss = model(rows=rows, places=places, sequences=sequences)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2 * math.log(codes.vocabulary_size)
    ranked = model.recommend([[item] for item in range(12)], 1)
    assert (ranked.items[:, 0] == (np.arange(12) + 1) % 12).mean() > 0.9


def test_weights_that_have_diverged_are_told(codes) -> None:
    model = causal(codes)
    with torch.no_grad():
        model.transformer.embedding.weight[3] = math.nan
    with pytest.raises(ValueError, match="NaN at level 0"):
        model.recommend([[0, 1]], 3, "a")
