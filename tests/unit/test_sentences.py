"""Every sentence about numbers against its numbers: parsed, and counted again by brute force."""

from __future__ import annotations

import ast
import importlib
import itertools
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import genrec_lab.viz
from genrec_lab.codes import ItemCodes
from genrec_lab.evaluation import health_table
from genrec_lab.evaluation.ranking import AVERAGE
from genrec_lab.viz import sentences as said
from genrec_lab.viz import stories
from genrec_lab.viz.explorer import (
    CodedCatalogue,
    Exactly,
    ExplorerState,
    TwoTokenizers,
    answers,
    beam_tree,
    beams,
    code_tables,
    compare,
    recommendations,
)
from genrec_lab.viz.explorer.recommendations import exposure
from genrec_lab.viz.text import counted, percent

Make = Callable[..., CodedCatalogue]
VIZ = Path(genrec_lab.viz.__path__[0])
PROVEN: set[Callable[..., Any]] = set()
seeds = st.integers(0, 10_000)
shares = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), min_size=1, max_size=4)
quick = settings(max_examples=40, deadline=None)


def proves(*functions: Callable[..., Any]) -> Callable[[Any], Any]:
    """Mark a test as the property of sentences."""
    PROVEN.update(functions)
    return lambda test: test


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def p(share: float) -> str:
    return plain(percent(share))


def modules() -> list[str]:
    return [
        ".".join(("genrec_lab.viz", *file.relative_to(VIZ).with_suffix("").parts)).removesuffix(".__init__")
        for file in sorted(VIZ.rglob("*.py"))
    ]


def test_every_sentence_has_a_property() -> None:
    for module in modules():
        importlib.import_module(module)
    lacking = {name for name, function in said.SENTENCES.items() if function not in PROVEN}
    assert not lacking, f"sentences without a property test: {sorted(lacking)}"


def test_every_title_is_written_by_a_registered_sentence() -> None:
    """The title of each figure and table is a call of a registered function, or a name bound to one."""
    known = {name.rpartition(".")[2] for name in said.SENTENCES}
    astray = []
    for file in VIZ.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            written = {
                target.id
                for node in ast.walk(function)
                if isinstance(node, ast.Assign) and _calls(node.value, known)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            arguments = {one.arg for one in function.args.args}
            for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
                place = {"finish": 0, "table_figure": 0}.get(_name(call.func))
                if place is None or function.name in ("finish", "table_figure"):
                    continue
                place = 1 if isinstance(call.func, ast.Name) and _name(call.func) == "finish" else place
                title = call.args[place]
                named = isinstance(title, ast.Name) and title.id in written | arguments
                if not _calls(title, known) and not named:
                    astray.append(f"{file.name}:{call.lineno}: {ast.unparse(title)}")
    assert not astray


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _calls(value: ast.expr, known: set[str]) -> bool:
    return isinstance(value, ast.Call) and _name(value.func) in known


def superlative(text: str, names: list[str], values: list[float]) -> None:
    """A name that is called first has the largest value, alone or with all that share it."""
    most = max(values)
    assert all(values[names.index(name)] == most > 0 for name in names if re.search(rf"\b{name}\b", text))


# --- the helpers


@given(shares)
def test_leaders_are_all_that_share_a_value_above_nothing(values: list[float]) -> None:
    names = [f"r{place}" for place in range(len(values))]
    expected = [n for n, v in zip(names, values, strict=True) if v == max(values) and v > 0]
    assert said.leaders(names, values) == expected
    between = said.ends(values)
    assert between is None if len(set(values)) == 1 else (values[between[0]], values[between[1]]) == (
        min(values), max(values),
    )  # fmt: skip


@given(seeds)
@quick
def test_shared_by_chance_is_the_mean_over_all_permutations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes, domains = rng.integers(0, 3, 5), rng.integers(0, 2, 5)
    table = np.zeros((4, 2), dtype=np.int64)
    np.add.at(table, (codes, domains), 1)
    found = []
    for order in set(itertools.permutations(domains.tolist())):
        by_code = [
            {d for c, d in zip(codes, order, strict=True) if c == code} for code in set(codes.tolist())
        ]
        found.append(np.mean([len(one) > 1 for one in by_code]))
    assert said.shared_by_chance(table) == pytest.approx(np.mean(found))


# --- data


@proves(said.statistics_title)
def test_a_data_set_is_counted() -> None:
    assert said.statistics_title(1, 2, 3000, 1) == "3,000 interactions of 1 user with 2 items in 1 domain"


@proves(said.lengths_title)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_lengths(medians: list[int]) -> None:
    by_domain = {f"d{place}": value for place, value in enumerate(medians)}
    text = said.lengths_title(by_domain)
    if len(set(medians)) == 1:
        assert counted(medians[0], "interaction") in text and ("every" in text) == (len(medians) > 1)
    else:
        found = re.fullmatch(r"The median user has (\d) interactions? in (d\d) and (\d) in (d\d)", text)
        assert found is not None
        low, first, high, last = found.groups()
        assert by_domain[first] == int(low) == min(medians) and by_domain[last] == int(high) == max(medians)


@proves(said.popularity_title)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(3, 9), st.sampled_from([0.1, 0.5])), min_size=1, max_size=3
    )
)
def test_popularity(tops: list[tuple[int, int, float]]) -> None:
    by_domain = {f"d{place}": top for place, top in enumerate(tops)}
    text = plain(said.popularity_title(by_domain))
    for top, items, share, name in re.findall(r"(\d) of (\d) items takes? ([\d.]+ %).*? in (d\d)", text):
        assert by_domain[name][:2] == (int(top), int(items)) and p(by_domain[name][2]) == share
    assert ("the same share in every domain" in text) == (
        len(tops) > 1 and len({top[2] for top in tops}) == 1
    )


