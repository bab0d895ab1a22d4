"""The explorer's views: the contents of each tab for the selected items, and what a click selects."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from genrec_lab.viz import IntArray
from genrec_lab.viz.explorer.beams import beam_way
from genrec_lab.viz.explorer.collisions import (
    EQUAL,
    FEW,
    NEAR,
    causes_by_size,
    collision_causes,
    policy_effects,
    policy_summary,
)
from genrec_lab.viz.explorer.compare import fates, flows, tokenizer_match
from genrec_lab.viz.explorer.recommendations import (
    confusions,
    exposure_by_popularity,
    exposure_title,
    lost_levels,
    outcomes,
)
from genrec_lab.viz.explorer.remedies import diagnose, effects, remedy_table
from genrec_lab.viz.explorer.sharing import level_sharing
from genrec_lab.viz.explorer.state import Choice, ExplorerState, Shown, Table
from genrec_lab.viz.figures.codes import neighbour_overlap
from genrec_lab.viz.figures.training import codebook_by_epoch, training_frame
from genrec_lab.viz.text import counted, shorten, written

Go = dict[str, Any] | None

_MOST_GROUPS = 2_000
_MOST_USERS = 5_000
_MOST_PAIRS = 500
_NO_RECOMMENDER = "No recommendations yet: run 05_recommender_training and 07_evaluation."


def show_sharing(state: ExplorerState) -> Shown:
    """Show which domain each code of the level prefers, and whether items that share a code are similar."""
    catalogue, level, items = state.catalogue, state.selection.level, state.items()
    found, several = level_sharing(catalogue, level, items), len(catalogue.domains) > 1
    used = found.order()
    columns: dict[str, Any] = {"code": used, "words": state.words(used)}
    columns |= {"items": found.items.sum(axis=0)[used], "domains": (found.items[:, used] > 0).sum(axis=0)}
    tables, said = [], [] if several else ["One domain only: no code can be shared."]
    note = "lift: how many times as often a domain has the code as all items have it"
    if catalogue.unit is not None and items.size:
        columns["alike"] = state.alike_by_code(level)[used]
        compared, chance = state.compared().size, np.nan_to_num(state.alike(0)[0].mean)
        sample = "" if compared == items.size else f" of {counted(compared, 'item')} drawn at random"
        note += f"; alike: mean cosine of the items of the code{sample}, {chance:.2f} by chance"
        text = f"Mean cosine of pairs{sample} with the same codes up to a level, against all such pairs"
        tables.append(Table(state.alike_by_level(), title=text))
    else:
        why = "no content vectors are known, or there is one item"
        said.append(f"The similarity of items cannot be measured: {why}.")
    for at, name in enumerate(catalogue.domains if several else ()):
        columns[f"lift {shorten(name, 16)}"] = found.lift[at, used]
    go = state.goes_to(level, used)
    title = f"Codes of level {level + 1} by the domain that they lean to"
    tables.insert(0, Table(pl.DataFrame(columns), go, title, note, bars=("items",)))
    known = state.records.neighbours
    drawn = [] if known is None else [neighbour_overlap(known, seed=catalogue.seed)]
    if known is None and state.records.run:
        said.append("The codes of nearest items were not compared yet: run 03_residual_atlas.")
    return Shown(drawn, said, tables=tables)


def show_collisions(state: ExplorerState) -> Shown:
    """Show the ambiguous identifiers with their causes, and the effects of policies on the first of them."""
    found, catalogue = state.collisions(), state.catalogue
    if not found.sizes.size:
        return Shown(said=["No two items of a domain have the same codes here."])
    causes = collision_causes(found, catalogue.unit, np.random.default_rng(catalogue.seed))
    cause = state.choice("cause", [("all", ""), *((name, name) for name in (EQUAL, NEAR, FEW))])
    frame = found.frame().hstack(causes.select("cause", "similarity")).with_row_index("group")
    frame = frame.filter(pl.col("cause") == cause.value) if cause.value else frame
    whole, frame = frame, frame.head(_MOST_GROUPS)
    firsts = found.items[found.starts[frame["group"].to_numpy()]]
    go: list[Go] = [{"prefix": row} for row in catalogue.codes.codes[firsts].tolist()]
    domain = ["domain"] if len(catalogue.domains) > 1 else []
    title = f"{counted(found.sizes.size, 'ambiguous identifier')} of {counted(found.items.size, 'item')}"
    shown = frame.select("identifier", *domain, "items", "cause", "similarity", "first_title")
    changed = policy_effects(catalogue, found.group(0))
    after = changed.pivot("policy", index="item", values="after")
    rows: list[Go] = [{"item": item} for item in after["item"].to_list()]
    titles = catalogue.titles.gather(after["item"]).alias("title")
    name = found.frame(1)["identifier"][0]
    tables = [
        Table(shown, go, title, bars=("items",)),
        Table(causes_by_size(causes), title="By size of the group and cause", bars=("groups",)),
        Table(after.drop("item").insert_column(0, titles), rows, f"What each policy makes of {name}"),
        Table(policy_summary(changed), title="What that costs: added distance to the codewords, items moved"),
    ]
    return Shown(frame=whole, tables=tables, choices=[cause])


def show_recommender(state: ExplorerState) -> Shown:
    """Show where targets are lost, which codes are confused, and a list of users."""
    users, recommended, catalogue = state.records.users, state.records.recommended, state.catalogue
    if users is None or not recommended:
        return Shown(said=[_NO_RECOMMENDER])
    method = state.choice("method", [(name, name) for name in recommended])
    outcome = state.choice("users", [("all", ""), ("hit", "hit"), ("missed", "missed")])
    lists, targets = recommended[method.value], users["target"].to_numpy()
    rows = np.flatnonzero(np.isin(targets, state.items()))
    if not rows.size:
        return Shown(said=["No test user took one of the selected items."], choices=[method, outcome])
    found = outcomes(catalogue.codes, lists[rows], targets[rows]).with_columns(row=pl.Series(rows))
    title = f"Where targets are lost: {counted(rows.size, 'user')}, first {lists.shape[1]} of {method.value}"
    hits = counted(int(found["hit"].sum()), "hit")
    note = f"{hits}; lost: no recommended item has the target's codes so far"
    tables = [
        Table(lost_levels(found, catalogue.levels), (), title, note, ("share",), ("lost",)),
        _confused(state, lists[rows], targets[rows]),
    ]
    if outcome.value:
        found = found.filter(pl.col("hit") == (outcome.value == "hit"))
    found = found.head(_MOST_USERS)
    listing = found.select(
        user="row",
        title=catalogue.titles.gather(found["target"]).str.slice(0, 120),
        rank="rank",
        **{"lost at": "lost"},
        twins="twins",
        history=users["history"].list.len().gather(found["row"]),
    )
    watched = state.watcher is not None and method.value in state.watchable
    go: list[Go] = [
        {"act": "watch", "method": method.value, "row": row} if watched else {"item": target}
        for row, target in found.select("row", "target").iter_rows()
    ]
    note = "a click selects the target" + (" and watches the beam" if watched else "")
    tables.append(Table(listing, go, "Users by what they took next", note))
    figures = [] if state.beam is None else [beam_way(state.beam)]
    frame = listing if state.beam is None else state.beam.nodes
    return Shown(figures, frame=frame, tables=tables, choices=[method, outcome], beside=_beam_cards(state))


def _confused(state: ExplorerState, lists: IntArray, targets: IntArray) -> Table:
    """Return the pairs of codes of the level where the first recommended item differs from the target."""
    level = state.selection.level
    found = confusions(state.catalogue.codes, lists, targets, level)
    frame = found.filter(pl.col("target") != pl.col("predicted")).head(_MOST_PAIRS)
    go = state.goes_to(level, frame["target"])
    for name in ("target", "predicted"):
        words = pl.Series(state.words(frame[name]), dtype=pl.String)
        named = pl.concat_str(name, words, separator=" ").str.strip_chars()
        frame = frame.with_columns(named.alias(name))
    frame = frame.select("target", "predicted", "users", "share", "lift")
    right = counted(int(found["users"].sum()), "user")
    note = f"{right} whose first recommendation was right up to level {level}" if level else right
    return Table(frame, go, f"Codes of level {level + 1} that are confused", note, ("share",), ("users",))


def _beam_cards(state: ExplorerState) -> tuple[str, list[tuple[int, str]]] | None:
    beam = state.beam
    if beam is None or not beam.results:
        return None
    first = len(beam.history[:-6]) + 1
    cards = [(item, f"history {place}") for place, item in enumerate(beam.history[-6:], first)]
    cards += [] if beam.target_item is None else [(beam.target_item, "what they took next")]
    cards += [(item, f"place {place}") for place, item in enumerate(beam.results, 1)]
    return "The user's history, target and recommendations", cards


def show_exposure(state: ExplorerState) -> Shown:
    """Show the distribution of recommendations by popularity and by code."""
    recommended, catalogue = state.records.recommended, state.catalogue
    if not recommended:
        return Shown(said=[_NO_RECOMMENDER])
    method = state.choice("method", [(name, name) for name in recommended])
    found = {name: state.exposure(name) for name in recommended}
    one = found[method.value]
    table = one.by_code.sort("ratio", descending=True)
    words = pl.Series("words", state.words(table["code"], one.level))
    shares = {"of items": "catalogue_share", "of lists": "recommendation_share"}
    go = state.goes_to(one.level, table["code"])
    table = table.select("code", words, "items", **shares, ratio="ratio")
    note = f"level {one.level + 1}; {counted(one.recommendations, 'recommendation')} of {method.value}"
    if len(catalogue.domains) > 1 and state.selection.domain is None:
        note += ", of all domains"
    listed = Table(table, go, exposure_title(one), note, ("of items", "of lists"), ("items",))
    return Shown([exposure_by_popularity(found)], tables=[listed], choices=[method])


def show_compare(state: ExplorerState) -> Shown:
    """Show which codes split, merged or moved between two tokenizers or two saved epochs, and their items."""
    two = state.two
    if two is None:
        said = "Only one tokenizer is open: open two, or choose an epoch in Training, to compare their codes."
        return Shown(said=[said])
    if not two.n_items:
        return Shown(said=["The two tokenizers have no item in common, so nothing can be compared."])
    level = min(state.selection.level, two.levels - 1)
    chosen = np.isin(two.items_a, state.items())
    one, other = (codes[chosen] for codes in two.codes_of(level))
    went = flows(one, other)
    became = fates(went)
    kinds = became.group_by("fate").agg(codes=pl.len(), items=pl.col("items").sum()).sort("fate").rows()
    note = "; ".join(f"{counted(codes, 'code')} {fate} ({counted(n, 'item')})" for fate, codes, n in kinds)
    title = f"What became of the codes of level {level + 1} in {two.b.name}"
    words = pl.Series("words", state.words(became["code_a"], level), pl.String)
    frame = became.rename({"code_a": "code", "code_b": "most to"}).insert_column(1, words)
    pairs = went.head(_MOST_PAIRS).drop("expected")
    to, from_ = (state.goes_to(level, one["code_a"]) for one in (became, pairs))
    shares, name = ("share_a", "share_b"), "Items that went from one code to another"
    tables = [
        Table(frame, to, title, note, ("share",), ("items",)),
        Table(pairs, from_, name, "", shares, ("items",)),
    ]
    return Shown([tokenizer_match(two, level=level)], list(two.left_out), tables=tables)


def show_training(state: ExplorerState) -> Shown:
    """Show the use of the codes during the tokenizer's training, and the codes of an epoch in all views."""
    epochs, n_items = training_frame(state.records.epochs, state.records.sizes), state.catalogue.n_items
    known = epochs.drop_nulls("utilisation")
    if known.is_empty():
        return Shown(said=["This tokenizer recorded no epochs."])
    scopes = known["scope"].unique(maintain_order=True).to_list()
    # If each domain has its own tokenizer, show only that of the selected domain.
    if state.selection.domain in scopes:
        scopes = [state.selection.domain]
    whole = n_items if len(scopes) == 1 else None
    drawn = [codebook_by_epoch(epochs, scope=scope, n_items=whole) for scope in scopes]
    if not state.codes_by_epoch:
        how = "train it again in 02_tokenizer_training to look at them"
        return Shown(drawn, [f"The codes of its epochs were not kept: {how}."], epochs)
    steps = [(f"epoch {epoch}", str(epoch)) for epoch in _before_the_final(state)]
    shown = "" if state.epoch is None else str(state.epoch)
    scrubber = Choice("codes of", [*steps, ("the final ones", "")], shown, act="epoch", slider=True)
    return Shown(drawn, frame=epochs, tables=[_by_epoch(state)], choices=[scrubber])


