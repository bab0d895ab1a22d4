"""Every figure of the lab: functions from arrays and frames to a plotly figure."""

from genrec_lab.evaluation.ranking import AVERAGE
from genrec_lab.viz.figures.ablations import worth_of_parts
from genrec_lab.viz.figures.beams import beam_way
from genrec_lab.viz.figures.bounds import room_above
from genrec_lab.viz.figures.codebook_training import codebook_by_epoch
from genrec_lab.viz.figures.codes import code_sharing, code_usage, health_by_level, shared_share
from genrec_lab.viz.figures.collisions import collision_group
from genrec_lab.viz.figures.comparisons import (
    adaptation_change,
    beam_misses,
    difference_intervals,
    missed_share,
)
from genrec_lab.viz.figures.data import popularity_curve, sequence_lengths, statistics_table
from genrec_lab.viz.figures.exposure import exposure_by_code, exposure_by_popularity
from genrec_lab.viz.figures.identifiers import (
    collision_groups,
    identifier_examples,
    neighbour_overlap,
    policy_costs,
)
from genrec_lab.viz.figures.kept_content import kept_by_codes, shares_told
from genrec_lab.viz.figures.level_errors import error_shares, quantisation_errors
from genrec_lab.viz.figures.long_tail import long_tail
from genrec_lab.viz.figures.matching import changed_company, tokenizer_match
from genrec_lab.viz.figures.method_bars import metric_bars, share_of_best
from genrec_lab.viz.figures.papers import paper_table
from genrec_lab.viz.figures.pictures import item_pictures
from genrec_lab.viz.figures.prefix_map import prefix_map
from genrec_lab.viz.figures.prefixes import code_items, code_profile, prefix_bars
from genrec_lab.viz.figures.residuals import (
    explained_variance,
    map_purity,
    nothing_quantised,
    residual_atlas,
    residual_energy,
)
from genrec_lab.viz.figures.results import BEST_POSSIBLE, ranked_table, results_table, summarise
from genrec_lab.viz.figures.sharing import domain_lift, similarity_by_prefix
from genrec_lab.viz.figures.stepper import residual_stepper
from genrec_lab.viz.figures.tokenizer_health import tokenizers_compared
from genrec_lab.viz.figures.training import metric_name, recommender_curves, tokenizer_curves

__all__ = [
    "AVERAGE",
    "BEST_POSSIBLE",
    "adaptation_change",
    "beam_misses",
    "beam_way",
    "changed_company",
    "code_items",
    "code_profile",
    "code_sharing",
    "code_usage",
    "codebook_by_epoch",
    "collision_group",
    "collision_groups",
    "difference_intervals",
    "domain_lift",
    "error_shares",
    "explained_variance",
    "exposure_by_code",
    "exposure_by_popularity",
    "health_by_level",
    "identifier_examples",
    "item_pictures",
    "kept_by_codes",
    "long_tail",
    "map_purity",
    "metric_bars",
    "metric_name",
    "missed_share",
    "neighbour_overlap",
    "nothing_quantised",
    "paper_table",
    "policy_costs",
    "popularity_curve",
    "prefix_bars",
    "prefix_map",
    "quantisation_errors",
    "ranked_table",
    "recommender_curves",
    "residual_atlas",
    "residual_energy",
    "residual_stepper",
    "results_table",
    "room_above",
    "sequence_lengths",
    "share_of_best",
    "shared_share",
    "shares_told",
    "similarity_by_prefix",
    "statistics_table",
    "summarise",
    "tokenizer_curves",
    "tokenizer_match",
    "tokenizers_compared",
    "worth_of_parts",
]