# --- codes


@proves(said.sharing_title, said.level_title)
@given(seeds)
@quick
def test_sharing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tables = [rng.integers(0, 3, (int(rng.integers(1, 6)), int(rng.integers(1, 4)))) for _ in range(1)]
    tables += [rng.integers(0, 2, (3, tables[0].shape[1])) for _ in range(int(rng.integers(0, 3)))]
    for table in tables:
        table[0, 0] = 1
    text = plain(said.sharing_title(tables))
    dead = sum(not row.any() for table in tables for row in table)
    assert f"{dead} of {counted(sum(map(len, tables)), 'code')} are dead" in text
    own = [np.mean([np.count_nonzero(row) > 1 for row in table if row.any()]) for table in tables]
    if tables[0].shape[1] == 1:
        assert text.startswith("One domain")
        assert "shared" not in said.level_title(0, tables[0])
        return
    for share, level in re.findall(r"([\d.]+ %)(?: of the used codes)? at level (\d)", text):
        assert p(own[int(level) - 1]) == share
    assert ("at every level" in text or "the only level" in text) == (len(set(own)) == 1)
    title = plain(said.level_title(1, tables[0]))
    assert f"{p(own[0])} shared (by chance {p(said.shared_by_chance(tables[0]))})" in title


@proves(said.tokenizers_title)
@given(seeds)
@quick
def test_tokenizers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = {
        f"t{place}": ItemCodes(rng.integers(0, 2, (6, 2)), (2 + place, 3))
        for place in range(rng.integers(1, 4))
    }
    text = plain(said.tokenizers_title(health_table(made)))
    rates, dead = {}, {}
    for name, codes in made.items():
        rows = [tuple(row) for row in codes.codes.tolist()]
        rates[name] = sum(rows.count(row) > 1 for row in rows) / 6
        used = [len(set(codes.codes[:, level].tolist())) for level in range(2)]
        dead[name] = 1 - sum(used) / sum(codes.sizes)
    for values, part in ((rates, text.split("; ")[0]), (dead, text.split("; ")[1])):
        found = re.findall(r"(t\d):? ([\d.]+ %)", part)
        assert all(p(values[name]) == share for name, share in found)
        assert bool(re.search(r"\bno (dead|ambiguous)", part.lower())) == (max(values.values()) == 0)
        if len(made) > 1 and max(values.values()):
            assert ("with each" in part) == (len(set(values.values())) == 1)
            assert not found or values[found[0][0]] == max(values.values())


