"""What was searched is said of every row of a run, and an impossible statement is refused."""

import pytest

from genrec_lab import presets
from genrec_lab.lab import open_run, tuning_of_rows
from genrec_lab.presets import PresetError

ROWS = ["tiger", "idgenrec", "gmc_without_lora", "sasrec", "gru4rec", "popularity"]


def test_every_row_says_the_trials_behind_its_settings(tmp_path) -> None:
    searched = {"trials": 3, "space": "training.learning_rate: 1e-3, 3e-3, 1e-2"}
    overrides = {"compare": ROWS, "tuning": searched, "rows.gru4rec.tuning.trials": 2}
    overrides["rows.gru4rec.tuning.space"] = "model.dropout: .2, .5"
    run = open_run("r", dataset={"name": "bazaar"}, preset="gmc_tiny", overrides=overrides, root=tmp_path)
    table = {row: (trials, space) for row, trials, space, _ in tuning_of_rows(run).iter_rows()}
    of_one_budget = {table.pop(row) for row in ("gmc_tiny", "gmc_without_lora", "tiger", "idgenrec")}
    assert of_one_budget == {(3, searched["space"])}  # they train with the same values
    assert table.pop("gru4rec") == (2, "model.dropout: .2, .5")
    assert table.pop("popularity") == (1, "nothing to tune")
    assert table == {"sasrec": (1, "1 trial: the preset")}
    assert set(tuning_of_rows(run)["chosen_on"]) == {"validation ndcg@10", "nothing"}


@pytest.mark.parametrize("tuning", [{"tuning.trials": 4}, {"tuning.space": "training.epochs: 1, 2"}])
def test_more_trials_than_one_name_their_space_and_one_names_none(tuning) -> None:
    with pytest.raises(
        PresetError, match="give a space for more than one trial, and none for a single trial"
    ):
        presets.load("gmc_tiny", tuning)
