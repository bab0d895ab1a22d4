"""Every code of a tokenizer in one table: who has it, and whether it is worth its place in the codebook."""

from __future__ import annotations

import numpy as np
import polars as pl

from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.explorer.code_page import state_of
from genrec_lab.viz.explorer.prefixes import purity_of
from genrec_lab.viz.explorer.sharing import level_sharing


def code_survey(catalogue: CodedCatalogue) -> pl.DataFrame:
    """One row a code of each level, under any prefix.

    Frame `level` (from 1), `code`, `items`, `domains` (how many use it), `purity` (share of the commonest
    domain, null for a dead code), `interactions` (of its items), `state` as on its page: "alive", "nearly
    dead" or "dead".
    """
    parts = []
    for level, size in enumerate(catalogue.codes.sizes):
        by_domain = level_sharing(catalogue, level).items.T
        items = by_domain.sum(axis=1)
        traffic = np.bincount(catalogue.codes.codes[:, level], weights=catalogue.traffic, minlength=size)
        even = catalogue.n_items / size
        states = [state_of(count, count, even) for count in items.tolist()]
        part = {
            "level": np.full(size, level + 1),
            "code": np.arange(size),
            "items": items,
            "domains": (by_domain > 0).sum(axis=1),
            "purity": pl.Series(purity_of(by_domain)).fill_nan(None),
            "interactions": traffic.astype(np.int64),
            "state": states,
        }
        parts.append(pl.DataFrame(part))
    return pl.concat(parts)
