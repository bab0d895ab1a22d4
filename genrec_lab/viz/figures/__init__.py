"""All figures of the lab: functions from arrays, frames and core objects to a plotly figure.

Every figure, ours or yours, is looked up by name in `FIGURES` and imported on first access. Ours are also
attributes of this module, such as `figures.code_usage`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

import plotly.graph_objects as go

from genrec_lab.registry import Registry

# The functions that return a figure, by module of genrec_lab.viz.
_FIGURES = {
    "figures.codes": "code_sharing code_usage collision_groups identifier_examples neighbour_overlap "
    "policy_costs tokenizers_compared",
    "figures.comparisons": "adaptation_change beam_misses difference_intervals long_tail worth_of_parts",
    "figures.data": "popularity_curve sequence_lengths statistics_table",
    "figures.pictures": "item_pictures kept_by_codes",
    "figures.residuals": "levels_leave residual_atlas residual_stepper what_levels_leave",
    "figures.results": "metric_bars paper_table results_table",
    "figures.training": "codebook_by_epoch recommender_curves tokenizer_curves",
    "explorer.beams": "beam_way",
    "explorer.code_tables": "prefix_bars",
    "explorer.compare": "tokenizer_match",
    "explorer.recommendations": "exposure_by_popularity",
}
# Other public names: functions that prepare the inputs of figures, and constants.
_OTHERS = {
    "figures.comparisons": "missed_share",
    "figures.pictures": "shares_told",
    "figures.residuals": "error_shares explained_variance map_purity mapped_things step_through",
    "figures.results": "AVERAGE BEST_POSSIBLE ranked_table summarise",
    "figures.training": "metric_name",
}


def _places(by_module: dict[str, str]) -> dict[str, str]:
    """Return where each name is defined, in the registry's notation."""
    pairs = [(module, name) for module, names in by_module.items() for name in names.split()]
    return {name: f"genrec_lab.viz.{module}:{name}" for module, name in pairs}


T = TypeVar("T")

FIGURES: Registry[Callable[..., go.Figure]] = Registry("figure", declared=_places(_FIGURES))
"""Functions that return a plotly figure, by name."""


def register_figure(name: str) -> Callable[[T], T]:
    """Register the decorated function, which must return a plotly figure, under a name.

    >>> @register_figure("items_by_interactions")
    ... def items_by_interactions(interactions):
    ...     return go.Figure(go.Scatter(y=sorted(interactions, reverse=True)))
    >>> FIGURES.find("items_by_interactions")([1, 5, 2]).data[0].y
    (5, 2, 1)
    """
    return FIGURES.register(name)


_ELSEWHERE = _places(_OTHERS)

__all__ = ["FIGURES", "register_figure", *_places(_FIGURES), *_ELSEWHERE]


def __getattr__(name: str) -> Any:
    if name in FIGURES:
        return FIGURES.find(name)
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _ELSEWHERE[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
