"""All models over items: twins, what may and may not change a score, what they learn, their files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from genrec_lab.models.sequential.base import DomainItems, ItemModel
from genrec_lab.models.sequential.bert4rec import BERT4Rec, BERT4RecConfig
from genrec_lab.models.sequential.fmlp_rec import FMLPRec, FMLPRecConfig
from genrec_lab.models.sequential.gru4rec import GRU4Rec, GRU4RecConfig
from genrec_lab.models.sequential.hgn import HGN, HGNConfig
from genrec_lab.models.sequential.sasrec import SASRec, SASRecConfig
from genrec_lab.training import TrainingConfig, fit
from tests.unit import item_model_twins as twins
from tests.unit import test_content_models as content

ITEMS = np.array([3, 4, 8, 10, 11, 17, 20, 23])  # a domain's, scattered over the whole catalogue
USERS = np.array([2, 5, 6])
DOMAIN = DomainItems(ITEMS, USERS)
SMALL = {
    "sasrec": (SASRec, SASRecConfig(width=8, heads=2, feed_forward=12, dropout=0.2, max_history=5)),
    "bert4rec": (BERT4Rec, BERT4RecConfig(width=8, heads=2, feed_forward=12, dropout=0.2, max_history=5)),
    "gru4rec": (GRU4Rec, GRU4RecConfig(width=8, hidden=10, dropout=0.2, max_history=5)),
    "hgn": (HGN, HGNConfig(width=8, dropout=0.2, max_history=5)),
    "fmlp_rec": (FMLPRec, FMLPRecConfig(width=8, feed_forward=12, dropout=0.2, max_history=5)),
}


def make(kind: str, **changes) -> ItemModel:
    model_class, config = SMALL[kind]
    torch.manual_seed(0)
    model = model_class(config.model_copy(update=changes)).build(DOMAIN)
    with torch.no_grad():  # away from the small start, at which hardly anything matters
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(params=SMALL)
def kind(request) -> str:
    return request.param


@pytest.fixture
def model(kind: str) -> ItemModel:
    return make(kind)


@pytest.fixture(params=[*SMALL, *content.CONFIGS])
def any_model(request) -> ItemModel:
    return make(request.param) if request.param in SMALL else content.shaken(request.param)


def places(history: list[int]) -> list[int]:
    return [ITEMS.tolist().index(item) for item in history]


# --- scores


@pytest.mark.parametrize("max_history", [5, 6])  # odd and even windows have different spectra
@pytest.mark.parametrize(("history", "user"), [([3], 5), ([8, 10, 23], 6), ([20, 20, 4, 3, 17], 99)])
def test_scores_are_those_of_the_twin(kind: str, history: list[int], user: int, max_history: int) -> None:
    model = make(kind, max_history=max_history)
    user_place = int(DOMAIN.user_places([user])[0])
    expected = log_softmax(getattr(twins, kind)(model, places(history), user_place))
    np.testing.assert_allclose(model.score([history], [user])[0], expected, atol=2e-5)


def test_neither_padding_nor_the_others_of_a_batch_change_a_score(any_model: ItemModel) -> None:
    histories, users = [[8, 10], [3, 4, 11, 17, 20], [23], [4, 4, 4]], [5, 2, 99, 6]
    together = any_model.score(histories, users)
    for row, (history, user) in enumerate(zip(histories, users, strict=True)):
        np.testing.assert_allclose(any_model.score([history], [user])[0], together[row], atol=1e-5)


def test_training_sees_no_more_of_a_sequence_than_its_history(kind: str) -> None:
    """The loss of an epoch is that of the scores after each prefix alone, so no model looks ahead.

    BERT4Rec is compared where the last item alone is masked, which is what it is asked in inference.
    """
    model = make(kind, **({"last_only": 1.0} if kind == "bert4rec" else {}))
    sequences, users = [[3, 10, 17, 4], [8, 23], [20, 11, 8, 3, 4, 17]], [2, 99, 6]
    batches = model.batches(sequences, users, batch_size=50)
    (batch,) = batches(0, 0)
    by_hand = []
    for sequence, user in zip(sequences, users, strict=True):
        for place in range(1, len(sequence)):
            by_hand.append(-model.score([sequence[:place]], [user])[0, places([sequence[place]])[0]])
    with torch.no_grad():
        assert model(**batch).item() == pytest.approx(np.mean(by_hand), abs=1e-5)


@pytest.mark.parametrize("kind", ["sasrec", "gru4rec"])
def test_a_future_item_changes_no_earlier_place(kind: str) -> None:
    model, sequences = make(kind), torch.tensor([[0, 3, 5, 1, 7]])
    other = sequences.clone()
    other[0, 3] = 6
    with torch.no_grad():
        a, b = model.states(sequences), model.states(other)
    torch.testing.assert_close(a[:, :3], b[:, :3], atol=0, rtol=0)
    assert (a[:, 3:] - b[:, 3:]).abs().amax((0, 2)).min() > 1e-3  # and the later ones do see it


@pytest.mark.parametrize("kind", ["sasrec", "gru4rec"])
def test_padding_changes_no_loss(kind: str) -> None:
    model = make(kind)
    with torch.no_grad():
        rows = [torch.tensor([[0, 3, 5, -1, -1, -1]]), torch.tensor([[0, 3, 5]])]
        assert model(rows[0]).item() == pytest.approx(model(rows[1]).item(), abs=1e-6)


def test_a_masked_item_is_not_read() -> None:
    model = make("bert4rec", last_only=0.0, masked=0.5)
    (batch,) = model.batches([[3, 10, 17, 4, 8]] * 6, [2] * 6, 24)(0, 0)
    hidden = batch["wanted"] != -1
    other = batch["wanted"].clone()
    other[hidden] = (other[hidden] + 1) % 8
    with torch.no_grad():
        states = model.states(batch["sequences"])
        chances = model.scores(states[hidden]).log_softmax(-1)
        expected = -chances[torch.arange(int(hidden.sum())), batch["wanted"][hidden]].mean()
        assert model(**batch).item() == pytest.approx(expected.item(), abs=1e-6)
        moved = -chances[torch.arange(int(hidden.sum())), other[hidden]].mean()
        assert model(batch["sequences"], other).item() == pytest.approx(moved.item(), abs=1e-6)


def test_the_order_of_a_history_matters(any_model: ItemModel) -> None:
    assert np.abs(any_model.score([[8, 10, 3]], [5]) - any_model.score([[10, 8, 3]], [5])).max() > 1e-4


def test_only_hgn_knows_users_and_an_unknown_one_is_nobody(model: ItemModel, kind: str) -> None:
    known, other, nobody = model.score([[8, 10]] * 3, [5, 6, 99])
    if kind == "hgn":
        assert np.abs(known - other).max() > 1e-3
        np.testing.assert_allclose(model.score([[8, 10]])[0], nobody, atol=1e-6)
    else:
        np.testing.assert_allclose(known, other, atol=1e-6)
        np.testing.assert_allclose(known, nobody, atol=1e-6)


def test_of_a_history_that_is_too_long_the_most_recent_items_are_read(any_model: ItemModel) -> None:
    recent = [4, 8, 10, 11, 17]
    np.testing.assert_array_equal(any_model.score([[23, 20, 3, *recent]]), any_model.score([recent]))
    assert np.abs(any_model.score([[23, *recent[1:]]]) - any_model.score([recent])).max() > 1e-4


def test_a_catalogue_smaller_than_k_is_ranked_whole_and_filled_up(any_model: ItemModel) -> None:
    histories, users = [[3], [8, 10, 23], [20, 20]], [2, 5, 99]
    ranked, scores = any_model.recommend(histories, 10, users), any_model.score(histories, users)
    for row in range(3):
        assert ranked.items[row, :8].tolist() == ITEMS[np.argsort(-scores[row], kind="stable")].tolist()
        assert ranked.items[row, 8:].tolist() == [-1, -1]
        assert np.isneginf(ranked.scores[row, 8:]).all()


def test_a_catalogue_of_one_item_is_certain(kind: str) -> None:
    model_class, config = SMALL[kind]
    model = model_class(config).build(DomainItems(np.array([7])))
    assert model.recommend([[7, 7]], 2).items.tolist() == [[7, -1]]
    np.testing.assert_allclose(model.score([[7]]), [[0.0]], atol=1e-6)
    (batch,) = model.batches([[7, 7, 7]], [0], 4)(0, 0)
    assert model(**batch).item() == pytest.approx(0.0, abs=1e-6)


def test_scoring_is_without_dropout(any_model: ItemModel) -> None:
    expected = any_model.score([[3, 4]])
    any_model.train()
    np.testing.assert_array_equal(any_model.score([[3, 4]]), expected)


# --- learning


def test_it_learns_a_cycle_and_ranks_items_that_it_never_saw(kind: str) -> None:
    """Each of six items is followed by the next, the last by the first; two items are in no sequence."""
    cycle = ITEMS[:6].tolist() * 3
    sequences = [cycle[start : start + length] for start in range(6) for length in (3, 4, 6, 7)]
    model_class, config = SMALL[kind]
    torch.manual_seed(0)
    # A cloze learns slowly; that all masks are at the end shortens the test.
    changes = {"width": 16, "dropout": 0.0} | ({"last_only": 1.0} if kind == "bert4rec" else {})
    model = model_class(config.model_copy(update=changes)).build(DOMAIN)
    training = TrainingConfig(epochs=60, learning_rate=0.006, weight_decay=0.0, precision="fp32")
    fit(model, model.batches(sequences, [2, 5, 6] * 8, 6), training)
    for length in (2, 5):
        histories = [cycle[start : start + length] for start in range(6)]
        ranked = model.recommend(histories, 8, [2, 5, 6] * 2)
        assert ranked.items[:, 0].tolist() == [cycle[start + length] for start in range(6)]
        assert (np.exp(ranked.scores[:, 0]) > 0.5).all()
        for row in ranked.items:
            assert sorted(row.tolist()) == ITEMS.tolist()  # the two that were never seen are among them
    assert np.isfinite(model.score([[20, 23]])).all()  # and are read


@pytest.mark.parametrize(
    ("kind", "objective"),
    [("sasrec", "bce"), ("gru4rec", "bpr_max"), ("gru4rec", "top1_max"), ("hgn", "bpr"), ("fmlp_rec", "bpr")],
)
def test_it_learns_a_cycle_by_its_papers_objective(kind: str, objective: str) -> None:
    cycle = ITEMS.tolist() * 3
    sequences = [cycle[start : start + 6] for start in range(8)]
    model_class, config = SMALL[kind]
    torch.manual_seed(0)
    changes = {"width": 16, "dropout": 0.0, "objective": objective}
    changes |= {"samples": 16} if kind == "gru4rec" else {}
    model = model_class(config.model_copy(update=changes)).build(DOMAIN)
    training = TrainingConfig(epochs=100, learning_rate=0.02, weight_decay=0.0, precision="fp32")
    fit(model, model.batches(sequences, [2] * 8, 8), training)
    ranked = model.recommend([cycle[start : start + 4] for start in range(8)], 1, [2] * 8)
    assert ranked.items[:, 0].tolist() == [cycle[start + 4] for start in range(8)]


def test_every_weight_is_trained(model: ItemModel, kind: str) -> None:
    model.train()
    sequences = [ITEMS.tolist()[:6], ITEMS.tolist()[2:]]
    for batch in model.batches(sequences, [2, 5], 50)(0, 0):
        model(**batch).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


# --- files and refusals


def test_what_is_saved_is_loaded(tmp_path, model: ItemModel) -> None:
    loaded = type(model).load(model.save(tmp_path / "deep" / "folder"))
    assert loaded.config == model.config
    assert loaded.items.tolist() == ITEMS.tolist()
    assert loaded.domain.users.tolist() == USERS.tolist()
    assert not loaded.training
    histories, users = [[3, 4], [23]], [5, 99]
    np.testing.assert_array_equal(loaded.score(histories, users), model.score(histories, users))


def test_what_cannot_be_read_is_refused(any_model: ItemModel) -> None:
    name = type(any_model).__name__
    with pytest.raises(ValueError, match=f"history 1 is empty; {name} needs at least one item"):
        any_model.recommend([[3], []], 3)
    with pytest.raises(ValueError, match="history 1 holds item 5, which is not among the 8 of the domain"):
        any_model.recommend([[3], [4, 5]], 3)
    with pytest.raises(ValueError, match="sequence 1 holds item 24, which is not among the 8"):
        any_model.batches([[3, 4], [4, 24, 8]], [2, 5], 4)
    with pytest.raises(ValueError, match="no training sequence has two items"):
        any_model.batches([[3], []], [2, 5], 4)


def test_a_config_with_a_wrong_key_names_it() -> None:
    with pytest.raises(ValueError, match="hiden"):
        GRU4RecConfig.model_validate({"hiden": 8})


@pytest.mark.parametrize("kind", ["sasrec", "bert4rec"])
def test_a_width_that_heads_cannot_share_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="width is 10, which is not divisible by 4 heads"):
        make(kind, width=10, heads=4)
