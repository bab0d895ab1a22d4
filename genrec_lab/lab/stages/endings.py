"""Runs without codes: what their notebooks say in place of what they have nothing to show of."""

from __future__ import annotations

from genrec_lab.lab.stages.preparing import load_prepared
from genrec_lab.lab.stages.rows import generative_rows, has_texts, skipped_rows, trained_item_rows
from genrec_lab.lab.store import Run
from genrec_lab.presets import variants
from genrec_lab.viz.live import end_notebook


def end_without_codes(run: Run, *, texts: bool = False, stage: str | None = None) -> None:
    """Say that there is nothing to show, and let the cells below do nothing, where no row has codes.

    texts: also where the items have no texts, whose vectors the cells below show. stage: the one that they
    would make; what other rows of the run left there before is removed, for these rows did not make it.
    """
    if not generative_rows(run):
        why = f"no row of the run {run.name!r} gives items codes."
    elif texts and not has_texts(load_prepared(run).dataset):
        why = f"the items of the run {run.name!r} have no texts."
    else:
        return
    if stage is not None:
        run.forget(stage)
    end_notebook(why)


def end_without_variants(run: Run) -> None:
    """Say that there is nothing to show, and let the cells below do nothing, where no part is left out."""
    if not variants(run.config):
        end_notebook(
            f"no row of the run {run.name!r} is its method without one of its parts; name some in "
            "overrides['compare'], as 'gmc_without_lora' or 'utgrec_without_tree'."
        )


def shown_row(run: Run) -> str:
    """Return the row that is looked at closely: the run's own, its first generative one, or its first."""
    rows = (*generative_rows(run), *trained_item_rows(run.config, load_prepared(run).dataset), "popularity")
    return rows[0]


def describe_skipped(run: Run) -> str:
    """Say which rows the data cannot feed, and why: a line each."""
    skipped = skipped_rows(run.config, load_prepared(run).dataset)
    return "\n".join(f"{name} is skipped: {why}." for name, why in skipped.items()) or "No row is skipped."
