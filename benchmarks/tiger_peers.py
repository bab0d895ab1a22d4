"""Beam search and exact search against the TIGER of two public libraries, with the same weights.

cornac's TIGER (3.0.1, on the CPU) reads one history at a time. Both of its ways to score are measured:
"beam" with the catalogue and the T5 of `benchmarks.decoding`, and "exact" with the trained T5 of
`benchmarks.exact`. torch-rechub's TIGER (0.9) is a T5 with transformers' `generate`; a trie of dictionaries
holds its beams to the catalogue. A peer that is not installed is left out.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.decoding import agreement, peer_search, random_histories, random_recommender
from benchmarks.exact import TOP_K, agree, models
from benchmarks.measuring import Check, Comparison, Options, compare, main
from genrec_lab.decoding import CodeTrie, Ranked, beam_search, exact_top_k
from genrec_lab.models import Recommender

OURS, CORNAC, RECHUB = "genrec_lab", "cornac's TIGER", "torch-rechub's TIGER"


class PerLevel(Recommender):
    """A recommender whose probabilities sum to 1 over the codes of a level, as those of cornac's heads do."""

    def level_log_probs(self, logits: Tensor, level: int) -> Tensor:
        """Logits (..., V) -> log-probabilities (..., K) of one level's codes."""
        start, size = self.codes.offsets[level], self.codes.sizes[level]
        return logits[..., start : start + size].float().log_softmax(-1)


def per_level(model: Recommender) -> PerLevel:
    """The same weights with probabilities over the codes of a level."""
    other = PerLevel(model.codes, model.config)
    other.load_state_dict(model.state_dict())
    return other.eval()


class Cornac:
    """cornac's network with the weights of a recommender of ours, and what its search reads of the codes."""

    def __init__(self, model: Recommender) -> None:
        from cornac.models.tiger.tiger import TIGERSeq2Seq

        self.model, sizes, codes = model, model.config, model.codes
        self.network = TIGERSeq2Seq(
            codes.sizes,
            sizes.d_model,
            sizes.d_ff,
            sizes.heads,
            sizes.d_kv,
            sizes.encoder_layers,
            sizes.decoder_layers,
        ).eval()
        theirs, table = model.to_transformers(), model.t5.embedding.weight.detach()
        for stack in ("encoder", "decoder"):
            weights = getattr(theirs, stack).state_dict()
            del weights["embed_tokens.weight"]  # of cornac's stacks it is unused
            getattr(self.network, stack).load_state_dict(weights, strict=False)
        start, end, first = 0, 1, codes.offsets[0]
        with torch.no_grad():
            self.network.bos.copy_(table[start])
            # cornac's histories have no end token. Its padding, which one history does not need, becomes it.
            self.network.token_emb.weight.copy_(torch.cat([table[end : end + 1], table[first:]]))
            for head, offset, size in zip(self.network.heads, codes.offsets, codes.sizes, strict=True):
                head.weight.copy_(table[offset : offset + size] * sizes.d_model**-0.5)
        children: list[dict[tuple[int, ...], list[int]]] = [defaultdict(list) for _ in codes.sizes]
        for row in np.unique(codes.codes, axis=0).tolist():
            for level, code in enumerate(row):
                below = children[level][tuple(row[:level])]
                if not below or below[-1] != code:  # the rows are sorted
                    below.append(code)
        self.children = [{prefix: np.array(below) for prefix, below in each.items()} for each in children]
        self.item_of = {tuple(row): item for item, row in enumerate(codes.codes.tolist())}
        self.table = torch.from_numpy(codes.codes.astype(np.int64))

    def _inputs(self, history: list[int]) -> tuple[Tensor, Tensor]:
        given = self.model.inputs([history])
        return given["input_ids"] - 1, given["attention_mask"].float()

    def beam(self, histories: list[list[int]], beams: int) -> Ranked:
        """Search with scoring="beam"."""
        items, scores = [], []
        for history in histories:
            found, log_probs = self.network.generate_beam(*self._inputs(history), beams, self.children)
            items.append([self.item_of[identifier] for identifier in found])
            scores.append(log_probs)
        return Ranked(np.array(items), np.array(scores))

    def exact(self, histories: list[list[int]]) -> Ranked:
        """Score all items with scoring="exact", in chunks of cornac's default size."""
        scores = np.stack(
            [self.network.score_all_items(*self._inputs(history), self.table, 2048) for history in histories]
        )
        return Ranked.best(np.broadcast_to(np.arange(scores.shape[1]), scores.shape), scores, TOP_K)


def alike(peer: str) -> Callable[[Mapping[str, Any]], Iterator[Check]]:
    """Return the check of a beam search in float32: the peer's top items and scores."""

    def check(results: Mapping[str, Any]) -> Iterator[Check]:
        yield from agreement(results, peer, {OURS: 0.998})
        gap = float(np.abs(results[OURS].scores - results[peer].scores).max())
        yield Check(f"{OURS}: scores differ by at most {gap:.1e}, allowed 1e-3", gap <= 1e-3)

    return check


def measure(options: Options) -> list[Comparison]:
    """Beam search against both peers, then exact search against cornac."""
    items, users, beams = (500, 2, 10) if options.small else (25_000, 8, 50)
    model, histories = random_recommender(items), random_histories(users, items)
    trie, found = CodeTrie(model.codes), []

    def ours(searched: Recommender, batch: int) -> Callable[[], Ranked]:
        return lambda: beam_search(searched, histories, trie, beams, beams, batch_size=batch)

    def beam_row(peer: str, theirs: Callable[[], Ranked], batch: int, target: float | None = None) -> None:
        searched = model if peer == RECHUB else per_level(model)
        found.append(
            compare(
                f"{peer}, beam search: {items:,} items, {users} users, batches of {batch}, {beams} beams",
                {OURS: ours(searched, batch), peer: theirs},
                alike(peer),
                options,
                unit="users",
                amount=users,
                peer=peer,
                targets={} if target is None else {OURS: target},
            )
        )

    if installed("torch_rechub"):
        from torch_rechub.models.generative.tiger import TIGERModel

        same = model.to_transformers()
        network = TIGERModel(same.config)
        network.load_state_dict(same.state_dict())
        beam_row(RECHUB, peer_search(model, histories, beams, network.eval()), users)
    if installed("cornac"):
        cornac = Cornac(model)
        for batch, target in ((users, 16.0), (1, 12.0)):
            beam_row(CORNAC, lambda: cornac.beam(histories, beams), batch, target)
        trained, _, histories, dataset = models(options)
        levelled, scored, of_trained = per_level(trained), Cornac(trained), CodeTrie(trained.codes)
        found.append(
            compare(
                f"{CORNAC}, exact top {TOP_K} of {trained.codes.n_items:,} items of {dataset}, trained",
                {
                    OURS: lambda: exact_top_k(levelled, histories, of_trained, TOP_K),
                    CORNAC: lambda: scored.exact(histories),
                },
                agree,
                options,
                unit="users",
                amount=len(histories),
                peer=CORNAC,
                targets={OURS: 50.0},
            )
        )
    return found


def installed(package: str) -> bool:
    """Whether a peer can be imported; where not, say how to install it."""
    if find_spec(package) is None:
        print(f"{package.replace('_', '-')} is not installed and is left out: pip install '.[bench]'")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(measure))