# --- identifiers


@proves(said.overlap_title)
@given(st.lists(st.lists(st.sampled_from([0.1, 0.2]), min_size=2, max_size=3), min_size=1, max_size=3))
def test_near_items_under_tokenizers(table: list[list[float]]) -> None:
    width = min(map(len, table))
    rows = [
        (f"t{t}", f"d{d}", 5, value) for t, row in enumerate(table) for d, value in enumerate(row[:width])
    ]
    text = plain(
        said.overlap_title(pl.DataFrame(rows, ["tokenizer", "domain", "k", "overlap"], orient="row"))
    )
    if len(table) == 1:
        values = [p(value) for value in sorted(table[0][:width])]
        assert (values[0] in text) and (values[-1] in text)
        return
    first = []
    for domain in range(width):
        column = [row[domain] for row in table]
        first += [column.index(max(column))] if column.count(max(column)) == 1 else []
    if not first:
        assert text.startswith("No single tokenizer")
    else:
        name = re.search(r"under (t\d)", text)
        assert name is not None and first.count(int(name[1][1:])) == max(map(first.count, first))
        assert ("in every domain" in text or width == 1) == (first.count(int(name[1][1:])) == width)


@proves(said.collisions_title)
@given(seeds)
@quick
def test_collisions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    index = np.array([0, *rng.integers(0, 2, 7)])
    sizes = rng.integers(1, 3, 8)
    text = plain(said.collisions_title(sizes, index, ["d0", "d1"][: index.max() + 1]))
    assert p((sizes > 1).mean()) in text or (sizes == 1).all()
    worst = re.search(r"most in (d\d) \(([\d.]+ %)\)", text)
    if worst:
        by_domain = [float((sizes[index == one] > 1).mean()) for one in range(2)]
        superlative(worst[1], ["d0", "d1"], by_domain)
        assert p(max(by_domain)) == worst[2] and by_domain[0] != by_domain[1]


@proves(said.policies_title)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.0, 1.0, 2.0])), min_size=1, max_size=4))
def test_policies(rows: list[tuple[int, float]]) -> None:
    names = [f"p{place}" for place in range(len(rows))]
    text = said.policies_title(names, [moved for moved, _ in rows], [cost for _, cost in rows])
    costs = {name: cost for name, (moved, cost) in zip(names, rows, strict=True) if moved}
    cheap = re.search(r"change codes, (.*) adds? the least", text)
    if len(set(costs.values())) > 1:
        assert cheap is not None
        assert (
            re.findall(r"p\d", cheap[1]) == [name for name in costs if costs[name] == min(costs.values())][:3]
        )
    else:
        assert cheap is None and ("No policy" in text) == (not costs)


@proves(said.examples_title, said.pictures_title, said.unquantised_title, said.paper_title)
def test_what_only_counts() -> None:
    assert said.examples_title(3, 9, 1) == "3 of 9 items with their identifiers of 1 code"
    assert said.pictures_title(3, 9, ["a", "b"]) == "3 of 9 items with a picture, from a and b"
    assert "2 levels" in said.unquantised_title(2)
    assert (
        said.paper_title("GMC", ["a"], 1, 2)
        == "Ours compared with GMC on a: 1 of 2 values far below the paper's"
    )


# --- residuals


