"""The explorer's views: what each tab shows of the selection, words where there is nothing, and clicks."""

from __future__ import annotations

from genrec_lab.viz.explorer import panels
from genrec_lab.viz.explorer.beams import beam_way
from genrec_lab.viz.explorer.code_page import code_items, code_profile
from genrec_lab.viz.explorer.collisions import collision_group
from genrec_lab.viz.explorer.compare import changed_company, tokenizer_match
from genrec_lab.viz.explorer.domain_sharing import domain_lift, similarity_by_prefix
from genrec_lab.viz.explorer.exposure import exposure_by_code, exposure_by_popularity
from genrec_lab.viz.explorer.prefix_figures import prefix_bars, prefix_map
from genrec_lab.viz.explorer.state import ExplorerState, Shown
from genrec_lab.viz.figures.identifiers import neighbour_overlap
from genrec_lab.viz.figures.training import codebook_by_epoch
from genrec_lab.viz.text import counted


def show_codes(state: ExplorerState) -> Shown:
    """Show the codes that follow the selected prefix; a click on a bar goes down."""
    children = state.children()
    if children is None:
        found = state.page()
        tables = [] if found is None else [code_items(found, state.catalogue)]
        return Shown(tables, [panels.NOTHING_BELOW], "children")
    prefix = state.selection.prefix
    bars = prefix_bars(children, state.labels(), seed=state.catalogue.seed)
    return Shown([bars], panel="children", click=lambda code: {"prefix": (*prefix, int(code))})


def show_page(state: ExplorerState) -> Shown:
    """Show the selected code: its words, domains and items."""
    found = state.page()
    if found is None:
        return Shown(said=[panels.NO_PAGE], panel="page")
    return Shown([code_profile(found), code_items(found, state.catalogue)], panel="page")


def show_map(state: ExplorerState) -> Shown:
    """Show the selected level on every map; a click selects an item, a lasso gathers some."""
    level = state.selection.level
    drawn = [
        prefix_map(state.catalogue, one, state.selection.prefix, level=level)
        for one in state.maps.values()
        if level < one.coordinates.shape[1]
    ]
    if not drawn:
        why = "This level has no map." if state.maps else "There is no map yet: run 03_residual_atlas."
        return Shown(said=[why], panel="items")
    said = "Draw around points to gather items, click one to select it, click twice to let go."

    # The level stays: a whole identifier is selected, and the map must not jump to its last code.
    def click(item: str) -> dict[str, int]:
        return {"item": int(item), "level": level}

    return Shown(drawn, [said], "items", click=click, lasso=True)


def show_sharing(state: ExplorerState) -> Shown:
    """Show which codes lean to which domain, and whether common codes mean alike items."""
    seed, found, pairs = state.catalogue.seed, state.records.neighbours, state.pairs()
    drawn, said = [domain_lift(state.sharing(), seed=seed)], []
    if pairs is None:
        said.append(panels.NO_VECTORS)
    else:
        drawn.append(similarity_by_prefix(pairs, state.catalogue.levels))
    if found is None:
        said.append(panels.NO_NEIGHBOURS)
    else:
        drawn.append(neighbour_overlap(found, seed=seed))
    return Shown(drawn, said, "sharing")


def show_collisions(state: ExplorerState) -> Shown:
    """Show one ambiguous identifier, its items beside it as cards."""
    found, options = state.collisions(), {"group": state.group}
    if not found.sizes.size:
        return Shown(said=[panels.NO_COLLISIONS], panel="policies", options=options)
    place = min(state.group, found.sizes.size - 1)
    said = f"{counted(found.sizes.size, 'ambiguous identifier')}, largest group first; shown: group {place}."
    items = found.group(place)
    table = collision_group(state.catalogue, items, rank=place + 1)
    return Shown([table], [said], "policies", options, beside=(f"Group {place}", items))


def show_training(state: ExplorerState) -> Shown:
    """Show how the codes were used while the tokenizer trained, a figure a scope."""
    epochs, n_items = state.training(), state.catalogue.n_items
    known = epochs.drop_nulls("utilisation")
    if known.is_empty():
        return Shown(said=[panels.NO_EPOCHS], panel="training")
    scopes = known["scope"].unique(maintain_order=True).to_list()
    whole = n_items if len(scopes) == 1 else None
    drawn = [codebook_by_epoch(epochs, scope=scope, n_items=whole) for scope in scopes]
    return Shown(drawn, panel="training")


def show_compare(state: ExplorerState) -> Shown:
    """Show two tokenizers beside each other at the selected level."""
    if state.two is None:
        return Shown(said=[panels.NO_OTHER], panel="matching")
    level, levels = state.selection.level, state.two.levels
    said = [f"Both have {levels} levels: the last is shown."] if level >= levels else []
    level = min(level, levels - 1)
    drawn = [tokenizer_match(state.two, level=level), changed_company(state.two, length=level + 1)]
    return Shown(drawn, said, "matching")


def show_beam(state: ExplorerState) -> Shown:
    """Show the beam of the user who was last watched."""
    if state.beam is None:
        return Shown(said=[panels.NO_BEAM], panel="beam")
    return Shown([beam_way(state.beam)], panel="beam")


def show_exposure(state: ExplorerState) -> Shown:
    """Show what is recommended, by popularity and by code."""
    found = {method: state.exposure(method) for method in state.records.recommended}
    if not found:
        return Shown(said=[panels.NO_RECOMMENDER], panel="exposure")
    # One method code by code, the run's own, beside all of them by popularity: five figures would be slow.
    method = next(iter(found))
    by_code = exposure_by_code(found[method], state.labels(), method=method)
    return Shown([exposure_by_popularity(found), by_code], panel="exposure")
