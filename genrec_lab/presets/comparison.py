"""Runs without a method of their own: every row of the papers' tables, GMC among them, UTGRec not."""

from __future__ import annotations

from genrec_lab.presets.baselines import rows_over_items
from genrec_lab.presets.gmc import gmc_cpu, gmc_tiny
from genrec_lab.presets.method_config import ABLATIONS, ROWS, ItemRow, MethodConfig, changed

_TINY_WIDTH = 16


def baselines() -> MethodConfig:
    """All rows with one budget, for two cores; what the data cannot feed is skipped with its reason."""
    return changed(
        gmc_cpu(),
        name="baselines",
        own_row=False,
        provenance=(
            "No method of its own. Rows over items: width 64 and what each model's file says of its sizes; a "
            "softmax over all items for all of them, AdamW 1e-3, batch 256, at most 200 epochs, stopped when "
            "validation NDCG has not risen for 20. Generative rows: the sizes and epochs of gmc_cpu, MiniLM "
            "vectors."
        ),
        compare=every_row(),
        rows=rows_over_items(epochs=200, patience=10, size="cpu"),
    )


def baselines_tiny() -> MethodConfig:
    """All rows at sizes that only show that everything runs; the smoke run's."""
    tiny = gmc_tiny()
    rows = {name: _tiny(row) for name, row in rows_over_items(epochs=2, size="tiny").items()}
    return changed(
        tiny,
        name="baselines_tiny",
        own_row=False,
        provenance="No result is meant by it: every row at the smallest sizes.",
        compare=every_row(),
        rows=rows,
    )


def every_row() -> tuple[str, ...]:
    """Return the names of all rows but those that are variants of one method."""
    over_items = rows_over_items(epochs=1)
    return (*over_items, *(name for name in ROWS if name not in ABLATIONS))


def _tiny(row: ItemRow) -> ItemRow:
    narrow = {"width": _TINY_WIDTH} if "width" in type(row.model).model_fields else {}
    return row.model_copy(update={"model": row.model.model_copy(update=narrow)})