@proves(said.atlas_title)
@given(shares, st.booleans())
def test_atlas(values: list[float], several: bool) -> None:
    text = plain(said.atlas_title(values, 0.3 if several else float("nan")))
    assert ("by chance 30 %" in text) == several
    pairs = re.findall(r"([\d.]+ %)[^;,%]* at level (\d)", text)
    assert all(p(values[int(level) - 1]) == share for share, level in pairs)
    if several and len(set(values)) > 1:
        assert p(max(values)) == pairs[0][0] and p(min(values)) == pairs[-1][0]


@proves(said.norms_title)
@given(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=1, max_size=4))
def test_norms(after: list[float]) -> None:
    text = plain(said.norms_title(np.ones(len(after)), np.array(after)))
    for level, verb, share in re.findall(r"evel (\d) (takes|adds) ([\d.]+ %)", text):
        value = after[int(level) - 1]
        assert p(abs(1 - value)) == share and (verb == "takes") == (value <= 1)
    assert bool(re.search(r"evel \d", text)) == (len(set(after)) > 1)


@proves(said.left_title)
@given(st.lists(st.sampled_from([0.2, 0.5, 1.0, 3.0]), min_size=1, max_size=4), st.booleans())
def test_left(values: list[float], together: bool) -> None:
    text = plain(said.left_title(np.array(values), together=together))

    def amount(share: float) -> str:
        return f"{share:.3g} times" if share > 1 else p(share)

    if together:
        assert text.startswith(f"The first code leaves {amount(values[0])}")
        assert len(values) == 1 or f"all {len(values)} leave {amount(values[-1])}" in text
    for level, found in re.findall(r"evel (\d) leaves ([\d.]+ (?:%|times))", text):
        assert amount(values[int(level) - 1]) == found == amount(max(values))
    assert said.left_title(np.array([np.nan]), together=together).startswith("No level")


@proves(said.kept_title)
@given(shares)
def test_kept(values: list[float]) -> None:
    text = plain(said.kept_title(np.array(values)))
    assert text.startswith(f"{p(values[0])} of the words decoded from 1 code are")
    assert len(values) == 1 or text.endswith(f", {p(values[-1])} from {len(values)} codes")


# --- training and results


@proves(said.tokenizer_title)
@given(shares, st.one_of(st.none(), st.just(True)))
def test_tokenizer(used: list[float], known: bool | None) -> None:
    churn = [value / 2 for value in used[::-1]] if known else None
    text = plain(said.tokenizer_title({"epoch": 3, "utilisation": used, "collision_rate": 0.25}, churn))
    least = [place + 1 for place, value in enumerate(used) if value == min(used)]
    amount = "all" if min(used) == 1 else p(min(used))
    assert f"{amount} of the codes" in text and "25 % of the items collide" in text
    named = re.search(r"epochs (every level|levels? ([\d and]+)) use", text)
    assert named is not None
    if named[2]:
        assert [int(level) for level in re.findall(r"\d", named[2])] == least
    else:
        assert len(set(used)) == 1
    if churn:
        assert f"{p(max(churn))} still change their code at level {churn.index(max(churn)) + 1}" in text
    assert "settle" not in text


@proves(said.best_title)
@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from([0.0, 0.1, 0.2])), max_size=3))
def test_best(bests: list[tuple[int, float]]) -> None:
    by_name = {f"r{place}": best for place, best in enumerate(bests)}
    text = said.best_title(by_name, "NDCG@10", 9)
    if not bests:
        assert "none validated" in text
    elif max(value for _, value in bests) == 0:
        assert "is 0" in text
    else:
        superlative(text, list(by_name), [value for _, value in bests])
        epoch = re.search(r"at epoch (\d)", text)
        assert epoch is None or int(epoch[1]) in {e for e, v in bests if v == max(v for _, v in bests)}


