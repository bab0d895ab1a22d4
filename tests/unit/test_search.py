"""Beam search on random tries against a search in plain Python, to the bit, on the CPU and on a device.

`make nightly` runs 10,000 of them, a test run 300.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genrec_lab.codes import ItemCodes
from genrec_lab.decoding import CodeTrie, Ranked, beam_search
from genrec_lab.decoding.beam import descend
from genrec_lab.models import Recommender
from tests.fake_device import NAME, fake_device

SEARCHES = int(os.environ.get("GENREC_SEARCHES", "300"))
ITEMS = 60  # item indices are below


class Users:
    """What the table model remembers: which of its rows each user reads."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows


class TableModel:
    """The next code depends on the user and the last code, by a table of a level each."""

    def __init__(self, tables: list[Tensor]) -> None:
        self.tables = tables  # of a level: (rows, codes) log-probabilities

    def remember(self, histories: list[list[int]]) -> Users:
        return Users(
            torch.tensor([sum(h) % len(self.tables[0]) for h in histories]).to(self.tables[0].device)
        )

    def step(self, memory: Users, codes: Tensor | None, cache: Any, parents: Any) -> tuple[Tensor, int]:
        level = 0 if codes is None else cache + 1
        rows = memory.rows[:, None] if codes is None else memory.rows[:, None] + codes
        return self.tables[level][rows % len(self.tables[level])], level

    def on(self, device: str) -> TableModel:
        return TableModel([table.to(device) for table in self.tables])


def plain_search(model: TableModel, history: list[int], rows: dict[int, tuple[int, ...]], beams: int) -> list:
    """Keep the best prefixes of a dictionary; of equal ones those with the lowest item below them."""
    (start,) = model.remember([history]).rows.tolist()
    tables = [table.numpy() for table in model.tables]
    kept: dict[tuple[int, ...], np.float32] = {(): np.float32(0)}
    for level, table in enumerate(tables):
        lowest: dict[tuple[int, ...], int] = {}
        for item in sorted(rows, reverse=True):
            if rows[item][:level] in kept:
                lowest[rows[item][: level + 1]] = item
        scores = {
            prefix: kept[prefix[:-1]] + table[(start + (prefix[-2] if level else 0)) % len(table), prefix[-1]]
            for prefix in lowest
        }
        best = sorted(scores, key=lambda prefix: (-scores[prefix], lowest[prefix]))[:beams]
        kept = {prefix: scores[prefix] for prefix in best}
    return sorted((-kept[rows[item]], item) for item in rows if rows[item] in kept)


def drawn(seed: int) -> tuple[TableModel, CodeTrie, dict[int, tuple[int, ...]], list[list[int]], int, Any]:
    """A model with no, some or only equal scores; a trie, its rows; histories, beams, what is hidden."""
    rng = np.random.default_rng(seed)
    levels, size = int(rng.integers(1, 5)), int(rng.integers(1, 7))
    codes = np.unique(rng.integers(0, size, (int(rng.integers(1, 40)), levels)), axis=0)
    items = rng.permutation(ITEMS)[: len(codes)]
    tables = [torch.from_numpy(rng.normal(size=(5, size)).astype(np.float32)) for _ in range(levels)]
    if (kind := seed % 3) > 0:
        tables = [table.round() if kind == 1 else torch.zeros_like(table) for table in tables]
    histories = [rng.integers(0, ITEMS, rng.integers(0, 5)).tolist() for _ in range(rng.integers(1, 4))]
    hidden = [rng.permutation(ITEMS)[: rng.integers(0, 50)].tolist() for _ in histories]
    model = TableModel([table.log_softmax(-1) for table in tables])
    rows = {int(item): tuple(row) for item, row in zip(items, codes.tolist(), strict=True)}
    return (
        model,
        CodeTrie(codes, items),
        rows,
        histories,
        int(rng.integers(1, 12)),
        hidden if seed % 2 else None,
    )


def with_fixed_shapes(trie: CodeTrie) -> CodeTrie:
    """The same trie, searched on the CPU as on an accelerator."""
    cpu = torch.device("cpu")
    trie._on[cpu] = tuple(
        edges._replace(widest=int(np.diff(level.starts).max()))
        for edges, level in zip(trie.on(cpu), trie.levels, strict=True)
    )
    return trie


