"""Which rows a run has, which of them its data can feed, and over which domains each is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from genrec_lab.encoders.given import VECTOR_FILES
from genrec_lab.lab.files import RunError
from genrec_lab.lab.prepare import prepared_task
from genrec_lab.lab.store import Run, Task
from genrec_lab.models.recommenders.base import ITEM_MODELS, RECOMMENDERS, needs_of, pretrains
from genrec_lab.models.recommenders.code_recommender import CodeRecommender
from genrec_lab.presets import ItemRow, MethodConfig, item_rows, methods
from genrec_lab.registry import did_you_mean
from genrec_lab.viz.live import end_notebook

ALL = "all"


class Facts:
    """What is known of a run and its data: the domains, and the rows that these can feed.

    found: as stage 01 notes it, `domains`, by domain the number of `items`, and whether any of them has
    `texts` and `pictures`. data: the dataset itself as a task. tasks: those of the stages, once listed.
    """

    def __init__(self, run: Any, found: Mapping[str, Any], data: Task | None = None) -> None:
        self.run, self.config, self.data = run, run.config, data
        self.domains: tuple[str, ...] = tuple(found["domains"])
        self.items: dict[str, int] = found["items"]
        # vectors of texts may be given for items that have no words
        given = self.config.text.kind == "given"
        self.texts: dict[str, bool] = dict.fromkeys(self.domains, True) if given else found["texts"]
        self._has = {"text": self.texts, "words": found["texts"], "pictures": found["pictures"]}
        self.tasks: dict[str, Any] = {}

    @property
    def n_items(self) -> int:
        """All items."""
        return sum(self.items.values())

    @property
    def has_texts(self) -> bool:
        """Whether any item has a text."""
        return any(self.texts.values())

    @cached_property
    def served(self) -> tuple[str, ...]:
        """The domains in which the run recommends."""
        return served(self.config, self.domains)

    @cached_property
    def skipped(self) -> dict[str, str]:
        """The rows that the data cannot feed, and why: no texts, or no pictures, in a domain.

        Only domains that a row reads count: one that learns each domain by itself needs nothing of domains
        that others pre-train on. Raises ValueError if the row is the run's own method, without which there is
        nothing to compare.
        """
        config = self.config
        found: dict[str, str | None] = {}
        for name, row in item_rows(config).items():
            model = ITEM_MODELS.find(row.model.kind)
            found[name] = self._lacking(needs_of(model), self.domains if pretrains(model) else self.served)
        for name, method in methods(config).items():
            apart = method.codebooks == "separate"
            found[name] = self._lacking(_needs_of(method), self.served if apart else self.domains)
        skipped = {name: lacking for name, lacking in found.items() if lacking}
        if config.own_row and config.name in skipped:
            raise ValueError(
                f"{config.name} cannot be run with these data: {skipped[config.name]}. Use the preset "
                "'baselines', which skips rows that need other data"
            )
        return skipped

    @cached_property
    def generative(self) -> dict[str, MethodConfig]:
        """The generative rows that the data can feed, the run's own one first."""
        return {name: row for name, row in methods(self.config).items() if name not in self.skipped}

    @cached_property
    def over_items(self) -> dict[str, ItemRow]:
        """The rows with a model over items that the data can feed."""
        return {name: row for name, row in item_rows(self.config).items() if name not in self.skipped}

    @property
    def reads_text_vectors(self) -> bool:
        """Whether the items have texts whose vectors a row or a view of codes reads."""
        models = (ITEM_MODELS.find(row.model.kind) for row in self.over_items.values())
        reads = self.generative or any("text" in needs_of(model, also_taken=True) for model in models)
        return self.has_texts and bool(reads)

    def _lacking(self, needs: Iterable[Any], domains: Sequence[str]) -> str | None:
        """What a row needs and a domain has for none of its items; None where all is there."""
        for need in needs:
            for domain in domains:
                if not self._has.get(need, {}).get(domain, True):
                    what = "pictures" if need == "pictures" else "texts"
                    return f"it needs item {what}, and {domain} has none"
        return None


def facts_of(run: Run) -> Facts:
    """What stage 01 found out about the dataset; RunError naming the notebook where it has not run."""
    run.read(prepared_task(run))
    return cast(Facts, known_facts(run))


def known_facts(run: Run) -> Facts | None:
    """As `facts_of`, also where the files are damaged and are made again; None if nothing is known."""
    task = prepared_task(run)
    state = run.state(task)
    if state.digest is None or state.record is None:
        return None
    return Facts(run, state.record.summary["facts"], task)


def served(config: MethodConfig, domains: Sequence[str]) -> tuple[str, ...]:
    """Return the domains in which items are recommended: the targets of a transfer, or else all.

    Raises ValueError for a target that the data do not have.
    """
    targets = config.transfer.targets
    if unknown := next((name for name in targets if name not in domains), None):
        near = did_you_mean(unknown, domains)
        raise ValueError(f"transfer.targets names {unknown!r}{near}; the data have {', '.join(domains)}")
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
            "name a pre-trained run in transfer.start"
        )
    return left or tuple(domains)


def learns_from(config: MethodConfig, domains: Sequence[str]) -> tuple[str, ...]:
    """Return the domains whose users a method's recommenders learn from, before any adaptation.

    Those of pre-training where one recommender is for all, those that are served where each has its own.
    """
    unified = config.tokenizer_class.transfers or config.recommenders == "unified"
    return pretrained_on(config, domains) if unified else served(config, domains)


def lead_row(run: Run) -> str:
    """Return the row that is looked at when none is named: the run's own, or its first generative one.

    Raises RunError if no row of the run is generative.
    """
    for name in facts_of(run).generative:
        return name
    raise RunError(
        f"Run {run.name!r} has only rows over items, so there are no codes to look at. Name a generative row "
        "in compare."
    )


def decodes_in_steps(run: Run, row: str | None = None) -> bool:
    """Whether a row's recommender, by default the lead row's, writes codes in steps that can be watched.

    Those of this package do; one of your own where it derives from `CodeRecommender`.
    """
    rows = facts_of(run).generative
    config = rows.get(row) if row is not None else next(iter(rows.values()), None)
    return config is not None and issubclass(RECOMMENDERS.find(config.recommender.kind), CodeRecommender)


def end_without_codes(run: Run, *, texts: bool = False, steps: bool = False) -> None:
    """Say that there is nothing to show, and let the cells below do nothing, where no row has codes.

    texts: also where the items have no texts, whose vectors the cells below show. steps: also where the
    recommender does not decode in steps, which the cells below show.
    """
    if not facts_of(run).generative:
        end_notebook(f"no row of the run {run.name!r} gives items codes.")
    elif texts and not facts_of(run).has_texts:
        end_notebook(f"the items of the run {run.name!r} have no texts.")
    elif steps and not decodes_in_steps(run):
        end_notebook(f"the recommender of the run {run.name!r} does not generate codes step by step.")


def scopes(domains: Sequence[str], *, separate: bool) -> dict[str, tuple[str, ...]]:
    """Return what is trained, by name: one model over all domains, or a model for each."""
    return {domain: (domain,) for domain in domains} if separate else {ALL: tuple(domains)}


def _needs_of(method: MethodConfig) -> tuple[str, ...]:
    """What a generative method needs: what its tokenizer says, texts if it says nothing, and pictures."""
    needs: tuple[str, ...] = getattr(type(method.tokenizer), "needs", ("text",))
    own = method.pictures != "none" and not method.pictures.endswith(VECTOR_FILES)
    return (*needs, "pictures") if own else needs