@proves(said.winner_title)
@given(st.lists(st.sampled_from([0.0, 0.01, 0.04]), min_size=1, max_size=3), st.booleans())
def test_winner(values: list[float], bounded: bool) -> None:
    rows = [(f"r{place}", AVERAGE, value) for place, value in enumerate(values)]
    rows += [("best possible", AVERAGE, 0.08)] if bounded else []
    table = pl.DataFrame(rows, ["method", "domain", "mean"], orient="row")
    text = plain(said.winner_title(table, "NDCG@10", "best possible"))
    most, first = max(values), [f"r{n}" for n, value in enumerate(values) if value == max(values)]
    if most == 0:
        assert text == "No method has NDCG@10 above 0 on average"
        return
    assert f"{most:.4f}" in text and all(name in text for name in first)
    assert (f"{p(most / 0.08)} of the best possible" in text) == bounded
    above = re.search(r"([\d.]+ %) above (r\d)", text)
    if above:
        other = values[int(above[2][1])]
        assert p(most / other - 1) == above[1] and sorted(values)[-2] == other < most


@proves(said.records_note)
def test_a_note_counts_each_user_once_and_names_the_seeds() -> None:
    rows = [("a", 0, "x", 5), ("a", 1, "x", 5), ("a", 0, "y", 7), ("b", 0, AVERAGE, 12)]
    records = pl.DataFrame(rows, ["method", "seed", "domain", "users"], orient="row")
    assert said.records_note(records, "more") == "12 test users of 2 domains; seeds 0, 1; more"
    assert said.records_note(records.filter(seed=0)).endswith("seed 0")


@proves(said.beams_title)
def test_beams() -> None:
    text = plain(said.beams_title([5, 20], [0.5, 0.0], 10))
    assert text == "With 20 beams the search misses 0 % of the true top 10, with 5 it misses 50 %"


@proves(said.adaptation_title)
@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.2]), st.sampled_from([0.1, 0.2, 0.3])), min_size=1, max_size=4)
)
def test_adaptation(pairs: list[tuple[float, float]]) -> None:
    domains = [f"d{place}" for place in range(len(pairs))]
    text = said.adaptation_title(*map(list, zip(*pairs, strict=True)), domains, "NDCG@10")
    assert text.startswith("Validation NDCG@10 at the best epoch") and "raises" not in text
    risen = [after - before for before, after in pairs if after > before]
    assert (f"in {len(risen)} of {counted(len(pairs), 'domain')}" in text) == bool(risen)
    if risen:
        superlative(text, domains, [after - before for before, after in pairs])


@proves(said.tail_title)
@given(seeds)
@quick
def test_tail(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.choice([0.0, 0.0004, 0.0043], (int(rng.integers(1, 4)), int(rng.integers(1, 4))))
    names, groups = (
        [f"r{n}" for n in range(len(values))],
        [f"{10 * g}-{10 * g + 9}" for g in range(values.shape[1])],
    )
    text = said.tail_title(names, values, groups)
    for part in text.split("; ") if len(names) > 1 else ():
        column = next(place for place, group in enumerate(groups) if group in part)
        found = values[:, column].tolist()
        assert ("no row" in part.lower()) == (max(found) == 0)
        assert ("equally" in part) == (max(found) > 0 and len(set(found)) == 1)
        superlative(part, names, found)
        if max(found) > 0 and len(set(found)) > 1:
            assert re.findall(r"r\d", part) == [
                n for n, v in zip(names, found, strict=True) if v == max(found)
            ]


@proves(said.lead_title)
@given(st.floats(-0.1, 0.1), st.floats(0, 0.1), st.floats(0, 0.1))
def test_a_lead_is_claimed_only_beyond_its_interval(difference: float, below: float, above: float) -> None:
    low, high = difference - below, difference + above
    text = said.lead_title("a", "b", "NDCG@10", (difference, low, high), 30)
    assert ("a is above b" in text) == (low > 0) and ("a is below b" in text) == (high < 0)
    assert ("do not differ significantly" in text) == (low <= 0 <= high)
    assert f"{difference:+.4f} (95 % interval {low:+.4f} to {high:+.4f}, 30 test users)" in text


@proves(said.differences_title, said.worth_title)
@given(st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0]), min_size=1, max_size=4))
def test_intervals(lows: list[float]) -> None:
    low, high = np.array(lows), np.array(lows) + 1
    text = said.differences_title("a", "b", low, high, "NDCG@10", 0.95)
    assert f"in {sum(one > 0 for one in lows)} of {counted(len(lows), 'comparison')}" in text
    worse = sum(one + 1 < 0 for one in lows)
    assert (f"loses in {worse}" in text) == bool(worse)
    names = [f"v{place}" for place in range(len(lows))]
    text = said.worth_title("gmc", "NDCG@10", names, low + 0.5, high)
    missed = [name for name, one in zip(names, lows, strict=True) if one + 1 < 0]
    assert bool(re.search(r"v\d has", text)) == bool(missed)
    if missed:
        assert re.findall(r"v\d", text)[0] in missed
        assert len(names) == 1 or f"significantly lower without {len(missed)} of {len(names)} parts" in text
    else:
        assert "is not significantly lower" in text
        assert ("of v0 is" if len(names) == 1 else f"any of {len(names)} parts") in text


