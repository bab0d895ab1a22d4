"""The base of all generative recommenders: tokens, training, tries, recommending and files.

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
from genrec_lab.data import Dataset
from genrec_lab.data.batches import PairBatches, PairsConfig, StretchBatches, padded
from genrec_lab.decoding import CodeModel, CodeTrie, Histories, Normalise, Ranked, beam_search, score_items
from genrec_lab.losses import code_cross_entropy
from genrec_lab.models.hub import Shareable
from genrec_lab.models.layers import source_of_nan
from genrec_lab.models.recommenders import adapters
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
from genrec_lab.training import TrainingConfig, TrainingResult, content_hash, validator
from genrec_lab.training import fit as train
from genrec_lab.training.devices import autocast, moved, placed

Precision = Literal["auto", "fp32", "bf16"]


class CodeRecommender(nn.Module, Shareable, CodeModel):
    """A model that reads the identifiers of a history and writes the identifier of the next item.

    A subclass defines its `Config` and its `body`, the network over tokens. Its `forward` returns the loss
    of a batch, and beam search calls its `remember` and `step` (genrec_lab.decoding.CodeModel). Items are
    indices into `codes`. After `fit`, `results_["training"]` holds the training history.
    """

    Config: ClassVar[type[RecommenderConfig]]
    needed_files: ClassVar = ("model.safetensors", "config.json", "codes.parquet")
    config: Any

    def __init__(self, codes: ItemCodes, config: RecommenderConfig) -> None:
        super().__init__()
        self.codes, self.config = codes, config
        self.results_: dict[str, TrainingResult] = {}
        self.adapter: tuple[str, adapters.LoRAConfig] | None = None  # of the LoRA in the body: its domain
        self.temperature = 1.0  # divides the logits only in the loss (LETTER's Eq. 7)
        # The last row is padding, so that index -1 reads it.
        table = np.vstack([codes.tokens(), np.full((1, codes.levels), PAD)])
        self.register_buffer("item_tokens", torch.from_numpy(table), persistent=False)
        self.item_tokens: Tensor

    @property
    @abstractmethod
    def body(self) -> nn.Module:
        """The network over tokens; its weights are saved."""

    @abstractmethod
    def inputs(self, histories: Histories) -> dict[str, Tensor]:
        """Return the network's inputs: `input_ids` and `attention_mask`, (B, S) int64.

        Raises ValueError for an item without an identifier.
        """

    def continuations(self, memory: Any, prefixes: Tensor) -> Tensor:
        """Return log-probabilities (R, K) of the codes that follow prefixes (R, l), one row per user."""
        log_probs, cache = self.step(memory, None, None, None)
        alone = torch.zeros(len(prefixes), 1, dtype=torch.long)
        for codes in prefixes.T:
            log_probs, cache = self.step(memory, codes[:, None], cache, alone)
        return log_probs[:, 0]

    def token_loss(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """(n, L, V) logits, (n, L) tokens -> mean cross-entropy of the logits divided by the temperature."""
        return code_cross_entropy(logits.float() / self.temperature, wanted)

    def matrix(self, histories: Histories) -> Tensor:
        """Lists of items -> (B, I) padded on the right with -1, on the model's device."""
        self._check_items(histories)
        return moved(padded(histories), self.item_tokens.device)

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

        Logits that overflow give NaN, which the search detects in its scores.
        """
        start, size = self.codes.offsets[level], self.codes.sizes[level]
        logits = logits.float()
        total = torch.logsumexp(logits, dim=-1, keepdim=True)
        return logits[..., start : start + size] - total.masked_fill(total.isinf(), torch.nan)

    def require_finite(self, values: Tensor, where: str, run: Callable[[], object]) -> None:
        """Raise ValueError, naming the layer, if values are not finite; `run` computes them again."""
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

        training: the budget, by default `TrainingConfig()`. pairs: which pairs of history and next item to
        train on. one_pass: a first training in which no item of a history attends to a later one
        (`reading_past`). temperature: divides the logits of the loss. validation_beams, precision: used in
        the validation that selects the epoch. callbacks, checkpoints: as for a model over items. The
        constructor draws the initial weights, so call `torch.manual_seed` before it. Raises ValueError if the
        identifiers belong to other items, and for checkpoints of other settings or data.
        """
        pairs, training = pairs or PairsConfig(), training or TrainingConfig()
        learnt = TrainingData.of(data, max_history=pairs.max_history)
        self._require_codes_of(learnt)
        self.temperature = temperature
        identity: dict[str, Any] = {}
        if checkpoints is not None:
            frozen = [weight for weight in self.parameters() if not weight.requires_grad]
            identity = {
                **self.config.model_dump(mode="json"),
                "pairs": pairs.model_dump(mode="json"),
                "temperature": temperature,
                "frozen weights": content_hash(*frozen),
                "identifiers": content_hash(self.codes.codes),
                "sequences": content_hash(learnt.sequences, learnt.given),
                "validation": content_hash(learnt.valid),
            }

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
                identity=identity,
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
        """Within the block, no item of a history attends to a later one, so one pass trains all positions.

        Raises ValueError if the recommender always works this way.
        """
        raise ValueError(
            f"one_pass is given, but a {type(self).__name__} always learns in one pass; leave it out"
        )
        yield

    @property
    def learns_in_one_pass(self) -> bool:
        """Whether one pass over a sequence trains every position."""
        return bool(getattr(self.config, "learns_in_one_pass", False))

    def batches(
        self, data: TrainingData, batch_size: int, pairs: PairsConfig
    ) -> PairBatches | StretchBatches:
        """Return the batches of an epoch: pairs, or stretches of sequences if one pass learns them."""
        if not self.learns_in_one_pass:
            return PairBatches(data.pairs(), batch_size, per_user=pairs.per_user)
        sequences = data.sequences["items"].to_list()
        return StretchBatches(sequences, batch_size, pairs.max_history, per_user=pairs.stretches_per_user)

    def adapt(
        self,
        data: Dataset | TrainingData,
        domain: str,
        *,
        lora: adapters.LoRAConfig | None,
        seed: int = 0,
        **given: Any,
    ) -> Self:
        """Return a copy trained further on one domain (GMC 3.5); this recommender does not change.

        lora: config of the adapter, of which only the weights are trained (GMC Eq. 9), or None to train all
        weights (GMC Table 4, row 5). `given` holds the other arguments of `fit`.
        """
        torch.manual_seed(seed)  # for the adapter's initial weights
        adapted = copy.deepcopy(self) if lora is None else adapters.add_lora(self, lora, domain)
        learnt = TrainingData.of(data, max_history=(given.get("pairs") or PairsConfig()).max_history)
        return adapted.fit(learnt.of_domains(domain), seed=seed, **given)

    def with_codes(self, codes: ItemCodes) -> Self:
        """Return the same recommender with other identifiers, for example from a fine-tuned tokenizer.

        Raises ValueError if they have a different number of tokens.
        """
        if self.codes.vocabulary_size != codes.vocabulary_size:
            raise ValueError(
                f"the recommender has {self.codes.vocabulary_size} tokens, the new identifiers have "
                f"{codes.vocabulary_size}; a transfer needs a conflict policy that adds no level, such as "
                "identifiers.policy 'nearest_free'"
            )
        return self._with_weights(adapters.plain_weights(self), codes)

    def merged(self) -> Self:
        """Return the recommender with its adapter merged into the weights; itself if it has none."""
        return self._with_weights(adapters.plain_weights(self), self.codes) if self.adapter else self

    def unadapted(self) -> Self:
        """Return the recommender without its adapter; itself if it has none."""
        weights = adapters.plain_weights(self, merged=False)
        return self._with_weights(weights, self.codes) if self.adapter else self

    def _with_weights(self, weights: dict[str, Tensor], codes: ItemCodes) -> Self:
        with torch.random.fork_rng():
            model = type(self)(codes, self.config)
        model.body.load_state_dict(weights)
        model.shared_items = self.shared_items if codes is self.codes else None
        return model.to(self.item_tokens.device).train(self.training)

    def _require_codes_of(self, data: TrainingData) -> None:
        """Raise ValueError if the identifiers do not belong to the data's items."""
        items, names = data.items["item"].to_numpy(), data.items["domain"].to_numpy()
        known = np.array(self.codes.domain_names)[self.codes.domain_index]
        if items.max() >= len(known) or (known[items] != names).any():
            raise ValueError(
                f"the identifiers belong to {len(known)} items of {list(self.codes.domain_names)}, which are "
                f"not the items of the data, of {list(data.domains)}; pass their domains to ItemCodes"
            )

    # --- recommending

    @cached_property
    def _lowest(self) -> np.ndarray:
        """Return for each item the lowest item with the same identifier, (N,)."""
        return self.codes.representatives()

    @cached_property
    def _tries(self) -> dict[tuple[str, ...], CodeTrie]:
        return {}

    def trie(self, *domains: str) -> CodeTrie:
        """Return the trie of one domain's items, or of several domains with one root each; built once."""
        if domains not in self._tries:
            of_each = [self.codes.domain_items(domain) for domain in domains]
            if not self.codes.unique:  # a leaf holds the lowest item of an identifier
                of_each = [items[self._lowest[items] == items] for items in of_each]
            self._tries[domains] = self._trie_of(of_each)
        return self._tries[domains]

    def _trie_of(self, of_each: Sequence[np.ndarray]) -> CodeTrie:
        tries = [CodeTrie(self.codes.codes[items], items) for items in of_each]
        return tries[0] if len(tries) == 1 else CodeTrie.joined(tries)

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

        Items that share an identifier follow each other with the same score, the lowest index first; with
        `identifiers`, only the lowest item of each identifier is returned.

        `domain` is one name for all users, one name per user, or None for the domain of each history's
        items (or the only domain). `allow` and `deny` are indices of items to choose from and to leave out;
        `exclude_seen` leaves out the items of each history, or the items given for each user. The search then
        runs as if the catalogue had only the remaining items, and rows with fewer items are filled with -1.
        `beams` defaults to the larger of top_k and 20, GMC's width. `precision` applies to the network;
        scores are normalised in fp32, over the codes that `normalise` selects, as in `beam_search`. Users of
        several domains share batches.
        Raises ValueError for an unknown item or domain, for a history that is empty or crosses domains if
        `domain` is None, and if no item of a domain is allowed.
        """
        seen, names = seen_items(histories, exclude_seen), self._domains_of(histories, domain)
        if seen is not None or allow is not None or deny is not None:
            self.codes.require_unique()  # items that share an identifier can only be allowed together
        wanted = tuple(name for name in self.codes.domain_names if name in set(names))
        # Batch histories of similar length, to reduce padding.
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
        """Return the trie of the allowed items of some domains, one root per domain."""
        if allow is None and deny is None:
            return self.trie(*domains)
        of_each = [allowed_items(self.codes.domain_items(name), allow, deny, name) for name in domains]
        return self._trie_of(of_each)

    def score(
        self, histories: Histories, domain: str | None = None, *, normalise: Normalise = "vocabulary"
    ) -> np.ndarray:
        """Return log-probabilities (B, N) of the items of one domain, in the order of `codes.domain_items`.

        This takes one forward pass per user and prefix of the catalogue; `recommend` is much faster if you
        need only the best items. `domain` defaults to the domain of the histories' items. Raises
        ValueError like `recommend`, and if users belong to several domains, whose items differ.
        """
        names = self._domains_of(histories, domain)
        if len(set(names)) > 1:
            raise ValueError(
                f"the histories belong to the domains {sorted(set(names))}, whose items differ; score each "
                "domain separately, or pass domain="
            )
        name = names[0] if names else self.codes.domain_names[0]
        scores = score_items(self, histories, self.trie(name), normalise=normalise)
        items = self.codes.domain_items(name)
        return scores[:, np.searchsorted(np.unique(self._lowest[items]), self._lowest[items])]

    def _domains_of(self, histories: Histories, domain: str | Sequence[str] | None) -> list[str]:
        names = self.codes.domain_names
        if domain is None and len(names) > 1:
            return self._domains_of_items(histories)
        one = names[0] if domain is None else domain
        wanted = [str(one)] * len(histories) if isinstance(one, (str, int)) else [str(name) for name in one]
        if len(wanted) != len(histories):
            raise ValueError(
                f"domain has {len(wanted)} names for {len(histories)} histories; expected one per history"
            )
        if unknown := [name for name in wanted if name not in names]:
            raise ValueError(f"domain is {unknown[0]!r}; expected one of {list(names)}")
        return wanted

    def _domains_of_items(self, histories: Histories) -> list[str]:
        self._check_items(histories)
        names, found = self.codes.domain_names, []
        for row, history in enumerate(histories):
            if not len(history):
                raise ValueError(
                    f"history {row} is empty, so its domain is unknown; pass domain=, one of {names}"
                )
            own = self.codes.domain_index[np.asarray(history)]
            if (own != own[-1]).any():
                raise ValueError(
                    f"history {row} crosses domains: its last item is of {names[own[-1]]}, another of "
                    f"{names[own[own != own[-1]][0]]}; give the items of each domain as a history of "
                    "their own, or pass domain="
                )
            found.append(names[own[-1]])
        return found

    # --- files

    def save(self, folder: str | Path) -> Path:
        """Write weights (safetensors), config (json) and identifiers (parquet) into a folder.

        An adapter is merged into the weights.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.codes.write(folder / "codes.parquet")
        (folder / "config.json").write_text(json.dumps(self.config.model_dump(), indent=2))
        save_file(adapters.plain_weights(self), folder / "model.safetensors")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load a recommender that `save` wrote, onto this process's device.

        Raises FileNotFoundError if a file is missing, and ValueError, before allocating memory, if the
        weights do not have the sizes in the config.
        """
        folder = Path(folder)
        for name in ("codes.parquet", "config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder / name} is missing; expected a folder written by {cls.__name__}.save"
                )
        config = cls.Config.model_validate_json((folder / "config.json").read_text())
        codes, weights = ItemCodes.read(folder / "codes.parquet"), folder / "model.safetensors"
        try:
            with torch.device("meta"):
                wanted = {name: list(one.shape) for name, one in cls(codes, config).body.state_dict().items()}
        except (TypeError, RuntimeError) as error:  # sizes that are too large for torch
            raise ValueError(
                f"{folder}: config.json asks for impossible sizes ({str(error)[:80]})"
            ) from error
        try:
            with safe_open(weights, framework="pt") as file:
                held = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(
                f"{folder / 'model.safetensors'} is damaged ({error}); fetch it again"
            ) from error
        if unlike := [name for name in {**wanted, **held} if wanted.get(name) != held.get(name)]:
            raise ValueError(
                f"{folder}: config.json and codes.parquet ask for {unlike[0]} of shape "
                f"{wanted.get(unlike[0])}, model.safetensors has {held.get(unlike[0])} "
                f"({len(unlike)} weights differ); these files do not belong to one model"
            )
        model = cls(codes, config)
        model.body.load_state_dict(load_file(weights))
        return placed(model).eval()

    def save_adaptation(self, folder: Path) -> Path:
        """Write what `adapt` trained: only the adapter, or the recommender if it has none."""
        if self.adapter is None:
            return self.save(folder)
        domain, lora = self.adapter
        return adapters.save_lora(self, lora, domain, folder)

    def with_adaptation(self, domain: str, folder: Path) -> Self:
        """Load the recommender that `save_adaptation` wrote for a domain; `self` must be the adapted base."""
        has_lora = (folder / "lora.json").is_file()
        return adapters.load_lora(self, domain, folder) if has_lora else type(self).load(folder)
