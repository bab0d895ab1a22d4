"""The lab: the run folder that notebooks share, what each stage makes, the chain, and the report.

Names are imported when they are asked for, so that a notebook loads what it uses.
"""

import importlib
from typing import Any

_NAMES = {
    "adapt": "adapt_to_domains adaptation_sizes codes_in_use describe_adaptation load_adaptation_history "
    "load_adapted load_tokenizer_transfers lora_parameters renamed_items",
    "compare": "Ablation Comparison compare_runs end_without_variants put_beside weigh_parts",
    "evaluate": "Rankings compare_beam_with_exact describe_skipped "
    "floor_and_ceiling load_rankings long_tail_figure rank_test_users rows_by_popularity show_beside_papers "
    "shown_row tuning_of_rows",
    "explore": "Atlas coded_catalogue codes_of_same_items explorer_state "
    "has_decoders load_atlas map_residuals survey_codes told_items watched_beam what_codes_keep",
    "files": "RunError",
    "notebooks": "keep_cell",
    "prepare": "Machine Prepared check_machine data_summary load_prepared prepare_data ties_in_short",
    "recommend": "learnt_from load_history starting_recommender train_recommenders "
    "training_figures training_summary trainings",
    "rows": "decodes_in_steps end_without_codes lead_row",
    "store": "Run Task Work existing_run open_run runs_root",
    "tokenise": "Identified compare_policies load_identified load_vectors train_tokenizers",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
