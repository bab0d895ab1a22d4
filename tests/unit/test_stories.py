"""What the notebooks tell of single users, and of rows against each other, against hand-worked cases."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from genrec_lab.codes import EOS, ItemCodes
from genrec_lab.data import Dataset
from genrec_lab.decoding import beam_search
from genrec_lab.evaluation.significance import (
    Rankings,
    differences_by_domain,
    differences_to_rows,
    strongest_other,
)
from genrec_lab.lab import training_summary, trainings
from genrec_lab.viz.stories import (
    history_tokens,
    places_already_had,
    story_figure,
    tell_beams,
    typical_user,
    user_story,
    watch_beams,
)

SIZES = (4, 5, 3)
HISTORY = [3, 1, 4]


@pytest.fixture(scope="module")
def codes(make_codes) -> ItemCodes:
    return make_codes({"a": 24, "b": 9}, SIZES)


@pytest.fixture(scope="module")
def dataset(codes) -> Dataset:
    names = [f"item {item}" for item in range(codes.n_items)]
    items = pl.DataFrame(
        {"item": range(codes.n_items), "domain": codes.domains.tolist(), "title": names, "text": names}
    )
    domain = codes.domain_names[0]
    taken = codes.domain_items(domain)[:5].tolist()
    return Dataset("toy", items, pl.DataFrame({"user": [0], "domain": [domain], "items": [taken]}))


def test_a_history_is_told_in_the_tokens_that_the_encoder_reads(codes, dataset, make_recommender):
    told = history_tokens(make_recommender(codes), dataset, HISTORY)
    offsets = (2, 2 + SIZES[0], 2 + SIZES[0] + SIZES[1])
    expected = [
        " ".join(str(offset + code) for offset, code in zip(offsets, codes.codes[item], strict=True))
        for item in HISTORY
    ]
    assert told["tokens"].to_list() == [*expected, str(EOS)]
    assert told["title"].to_list()[:3] == [f"item {item}" for item in HISTORY]
    assert told["identifier"][0] == " · ".join(map(str, codes.codes[HISTORY[0]]))


@pytest.mark.parametrize("beams", [1, 3, 40])
@pytest.mark.parametrize("domain", ["a", "b"])
def test_watched_beams_end_where_beam_search_does(codes, dataset, make_recommender, beams, domain):
    model = make_recommender(codes, sharpness=4.0)
    steps = watch_beams(model, dataset, HISTORY, domain, beams)
    last = steps.filter(pl.col("level") == len(SIZES))
    count = min(beams, len(codes.domain_items(domain)))
    ranked = beam_search(model, [HISTORY], model.trie(domain), beams, count)
    assert last["example"].to_list() == [f"item {item}" for item in ranked.items[0]]
    np.testing.assert_allclose(last["log_probability"], ranked.scores[0], atol=1e-4)


def test_watched_beams_count_what_the_catalogue_allows(codes, dataset, make_recommender):
    steps = watch_beams(make_recommender(codes), dataset, HISTORY, "a", beams=4)
    identifiers = codes.codes[codes.domain_items("a")].tolist()
    for row in steps.iter_rows(named=True):
        prefix = [int(code) for code in row["prefix"].split(" · ")]
        assert row["items"] == sum(identifier[: row["level"]] == prefix for identifier in identifiers)
        siblings = {one[row["level"] - 1] for one in identifiers if one[: row["level"] - 1] == prefix[:-1]}
        assert (row["allowed"], row["of"]) == (len(siblings), SIZES[row["level"] - 1])
        assert 0 < row["legal_mass"] <= 1 + 1e-6
    assert steps.group_by("level", maintain_order=True).len()["len"].to_list() == [4, 4, 4]


def test_all_items_allowed_is_all_of_the_first_levels_probability(make_codes, make_recommender):
    full = make_codes({"a": 60}, SIZES)
    names = [f"item {item}" for item in range(60)]
    items = pl.DataFrame({"item": range(60), "domain": ["a"] * 60, "title": names, "text": names})
    data = Dataset("toy", items, pl.DataFrame({"user": [0], "domain": ["a"], "items": [[1, 2]]}))
    model = make_recommender(full)
    first = watch_beams(model, data, [1, 2], "a", beams=4).row(0, named=True)
    logits = model.to_transformers()(
        **model.inputs([[1, 2]]), decoder_input_ids=model.inputs([[1, 2]])["input_ids"][:, :1] * 0
    ).logits[0, 0]
    expected = logits.softmax(-1)[full.offsets[0] : full.offsets[0] + SIZES[0]].sum().item()
    assert first["legal_mass"] == pytest.approx(expected, abs=1e-5)


def test_the_way_of_the_winner_is_told_even_where_it_was_not_first():
    columns = ("level", "prefix", "log_probability", "allowed", "of", "legal_mass", "items", "example")
    rows = [
        (1, "7", -0.5, 3, 8, 0.9, 4, "cup"), (1, "2", -1.0, 3, 8, 0.9, 1, "pot"),
        (2, "2 · 5", -1.5, 1, 8, 0.25, 1, "pot"), (2, "7 · 1", -2.0, 4, 8, 0.5, 1, "cup"),
    ]  # fmt: skip
    first, second = tell_beams(pl.DataFrame(rows, schema=columns, orient="row")).split("\n")
    assert first.startswith("Level 1. The trie allows 3 of 8 codes, to which the model gives 90")
    assert (
        "2 is number 2 of the 2 kept prefixes, at log-probability -1.00. Below it: 1 item, such as 'pot'."
        in first
    )
    assert second.startswith("Level 2. After 2 the trie allows 1 of 8 codes")
    assert "2 · 5 is number 1 of the 2 kept prefixes" in second


def test_the_typical_user_has_a_history_nearest_to_the_length():
    users = pl.DataFrame({"user": [0, 1, 2, 3], "history": [[1], [1] * 9, [1] * 4, [1] * 6]})
    assert typical_user(users)["user"] == 2
    assert typical_user(users, length=20)["user"] == 1


@pytest.fixture
def rankings() -> Rankings:
    """Three users of a and one of b; "own" hits at ranks 1 and 3, "other" at rank 2 for the last."""
    users = pl.DataFrame(
        {
            "user": [0, 1, 2, 3],
            "domain": ["a", "a", "a", "b"],
            "history": [[5, 6], [7], [0, 1], [30]],
            "target": [1, 2, 3, 31],
        }
    )
    own = np.array([[1, 5, 6], [0, 7, 2], [0, 1, 2], [30, 32, -1]])
    other = np.array([[0, 2, 3], [0, 1, 3], [5, 6, 7], [30, 31, -1]])
    scores = np.tile(np.array([-1.0, -2.0, -3.0], dtype=np.float32), (4, 1))
    return Rankings(users, {"own": own, "other": other}, {"own": scores, "other": scores})


def test_a_users_story_holds_history_recommendations_and_target(rankings, dataset):
    story = user_story(rankings, dataset, "own", row=1, places=3)
    assert story.rows() == [
        ("history", 1, "item 7", None),
        ("recommended", 1, "item 0", -1.0),
        ("recommended", 2, "item 7", -2.0),
        ("recommended, the target", 3, "item 2", -3.0),
        ("target", None, "item 2", None),
    ]
    assert "number 3 of 3" in story_figure(story, "own").layout.title.text
    missed = story_figure(user_story(rankings, dataset, "own", row=3), "own")
    assert "not among the first 2" in missed.layout.title.text


def test_places_that_users_already_had_are_counted_without_fill(rankings):
    shares = places_already_had(rankings)
    assert shares["row"].to_list() == ["other", "own"]
    assert shares["already_had"].to_list() == pytest.approx([1 / 11, (2 + 1 + 2 + 1) / 11])


def test_differences_are_those_of_the_users_means(rankings):
    ndcg = {"own": [1.0, 0.5, 0.0, 0.0], "other": [0.0, 0.0, 0.0, 1 / np.log2(3)]}
    (row,) = differences_to_rows(rankings, "own", k=3).to_dicts()
    assert (row["name"], row["users"]) == ("other", 4)
    assert row["difference"] == pytest.approx(np.mean(ndcg["own"]) - np.mean(ndcg["other"]))
    assert row["low"] <= row["difference"] <= row["high"]
    differences = np.subtract(ndcg["own"], ndcg["other"])
    error = differences.std(ddof=1) / np.sqrt(4)
    assert row["t_test"] == pytest.approx(2 * stats.t.sf(abs(differences.mean() / error), 3))
    assert strongest_other(rankings, "other", k=3) == "own"
    assert strongest_other(Rankings(rankings.users, {"own": rankings.items["own"]}, {}), "own", k=3) is None


def test_a_domain_of_one_user_has_no_interval(rankings):
    (row,) = differences_by_domain(rankings, "own", "other", k=3).to_dicts()
    assert (row["name"], row["users"]) == ("a", 3)
    assert row["difference"] == pytest.approx(0.5)


def test_a_lone_row_is_compared_with_nothing(rankings):
    alone = Rankings(rankings.users, {"own": rankings.items["own"]}, {"own": rankings.scores["own"]})
    assert differences_to_rows(alone, "own", k=3).is_empty()


def test_trainings_are_summed_up_with_their_best_epoch():
    def epoch(number, value, rate, mfu=None):
        metrics = {} if value is None else {"ndcg@10": value}
        speed = {"seconds": 30.0, "samples_per_second": rate} | ({} if mfu is None else {"mfu": mfu})
        return {"epoch": number, "metrics": metrics, **speed}

    histories = {
        "gmc": {"all": [epoch(0, 0.2, 0.0), epoch(1, 0.1, 100.0, 0.2), epoch(2, 0.2, 300.0, 0.4)]},
        "tiger": {"a": [epoch(1, None, 50.0)]},
    }
    assert training_summary(histories).rows() == [
        ("gmc all", 2, 0, 0.2, 1.5, 200, 0.3),
        ("tiger a", 1, None, None, 0.5, 50, None),
    ]
    assert list(trainings(histories, ["tiger"])) == ["tiger a"]
