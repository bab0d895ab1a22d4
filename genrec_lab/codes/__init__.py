"""Identifiers: ItemCodes, its vocabulary, and the policies that make identifiers unique."""

from genrec_lab.codes.changes import Churn, churn
from genrec_lab.codes.conflicts import POLICIES, IdentifierConfig, Reassigned, reassign
from genrec_lab.codes.errors import CodesError
from genrec_lab.codes.grouping import positions_within_groups, row_ids
from genrec_lab.codes.health import (
    CodeHealth,
    DomainSharing,
    LaterMeasures,
    code_health,
    domain_sharing,
    prefix_entropy,
    use_of_codes,
)
from genrec_lab.codes.index_files import IndexFile, read_index_file, read_index_files
from genrec_lab.codes.item_codes import EOS, ONLY_DOMAIN, PAD, ItemCodes, Resolution
from genrec_lab.codes.prefix_codewords import PrefixCodewords

__all__ = [
    "EOS",
    "ONLY_DOMAIN",
    "PAD",
    "POLICIES",
    "Churn",
    "CodeHealth",
    "CodesError",
    "DomainSharing",
    "IdentifierConfig",
    "IndexFile",
    "ItemCodes",
    "LaterMeasures",
    "PrefixCodewords",
    "Reassigned",
    "Resolution",
    "churn",
    "code_health",
    "domain_sharing",
    "positions_within_groups",
    "prefix_entropy",
    "read_index_file",
    "read_index_files",
    "reassign",
    "row_ids",
    "use_of_codes",
]