def test_random_searches_are_those_of_plain_python_to_the_bit() -> None:
    on_device = 0
    for seed in range(SEARCHES):
        model, trie, rows, histories, beams, hidden = drawn(seed)
        given = {"beams": beams, "top_k": beams, "hidden": hidden}
        found = {"cpu": beam_search(model, histories, trie, **given)}
        found["fixed shapes"] = beam_search(model, histories, with_fixed_shapes(trie), **given)
        if seed % 15 in (0, 5, 7):
            with fake_device():
                found["device"] = beam_search(model.on(NAME), histories, trie, **given)
            on_device += 1
        for user, history in enumerate(histories):
            gone = set(hidden[user]) if hidden else set()
            left = {item: row for item, row in rows.items() if item not in gone}
            expected = plain_search(model, history, left, beams)
            for where, ranked in found.items():
                count = len(expected)
                assert ranked.items[user].tolist() == [i for _, i in expected] + [-1] * (beams - count), (
                    seed,
                    where,
                )
                assert ranked.scores[user, :count].tolist() == [-score for score, _ in expected], (
                    seed,
                    where,
                )
    print(f"\nsearches: {SEARCHES}, on the device {on_device}")
    assert on_device >= SEARCHES // 10


@pytest.mark.parametrize("seed", range(6))
def test_over_legal_codes_fixed_shapes_find_the_same(seed: int) -> None:
    """Sums of exponentials over more columns may round otherwise."""
    model, trie, _, histories, beams, hidden = drawn(3 * seed + 30)
    given = {"beams": beams, "top_k": beams, "hidden": hidden, "normalise": "legal"}
    ranked: list[Ranked] = [beam_search(model, histories, trie, **given)]
    ranked.append(beam_search(model, histories, with_fixed_shapes(trie), **given))
    np.testing.assert_array_equal(ranked[0].items, ranked[1].items)
    np.testing.assert_allclose(ranked[0].scores, ranked[1].scores, atol=1e-6)


@pytest.mark.parametrize("normalise", ["vocabulary", "legal"])
@pytest.mark.parametrize("hides", [False, True])
def test_no_level_waits_for_the_device(make_codes, make_recommender, normalise: str, hides: bool) -> None:
    """Three times whatever the number of levels: histories are checked, items and scores are copied."""
    for sizes in ((4, 5), (3, 3, 3, 2)):
        codes: ItemCodes = make_codes({"a": 15}, sizes)
        model, trie = make_recommender(codes), CodeTrie(codes)
        histories = [[1, 2, 3], [4]]
        given: dict[str, Any] = {"beams": 4, "top_k": 3, "normalise": normalise}
        given["hidden"] = histories if hides else None
        expected = beam_search(model, histories, trie, **given)
        with fake_device() as device:
            there = model.to(NAME)
            trie.on(torch.device(NAME, 0))
            with device.counting() as waits:
                found = beam_search(there, histories, trie, **given)
        assert len(waits) == 3, waits
        np.testing.assert_array_equal(found.items, expected.items)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_a_search_compiles_as_one_graph(make_codes, make_recommender) -> None:
    """With fixed shapes torch traces the whole of it, the network's steps too, without a break."""
    codes: ItemCodes = make_codes({"a": 20}, (4, 3, 4))
    model: Recommender = make_recommender(codes)
    trie, roots = with_fixed_shapes(CodeTrie(codes)), torch.zeros(2, 1, dtype=torch.long)
    with torch.inference_mode():
        memory = model.remember([[1, 2], [3]])
        compiled = torch.compile(
            lambda memory, roots: descend(model, memory, roots, trie, 5), backend="eager", fullgraph=True
        )
        items, scores = compiled(memory, roots)
    expected = beam_search(model, [[1, 2], [3]], trie, 5, 5)
    found = Ranked.best(items.numpy(), scores.numpy(), 5)
    np.testing.assert_array_equal(found.items, expected.items)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


def test_diverged_weights_are_named_there_too(make_codes, make_recommender) -> None:
    model = make_recommender(make_codes({"a": 15}, (4, 5)))
    with torch.no_grad():
        model.t5.decoder_norm.weight.fill_(float("nan"))
    with fake_device(), pytest.raises(ValueError, match=r"NaN at level 0: the weight decoder_norm.weight"):
        beam_search(model.to(NAME), [[1]], CodeTrie(model.codes), 5, 3)


@pytest.mark.parametrize("explains", [False, True])
def test_a_model_of_another_kind_may_say_why_it_gives_nan(explains: bool) -> None:
    class Diverged(TableModel):
        if explains:

            def require_finite(self, values: Tensor, where: str, run: Any) -> None:
                raise ValueError(f"my layer {where}, again {bool(torch.isnan(run()[0]).any())}")

    tables = [torch.zeros(1, 2), torch.full((2, 2), torch.nan)]
    message = "my layer at level 1, again True" if explains else "the model gives NaN at level 1; its weights"
    with pytest.raises(ValueError, match=message):
        beam_search(Diverged(tables), [[]], CodeTrie([[0, 0], [1, 1]]), 2, 1)
    assert not isinstance(Diverged(tables), nn.Module)