def _before_the_final(state: ExplorerState) -> dict[int, IntArray]:
    """Return the codes of the kept epochs, without the last one if its codes are the final ones."""
    kept, final = state.codes_by_epoch, state.final.codes.codes
    last = max(kept)
    return {e: one.codes for e, one in kept.items() if e != last or not np.array_equal(one.codes, final)}


def _by_epoch(state: ExplorerState) -> Table:
    """Return the members of the selected code by epoch; without one, the items that keep their code."""
    selected, final = state.selection, state.final.codes.codes
    within = np.ones(len(final), dtype=bool)
    if selected.domain is not None:
        within &= state.final.codes.domain_index == state.final.domain_number(selected.domain)
    if selected.lasso is not None:
        within &= np.isin(np.arange(len(final)), selected.lasso)
    codes = {str(epoch): one for epoch, one in _before_the_final(state).items()} | {"final": final}
    go: list[Go] = [{"act": "epoch", "value": epoch if epoch != "final" else ""} for epoch in codes]
    if selected.everywhere is None and not selected.prefix:
        same = np.stack([(one == final)[within] for one in codes.values()])
        shares = {f"level {level + 1}": same[:, :, level].mean(axis=1) for level in range(final.shape[1])}
        shares["all levels"] = same.all(axis=2).mean(axis=1)
        title = f"Share of the {counted(int(within.sum()), 'item')} that have their final code"
        return Table(pl.DataFrame({"epoch": list(codes)} | shares), go, title, shares=tuple(shares))
    first, wanted, name = 0, selected.prefix, written(selected.prefix)
    if selected.everywhere is not None:
        first, wanted = selected.everywhere[0], selected.everywhere[1:]
        name = f"code {wanted[0]} of level {first + 1}"
    part = slice(first, first + len(wanted))
    members = np.stack([within & (one[:, part] == wanted).all(axis=1) for one in codes.values()])
    before = np.concatenate([members[:1], members[:-1]])
    columns = {
        "items": members.sum(axis=1),
        "come": (members & ~before).sum(axis=1),
        "gone": (before & ~members).sum(axis=1),
        "also final": (members & members[-1]).sum(axis=1),
    }
    note = "come and gone: since the epoch above; also final: items that have it in the end too"
    frame = pl.DataFrame({"epoch": list(codes)} | columns)
    return Table(frame, go, f"Items of {name} by epoch", note, bars=("items",))


def show_remedies(state: ExplorerState) -> Shown:
    """Show the faults of the codes and the settings that affect them; a click writes a run file."""
    catalogue, records = state.catalogue, state.records
    if not catalogue.sizes_known:
        return Shown(said=["The sizes of the levels are not known, so nothing can be said of dead codes."])
    tried = effects(records.others())
    found = remedy_table(diagnose(catalogue.health, catalogue.codes.sizes), tried, records.settings or None)
    if found.is_empty():
        return Shown(said=["Nothing to mend: few dead codes and collisions, no collapse, levels in balance."])
    go: list[Go] = [
        {"act": "write", "setting": setting, "value": values.split(" or ")[0]}
        for setting, values in found.select("setting", "try").iter_rows()
    ]
    note = "a click writes the run file that tries the first value" if records.run else ""
    tables = [Table(found, go if records.run else (), "From a finding to the settings that act on it", note)]
    if tried.height:
        tables.append(Table(tried, title="What other runs of these data, one setting apart, cost or gained"))
    return Shown(tables=tables)
