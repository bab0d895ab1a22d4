"""The codebook explorer: its logic over arrays, without widgets, in `ExplorerState`."""

from genrec_lab.codes import Churn, churn
from genrec_lab.viz.explorer.atlas_file import AtlasFile, atlas_frame, write_atlas
from genrec_lab.viz.explorer.beams import BeamTree, beam_tree
from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.explorer.code_page import CodePage, code_page
from genrec_lab.viz.explorer.collisions import Collisions, Group, collisions, inside, policy_effects
from genrec_lab.viz.explorer.exposure import Exposure, exposure, gini, shown_counts
from genrec_lab.viz.explorer.matching import LevelMatch, TwoTokenizers
from genrec_lab.viz.explorer.panels import PANELS, Panel
from genrec_lab.viz.explorer.prefixes import Children, PrefixOrder
from genrec_lab.viz.explorer.selection import Found, Selection, parse_prefix, search
from genrec_lab.viz.explorer.sharing import LevelSharing, PairSimilarity, level_sharing, pair_similarity
from genrec_lab.viz.explorer.slices import NamedSlice, SliceError, load_slice, save_slice, slice_names
from genrec_lab.viz.explorer.state import ExplorerState, RunRecords, Told
from genrec_lab.viz.explorer.survey import code_survey
from genrec_lab.viz.explorer.training import settled, training_frame
from genrec_lab.viz.explorer.words import TitleWords, Word, log_odds

__all__ = [
    "PANELS",
    "AtlasFile",
    "BeamTree",
    "Children",
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
    "SliceError",
    "TitleWords",
    "Told",
    "TwoTokenizers",
    "Word",
    "atlas_frame",
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
    "save_slice",
    "search",
    "settled",
    "shown_counts",
    "slice_names",
    "training_frame",
    "write_atlas",
]
