"""Beam search against scoring every item by force with transformers' T5."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from genrec_lab.codes import ItemCodes
from genrec_lab.decoding import CodeTrie, Ranked, beam_search, exact_top_k
from genrec_lab.models import Recommender

SIZES = (4, 5, 3)
HISTORIES = [[3, 1, 4], [], [7], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [5, 5]]
FLAT, PLAIN, PEAKED = 0.001, 1.0, 12.0


@pytest.fixture(scope="module")
def codes(make_codes) -> ItemCodes:
    return make_codes({"a": 24, "b": 9}, SIZES)


@pytest.fixture(scope="module", params=[FLAT, PLAIN, PEAKED], ids=["flat", "plain", "peaked"])
def model(request, codes, make_recommender) -> Recommender:
    return make_recommender(codes, sharpness=request.param)


def trie_of(codes: ItemCodes, domain: str) -> CodeTrie:
    items = codes.domain_items(domain)
    return CodeTrie(codes.codes[items], items)


@pytest.mark.parametrize("domain", ["a", "b"])
def test_with_a_beam_for_every_item_it_is_the_ranking_by_force(model, codes, domain, force) -> None:
    items = codes.domain_items(domain)
    ranked = beam_search(model, HISTORIES, trie_of(codes, domain), beams=len(items), top_k=len(items))
    for row, history in enumerate(HISTORIES):
        expected = dict(zip(items.tolist(), force(model, history, items), strict=True))
        assert sorted(ranked.items[row].tolist()) == items.tolist()
        found = [expected[item] for item in ranked.items[row].tolist()]
        # Float32 against float64: the order agrees but for items that are all but equal.
        np.testing.assert_allclose(ranked.scores[row], found, atol=1e-4, rtol=1e-5)
        np.testing.assert_allclose(found, sorted(expected.values(), reverse=True), atol=2e-4)


def test_the_first_items_are_the_best_by_force(model, codes, force, best) -> None:
    items = codes.domain_items("a")
    ranked = beam_search(model, HISTORIES, trie_of(codes, "a"), beams=len(items), top_k=3)
    for row, history in enumerate(HISTORIES):
        scores = force(model, history, items)
        expected = best(scores, items.tolist(), 3)
        of_item = dict(zip(items.tolist(), scores, strict=True))
        np.testing.assert_allclose(
            [of_item[item] for item in ranked.items[row]], [of_item[item] for item in expected], atol=2e-4
        )
        if model.t5.decoder_norm.weight[0] >= PLAIN:  # in the flat model many items are equal to 1e-4
            assert ranked.items[row].tolist() == expected


@settings(max_examples=15)
@given(data=st.data())
def test_any_width_gives_distinct_items_of_the_domain_with_their_own_scores(
    data: st.DataObject, make_codes, make_recommender, force
) -> None:
    count = data.draw(st.integers(1, 12), label="items")
    codes = make_codes({"a": count, "b": 3}, (3, 2, 4), seed=data.draw(st.integers(0, 99), label="codes"))
    model = make_recommender(codes, seed=data.draw(st.integers(0, 99), label="weights"))
    beams = data.draw(st.integers(1, 15), label="beams")
    top_k = data.draw(st.integers(1, beams), label="top_k")
    histories = data.draw(
        st.lists(st.lists(st.integers(0, count + 2), max_size=6), min_size=1, max_size=3), label="histories"
    )
    items = codes.domain_items("a")
    ranked = beam_search(model, histories, trie_of(codes, "a"), beams, top_k)
    assert ranked.items.shape == ranked.scores.shape == (len(histories), top_k)
    assert (ranked.items.dtype, ranked.scores.dtype) == (np.int64, np.float32)
    for row, history in enumerate(histories):
        found = [item for item in ranked.items[row].tolist() if item != -1]
        assert len(found) == min(top_k, beams, count)
        assert len(set(found)) == len(found)
        assert set(found) <= set(items.tolist())
        assert (np.diff(ranked.scores[row, : len(found)]) <= 0).all()
        np.testing.assert_allclose(
            ranked.scores[row, : len(found)], force(model, history, found), atol=1e-4, rtol=1e-5
        )
        assert np.isneginf(ranked.scores[row, len(found) :]).all()


def test_fewer_items_than_asked_for_end_in_no_item(model, codes) -> None:
    ranked = beam_search(model, HISTORIES, trie_of(codes, "b"), beams=20, top_k=12)
    assert (ranked.items[:, :9] >= 0).all()
    assert (ranked.items[:, 9:] == -1).all()
    assert np.isneginf(ranked.scores[:, 9:]).all()
    assert np.isfinite(ranked.scores[:, :9]).all()


def test_a_narrow_beam_takes_the_best_prefix_at_each_level(codes, make_recommender) -> None:
    """Width 1 is greedy descent, followed here with transformers' logits and a dictionary of prefixes."""
    model = make_recommender(codes, seed=3)
    theirs, rows, tokens = model.to_transformers(), codes.codes.tolist(), codes.tokens().tolist()
    items = codes.domain_items("a").tolist()
    ranked = beam_search(model, HISTORIES, trie_of(codes, "a"), beams=1, top_k=1)
    for row, history in enumerate(HISTORIES):
        prefix, total = [0], 0.0
        candidates = items
        for level in range(len(SIZES)):
            with torch.no_grad():
                logits = theirs(**model.inputs([history]), decoder_input_ids=torch.tensor([prefix])).logits
            log_probs = logits[0, -1].double().log_softmax(-1)
            token = max({tokens[item][level] for item in candidates}, key=lambda t: float(log_probs[t]))
            candidates = [item for item in candidates if tokens[item][level] == token]
            total += float(log_probs[token])
            prefix.append(token)
        assert ranked.items[row].tolist() == candidates, rows[candidates[0]]
        assert ranked.scores[row, 0] == pytest.approx(total, abs=1e-4)


