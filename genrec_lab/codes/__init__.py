"""Identifiers: ItemCodes, their vocabulary, and policies that make identifiers unique."""

from genrec_lab.codes.conflicts import (
    CONFLICT_POLICIES,
    Conflicts,
    IdentifierConfig,
    Reassigned,
    reassign,
    register_conflict_policy,
)
from genrec_lab.codes.grouping import CodesError, positions_within_groups, row_ids
from genrec_lab.codes.health import (
    Churn,
    CodeHealth,
    DomainSharing,
    churn,
    code_health,
    domain_sharing,
    prefix_entropy,
    use_of_codes,
)
from genrec_lab.codes.index_files import IndexFile, read_index_file, read_index_files, sizes_of
from genrec_lab.codes.item_codes import EOS, ONLY_DOMAIN, PAD, ItemCodes, Resolution
from genrec_lab.codes.last_level import PrefixCodewords

__all__ = [
    "CONFLICT_POLICIES", "EOS", "ONLY_DOMAIN", "PAD", "Churn", "CodeHealth", "CodesError", "Conflicts",
    "DomainSharing", "IdentifierConfig", "IndexFile", "ItemCodes", "PrefixCodewords", "Reassigned",
    "Resolution", "churn", "code_health", "domain_sharing", "positions_within_groups", "prefix_entropy",
    "read_index_file", "read_index_files", "reassign", "register_conflict_policy", "row_ids", "sizes_of",
    "use_of_codes",
]  # fmt: skip
