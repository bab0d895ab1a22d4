"""The base of all generative recommenders: items as tokens, training, tries, recommending, files.

Letters: B users, I items of history, L levels of an identifier, K codes of a level, V tokens.
"""

from __future__ import annotations

import copy
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genrec_lab.codes import PAD, ItemCodes
from genrec_lab.codes.grouping import with_equals
from genrec_lab.data import NO_ITEM, Dataset
from genrec_lab.data.batches import PairBatches, PairsConfig, StretchBatches
from genrec_lab.decoding import CodeModel, CodeTrie, Histories, Normalise, Ranked, beam_search, score_items
from genrec_lab.losses import code_cross_entropy
from genrec_lab.models.hub import Shareable
from genrec_lab.models.layers import source_of_nan
from genrec_lab.models.recommenders.adapters import (
    LoRAConfig,
    add_lora,
    load_lora,
    plain_weights,
    save_lora,
)
from genrec_lab.models.recommenders.base import (
    Callbacks,
    ItemList,
    RecommenderConfig,
    Seen,
    TrainingData,
    allowed_items,
    callbacks_of,
    seen_items,
)
from genrec_lab.training import TrainingConfig, TrainingResult, autocast, moved, placed, validator
from genrec_lab.training import fit as train

Precision = Literal["auto", "fp32", "bf16"]


