"""What was searched for each row of a run, in the words of its config."""

from __future__ import annotations

import polars as pl

from genrec_lab.lab.store import Run
from genrec_lab.presets import TuningConfig, item_rows, methods


def tuning_of_rows(run: Run) -> pl.DataFrame:
    """Say for each row of a run's table what was searched: frame `row, trials, search_space, chosen_on`.

    Rows that the data cannot feed are in it too. The settings of one trial are those of the preset, whatever
    overrides the run has; popularity has none.
    """
    config = run.config
    searched: dict[str, TuningConfig] = {name: method.tuning for name, method in methods(config).items()}
    searched |= {name: row.tuning for name, row in item_rows(config).items()}
    monitors = {name: method.training.monitor for name, method in methods(config).items()}
    monitors |= {name: row.training.monitor for name, row in item_rows(config).items()}
    rows = [
        (name, tuning.trials, tuning.space or "1 trial: the preset", f"validation {monitors[name]}")
        for name, tuning in searched.items()
    ]
    if "popularity" in config.compare:
        rows.append(("popularity", 1, "nothing to set", "nothing"))
    columns = {"row": pl.String, "trials": pl.Int64, "search_space": pl.String, "chosen_on": pl.String}
    return pl.DataFrame(rows, schema=columns, orient="row")
