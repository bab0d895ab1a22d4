"""The work behind the notebooks, a function a stage, and readers of what the stages wrote."""

from genrec_lab.lab.stages.ablating import Ablation, weigh_parts
from genrec_lab.lab.stages.adapted import (
    adaptation_sizes,
    describe_adaptation,
    load_adaptation_history,
    load_tokenizer_transfers,
    lora_parameters,
    renamed_items,
)
from genrec_lab.lab.stages.adapting import adapt_to_domains, load_adapted
from genrec_lab.lab.stages.bounds import floor_and_ceiling
from genrec_lab.lab.stages.checking import Machine, check_machine
from genrec_lab.lab.stages.comparing import Comparison, compare_runs
from genrec_lab.lab.stages.differences import differences_by_domain, differences_to_rows, strongest_other
from genrec_lab.lab.stages.endings import (
    describe_skipped,
    end_without_codes,
    end_without_variants,
    shown_row,
)
from genrec_lab.lab.stages.evaluating import Rankings, compare_beam_with_exact, load_rankings, rank_test_users
from genrec_lab.lab.stages.exploring import (
    coded_catalogue,
    explore,
    explorer_state,
    survey_codes,
    watched_beam,
)
from genrec_lab.lab.stages.histories import training_figures, training_summary, trainings
from genrec_lab.lab.stages.levels import item_levels, step_through, what_levels_leave
from genrec_lab.lab.stages.long_tail import long_tail_figure, rows_by_popularity
from genrec_lab.lab.stages.mapping import (
    Atlas,
    codeword_sums,
    comparable_codes,
    load_atlas,
    map_residuals,
    mapped_things,
)
from genrec_lab.lab.stages.meaning import Kept, has_decoders, told_items, what_codes_keep
from genrec_lab.lab.stages.papers import show_beside_papers
from genrec_lab.lab.stages.policies import compare_policies
from genrec_lab.lab.stages.preparing import Prepared, load_prepared, prepare_data
from genrec_lab.lab.stages.recommending import (
    learnt_from,
    load_history,
    load_recommender,
    starting_recommender,
    train_recommenders,
)
from genrec_lab.lab.stages.references import codes_of_same_items
from genrec_lab.lab.stages.rows import generative_rows, lead_row
from genrec_lab.lab.stages.stories import (
    history_tokens,
    places_already_had,
    story_figure,
    tell_beams,
    typical_user,
    user_story,
    watch_beams,
)
from genrec_lab.lab.stages.tokenizing import Identified, load_identified, load_vectors, train_tokenizers
from genrec_lab.lab.stages.tuned import tuning_of_rows

__all__ = [
    "Ablation",
    "Atlas",
    "Comparison",
    "Identified",
    "Kept",
    "Machine",
    "Prepared",
    "Rankings",
    "adapt_to_domains",
    "adaptation_sizes",
    "check_machine",
    "coded_catalogue",
    "codes_of_same_items",
    "codeword_sums",
    "comparable_codes",
    "compare_beam_with_exact",
    "compare_policies",
    "compare_runs",
    "describe_adaptation",
    "describe_skipped",
    "differences_by_domain",
    "differences_to_rows",
    "end_without_codes",
    "end_without_variants",
    "explore",
    "explorer_state",
    "floor_and_ceiling",
    "generative_rows",
    "has_decoders",
    "history_tokens",
    "item_levels",
    "lead_row",
    "learnt_from",
    "load_adaptation_history",
    "load_adapted",
    "load_atlas",
    "load_history",
    "load_identified",
    "load_prepared",
    "load_rankings",
    "load_recommender",
    "load_tokenizer_transfers",
    "load_vectors",
    "long_tail_figure",
    "lora_parameters",
    "map_residuals",
    "mapped_things",
    "places_already_had",
    "prepare_data",
    "rank_test_users",
    "renamed_items",
    "rows_by_popularity",
    "show_beside_papers",
    "shown_row",
    "starting_recommender",
    "step_through",
    "story_figure",
    "strongest_other",
    "survey_codes",
    "tell_beams",
    "told_items",
    "train_recommenders",
    "train_tokenizers",
    "training_figures",
    "training_summary",
    "trainings",
    "tuning_of_rows",
    "typical_user",
    "user_story",
    "watch_beams",
    "watched_beam",
    "weigh_parts",
    "what_codes_keep",
    "what_levels_leave",
]