# --- stories


@proves(said.story_title)
def test_story() -> None:
    assert said.story_title("a", 2, 5) == "a ranks the user's next item number 2 of 5 shown"
    assert "not among the first 5" in said.story_title("a", None, 5)


@proves(stories.tell_beams)
@given(seeds)
@quick
def test_beams_are_told_by_their_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prefixes = ["3", "1", "1 · 2", "3 · 0"]
    columns = ("level", "prefix", "log_probability", "allowed", "of", "legal_mass", "items", "example")
    rows = [
        (
            1 + (" " in prefix),
            prefix,
            -float(rank),
            int(rng.integers(1, 5)),
            8,
            0.5,
            int(rng.integers(1, 9)),
            "x",
        )
        for prefix, rank in zip(prefixes, (1, 2, 3, 4), strict=True)
    ]
    frame = pl.DataFrame(rows, schema=columns, orient="row")
    first, second = stories.tell_beams(frame).split("\n")
    for line, prefix, place in ((first, "1", 2), (second, "1 · 2", 1)):
        row = frame.filter(prefix=prefix).row(0, named=True)
        assert f"allows {row['allowed']} of 8 codes" in line
        assert f"{prefix} is number {place} of the 2 kept prefixes" in line
        assert f", at log-probability {row['log_probability']:.2f}." in line
        assert f"Below it: {counted(row['items'], 'item')}" in line


# --- the explorer


@proves(code_tables.children_title)
@given(seeds)
@quick
def test_children(make_catalogue: Make, seed: int) -> None:
    catalogue = make_catalogue(seed, 1 + seed % 12, (4, 3))
    codes = catalogue.codes.codes
    for prefix in ((), (seed % 4,)):
        inside = [row for row in codes.tolist() if tuple(row[: len(prefix)]) == prefix]
        counts = [sum(row[len(prefix)] == code for row in inside) for code in range((4, 3)[len(prefix)])]
        text = plain(code_tables.children_title(prefix, np.array(counts)))
        if not inside:
            assert "no item has this prefix" in text
            continue
        assert f"{sum(map(bool, counts))} of {len(counts)} codes used" in text
        assert p(max(counts) / len(inside)) in text
        largest = re.search(r"code (\d), the largest", text)
        assert (largest is not None) == (counts.count(max(counts)) == 1)
        assert largest is None or counts[int(largest[1])] == max(counts)


@proves(code_tables.children_note)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_what_is_drawn_of_the_children(sizes: list[int]) -> None:
    dead = [code for code, size in enumerate(sizes) if not size]
    used = len(sizes) - len(dead)
    text = code_tables.children_note(np.array(sizes), min(used, 3), dead)
    assert counted(sum(sizes), "item") in text
    assert ("all used codes" in text) == (used <= 3)
    named = re.search(r"dead at this level: ([\d, ]*\d)(?: and (\d+) more)?", text)
    assert (named is not None) == bool(dead)
    if named:
        shown = [int(code) for code in named[1].split(", ")]
        assert shown == dead[:8] and len(shown) + int(named[2] or 0) == len(dead)