def test_a_wider_beam_never_finds_worse(codes, make_recommender) -> None:
    model = make_recommender(codes, seed=5)
    trie = trie_of(codes, "a")
    narrow, wide = (beam_search(model, HISTORIES, trie, beams, 2).scores.sum(1) for beams in (2, 24))
    assert (wide >= narrow - 1e-5).all()


def test_a_user_gets_the_same_alone_and_in_any_batch(model, codes) -> None:
    trie = trie_of(codes, "a")
    together = beam_search(model, HISTORIES, trie, 6, 4)
    for batch_size in (1, 2):
        parts = beam_search(model, HISTORIES, trie, 6, 4, batch_size=batch_size)
        np.testing.assert_allclose(parts.scores, together.scores, atol=1e-4)
    for row, history in enumerate(HISTORIES):
        alone = beam_search(model, [history], trie, 6, 4)
        np.testing.assert_allclose(alone.scores[0], together.scores[row], atol=1e-4)


def test_no_user_gets_no_row(codes, make_recommender) -> None:
    ranked = beam_search(make_recommender(codes), [], trie_of(codes, "a"), 5, 3)
    assert ranked.items.shape == ranked.scores.shape == (0, 3)


@pytest.mark.parametrize("search", [beam_search, exact_top_k], ids=["beam", "exact"])
def test_ties_are_broken_by_the_item_index(codes, make_recommender, search: Callable[..., Ranked]) -> None:
    model = make_recommender(codes, sharpness=0.0)  # every token has the same probability
    widths = (24, 24) if search is beam_search else (24,)
    ranked = search(model, HISTORIES, trie_of(codes, "a"), *widths)
    assert (ranked.items == codes.domain_items("a")).all()
    np.testing.assert_allclose(ranked.scores, 3 * -np.log(codes.vocabulary_size), rtol=1e-5)


