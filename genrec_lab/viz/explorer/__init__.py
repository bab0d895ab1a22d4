"""The codebook explorer; `ExplorerState` contains its logic over arrays, without widgets.

`register_explorer_view` adds a view.
"""

from genrec_lab.viz.explorer.beams import BeamTree, Exactly, beam_tree
from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.explorer.code_tables import code_survey
from genrec_lab.viz.explorer.collisions import collisions, policy_effects
from genrec_lab.viz.explorer.compare import TwoTokenizers
from genrec_lab.viz.explorer.selection import Selection, SliceError
from genrec_lab.viz.explorer.state import (
    EXPLORER_VIEWS,
    Choice,
    Decoded,
    ExplorerState,
    RunRecords,
    Shown,
    Table,
    register_explorer_view,
)

__all__ = [
    "EXPLORER_VIEWS", "BeamTree", "Choice", "CodedCatalogue", "Decoded", "Exactly", "ExplorerState",
    "RunRecords", "Selection", "Shown", "SliceError", "Table", "TwoTokenizers", "beam_tree", "code_survey",
    "collisions", "policy_effects", "register_explorer_view",
]  # fmt: skip