@proves(compare.nothing_common_title)
def test_nothing_in_common() -> None:
    assert compare.nothing_common_title(("a", "b")) == "a and b have no item in common"


@proves(compare.match_title, compare.company_title)
@given(seeds)
@quick
def test_two_tokenizers(make_catalogue: Make, seed: int) -> None:
    one, other = (make_catalogue(seed * both, 25, (4, 3), name=name) for both, name in ((0, "a"), (1, "b")))
    two = TwoTokenizers(one, other)
    if not two.n_items:  # the figure says so instead
        return
    matches = [two.level(level) for level in range(2)]
    text = compare.match_title(matches, ("a", "b"))
    values = [match.ami for match in matches]
    for value, level in re.findall(r"(-?[\d.]+) at level (\d)", text):
        assert f"{values[int(level) - 1]:.2f}" == value
    alike = all(
        (a[:, None] == a).tolist() == (b[:, None] == b).tolist() for a, b in map(two.codes_of, range(2))
    )
    assert ("alike at every level" in text) == alike
    found = two.company(1)
    company = plain(compare.company_title(found, 1))
    if not found.items:
        assert company.startswith("No item shares")
        return
    assert f"{p(found.kept)} of the companions" in company and f"by chance {p(found.chance)}" in company
    assert counted(found.items, "item") in company


@proves(recommendations.exposure_title)
@given(seeds)
@quick
def test_exposure(make_catalogue: Make, seed: int) -> None:
    catalogue = make_catalogue(seed, 20, (4, 2))
    shown = np.random.default_rng(seed).integers(0, 3, 20) * (seed % 5 > 0)
    text = plain(recommendations.exposure_title(exposure(catalogue, shown)))
    codes = catalogue.codes.codes[:, 0]
    items, lists = ([int(w[codes == code].sum()) for code in range(4)] for w in (np.ones(20), shown))
    if not sum(lists):
        assert text.startswith("Nothing")
        return
    gains = [b / sum(lists) - a / 20 for a, b in zip(items, lists, strict=True)]
    never = sum(bool(a) and not b for a, b in zip(items, lists, strict=True))
    assert (f"{never} of" in text) == bool(never) or "Every code" in text
    named = re.search(r"Code (\d) has ([\d.]+ %|under 0.1 %) of the rec", text)
    if named:
        assert gains[int(named[1])] == pytest.approx(max(gains))
        assert p(lists[int(named[1])] / sum(lists)) == named[2]


@proves(recommendations.tail_exposure_title)
@given(shares)
def test_tail_exposure(values: list[float]) -> None:
    names = {f"m{place}": value for place, value in enumerate(values)}
    text = plain(recommendations.tail_exposure_title(names, 4, 9))
    assert text.startswith("The 4 least popular of 9 items get")
    found = re.findall(r"([\d.]+ %) of (?:the recommendations of )?(m\d)", text)
    assert all(p(names[name]) == share for share, name in found)
    if len(set(values)) > 1:
        assert names[found[0][1]] == max(values) and names[found[1][1]] == min(values)
    else:
        assert len(values) == 1 or "every method" in text


@proves(beams.beam_title)
def test_the_target_s_way() -> None:
    prefixes, scores = [[(0,), (1,)], [(0, 0), (0, 1)]], [[-1.0, -2.0], [-1.5, -2.5]]
    stays = beams.beam_title(beam_tree(prefixes, scores, (0, 1)))
    assert stays == "The target stays in the beam and ends at place 2"
    leaves = beams.beam_title(beam_tree(prefixes, scores, (1, 0), (-2.0, -4.0)))
    assert leaves == "The target leaves the beam at level 2 of 2: 1.50 below the last of 2 kept"


