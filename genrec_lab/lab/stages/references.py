"""A run's tokenizers beside identifiers that others published, on the same items."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from genrec_lab.codes import CodesError, IndexFile, ItemCodes, read_index_files
from genrec_lab.data import Dataset
from genrec_lab.lab.stages.mapping import comparable_codes
from genrec_lab.lab.stages.preparing import load_prepared
from genrec_lab.lab.stages.rows import generative_rows, tokenizer_owners
from genrec_lab.lab.stages.tokenizing import load_identified
from genrec_lab.lab.store import Run


def codes_of_same_items(run: Run) -> dict[str, ItemCodes]:
    """The codes of each tokenizer of a run before any policy, and those of `reference_codes`, where named.

    Without references: of all items of the run. With them: of the domain whose items the files name, by the
    items' own keys; its tokenizers are called "this run: …". Raises CodesError where no domain fits.
    """
    own = {
        name: load_identified(run, name)
        for name in dict.fromkeys(tokenizer_owners(generative_rows(run)).values())
    }
    if not run.config.reference_codes:
        return {name: comparable_codes(one) for name, one in own.items()}
    dataset, references = load_prepared(run).dataset, read_index_files(run.config.reference_codes)
    domain = _domain_named(dataset, references)
    items = dataset.domain_items(domain)
    keys = [str(key) for key in dataset.items["key"].gather(items).to_list()]
    found = {name: one.of_items(keys) for name, one in references.items()}
    # A domain's own numbers: ranges of codes that only other domains can have would all be dead here.
    return found | {f"this run: {name}": one.raw.select(items) for name, one in own.items()}


def _domain_named(dataset: Dataset, references: Mapping[str, IndexFile]) -> str:
    """The domain with just the items of all files, or else the only one whose items are all among them."""
    named = [set(one.keys) for one in references.values()]
    keys = _keys_by_domain(dataset)
    equal = [domain for domain, own in keys.items() if all(own == there for there in named)]
    within = [domain for domain, own in keys.items() if all(own <= there for there in named)]
    for domains in (equal, within):
        if len(domains) == 1:
            return domains[0]
    there = {name: len(one.keys) for name, one in references.items()}
    here = {domain: len(own) for domain, own in keys.items()}
    raise CodesError(
        f"reference_codes: files of {there} items fit none of the domains {here}, or several alike; give "
        "identifiers of all items of one domain, by the ids of its data files"
    )


def _keys_by_domain(dataset: Dataset) -> dict[str, set[str]]:
    if "key" not in dataset.items.columns:
        raise CodesError("reference_codes: these data have no ids of their own (column key) to match by")
    keys = np.array([str(key) for key in dataset.items["key"].to_list()], dtype=object)
    return {domain: set(keys[dataset.domain_items(domain)].tolist()) for domain in dataset.domains}
