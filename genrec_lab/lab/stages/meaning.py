"""What a code means: the words and pictures that UTGRec's decoders tell from an item's first codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl
import torch
from torch import Tensor

from genrec_lab.lab.stages.preparing import load_prepared
from genrec_lab.lab.stages.rows import ALL, is_universal, pretrained_on, served
from genrec_lab.lab.stages.tokenizing import load_identified, tokenizer_folder
from genrec_lab.lab.store import Run
from genrec_lab.models.tokenizers import Tokenizer
from genrec_lab.viz.explorer import Told
from genrec_lab.viz.figures import kept_by_codes
from genrec_lab.viz.figures.pictures import words_of
from genrec_lab.viz.projection import stratified_sample

WORDS = 8  # told of a prefix
_DRAWS = 16  # pictures of a prefix, of which the mean shows what they agree in
_USUAL = 256  # items whose prefixes say how likely a word is anyway


@dataclass(frozen=True)
class Kept:
    """What the codes of n items keep of them, level by level."""

    items: pl.DataFrame  # of the dataset, a row an item
    codes: npt.NDArray[np.int64]  # (n, L), before any conflict policy
    words: tuple[tuple[tuple[str, ...], ...], ...]  # by item and level: the telling words, best first
    # (n, L, S, S, 3) in 0..1, or None of a tokenizer that has not seen a picture in training.
    pictures: npt.NDArray[np.float32] | None
    means: npt.NDArray[np.float32] | None  # as pictures: the means of 16 draws

    def figure(self, seed: int | None = None) -> go.Figure:
        """The items beside what their codes keep."""
        return kept_by_codes(self.items, self.codes, self.words, self.pictures, self.means, seed=seed)


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

    For each prefix: its telling words (UTGRec Eq. 8) and a picture drawn by diffusion (Eq. 9), every one
    from the same noise, beside the mean of more such pictures. A word tells as much as p log(p / q), where p
    is its probability under the prefix and q the one under an average prefix of that length: what every text
    has tells nothing. Words that no text of the data set has, pieces of words among them, are passed over.
    Raises ValueError for a tokenizer without decoders, and for items of domains that it does not serve.
    """
    if not has_decoders(run):
        raise ValueError(
            f"{run.config.name} has a tokenizer of kind {run.config.tokenizer.kind!r}, which has no decoder "
            "of words and pictures; use a preset of UTGRec's"
        )
    dataset, chosen = load_prepared(run).dataset, np.asarray(items, dtype=np.int64)
    telling = _telling(run, _scope(run, chosen))
    codes = load_identified(run).raw.codes[chosen]
    prefixes = [torch.from_numpy(codes[:, :levels]) for levels in range(1, codes.shape[1] + 1)]
    told = [telling.words(prefix, words) for prefix in prefixes]
    return Kept(
        dataset.items[chosen],
        codes,
        tuple(tuple(level[place] for level in told) for place in range(len(chosen))),
        _drawn(telling.tokenizer, prefixes, seed),
        _drawn(telling.tokenizer, prefixes, seed, _DRAWS),
    )


def teller(run: Run, method: str | None = None) -> Callable[[tuple[int, ...]], Told] | None:
    """What asks a method's decoders what a prefix of the explorer means; None where it has none.

    Prefixes are as of `comparable_codes`. Tokenizers are read when they are first asked. One prefix is always
    drawn from the same noise.
    """
    if method not in (None, run.config.name) or not has_decoders(run):
        return None
    own = load_identified(run, method)
    scopes = list(own.epochs) if own.tokenizers == 1 else own.raw.domain_names

    @lru_cache
    def of_scope(scope: str) -> _Telling:
        return _telling(run, scope)

    def tell(prefix: tuple[int, ...]) -> Told:
        # Tokenizers that were trained apart have a range of codes each.
        place = prefix[0] // own.raw.sizes[0] if own.tokenizers > 1 else 0
        within = [code - place * size for code, size in zip(prefix, own.raw.sizes, strict=False)]
        telling = of_scope(scopes[place])
        asked = torch.tensor([within])
        pictures = _drawn(telling.tokenizer, [asked], run.seed)
        return Told(telling.words(asked, WORDS)[0], None if pictures is None else pictures[0, 0])

    return tell


@dataclass(frozen=True)
class _Telling:
    """A tokenizer whose decoders are asked what a prefix means."""

    tokenizer: Tokenizer
    codes: Tensor  # (n, L) of items that it was trained on, for what is usual
    texts: pl.Series  # of all items: a word is one that they have

    def words(self, prefixes: Tensor, most: int) -> list[tuple[str, ...]]:
        """Of each prefix (B, l) the words that tell most, without repetition."""
        usual = self._usual[prefixes.shape[1] - 1]
        scores = self.tokenizer.decode_words(prefixes)
        told = []
        for row in scores.exp() * (scores - usual):
            found: dict[str, None] = {}
            for place in row.argsort(descending=True).tolist():
                word = self._names[place]
                if word in self._known:
                    found.setdefault(word)
                if len(found) == most:
                    break
            told.append(tuple(found))
        return told

    @cached_property
    def _usual(self) -> list[Tensor]:
        """The logs of the words' mean probabilities over the prefixes of 1, 2, ... L codes, each (V,)."""
        usual = []
        for levels in range(1, self.codes.shape[1] + 1):
            prefixes, times = self.codes[:, :levels].unique(dim=0, return_counts=True)
            weights = times.div(times.sum()).log()[:, None]
            usual.append((weights + self.tokenizer.decode_words(prefixes)).logsumexp(dim=0))
        return usual

    @cached_property
    def _names(self) -> list[str]:
        return [name.strip().lower() for name in self.tokenizer.words()]

    @cached_property
    def _known(self) -> set[str]:
        return set().union(*map(words_of, self.texts))


def _telling(run: Run, scope: str) -> _Telling:
    """The run's own tokenizer of all domains or of one, ready to be asked."""
    dataset, config = load_prepared(run).dataset, run.config
    domains = pretrained_on(config, dataset.domains) if scope == ALL else (scope,)
    known = np.flatnonzero(dataset.items["domain"].is_in(list(domains)).to_numpy())
    if len(known) > _USUAL:
        known = np.random.default_rng(run.seed).choice(known, _USUAL, replace=False)
    return _Telling(
        config.load_tokenizer(tokenizer_folder(run, config.name, scope)),
        torch.from_numpy(load_identified(run).raw.codes[known]),
        dataset.items["text"],
    )


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


def _drawn(
    tokenizer: Tokenizer, prefixes: Sequence[Tensor], seed: int, draws: int = 1
) -> npt.NDArray[np.float32] | None:
    """The mean of so many pictures of each of (n, l) prefixes, for each length: (n, L, S, S, 3)."""
    by_length = []
    for prefix in prefixes:
        # One by one: every prefix is drawn from the same noise, so that equal prefixes have equal pictures.
        means = []
        for one in prefix.split(1):
            noise = torch.Generator().manual_seed(seed)
            drawn = tokenizer.decode_pictures(one.expand(draws, -1), noise)
            if drawn is None:
                return None
            means.append(drawn.mean(dim=0))
        by_length.append(torch.stack(means))
    pictures: npt.NDArray[np.float32] = torch.stack(by_length, dim=1).permute(0, 1, 3, 4, 2).numpy()
    return pictures
