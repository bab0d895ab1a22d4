"""Which methods of a run share a tokenizer or a recommender, and over which domains each is trained."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import polars as pl

from genrec_lab.data import Dataset
from genrec_lab.lab.files import RunError
from genrec_lab.lab.stages.preparing import load_prepared
from genrec_lab.lab.store import Run
from genrec_lab.models.recommenders.base import ITEM_MODELS, Need, needs_of, pretrains
from genrec_lab.presets import ItemRow, MethodConfig, item_rows, methods

ALL = "all"
# An item without a text has its key in place of one, for encoders that cannot read nothing.
_HAS_TEXT = (pl.col("text").str.strip_chars() != "") & (pl.col("text") != pl.col("key"))
_OF_TOKENIZER = (
    "text",
    "tokenizer",
    "identifiers",
    "codebooks",
    "content",
    "tokenizer_training",
    "collaborative",
    "naming",
    "pictures",
    "transfer.targets",
    "transfer.start",
    "transfer.pretrain_on_targets",
    "transfer.pretrain_tokenizer",
)
_OF_RECOMMENDER = (
    *_OF_TOKENIZER,
    "recommender",
    "recommenders",
    "pairs",
    "one_pass",
    "training",
    "loss_temperature",
    "transfer.pretrain_recommender",
)


def served(config: MethodConfig, domains: Sequence[str]) -> tuple[str, ...]:
    """Return the domains in which items are recommended: the targets of a transfer, or else all.

    Raises ValueError for a target that the data do not have.
    """
    targets = config.transfer.targets
    if unknown := [name for name in targets if name not in domains]:
        raise ValueError(f"transfer.targets names {unknown[0]!r}; the data have the domains {list(domains)}")
    return targets or tuple(domains)


def pretrained_on(config: MethodConfig, domains: Sequence[str]) -> tuple[str, ...]:
    """Return the domains of pre-training: all but the targets, or all where no target is named.

    All, too, where the config pre-trains on targets or starts from another run. Raises ValueError where
    nothing is left to pre-train on.
    """
    if config.transfer.pretrain_on_targets or config.transfer.start is not None:
        return tuple(domains)
    left = tuple(name for name in domains if name not in served(config, domains))
    if config.transfer.targets and not left:
        raise ValueError(
            f"transfer.targets names every domain, {list(domains)}; leave at least one to pre-train on, or "
            "name a run that did in transfer.start"
        )
    return left or tuple(domains)


def learns_from(config: MethodConfig, domains: Sequence[str]) -> tuple[str, ...]:
    """Return the domains whose users a method's recommenders learn from, before any adaptation.

    Those of pre-training where one recommender is for all, those that are served where each has its own.
    """
    unified = is_universal(config) or config.recommenders == "unified"
    return pretrained_on(config, domains) if unified else served(config, domains)


def is_universal(config: MethodConfig) -> bool:
    """Whether the method has a tokenizer that is pre-trained over domains, as UTGRec's."""
    return config.tokenizer_class.transfers


def skipped_rows(config: MethodConfig, dataset: Dataset) -> dict[str, str]:
    """Return the rows that the data cannot feed, by name, and why: no texts, or no pictures, in a domain.

    Only domains that a row reads count: one that learns each domain by itself needs nothing of domains that
    others pre-train on. Raises ValueError where the row is the run's own method, without which there is
    nothing to compare.
    """
    targets = served(config, dataset.domains)
    found: dict[str, str | None] = {}
    for name, row in item_rows(config).items():
        model = ITEM_MODELS.find(row.model.kind)
        found[name] = _lacking(needs_of(model), dataset, dataset.domains if pretrains(model) else targets)
    for name, method in methods(config).items():
        apart = method.codebooks == "separate"
        found[name] = _lacking(_needs_of(method), dataset, targets if apart else dataset.domains)
    skipped = {name: lacking for name, lacking in found.items() if lacking}
    if config.own_row and config.name in skipped:
        raise ValueError(
            f"{config.name} cannot be run with these data: {skipped[config.name]}. Take the preset "
            "'baselines', in which rows that the data cannot feed are skipped"
        )
    return skipped


