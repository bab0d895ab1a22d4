"""The exact top-k against scoring every item by force."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_lab.codes import ItemCodes
from genrec_lab.decoding import CodeTrie, beam_search, exact_top_k, score_items
from genrec_lab.models import Recommender

SIZES = (4, 5, 3)
HISTORIES = [[3, 1, 4], [], [7], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]


@pytest.fixture(scope="module")
def codes(make_codes) -> ItemCodes:
    return make_codes({"a": 40, "b": 6}, SIZES)


@pytest.fixture(scope="module", params=[0.001, 1.0, 12.0, 100.0], ids=["flat", "plain", "peaked", "extreme"])
def model(request, codes, make_recommender) -> Recommender:
    return make_recommender(codes, sharpness=request.param)


def trie_of(codes: ItemCodes, domain: str) -> CodeTrie:
    items = codes.domain_items(domain)
    return CodeTrie(codes.codes[items], items)


def assert_best(ranked, row: int, scores: np.ndarray, items: np.ndarray, top_k: int) -> None:
    """The ranked items are as good as the best by force, each with its own score."""
    of_item = dict(zip(items.tolist(), scores, strict=True))
    count = min(top_k, len(items))
    found = ranked.items[row, :count].tolist()
    assert len(set(found)) == count
    tolerance = 1e-4 * max(1.0, np.abs(scores).max())
    np.testing.assert_allclose([of_item[item] for item in found], ranked.scores[row, :count], atol=tolerance)
    np.testing.assert_allclose(
        [of_item[item] for item in found], np.sort(scores)[::-1][:count], atol=2 * tolerance
    )
    assert (ranked.items[row, count:] == -1).all()
    assert np.isneginf(ranked.scores[row, count:]).all()


@pytest.mark.parametrize("domain, top_k", [("a", 1), ("a", 10), ("a", 45), ("b", 10)])
def test_it_is_the_ranking_by_force(model, codes, domain: str, top_k: int, force) -> None:
    items = codes.domain_items(domain)
    ranked = exact_top_k(model, HISTORIES, trie_of(codes, domain), top_k)
    assert ranked.items.shape == ranked.scores.shape == (len(HISTORIES), top_k)
    for row, history in enumerate(HISTORIES):
        assert_best(ranked, row, force(model, history, items), items, top_k)


@settings(max_examples=20)
@given(data=st.data())
def test_it_is_the_ranking_by_force_in_any_catalogue(
    data: st.DataObject, make_codes, make_recommender, force
) -> None:
    sizes = data.draw(st.sampled_from([(12,), (4, 4), (2, 3, 4), (2, 2, 2, 3)]), label="sizes")
    count = data.draw(st.integers(1, 12), label="items")
    codes = make_codes({"a": count, "b": 2}, sizes, seed=data.draw(st.integers(0, 99), label="codes"))
    model = make_recommender(
        codes,
        seed=data.draw(st.integers(0, 99), label="weights"),
        sharpness=data.draw(st.sampled_from([0.01, 1.0, 5.0, 30.0]), label="sharpness"),
    )
    history = data.draw(st.lists(st.integers(0, count + 1), max_size=5), label="history")
    top_k, beams = data.draw(st.integers(1, 14), label="top_k"), data.draw(st.none() | st.integers(1, 20))
    items = codes.domain_items("a")
    ranked = exact_top_k(model, [history], trie_of(codes, "a"), top_k, beams=beams)
    assert_best(ranked, 0, force(model, history, items), items, top_k)


def test_it_finds_what_a_narrow_beam_misses(codes, make_recommender) -> None:
    """There are users whose best item lies below a prefix that a narrow beam leaves."""
    histories = [[a, b] for a in range(20) for b in (21, 30)]
    model, trie = make_recommender(codes, seed=2, sharpness=2.0), trie_of(codes, "a")
    beam, exact = beam_search(model, histories, trie, 2, 2), exact_top_k(model, histories, trie, 2)
    assert (exact.scores >= beam.scores - 1e-4).all()
    assert (exact.items != beam.items).any(), "choose another seed: this beam misses nothing"


@pytest.mark.parametrize("batch_size, rows, beams", [(1, 4096, None), (2, 1, None), (32, 3, 2), (3, 7, 40)])
def test_how_the_work_is_cut_changes_nothing(codes, make_recommender, batch_size, rows, beams) -> None:
    model, trie = make_recommender(codes, sharpness=3.0), trie_of(codes, "a")
    whole = exact_top_k(model, HISTORIES, trie, 7)
    cut = exact_top_k(model, HISTORIES, trie, 7, batch_size=batch_size, rows=rows, beams=beams)
    np.testing.assert_array_equal(cut.items, whole.items)
    np.testing.assert_allclose(cut.scores, whole.scores, atol=1e-4)


def test_a_sure_model_opens_few_prefixes(make_codes, make_recommender) -> None:
    """What the bound is for: of 3,000 items only a small part is scored."""
    codes = make_codes({"a": 3000}, (16, 16, 16))
    model = make_recommender(codes, sharpness=12.0)
    trie = CodeTrie(codes)
    with patch.object(model, "step", wraps=model.step) as spied:
        beam_search(model, [[1, 2, 3], [4]], trie, 10, 5)
        of_beam = spied.call_count
        exact_top_k(model, [[1, 2, 3], [4]], trie, 5)
    opened = [call.args[1].numel() for call in spied.call_args_list[2 * of_beam + 1 :]]
    prefixes = len(np.unique(codes.codes[:, :2], axis=0))
    assert len(opened) == 2  # a level each, below the first
    assert opened[-1] < 0.25 * 2 * prefixes


def test_a_user_with_many_open_prefixes_does_not_fill_the_rows_of_others(codes, make_recommender) -> None:
    """Users are grouped by how many prefixes are open: at most half of the decoded places are empty."""
    model, trie = make_recommender(codes, sharpness=3.0), trie_of(codes, "a")
    histories = [[a, b] for a in range(12) for b in (3, 17)]
    with patch.object(model, "step", wraps=model.step) as spied:
        alone = [exact_top_k(model, [history], trie, 2, beams=2) for history in histories]
        needed = sum(call.args[1].numel() for call in spied.call_args_list if call.args[1] is not None)
        spied.reset_mock()
        together = exact_top_k(model, histories, trie, 2, beams=2)
        decoded = sum(call.args[1].numel() for call in spied.call_args_list if call.args[1] is not None)
    assert decoded <= 2 * needed
    for row, one in enumerate(alone):
        assert together.items[row].tolist() == one.items[0].tolist()


def test_no_user_gets_no_row(codes, make_recommender) -> None:
    ranked = exact_top_k(make_recommender(codes), [], trie_of(codes, "a"), 3)
    assert ranked.items.shape == ranked.scores.shape == (0, 3)


def test_no_item_asked_for_is_refused(codes, make_recommender) -> None:
    with pytest.raises(ValueError, match="top_k is 0; expected 1 or more"):
        exact_top_k(make_recommender(codes), [[1]], trie_of(codes, "a"), 0)


@pytest.mark.parametrize("domain", ["a", "b"])
@pytest.mark.parametrize("rows", [7, 4096])
def test_all_items_have_the_scores_by_force(model, codes, domain: str, rows: int, force) -> None:
    items = codes.domain_items(domain)
    scores = score_items(model, HISTORIES, trie_of(codes, domain), batch_size=3, rows=rows)
    assert scores.shape == (len(HISTORIES), len(items))
    for row, history in enumerate(HISTORIES):
        expected = force(model, history, items)
        np.testing.assert_allclose(scores[row], expected, atol=1e-4 * max(1.0, np.abs(expected).max()))


def test_scores_stand_in_the_order_of_the_items(model, codes) -> None:
    """Whatever order the trie was given them in."""
    items = codes.domain_items("a")
    order = np.random.default_rng(0).permutation(len(items))
    shuffled = CodeTrie(codes.codes[items[order]], items[order])
    plain, other = (score_items(model, HISTORIES, trie) for trie in (trie_of(codes, "a"), shuffled))
    np.testing.assert_allclose(plain, other, rtol=1e-5)


def test_over_legal_codes_the_scores_are_a_distribution(model, codes) -> None:
    scores = score_items(model, HISTORIES, trie_of(codes, "a"), normalise="legal")
    np.testing.assert_allclose(np.exp(scores).sum(1), 1.0, atol=1e-4)


def test_a_recommender_scores_what_it_recommends(model, codes) -> None:
    histories = [[3, 1, 4], [7], [0, 1, 2]]
    items = codes.domain_items("a")
    scores, ranked = model.score(histories, "a"), exact_top_k(model, histories, trie_of(codes, "a"), 5)
    for row in range(len(histories)):
        places = np.searchsorted(items, ranked.items[row])
        tolerance = 1e-4 * max(1.0, np.abs(scores[row]).max())
        np.testing.assert_allclose(scores[row, places], ranked.scores[row], atol=tolerance)
        np.testing.assert_allclose(np.sort(scores[row])[::-1][:5], ranked.scores[row], atol=tolerance)
    assert model.score([[3], [3]], domain="b").shape == (2, len(codes.domain_items("b")))
    assert model.score([], domain="a").shape == (0, len(items))


def test_scores_of_users_of_several_domains_are_refused(model, codes) -> None:
    one_of_each = [[int(codes.domain_items(domain)[0])] for domain in "ab"]
    with pytest.raises(ValueError, match=r"domains \['a', 'b'\].*domain="):
        model.score(one_of_each)
    assert model.score(one_of_each[:1]).shape == (1, len(codes.domain_items("a")))
