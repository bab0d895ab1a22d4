"""Searches among some items: allow and deny lists, and what a user has, equal a catalogue of the rest."""

from __future__ import annotations

import numpy as np
import pytest

from genrec_lab.decoding import CodeTrie, Ranked, beam_search, exact_top_k
from genrec_lab.models import Popularity
from genrec_lab.models.recommenders.base import ItemRecommender
from genrec_lab.registry import ComponentConfig
from tests.unit.conftest import best_by_force, score_by_force, tiny_recommender, unique_codes

SIZES = (4, 5, 3)
CODES = unique_codes({"a": 30, "b": 12}, SIZES)
MODEL = tiny_recommender(CODES, sharpness=3.0)
OF_A = CODES.domain_items("a").tolist()
HISTORIES = [OF_A[:3], OF_A[5:6], [OF_A[2], OF_A[9]]]


def assert_equal(ours: Ranked, theirs: Ranked) -> None:
    assert np.array_equal(ours.items, theirs.items)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)


def test_200_allow_lists_equal_brute_force_and_a_trie_of_the_allowed() -> None:
    """Cold items are among them: a random model has seen none."""
    scores = [score_by_force(MODEL, history, OF_A) for history in HISTORIES]
    rng = np.random.default_rng(0)
    for draw in range(200):
        allowed = rng.choice(OF_A, size=rng.integers(1, len(OF_A) + 1), replace=False)
        trie = CodeTrie(CODES.codes[allowed], allowed)
        assert_equal(
            MODEL.recommend(HISTORIES, 5, "a", allow=rng.permutation(allowed), beams=5),
            beam_search(MODEL, HISTORIES, trie, 5, 5),
        )
        denied = np.setdiff1d(OF_A, allowed)
        if draw % 10 == 0:
            assert_equal(
                MODEL.recommend(HISTORIES, 5, "a", deny=denied, beams=5),
                MODEL.recommend(HISTORIES, 5, "a", allow=allowed, beams=5),
            )
            exact = exact_top_k(MODEL, HISTORIES, trie, 5)
            for row, of_user in zip(exact.items.tolist(), scores, strict=True):
                left = sorted(set(allowed.tolist()))
                kept = [of_user[OF_A.index(item)] for item in left]
                best = best_by_force(np.array(kept), left, 5)
                assert row == best + [-1] * (5 - len(best))


@pytest.mark.parametrize("normalise", ["vocabulary", "legal"])
@pytest.mark.parametrize("sharpness", [0.0, 3.0])  # 0: all scores are equal, and item numbers decide
def test_what_a_user_has_is_hidden_as_from_a_trie_without_it(normalise, sharpness) -> None:
    model, rng = tiny_recommender(CODES, sharpness=sharpness), np.random.default_rng(1)
    trie = CodeTrie(CODES.codes[OF_A], OF_A)
    for _ in range(6):
        histories = [rng.choice(OF_A, size=size).tolist() for size in (1, 7, 20, 60)]
        for search in (beam_search, exact_top_k):
            options = {"normalise": normalise, **({"beams": 6} if search is beam_search else {})}
            given = {"top_k": 6, "hidden": histories, **options}
            ours = search(model, histories, trie, **given)
            for row, history in enumerate(histories):
                left = np.setdiff1d(OF_A, history)
                if not len(left):
                    assert (ours.items[row] == -1).all()
                    continue
                alone = search(model, [history], CodeTrie(CODES.codes[left], left), top_k=6, **options)
                assert_equal(Ranked(ours.items[[row]], ours.scores[[row]]), alone)


def test_users_of_two_domains_are_filtered_together() -> None:
    of_b = CODES.domain_items("b").tolist()
    histories, allow = [OF_A[:4], of_b[:2]], [*OF_A[2:9], *of_b[1:5]]
    both = MODEL.recommend(histories, 10, allow=allow, exclude_seen=True)
    for row, (history, items) in enumerate(zip(histories, (OF_A, of_b), strict=True)):
        wanted = set(allow) & set(items) - set(history)
        assert set(both.items[row].tolist()) - {-1} == wanted


def test_an_item_below_two_roots_is_hidden_from_its_user_alone() -> None:
    trie = CodeTrie.joined([CodeTrie(CODES.codes[OF_A], OF_A)] * 2)
    found = beam_search(
        MODEL, [OF_A[:1]] * 2, trie, 30, 30, roots=[0, 1], hidden=[[OF_A[4]], [OF_A[7], OF_A[8]]]
    )
    missing = [set(OF_A) - set(row) for row in found.items.tolist()]
    assert missing == [{OF_A[4]}, {OF_A[7], OF_A[8]}]


@pytest.mark.parametrize(
    "filters, message",
    [
        ({"allow": []}, "none of the 30 items of a is left by allow and deny"),
        ({"allow": CODES.domain_items("b")}, "none of the 30 items of a is left"),
        ({"deny": OF_A}, "none of the 30 items of a is left"),
        ({"allow": [0.5]}, "allow holds float64 values; expected item indices"),
    ],
)
def test_lists_that_leave_nothing_are_refused(filters, message) -> None:
    with pytest.raises(ValueError, match=message):
        MODEL.recommend([[OF_A[0]]], 3, **filters)


class ByNumber(ItemRecommender):
    Config = ComponentConfig

    def score(self, histories, users=None):
        return np.tile(-self.items.astype(float), (len(histories), 1))


@pytest.mark.parametrize("kind", ["number", "popularity"])
def test_models_over_items_rank_what_is_allowed(kind) -> None:
    items = np.array([2, 3, 5, 7, 11])
    if kind == "number":
        model = ByNumber()
        model.items = items
    else:
        model = Popularity().count(items, [[2, 2, 2, 3, 3, 5, 5, 7]])
    order = [2, 3, 5, 7, 11]
    assert model.recommend([[2], [3, 7]], 5).items.tolist() == [order, order]
    assert model.recommend([[2], [3, 7]], 3, exclude_seen=True).items.tolist() == [[3, 5, 7], [2, 5, 11]]
    allowed = model.recommend([[2], [3, 7]], 3, allow=[11, 2, 7, 99], deny=[7], exclude_seen=True)
    assert allowed.items.tolist() == [[11, -1, -1], [2, 11, -1]]
    assert np.isneginf(allowed.scores[0, 1:]).all()
    with pytest.raises(ValueError, match="none of the 5 items is left"):
        model.recommend([[2]], 3, allow=[4])
