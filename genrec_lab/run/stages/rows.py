"""Which methods of a run share a tokenizer or a recommender, and over which domains each is trained."""

from __future__ import annotations

from collections.abc import Sequence

from genrec_lab.presets import MethodConfig

ALL = "all"
_OF_TOKENIZER = ("text", "tokenizer", "identifiers", "codebooks")
_OF_RECOMMENDER = (*_OF_TOKENIZER, "recommender", "recommenders", "pairs", "training")


def scopes(domains: Sequence[str], *, separate: bool) -> dict[str, tuple[str, ...]]:
    """Return what is trained, by name: one model over all domains, or one a domain."""
    return {domain: (domain,) for domain in domains} if separate else {ALL: tuple(domains)}


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
            other for other in owners if all(getattr(methods[other], f) == getattr(config, f) for f in fields)
        )
        owners[name] = next(alike, name)
    return owners
