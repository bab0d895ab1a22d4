"""What a code means: the words and pictures that UTGRec's decoders tell from an item's first codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl
import torch
from torch import Tensor

from genrec_lab.models.tree_tokenizer import TreeTokenizer
from genrec_lab.run.stages.preparing import load_prepared
from genrec_lab.run.stages.rows import ALL, is_universal, pretrained_on, served
from genrec_lab.run.stages.tokenizing import load_identified, tokenizer_folder
from genrec_lab.run.stages.universal import UniversalTokenizer, load_tokenizer
from genrec_lab.run.store import Run
from genrec_lab.viz.explorer import Told
from genrec_lab.viz.figures import kept_by_codes
from genrec_lab.viz.projection import stratified_sample

WORDS = 8  # told of a prefix


@dataclass(frozen=True)
class Kept:
    """What the codes of n items keep of them, level by level."""

    items: pl.DataFrame  # of the dataset, a row an item
    codes: npt.NDArray[np.int64]  # (n, L), before any conflict policy
    words: tuple[tuple[tuple[str, ...], ...], ...]  # by item and level: the likeliest words, best first
    # (n, L, S, S, 3) in 0..1, or None of a tokenizer that has not seen a picture in training.
    pictures: npt.NDArray[np.float32] | None

    def figure(self, seed: int | None = None) -> go.Figure:
        """The items beside what their codes keep."""
        return kept_by_codes(self.items, self.codes, self.words, self.pictures, seed=seed)


def has_decoders(run: Run) -> bool:
    """Whether the run's own tokenizer can tell content from codes, as UTGRec's can."""
    return is_universal(run.config)


def told_items(run: Run, number: int = 4) -> list[int]:
    """A seeded choice of items, stratified by domain, that the tokenizer of stage 02 knows from training."""
    dataset, config = load_prepared(run).dataset, run.config
    known = pretrained_on if config.transfer.pretrain_tokenizer else served
    items = dataset.items.filter(pl.col("domain").is_in(known(config, dataset.domains)))
    chosen = stratified_sample(items["domain"].to_list(), number, run.seed)
    return [int(item) for item in items["item"].gather(chosen)]


def what_codes_keep(run: Run, items: Sequence[int], seed: int, words: int = WORDS) -> Kept:
    """Decode the first 1, 2, ... L codes of some items with the run's tokenizer of stage 02.

    For each prefix: its likeliest words (UTGRec Eq. 8; marks and pieces of words are passed over) and a
    picture drawn by diffusion (Eq. 9), every one from the same noise. Raises ValueError for a tokenizer
    without decoders, and for items of domains that it does not serve.
    """
    if not has_decoders(run):
        raise ValueError(
            f"{run.config.name} has a tokenizer of kind {run.config.tokenizer.kind!r}, which has no decoder "
            "of words and pictures; use a preset of UTGRec's"
        )
    dataset, chosen = load_prepared(run).dataset, np.asarray(items, dtype=np.int64)
    tokenizer = load_tokenizer(
        tokenizer_folder(run, run.config.name, _scope(run, chosen)), dataset, run.config
    )
    codes = load_identified(run).raw.codes[chosen]
    prefixes = [torch.from_numpy(codes[:, :levels]) for levels in range(1, codes.shape[1] + 1)]
    names = tokenizer.words()
    told = [_likeliest(tokenizer.model.decode_words(prefix), names, words) for prefix in prefixes]
    return Kept(
        dataset.items[chosen],
        codes,
        tuple(tuple(level[place] for level in told) for place in range(len(chosen))),
        _drawn(tokenizer.model, prefixes, seed),
    )


def teller(run: Run, method: str | None = None) -> Callable[[tuple[int, ...]], Told] | None:
    """What asks a method's decoders what a prefix of the explorer means; None where it has none.

    Prefixes are as of `comparable_codes`. Tokenizers are read when they are first asked. One prefix is always
    drawn from the same noise.
    """
    if method not in (None, run.config.name) or not has_decoders(run):
        return None
    own = load_identified(run, method)
    dataset, config = load_prepared(run).dataset, run.config
    scopes = list(own.epochs) if own.tokenizers == 1 else own.raw.domain_names

    @lru_cache
    def of_scope(scope: str) -> UniversalTokenizer:
        return load_tokenizer(tokenizer_folder(run, config.name, scope), dataset, config)

    def tell(prefix: tuple[int, ...]) -> Told:
        # Tokenizers that were trained apart have a range of codes each.
        place = prefix[0] // own.raw.sizes[0] if own.tokenizers > 1 else 0
        within = [code - place * size for code, size in zip(prefix, own.raw.sizes, strict=False)]
        tokenizer = of_scope(scopes[place])
        asked = torch.tensor([within])
        words = _likeliest(tokenizer.model.decode_words(asked), tokenizer.words(), WORDS)[0]
        pictures = _drawn(tokenizer.model, [asked], run.seed)
        return Told(words, None if pictures is None else pictures[0, 0])

    return tell


def _scope(run: Run, items: npt.NDArray[np.int64]) -> str:
    """Which of the run's tokenizers named these items."""
    config, dataset = run.config, load_prepared(run).dataset
    if config.transfer.pretrain_tokenizer:
        return ALL
    domains = sorted(set(dataset.items["domain"].gather(items.tolist())))
    targets = served(config, dataset.domains)
    if len(domains) != 1 or domains[0] not in targets:
        raise ValueError(
            f"items: they are of {domains}, but this run trains a tokenizer for each of {list(targets)} "
            "alone; choose items of one of these"
        )
    return domains[0]


def _likeliest(scores: Tensor, names: Sequence[str], most: int) -> list[tuple[str, ...]]:
    """Of each row of (n, V) log-probabilities the likeliest whole words, without repetition."""
    told = []
    for row in scores:
        found: dict[str, None] = {}
        for place in row.argsort(descending=True).tolist():
            word = names[place].strip().lower()
            if word.isalnum():
                found.setdefault(word)
            if len(found) == most:
                break
        told.append(tuple(found))
    return told


def _drawn(model: TreeTokenizer, prefixes: Sequence[Tensor], seed: int) -> npt.NDArray[np.float32] | None:
    if not model.vision.diffusion.largest:
        return None
    # One by one: every prefix is drawn from the same noise, so that equal prefixes have equal pictures.
    drawn = [
        torch.cat(
            [model.decode_pictures(one, torch.Generator().manual_seed(seed)) for one in prefix.split(1)]
        )
        for prefix in prefixes
    ]
    pictures: npt.NDArray[np.float32] = torch.stack(drawn, dim=1).permute(0, 1, 3, 4, 2).cpu().numpy()
    return pictures