def generative_rows(run: Run) -> dict[str, MethodConfig]:
    """Return the generative methods of a run that its data can feed, by name, the own one first."""
    skipped = skipped_rows(run.config, load_prepared(run).dataset)
    return {name: config for name, config in methods(run.config).items() if name not in skipped}


def lead_row(run: Run) -> str:
    """Return the row that is looked at when none is named: the run's own, or its first generative one.

    Raises RunError where no row of the run is generative.
    """
    for name in generative_rows(run):
        return name
    raise RunError(
        f"Run {run.name!r} has rows over items only, so there are no codes to look at. Name a generative row "
        "in compare."
    )


def has_texts(dataset: Dataset) -> bool:
    """Whether any item has a text."""
    return bool(dataset.items.select(_HAS_TEXT.any()).item())


def trained_item_rows(config: MethodConfig, dataset: Dataset) -> dict[str, ItemRow]:
    """Return the rows with a model over items that the data can feed."""
    skipped = skipped_rows(config, dataset)
    return {name: row for name, row in item_rows(config).items() if name not in skipped}


def reads_text_vectors(config: MethodConfig, dataset: Dataset) -> bool:
    """Whether there are texts whose vectors a row over items reads, or which are looked at beside codes."""
    skipped = skipped_rows(config, dataset)
    if any(name not in skipped for name in methods(config)):
        return has_texts(dataset)
    models = (ITEM_MODELS.find(row.model.kind) for row in trained_item_rows(config, dataset).values())
    return has_texts(dataset) and any("text" in needs_of(model, also_taken=True) for model in models)


def _needs_of(method: MethodConfig) -> tuple[Need, ...]:
    """What a generative method needs: what its tokenizer does, and pictures where it reads them."""
    known: dict[str, Need] = {"vectors": "text", "text": "text", "pictures": "pictures"}
    needs = tuple(known[need] for need in method.tokenizer_class.needs if need in known)
    return needs if method.pictures == "none" else (*needs, "pictures")


def _lacking(needs: Sequence[Need], dataset: Dataset, domains: Sequence[str]) -> str | None:
    """What a row needs and a domain has for none of its items, as a sentence; None where all is there."""
    has = {"text": _HAS_TEXT, "words": _HAS_TEXT, "pictures": pl.col("image").is_not_null()}
    words = {"text": "item texts", "words": "item texts", "pictures": "item pictures"}
    items = dataset.items.filter(pl.col("domain").is_in(list(domains)))
    for need in needs:
        counts = items.group_by("domain", maintain_order=True).agg(has[need].any())
        for domain, there in counts.iter_rows():
            if not there:
                return f"it needs {words[need]}, and {domain} has none"
    return None


def scopes(domains: Sequence[str], *, separate: bool) -> dict[str, tuple[str, ...]]:
    """Return what is trained, by name: one model over all domains, or one a domain."""
    return {domain: (domain,) for domain in domains} if separate else {ALL: tuple(domains)}


def tokenizer_scopes(config: MethodConfig, domains: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return what tokenizers a method trains: one over all domains, or one for each that is served."""
    if config.codebooks == "separate":
        return scopes(served(config, domains), separate=True)
    return scopes(domains, separate=False)


def tokenizer_owners(methods: dict[str, MethodConfig]) -> dict[str, str]:
    """Return for each method the first one with the same tokenizer and identifiers: it is trained once."""
    return _owners(methods, _OF_TOKENIZER)


def recommender_owners(methods: dict[str, MethodConfig]) -> dict[str, str]:
    """Return for each method the first one with the same recommender before adaptation."""
    return _owners(methods, _OF_RECOMMENDER)


def _owners(methods: dict[str, MethodConfig], fields: tuple[str, ...]) -> dict[str, str]:
    owners: dict[str, str] = {}
    for name, config in methods.items():
        alike = (
            other
            for other in owners
            if all(attrgetter(field)(methods[other]) == attrgetter(field)(config) for field in fields)
        )
        owners[name] = next(alike, name)
    return owners