def test_dropout_is_off_while_a_model_ranks_and_on_again_afterwards(codes, make_recommender) -> None:
    model, trie = make_recommender(codes), trie_of(codes, "a")
    expected = beam_search(model, HISTORIES, trie, 6, 4)
    model.train()
    for search in (beam_search, exact_top_k):
        ranked = search(model, HISTORIES, trie, *((6, 4) if search is beam_search else (4,)))
        assert model.training and model.t5.dropout.training
        assert np.isfinite(ranked.scores).all()
        if search is beam_search:
            np.testing.assert_array_equal(ranked.scores, expected.scores)


@pytest.mark.parametrize("top_k, beams", [(4, 3), (0, 3), (-1, 3), (1, 0)])
def test_more_items_than_beams_are_refused(codes, make_recommender, top_k: int, beams: int) -> None:
    with pytest.raises(
        ValueError, match=f"top_k is {top_k} and beams is {beams}; expected 1 <= top_k <= beams"
    ):
        beam_search(make_recommender(codes), [[1]], trie_of(codes, "a"), beams, top_k)


@pytest.mark.parametrize("beams", [1, 5, 23])
def test_where_all_is_equal_a_narrow_beam_keeps_the_lowest_items(codes, make_recommender, beams) -> None:
    """The lowest items lie below at most `beams` prefixes of any length, and those are kept."""
    ranked = beam_search(make_recommender(codes, sharpness=0.0), HISTORIES, trie_of(codes, "a"), beams, beams)
    assert (ranked.items == codes.domain_items("a")[:beams]).all()


def test_ties_at_the_edge_of_the_beam_alone_are_broken_by_the_item_index() -> None:
    """One prefix is better than all others, which are equal: the second place is that of the lowest item."""
    rows = [[3, 0], [2, 0], [1, 0], [0, 0]]
    tables = [torch.tensor([[0.2, 0.4, 0.2, 0.2]]).log(), torch.zeros(4, 1)]
    ranked = beam_search(Markov(tables), [[]], CodeTrie(rows, np.array([7, 5, 6, 4])), 2, 2)
    assert ranked.items.tolist() == [[6, 4]]


@pytest.mark.parametrize(
    "weight, where",
    [
        ("decoder_norm.weight", r"NaN at level 0: the weight decoder_norm.weight is not finite"),
        ("encoder.1.attention.v.weight", r"NaN of the history: the weight encoder.1.attention.v.weight"),
    ],
)
def test_weights_that_diverged_are_named(codes, make_recommender, weight: str, where: str) -> None:
    model = make_recommender(codes)
    with torch.no_grad():
        model.t5.get_parameter(weight).fill_(float("nan"))
    with pytest.raises(ValueError, match=where + r".*learning_rate"):
        beam_search(model, [[1]], trie_of(codes, "a"), 5, 3)


@pytest.mark.parametrize("layer", ["encoder.1.attention.v", "decoder.0.cross.q"])
def test_a_layer_that_overflows_is_named(codes, make_recommender, layer: str) -> None:
    """Finite weights so large that float32 does not hold the output."""
    model = make_recommender(codes)
    with torch.no_grad():
        model.t5.get_parameter(f"{layer}.weight").fill_(3e38)
    with pytest.raises(ValueError, match=f"the output of {layer} is not finite"):
        beam_search(model, [[1, 2]], trie_of(codes, "a"), 5, 3)


# --- over legal codes only


def legal_scores(model: Recommender, history: list[int], items: list[int]) -> dict[int, float]:
    """A softmax over the children that the items' identifiers allow, prefix by prefix, in float64."""
    theirs, tokens = model.to_transformers(), model.codes.tokens()
    read = model.inputs([history])
    of_prefix: dict[tuple[int, ...], dict[int, float]] = {}
    for item in items:
        for level in range(tokens.shape[1]):
            prefix = tuple(tokens[item, :level].tolist())
            if prefix not in of_prefix:
                with torch.no_grad():
                    logits = theirs(**read, decoder_input_ids=torch.tensor([[0, *prefix]])).logits[0, -1]
                legal = sorted({int(tokens[i, level]) for i in items if tuple(tokens[i, :level]) == prefix})
                log_probs = logits.double()[legal].log_softmax(0).tolist()
                of_prefix[prefix] = dict(zip(legal, log_probs, strict=True))
    return {
        item: sum(
            of_prefix[tuple(tokens[item, :level].tolist())][int(tokens[item, level])] for level in range(3)
        )
        for item in items
    }


