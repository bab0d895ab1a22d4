"""Rows over items in a config: names, overrides, and the presets that have no row of their own."""

from __future__ import annotations

import pytest

from genrec_lab import presets
from genrec_lab.models.recommenders.base import ITEM_MODELS
from genrec_lab.presets import ROWS, PresetError, item_rows, methods


def test_every_preset_has_a_row_of_each_kind_and_one_budget_for_those_over_ids() -> None:
    for name in ("gmc_small", "utgrec_tiny", "tiger", "baselines"):
        rows = presets.load(name).rows
        kinds = set(ITEM_MODELS) - {"popularity"}
        assert kinds <= set(rows)
        assert all(rows[kind].model.kind == kind for kind in kinds)
        over_ids = [row for row in rows.values() if not ITEM_MODELS.find(row.model.kind).needs]
        assert len({row.training for row in over_ids}) == 1


def test_the_common_objective_is_the_softmax_over_all_items() -> None:
    for row in presets.load("baselines").rows.values():
        assert getattr(row.model, "objective", "cross_entropy") == "cross_entropy"


def test_baselines_are_all_rows_that_are_no_variant_and_nothing_else() -> None:
    config = presets.load("baselines")
    assert set(config.compare) == set(config.rows) | {
        name for name in ROWS if not name.startswith(("gmc_", "utgrec_"))
    }
    assert set(item_rows(config)) == set(config.rows)
    assert "baselines" not in methods(config)
    assert "tiger" in methods(config)
    assert methods(config)["tiger"].own_row


def test_a_preset_of_its_own_stays_the_first_row() -> None:
    assert list(methods(presets.load("gmc_small"))) == ["gmc_small", "tiger", "gmc_without_lora"]


def test_a_new_row_begins_as_a_copy_of_the_row_of_its_kind() -> None:
    overrides = {
        "rows": {"sasrec_bce": {"model": {"objective": "bce", "kind": "sasrec"}, "training": {"epochs": 7}}},
        "rows.sasrec.model.width": 32,
        "compare": ["sasrec", "sasrec_bce"],
    }
    config = presets.load("gmc_small", overrides)
    plain, own = config.rows["sasrec"], config.rows["sasrec_bce"]
    assert (plain.model.width, plain.model.objective) == (32, "cross_entropy")
    assert (own.model.width, own.model.objective, own.training.epochs) == (64, "bce", 7)
    assert own.training.patience == plain.training.patience
    assert list(item_rows(config)) == ["sasrec", "sasrec_bce"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"rows.sasrek.model.width": 8}, r"no 'sasrek' \(did you mean 'sasrec'\?\).*rows.sasrek.model.kind"),
        ({"rows.x.model.kind": "sasrek"}, r"there is no item model 'sasrek' \(did you mean 'sasrec'"),
        ({"rows.sasrec.model.objective": "bpr"}, r"rows.sasrec.model.*objective = 'bpr'"),
        ({"rows.gru4rec.model.heads": 2}, r"'rows.gru4rec.model.heads' is unknown; rows.gru4rec.model has"),
        ({"rows.tiger.model.kind": "hgn"}, r"rows has 'tiger', the name of another row"),
        ({"compare": ["sasrek"]}, r"compare names 'sasrek' \(did you mean 'sasrec'\?\)"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_are_refused(overrides: dict, message: str) -> None:
    with pytest.raises(PresetError, match=message):
        presets.load("gmc_small", overrides)


def test_without_any_row_there_is_nothing_to_train() -> None:
    with pytest.raises(PresetError, match="own_row is false and compare names no row"):
        presets.load("baselines", {"compare": []})