@proves(beams.beam_title, beams.beam_found)
@given(st.lists(st.sampled_from([-1.0, -2.0, -2.5, -4.0]), min_size=4, max_size=4), st.integers(0, 3))
def test_the_exact_rank_beside_the_beam(scores: list[float], target: int) -> None:
    order = sorted(range(4), key=lambda item: -scores[item])
    kept, rank = [0, 3], order.index(target) + 1
    exactly = Exactly(rank, 4, len({*order[:2]} & {*kept}), 2)
    tree = beam_tree([[(item,) for item in kept]], [[scores[item] for item in kept]], (target,))
    assert beams.beam_title(replace(tree, exactly=exactly)).endswith(f"; its exact rank is {rank} of 4")
    found = sum(item in kept for item in order[:2])
    assert beams.beam_found(exactly) == f"the beam found {found} of the 2 that an exact search ranks first"


# --- the explorer's screen


@proves(answers.health)
@given(seeds, st.booleans())
@quick
def test_chips(make_catalogue: Make, seed: int, alone: bool) -> None:
    catalogue = make_catalogue(seed, 1 + seed % 40, (4, 3))
    chips = [plain(chip["text"]) for chip in answers.health(ExplorerState(catalogue), alone=alone)]
    rows, n = catalogue.codes.codes.tolist(), catalogue.n_items
    used = [len({row[level] for row in rows}) for level in range(2)]
    own = [(*row, domain) for row, domain in zip(rows, catalogue.codes.domains.tolist(), strict=True)]
    shared = sum(own.count(one) > 1 for one in own)
    counts = [np.bincount([row[level] for row in rows]) / n for level in range(2)]
    even = [math.exp(-sum(one * math.log(one) for one in level if one)) for level in counts]
    assert chips == [
        counted(n, "item"),
        f"used {p(sum(used) / 7)}",
        f"dead {7 - sum(used)}",
        f"perplexity {' · '.join(f'{value:.0f}' for value in even)}",
        f"collisions {p(shared / n)}",
    ]


@proves(answers._facts, answers._heading, answers._coherence)
@given(seeds)
@quick
def test_facts_of_a_selection(make_catalogue: Make, seed: int) -> None:
    catalogue = make_catalogue(seed, 2 + seed % 40, (4, 3), ("d0", "d1"))
    state = ExplorerState(catalogue)
    prefix = tuple(catalogue.codes.codes[seed % catalogue.n_items, : seed % 3].tolist())
    state.select(prefix=prefix)
    items = [i for i, row in enumerate(catalogue.codes.codes.tolist()) if tuple(row[: len(prefix)]) == prefix]
    facts = {name: (plain(value), plain(says)) for name, value, says in answers._facts(state, state.items())}
    assert facts["items"] == (str(len(items)), f"{p(len(items) / catalogue.n_items)} of the catalogue")
    traffic = catalogue.traffic
    if traffic.sum():
        assert facts["traffic"][0] == p(traffic[items].sum() / traffic.sum())
    own = [
        sum(catalogue.domains[catalogue.codes.domain_index[item]] == name for item in items)
        for name in ("d0", "d1")
    ]
    for name in ("d0", "d1"):
        if name in facts:
            assert facts[name][0] == p(max(own) / len(items)) and own[int(name[1])] == max(own)
    whole = [
        (*row, d)
        for row, d in zip(catalogue.codes.codes.tolist(), catalogue.codes.domains.tolist(), strict=True)
    ]
    assert facts["twins"][0] == str(sum(whole.count(whole[item]) > 1 for item in items))
    assert answers._heading(state) == (f"Prefix {' › '.join(map(str, prefix))}" if prefix else "All items")
    said_of = answers._coherence(state, state.items())
    if said_of is not None:
        units = catalogue.vectors / np.linalg.norm(catalogue.vectors, axis=1, keepdims=True)
        alike = [units[i] @ units[j] for i, j in itertools.combinations(items, 2)]
        assert f"mean cosine of all pairs {np.mean(alike):.2f}" in said_of["said"]