@pytest.mark.parametrize("domain", ["a", "b"])
def test_over_legal_codes_it_is_the_softmax_of_each_prefix_children(model, codes, domain: str) -> None:
    items, trie = codes.domain_items(domain).tolist(), trie_of(codes, domain)
    count, histories = len(items), HISTORIES[:3]
    beam = beam_search(model, histories, trie, count, count, normalise="legal")
    exact = exact_top_k(model, histories, trie, count, normalise="legal")
    for row, history in enumerate(histories):
        expected = legal_scores(model, history, items)
        assert sum(np.exp(list(expected.values()))) == pytest.approx(1.0)  # of the domain's items alone
        for ranked in (beam, exact):
            found = [expected[item] for item in ranked.items[row].tolist()]
            assert sorted(ranked.items[row].tolist()) == items
            np.testing.assert_allclose(ranked.scores[row], found, atol=1e-4, rtol=1e-4)


def test_over_legal_codes_a_narrow_beam_finds_items_with_their_own_scores(model, codes) -> None:
    items, trie = codes.domain_items("a").tolist(), trie_of(codes, "a")
    ranked = beam_search(model, HISTORIES[:2], trie, 4, 4, normalise="legal")
    for row, history in enumerate(HISTORIES[:2]):
        expected = legal_scores(model, history, items)
        np.testing.assert_allclose(
            ranked.scores[row], [expected[item] for item in ranked.items[row].tolist()], atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("search", [beam_search, exact_top_k], ids=["beam", "exact"])
def test_over_legal_codes_a_prefix_of_one_item_is_not_decoded(make_recommender, search) -> None:
    """Two items share their first code; the six others are known after one step, and need no other."""
    rows = [[0, 1, 0], [0, 1, 1], *([code, 0, 0] for code in range(1, 7))]
    codes = ItemCodes(rows, (7, 2, 2))
    model, trie = make_recommender(codes), CodeTrie(codes)
    widths = (8, 8) if search is beam_search else (8,)
    with patch.object(model, "step", wraps=model.step) as spied:
        ranked = search(model, [[1], [2, 3]], trie, *widths, normalise="legal")
    decoded = [call.args[1].shape for call in spied.call_args_list if call.args[1] is not None]
    assert set(decoded) == {(2, 1)}
    assert (np.sort(ranked.items) == np.arange(8)).all()
    only = CodeTrie(rows[2:])
    with patch.object(model, "step", wraps=model.step) as spied:
        search(model, [[1]], only, *widths, normalise="legal")
    assert all(call.args[1] is None for call in spied.call_args_list)


def test_a_domain_of_one_item_is_certain_over_legal_codes(make_codes, make_recommender) -> None:
    codes = make_codes({"a": 5, "b": 1}, SIZES)
    model, trie = make_recommender(codes), trie_of(codes, "b")
    for search in (beam_search, exact_top_k):
        widths = (10, 3) if search is beam_search else (3,)
        plain, legal = (search(model, [[0], []], trie, *widths, normalise=n) for n in ("vocabulary", "legal"))
        only = codes.domain_items("b")[0]
        assert plain.items.tolist() == legal.items.tolist() == [[only, -1, -1]] * 2
        assert legal.scores[:, 0].tolist() == [0.0, 0.0]
        assert (plain.scores[:, 0] < 0).all()


# --- several domains in one batch


@pytest.mark.parametrize("normalise", ["vocabulary", "legal"])
@pytest.mark.parametrize("search", [beam_search, exact_top_k], ids=["beam", "exact"])
def test_users_of_several_domains_share_a_batch(model, codes, search, normalise) -> None:
    tries = [trie_of(codes, domain) for domain in ("a", "b")]
    widths = (12, 10) if search is beam_search else (10,)
    roots = [0, 1, 1, 0, 1]
    mixed = search(model, HISTORIES, CodeTrie.joined(tries), *widths, roots=roots, normalise=normalise)
    for row, (history, root) in enumerate(zip(HISTORIES, roots, strict=True)):
        alone = search(model, [history], tries[root], *widths, normalise=normalise)
        np.testing.assert_allclose(mixed.scores[row], alone.scores[0], atol=1e-4, rtol=1e-4)
        assert set(mixed.items[row].tolist()) - {-1} <= set(codes.domain_items("ab"[root]).tolist())


@pytest.mark.parametrize("search", [beam_search, exact_top_k], ids=["beam", "exact"])
def test_options_that_do_not_fit_are_refused(codes, make_recommender, search) -> None:
    model, trie = make_recommender(codes), trie_of(codes, "a")
    widths = (5, 3) if search is beam_search else (3,)
    with pytest.raises(ValueError, match="normalise is 'softmax'; expected 'vocabulary' or 'legal'"):
        search(model, [[1]], trie, *widths, normalise="softmax")
    for roots in ([1], [-1], [0, 0]):
        with pytest.raises(ValueError, match="expected one for each of the 1 histories, from 0 to 0"):
            search(model, [[1]], trie, *widths, roots=roots)


def test_under_autocast_scores_stay_float32_and_near(codes, make_recommender) -> None:
    model, trie = make_recommender(codes, sharpness=3.0), trie_of(codes, "a")
    exact = beam_search(model, HISTORIES, trie, 24, 24)
    with torch.autocast("cpu", torch.bfloat16):
        rough = beam_search(model, HISTORIES, trie, 24, 24)
    assert rough.scores.dtype == np.float32
    assert np.abs(rough.scores - exact.scores).max() < 0.3
    # Scores in bfloat16 would have 8 bits, and so be multiples of 1/16 here; they are not rounded.
    assert len(np.unique(rough.scores * 16 % 1)) > 50
    found = [
        len({*a[:10]} & {*b[:10]}) for a, b in zip(exact.items.tolist(), rough.items.tolist(), strict=True)
    ]
    assert sum(found) >= 45


# --- any model that follows the protocol


class Markov:
    """A model of another kind: the next code depends on the last one only, by a table of a level each."""

    class Memory:
        level = -1

        def of_users(self, users: Tensor) -> Markov.Memory:
            memory = Markov.Memory()
            memory.users, memory.level = len(users), self.level
            return memory

    def __init__(self, tables: list[Tensor]) -> None:
        self.tables = tables  # of level l: (codes before, codes) log-probabilities

    def remember(self, histories) -> Markov.Memory:
        memory = Markov.Memory()
        memory.users = len(histories)
        return memory

    def step(self, memory, codes, cache, parents):
        after = Markov.Memory()
        if codes is None:
            after.level = 0
            return self.tables[0][:1].expand(memory.users, 1, -1), after
        after.level = cache.level + 1
        return self.tables[after.level][codes], after


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), beams=st.integers(1, 30), top_k=st.integers(1, 5))
def test_a_model_that_is_no_network_is_searched_too(
    seed: int, beams: int, top_k: int, make_codes, best
) -> None:
    codes = make_codes({"a": 15}, SIZES, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    tables = [torch.randn(5, size, generator=generator).log_softmax(-1) for size in SIZES]
    scores = np.array(
        [float(tables[0][0, a] + tables[1][a, b] + tables[2][b, c]) for a, b, c in codes.codes.tolist()]
    )
    trie = CodeTrie(codes)
    expected = best(scores, range(15), top_k)
    assert not isinstance(Markov(tables), nn.Module)
    exact = exact_top_k(Markov(tables), [[], [1]], trie, top_k)
    assert exact.items.tolist() == [expected, expected]
    np.testing.assert_allclose(exact.scores[0], scores[expected], rtol=1e-5)
    if beams >= 15:
        found = beam_search(Markov(tables), [[], [1]], trie, beams, top_k)
        assert found.items.tolist() == [expected, expected]
