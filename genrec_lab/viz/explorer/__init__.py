"""The codebook explorer: its logic over arrays, without widgets, in `ExplorerState`.

A view of your own is a function from a state to what its tab shows:

    from genrec_lab.viz.explorer import Shown, register_explorer_view

    @register_explorer_view("Traffic")
    def traffic(state):
        return Shown([px.histogram(x=state.catalogue.traffic[state.items()])])
"""

from genrec_lab.codes import Churn, churn
from genrec_lab.viz.explorer.beams import BeamTree, beam_tree
from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.explorer.code_page import CodePage, code_page, code_survey
from genrec_lab.viz.explorer.collisions import Collisions, Group, collisions, inside, policy_effects
from genrec_lab.viz.explorer.compare import LevelMatch, TwoTokenizers
from genrec_lab.viz.explorer.domain_sharing import (
    LevelSharing,
    PairSimilarity,
    level_sharing,
    pair_similarity,
)
from genrec_lab.viz.explorer.exports import (
    NamedSlice,
    SliceError,
    load_slice,
    save_slice,
    slice_names,
)
from genrec_lab.viz.explorer.exposure import Exposure, exposure, gini, shown_counts
from genrec_lab.viz.explorer.prefixes import Children, PrefixOrder
from genrec_lab.viz.explorer.selection import Found, Selection, parse_prefix, search
from genrec_lab.viz.explorer.state import (
    EXPLORER_VIEWS,
    PANELS,
    Choice,
    ExplorerState,
    Panel,
    RunRecords,
    Shown,
    Table,
    Told,
    register_explorer_view,
    register_panel,
)
from genrec_lab.viz.explorer.words import TitleWords, Word, log_odds
from genrec_lab.viz.figures.training import training_frame

__all__ = [
    "EXPLORER_VIEWS",
    "PANELS",
    "BeamTree",
    "Children",
    "Choice",
    "Churn",
    "CodePage",
    "CodedCatalogue",
    "Collisions",
    "ExplorerState",
    "Exposure",
    "Found",
    "Group",
    "LevelMatch",
    "LevelSharing",
    "NamedSlice",
    "PairSimilarity",
    "Panel",
    "PrefixOrder",
    "RunRecords",
    "Selection",
    "Shown",
    "SliceError",
    "Table",
    "TitleWords",
    "Told",
    "TwoTokenizers",
    "Word",
    "beam_tree",
    "churn",
    "code_page",
    "code_survey",
    "collisions",
    "exposure",
    "gini",
    "inside",
    "level_sharing",
    "load_slice",
    "log_odds",
    "pair_similarity",
    "parse_prefix",
    "policy_effects",
    "register_explorer_view",
    "register_panel",
    "save_slice",
    "search",
    "shown_counts",
    "slice_names",
    "training_frame",
]