class CodeRecommender(nn.Module, Shareable, CodeModel):
    """A model that reads the identifiers of a history and writes the identifier of the next item.

    A subclass names its `Config` and its `body`, the network over tokens; its `forward` is the loss of a
    batch, and beam search calls its `remember` and `step` (genrec_lab.decoding.CodeModel). Items are indices
    into `codes`. After `fit`, `results_["training"]` is the history of the training.
    """

    Config: ClassVar[type[RecommenderConfig]]
    needed_files: ClassVar = ("model.safetensors", "config.json", "codes.parquet")
    config: Any

    def __init__(self, codes: ItemCodes, config: RecommenderConfig) -> None:
        super().__init__()
        self.codes, self.config = codes, config
        self.results_: dict[str, TrainingResult] = {}
        self.adapter: tuple[str, LoRAConfig] | None = None  # domain and sizes of the LoRA in the body
        self.temperature = 1.0  # divides the logits of the loss, and nothing else (LETTER's Eq. 7)
        # The last row is that of "no item", so that an index of -1 reads padding.
        table = np.vstack([codes.tokens(), np.full((1, codes.levels), PAD)])
        self.register_buffer("item_tokens", torch.from_numpy(table), persistent=False)
        self.item_tokens: Tensor

    @property
    @abstractmethod
    def body(self) -> nn.Module:
        """The network over tokens, whose weights are saved."""

    @abstractmethod
    def inputs(self, histories: Histories) -> dict[str, Tensor]:
        """Return what the network reads: `input_ids` and `attention_mask`, (B, S) int64.

        Raises ValueError for an item that the identifiers do not have.
        """

    def continuations(self, memory: Any, prefixes: Tensor) -> Tensor:
        """Return log-probabilities (R, K) of the codes after prefixes (R, l), one row per user."""
        log_probs, cache = self.step(memory, None, None, None)
        alone = torch.zeros(len(prefixes), 1, dtype=torch.long)
        for codes in prefixes.T:
            log_probs, cache = self.step(memory, codes[:, None], cache, alone)
        return log_probs[:, 0]

    def token_loss(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """(n, L, V) logits, (n, L) tokens -> the mean cross-entropy, of logits over the temperature."""
        return code_cross_entropy(logits.float() / self.temperature, wanted)

    def matrix(self, histories: Histories) -> Tensor:
        """Lists of items -> (B, I) padded at the right with -1, on the model's device."""
        self._check_items(histories)
        longest = max((len(h) for h in histories), default=0)
        matrix = np.full((len(histories), longest), NO_ITEM, dtype=np.int64)
        for row, history in zip(matrix, histories, strict=True):
            row[: len(history)] = history
        return moved(torch.from_numpy(matrix), self.item_tokens.device)

    def _check_items(self, histories: Histories) -> None:
        for user, history in enumerate(histories):
            items = np.asarray(history)
            if items.size and not np.issubdtype(items.dtype, np.integer):
                raise ValueError(f"history {user} holds {items.dtype} values; expected item indices")
            foreign = items[(items < 0) | (items >= self.codes.n_items)]
            if foreign.size:
                raise ValueError(
                    f"history {user} holds item {foreign[0]}; "
                    f"expected item indices from 0 to {self.codes.n_items - 1}"
                )

    def level_log_probs(self, logits: Tensor, level: int) -> Tensor:
        """Logits (..., V) -> log-probabilities (..., K) of one level's codes, over the whole vocabulary.

        Where logits overflow they are NaN, which a search finds in its scores.
        """
        start, size = self.codes.offsets[level], self.codes.sizes[level]
        logits = logits.float()
        total = torch.logsumexp(logits, dim=-1, keepdim=True)
        return logits[..., start : start + size] - total.masked_fill(total.isinf(), torch.nan)

    def require_finite(self, values: Tensor, where: str, run: Callable[[], object]) -> None:
        """Raise ValueError where values are not finite, naming the layer; `run` computes them once more."""
        if not torch.isfinite(values).all():
            raise ValueError(
                f"the recommender gives NaN {where}: {source_of_nan(self.body, run)}. Its weights have "
                "diverged; go back to the last checkpoint and lower training.learning_rate"
            )

    # --- training

    def fit(
        self,
        data: Dataset | TrainingData,
        *,
        training: TrainingConfig | None = None,
        pairs: PairsConfig | None = None,
        one_pass: TrainingConfig | None = None,
        temperature: float = 1.0,
        validation_beams: int = 10,
        precision: Precision = "fp32",
        seed: int = 0,
        callbacks: Callbacks = (),
        checkpoints: Path | None = None,
    ) -> Self:
        """Train the weights that require gradients on all domains of the data, and return the recommender.

        training: the budget, by default TrainingConfig's. pairs: which pairs of history and next item are
        learnt. one_pass: epochs before it in which no item of a history reads a later one (`reading_past`).
        temperature: divides the logits of the loss. validation_beams, precision: of the validation that
        chooses the epoch. callbacks, checkpoints: as of a model over items. The first weights are drawn by
        the constructor, so call `torch.manual_seed` before it. Raises ValueError for identifiers of other
        items.
        """
        pairs, training = pairs or PairsConfig(), training or TrainingConfig()
        learnt = TrainingData.of(data, max_history=pairs.max_history)
        self._require_codes_of(learnt)
        self.temperature = temperature

        def recommend(users: pl.DataFrame) -> Ranked:
            histories, domains = users["history"].to_list(), users["domain"].to_list()
            return self.recommend(histories, 10, domains, beams=validation_beams, precision=precision)

        def trained(name: str, config: TrainingConfig) -> TrainingResult:
            return train(
                self,
                self.batches(learnt, config.batch_size, pairs),
                config,
                validate=validator(recommend, learnt.valid, config.validation_users, seed),
                callbacks=callbacks_of(callbacks, name),
                checkpoints=checkpoints / name if checkpoints else None,
                seed=seed,
            )

        before = None
        if one_pass is not None:
            with self.reading_past():
                before = trained("one pass", one_pass)
        result = trained("training", training)
        self.results_ = {"training": result.following(before) if before else result}
        return self

    @contextmanager
    def reading_past(self) -> Iterator[None]:
        """While the block lasts, no item of a history reads a later one, so one pass learns all places.

        Raises ValueError where the recommender does so anyhow.
        """
        raise ValueError(
            f"one_pass is given, and a {type(self).__name__} learns in one pass anyhow; leave it out"
        )
        yield

    @property
    def learns_in_one_pass(self) -> bool:
        """Whether one pass over a sequence learns every place in it."""
        return bool(self.config.learns_in_one_pass)

    def batches(
        self, data: TrainingData, batch_size: int, pairs: PairsConfig
    ) -> PairBatches | StretchBatches:
        """Return what an epoch is made of: pairs, or stretches of sequences where one pass learns them."""
        if not self.learns_in_one_pass:
            return PairBatches(data.pairs(), batch_size, per_user=pairs.per_user)
        sequences = data.sequences["items"].to_list()
        return StretchBatches(sequences, batch_size, pairs.max_history, per_user=pairs.stretches_per_user)

    def adapt(
        self,
        data: Dataset | TrainingData,
        domain: str,
        *,
        lora: LoRAConfig | None,
        seed: int = 0,
        **given: Any,
    ) -> Self:
        """Return a copy that is trained further on one domain (GMC 3.5); this recommender stays as it is.

        lora: sizes of the adapter that alone is trained (GMC Eq. 9), or None for all weights (GMC Table 4,
        row 5). `given` are the other arguments of `fit`.
        """
        torch.manual_seed(seed)  # of the adapter's first weights
        adapted = copy.deepcopy(self) if lora is None else add_lora(self, lora, domain)
        learnt = TrainingData.of(data, max_history=(given.get("pairs") or PairsConfig()).max_history)
        return adapted.fit(learnt.of_domains(domain), seed=seed, **given)

    def with_codes(self, codes: ItemCodes) -> Self:
        """Return the same recommender over other identifiers, as when a tokenizer has renamed the items.

        Raises ValueError where these have another number of tokens.
        """
        if self.codes.vocabulary_size != codes.vocabulary_size:
            raise ValueError(
                f"the recommender knows {self.codes.vocabulary_size} tokens, the new identifiers have "
                f"{codes.vocabulary_size}; a transfer needs a conflict policy that adds no level, as "
                "identifiers.policy 'nearest_free'"
            )
        return self._with_weights(plain_weights(self), codes)

    def merged(self) -> Self:
        """Return the same recommender with its adapter merged into the weights; one without stays itself."""
        return self if self.adapter is None else self._with_weights(plain_weights(self), self.codes)

    def unadapted(self) -> Self:
        """Return the recommender that the adapter is on."""
        return (
            self
            if self.adapter is None
            else self._with_weights(plain_weights(self, merged=False), self.codes)
        )

    def _with_weights(self, weights: dict[str, Tensor], codes: ItemCodes) -> Self:
        with torch.random.fork_rng():
            model = type(self)(codes, self.config)
        model.body.load_state_dict(weights)
        model.shared_items = self.shared_items if codes is self.codes else None
        return model.to(self.item_tokens.device).train(self.training)

    def _require_codes_of(self, data: TrainingData) -> None:
        """Raise ValueError where the identifiers are not those of the data's items."""
        items, names = data.items["item"].to_numpy(), data.items["domain"].to_numpy()
        known = np.array(self.codes.domain_names)[self.codes.domain_index]
        if items.max() >= len(known) or (known[items] != names).any():
            raise ValueError(
                f"the identifiers are of {len(known)} items of {list(self.codes.domain_names)}, which are "
                f"not the items of the data, of {list(data.domains)}; give ItemCodes(…, domains=…) theirs"
            )

    # --- recommending

    @cached_property
    def _lowest(self) -> np.ndarray:
        """(N,) the lowest item with each item's identifier."""
        return self.codes.representatives()

    @cached_property
    def _tries(self) -> dict[tuple[str, ...], CodeTrie]:
        return {}

    def trie(self, *domains: str) -> CodeTrie:
        """Return the trie of one domain's items, or of several side by side, a root each; built once."""
        if domains not in self._tries:
            if len(domains) == 1:
                items = self.codes.domain_items(domains[0])
                if not self.codes.unique:  # a leaf is an identifier, under the lowest of its items
                    items = items[self._lowest[items] == items]
                self._tries[domains] = CodeTrie(self.codes.codes[items], items)
            else:
                self._tries[domains] = CodeTrie.joined([self.trie(domain) for domain in domains])
        return self._tries[domains]

    def recommend(
        self,
        histories: Histories,
        top_k: int,
        domain: str | Sequence[str] | None = None,
        *,
        allow: ItemList = None,
        deny: ItemList = None,
        exclude_seen: Seen = False,
        beams: int | None = None,
        precision: Precision = "fp32",
        normalise: Normalise = "vocabulary",
        batch_size: int = 128,
        identifiers: bool = False,
    ) -> Ranked:
        """Return the top_k items of each user's domain by beam search (GMC Eq. 10).

        Items that share an identifier stand next to each other with one score, the lowest first;
        `identifiers` asks for the lowest of each identifier alone.

        `domain` is one name for all users, one a user, or None for the domain of each history's last item
        (the only domain where there is one). `allow` and `deny` are item indices: only items of the one and
        none of the other are recommended, with `exclude_seen` none of a user's own history either (or of the
        items that it names for each user). The search is then that of a catalogue of those items alone, and a
        row ends in -1 where there are fewer. `beams` is by default the larger of top_k and 20, GMC's width;
        `precision` is the network's; scores are normalised in fp32, over what `normalise` says, as in
        `beam_search`. Users of several domains share batches.
        Raises ValueError for an unknown item or domain, an empty history whose domain is unknown, and where
        no item of a domain is allowed.
        """
        names, seen = self._domains_of(histories, domain), seen_items(histories, exclude_seen)
        if seen is not None or allow is not None or deny is not None:
            self.codes.require_unique()  # of items that share an identifier all are allowed, or none
        wanted = tuple(name for name in self.codes.domain_names if name in set(names))
        # Histories of like length go together, which leaves little padding.
        order = np.argsort([len(history) for history in histories], kind="stable")
        with autocast(torch.device(self.item_tokens.device.type), precision):
            ranked = beam_search(
                self,
                [histories[row] for row in order],
                self._searched(wanted or self.codes.domain_names[:1], allow, deny),
                beams or max(top_k, 20),
                top_k,
                roots=[wanted.index(names[row]) for row in order],
                hidden=None if seen is None else [seen[row] for row in order],
                normalise=normalise,
                batch_size=batch_size,
            )
        back = np.argsort(order)
        found = Ranked(ranked.items[back], ranked.scores[back])
        if identifiers or self.codes.unique:
            return found
        return Ranked(*with_equals(found.items, self._lowest, found.scores))

    def _searched(self, domains: tuple[str, ...], allow: ItemList, deny: ItemList) -> CodeTrie:
        """Return the trie of some domains' allowed items, one root per domain."""
        if allow is None and deny is None:
            return self.trie(*domains)
        kept = [allowed_items(self.codes.domain_items(name), allow, deny, name) for name in domains]
        tries = [CodeTrie(self.codes.codes[items], items) for items in kept]
        return tries[0] if len(tries) == 1 else CodeTrie.joined(tries)

    def score(
        self, histories: Histories, domain: str | None = None, *, normalise: Normalise = "vocabulary"
    ) -> np.ndarray:
        """Return log-probabilities (B, N) of the items of one domain, in the order of `codes.domain_items`.

        That is one forward pass for each prefix of the catalogue and user: `recommend` is much faster where
        the best are enough. Without `domain` it is the domain of the histories' last items. Raises ValueError
        as `recommend`, and where users are of several domains, whose items are not the same.
        """
        names = self._domains_of(histories, domain)
        if len(set(names)) > 1:
            raise ValueError(
                f"the histories are of the domains {sorted(set(names))}, whose items are not the same; score "
                "each domain's by themselves, or pass domain="
            )
        name = names[0] if names else self.codes.domain_names[0]
        scores = score_items(self, histories, self.trie(name), normalise=normalise)
        items = self.codes.domain_items(name)
        return scores[:, np.searchsorted(np.unique(self._lowest[items]), self._lowest[items])]

    def _domains_of(self, histories: Histories, domain: str | Sequence[str] | None) -> list[str]:
        names = self.codes.domain_names
        if isinstance(domain, (str, int)):
            wanted = [str(domain)] * len(histories)
        elif domain is not None:
            wanted = [str(name) for name in domain]
            if len(wanted) != len(histories):
                raise ValueError(
                    f"domain has {len(wanted)} names for {len(histories)} histories; expected one each"
                )
        elif len(names) == 1:
            wanted = [names[0]] * len(histories)
        else:
            if empty := [row for row, history in enumerate(histories) if not len(history)]:
                raise ValueError(
                    f"history {empty[0]} is empty, so its domain is unknown; pass domain=, one of {names}"
                )
            self._check_items(histories)
            wanted = [names[self.codes.domain_index[history[-1]]] for history in histories]
        for name in wanted:
            if name not in names:
                raise ValueError(f"domain is {name!r}; expected one of {list(names)}")
        return wanted

    # --- files

    def save(self, folder: str | Path) -> Path:
        """Write weights (safetensors), sizes (json) and identifiers (parquet) into a folder.

        An adapter is merged into the weights.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.codes.write(folder / "codes.parquet")
        (folder / "config.json").write_text(json.dumps(self.config.model_dump(), indent=2))
        save_file(plain_weights(self), folder / "model.safetensors")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote, onto this process's device.

        Raises FileNotFoundError where a file is missing, ValueError where the weights are of other sizes than
        the config says, before anything of those sizes is allocated.
        """
        folder = Path(folder)
        for name in ("codes.parquet", "config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder / name} is missing; expected a folder written by {cls.__name__}.save"
                )
        config = cls.Config.model_validate_json((folder / "config.json").read_text())
        codes = ItemCodes.read(folder / "codes.parquet")
        try:
            with torch.device("meta"):
                wanted = {name: list(one.shape) for name, one in cls(codes, config).body.state_dict().items()}
        except (TypeError, RuntimeError) as error:  # sizes beyond what torch can count
            raise ValueError(
                f"{folder}: config.json asks for impossible sizes ({str(error)[:80]})"
            ) from error
        try:
            with safe_open(folder / "model.safetensors", framework="pt") as file:
                held = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(
                f"{folder / 'model.safetensors'} is damaged ({error}); fetch it again"
            ) from error
        if unlike := [name for name in {**wanted, **held} if wanted.get(name) != held.get(name)]:
            raise ValueError(
                f"{folder}: config.json and codes.parquet ask for {unlike[0]} of shape "
                f"{wanted.get(unlike[0])}, model.safetensors has {held.get(unlike[0])} "
                f"({len(unlike)} weights differ); these files are not of one model"
            )
        model = cls(codes, config)
        model.body.load_state_dict(load_file(folder / "model.safetensors"))
        return placed(model).eval()

    def save_adaptation(self, folder: Path) -> Path:
        """Write what `adapt` has trained: the adapter alone, or the recommender where there is none."""
        if self.adapter is None:
            return self.save(folder)
        domain, lora = self.adapter
        return save_lora(self, lora, domain, folder)

    def with_adaptation(self, domain: str, folder: Path) -> Self:
        """Return the recommender that `save_adaptation` wrote, for a domain; this one is what was adapted."""
        return (
            load_lora(self, domain, folder) if (folder / "lora.json").is_file() else type(self).load(folder)
        )
