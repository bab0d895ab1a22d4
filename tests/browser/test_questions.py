"""The eight questions that the explorer answers, each in at most three clicks, against plain counting.

On the demo's world, on two real shops, and on identifiers that others published: a walk reads each answer
off the page in JupyterLab. It takes minutes, so `make nightly` runs it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Locator, expect

from genrec_lab.lab import (
    Run,
    adapt_to_domains,
    existing_run,
    explorer_state,
    open_run,
    prepare_data,
    rank_test_users,
    train_recommenders,
    train_tokenizers,
)
from genrec_lab.lab.adapt import load_adapted
from genrec_lab.lab.store import DEMO
from genrec_lab.viz.explorer import EXPLORER_VIEWS, ExplorerState
from genrec_lab.viz.explorer.published import open_codes
from tests.browser.lab import NotebookPage, fact, heading, served

pytestmark = [pytest.mark.nightly, pytest.mark.slow]

NOTEBOOK = "questions.ipynb"
PUBLISHED = {"letter": "letter_native", "other": "rqvae_native"}
PLACES = ("demo", "shops", "published")
FEW = {
    "tokenizer.epochs": 6, "training.epochs": 2, "training.least_steps": 0, "adaptation.training.epochs": 1,
    "compare": [],
}  # fmt: skip
OF_RUN = """from genrec_lab import existing_run, explore
explore(existing_run("{0}"), existing_run("{0}_coarse"))"""
OF_FILES = """from genrec_lab import explore
explore("{letter}", "{items}", other="{other}", sizes=(256, 256, 256, 256))"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Path:
    """Two runs of the demo's world and two of two real shops; the second has half as many codes."""
    root = tmp_path_factory.mktemp("questions")
    shops = {"Scientific": str(real_data / "scientific_2018"), "Office": str(real_data / "office_2014")}
    tiny = FEW | {
        "identifiers": {"policy": "extra_level"},
        "text": {"kind": "tfidf", "dimensions": 64},
        "training.validation_users": 200,
    }
    asked: dict[str, dict[str, Any]] = {
        "demo": {"dataset": DEMO["dataset"], "preset": DEMO["preset"], "overrides": FEW},
        "shops": {"dataset": {"name": "lcrec", "domains": shops}, "preset": "gmc_tiny", "overrides": tiny},
    }
    for name, parameters in asked.items():
        run = open_run(name, **parameters, root=root)
        prepare_data(run)
        train_tokenizers(run)
        size = run.config.tokenizer.codebook_size // 2
        coarse = parameters["overrides"] | {"tokenizer.codebook_size": size}
        other = open_run(f"{name}_coarse", **{**parameters, "overrides": coarse}, root=root)
        prepare_data(other)
        train_tokenizers(other)
        for stage in (train_recommenders, adapt_to_domains, rank_test_users):
            stage(run)
    return root


_COUNT = """root => {
  if (root.steps === undefined) {
    const step = () => { root.steps += 1; };
    root.addEventListener('click', step, true);
    root.addEventListener('change', event => { if (event.target.tagName === 'SELECT') step(); }, true);
    root.addEventListener('input', event => { if (event.target.type === 'search') step(); }, true);
  }
  root.steps = 0;
}"""


@dataclass(frozen=True)
class Place:
    """An explorer in the page, and the same in Python."""

    notebook: NotebookPage
    explorer: Locator
    state: ExplorerState
    run: Run | None

    def part(self, text: str) -> Locator:
        """A table of the open view, by its title."""
        return self.explorer.locator(".genrec-tabpart").filter(has_text=text)

    def begin(self) -> None:
        """Count from here on what is clicked, chosen from a list, or typed into the search."""
        self.explorer.evaluate(_COUNT)

    def steps(self) -> int:
        return int(self.explorer.evaluate("root => root.steps"))

    def chosen(self) -> Locator:
        return self.explorer.locator(".genrec-page .genrec-chosen .genrec-title")


def columns(part: Locator) -> list[dict[str, str]]:
    """The rows of a table that are on the screen, by column."""
    names = [name.rstrip("▾▴") for name in part.locator(".genrec-sort").all_inner_texts()]
    rows = part.locator(".genrec-tall .genrec-row")
    rows.first.wait_for()
    return [
        dict(zip(names, row.locator(".genrec-cell").all_inner_texts(), strict=True)) for row in rows.all()
    ]


def number(text: str) -> float:
    """What a cell or a button says, as a number."""
    return float(text.replace(",", "").replace("−", "-").removesuffix("%"))


@pytest.fixture(scope="module")
def page(
    runs: Path, real_data: Path, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NotebookPage]:
    """JupyterLab on a notebook with the three explorers, one below the other."""
    folder = tmp_path_factory.mktemp("asked")
    shop = real_data / "scientific_2018"
    codes = {name: shop / "reference_codes" / f"{file}.index.json" for name, file in PUBLISHED.items()}
    files = OF_FILES.format(items=shop / "Scientific.item.json", **codes)
    cells = [OF_RUN.format("demo"), OF_RUN.format("shops"), files]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    (folder / "notebooks").mkdir()
    nbformat.write(notebook, folder / "notebooks" / NOTEBOOK)
    with served(folder, runs) as lab:
        opened = NotebookPage(browser, lab, NOTEBOOK)
        opened.run_all()
        yield opened
        assert opened.complaints == []
        opened.close()


@pytest.fixture(scope="module")
def states(runs: Path, real_data: Path) -> dict[str, ExplorerState]:
    """The same three, asked in Python."""
    shop = real_data / "scientific_2018"
    codes = [shop / "reference_codes" / f"{file}.index.json" for file in PUBLISHED.values()]
    found = {
        name: explorer_state(existing_run(name, runs), other=existing_run(f"{name}_coarse", runs))
        for name in PLACES[:2]
    }
    found[PLACES[2]] = open_codes(
        codes[0], shop / "Scientific.item.json", sizes=(256,) * 4, other=codes[1]
    ).state
    return found


@pytest.fixture(params=PLACES)
def place(
    page: NotebookPage, states: dict[str, ExplorerState], runs: Path, request: pytest.FixtureRequest
) -> Iterator[Place]:
    """An explorer with nothing selected; a question is answered in three steps at most."""
    page.wide(1280, 800)
    explorer = page.explorer(PLACES.index(request.param))
    explorer.scroll_into_view_if_needed()
    page.start_over(explorer)
    run = None if request.param == "published" else existing_run(request.param, runs)
    place = Place(page, explorer, states[request.param], run)
    place.begin()
    yield place
    assert place.steps() <= 3


def test_which_codes_are_dead_or_nearly_so_and_why(place: Place) -> None:
    catalogue = place.state.catalogue
    codes, size = catalogue.codes.codes[:, 0], catalogue.codes.sizes[0]
    counts = np.bincount(codes, minlength=size)
    few = {
        "dead": np.flatnonzero(counts == 0),
        "nearly dead": np.flatnonzero((counts > 0) & (counts < 0.1 * len(codes) / size)),
    }
    kinds = place.explorer.get_by_label("which rows").first
    for state, expected in few.items():
        offered = kinds.locator("option").all_inner_texts() if kinds.is_visible() else []
        assert (state in offered) == bool(expected.size), state
        if not expected.size:
            continue
        kinds.select_option(state)  # 1
        grid = place.explorer.locator("[data-part=grid]")
        expect(grid.locator(".genrec-count")).to_have_text(f"{expected.size} of {size}")
        shown = {int(row["code"]) for row in columns(grid)}
        assert shown <= set(expected.tolist())
        first = int(columns(grid)[0]["code"])
        place.notebook.click_row(place.explorer)  # 2
        expect(heading(place.explorer)).to_have_text(f"Prefix {first}")
        expect(fact(place.explorer, "items").first).to_have_text(str(counts[first]))
        if state == "dead":
            expect(fact(place.explorer, "state")).to_have_text("dead")
        if catalogue.nearest_codes(0, first):  # the reason: which codewords are near, and take its items
            assert place.explorer.get_by_text("Nearest codewords").count() == 1
        assert place.steps() == 2
        place.notebook.start_over(place.explorer)
        place.begin()


def test_which_items_collide_and_are_their_texts_equal(place: Place) -> None:
    catalogue = place.state.catalogue
    place.notebook.open_tab(place.explorer, "Collisions")  # 1
    identifiers = map(tuple, catalogue.codes.codes.tolist())
    keys = list(zip(catalogue.codes.domain_index.tolist(), identifiers, strict=True))
    groups = {key: size for key, size in Counter(keys).items() if size > 1}
    titles: dict[Any, set[str]] = {}
    for key, title in zip(keys, catalogue.titles.to_list(), strict=True):
        titles.setdefault(key, set()).add(" ".join((title or "").lower().split()))
    equal = Counter(size for key, size in groups.items() if len(titles[key]) == 1)
    if not groups:
        expect(place.explorer.get_by_text("No two items of a domain have the same codes")).to_have_count(1)
        return
    rows = columns(place.part("By size of the group and cause"))
    found, found_equal = Counter[int](), Counter[int]()
    for row in rows:
        found[int(row["size"])] += int(number(row["groups"]))
        if row["cause"] == "equal texts":
            found_equal[int(row["size"])] += int(number(row["groups"]))
    by_size = Counter(groups.values())
    assert all(found[size] == by_size[size] for size in list(found)[:-1])  # the last one may go on below
    assert all(found_equal[size] == equal[size] for size in list(found)[:-1])
    first = place.part("ambiguous identifier").locator(".genrec-tall .genrec-row").first
    identifier = first.locator(".genrec-cell").first.inner_text()
    first.click()  # 2
    place.notebook.settle()
    expect(heading(place.explorer)).to_have_text(f"Prefix {identifier}")
    whole = Counter(map(tuple, catalogue.codes.codes.tolist()))
    expect(fact(place.explorer, "items").first).to_have_text(
        str(whole[tuple(int(code) for code in identifier.split(" › "))])
    )


def test_what_a_code_of_level_2_means_under_all_prefixes(place: Place) -> None:
    catalogue = place.state.catalogue
    code = int(np.bincount(catalogue.codes.codes[:, 1]).argmax())
    members = np.flatnonzero(catalogue.codes.codes[:, 1] == code)
    place.explorer.get_by_label("search titles, attributes or codes").fill(f"* {code}")  # 1
    place.explorer.locator(".genrec-hit").filter(has_text="under any prefix").click()  # 2
    place.notebook.settle()
    expect(heading(place.explorer)).to_have_text(f"Code {code} of level 2, under any prefix")
    expect(fact(place.explorer, "items").first).to_have_text(f"{members.size:,}")
    prefixes = Counter(map(tuple, catalogue.codes.codes[members, :2].tolist()))
    rows = columns(place.explorer.locator("[data-part=grid]"))
    assert {row["prefix"]: int(row["items"]) for row in rows}.items() <= {
        " › ".join(map(str, prefix)): size for prefix, size in prefixes.items()
    }.items()
    vectors = np.asarray(catalogue.known_unit, dtype=np.float64)

    def alike(items: Any) -> float:
        """The mean cosine of all pairs."""
        own = vectors[items]
        return float((np.square(own.sum(axis=0)).sum() - np.square(own).sum()) / (len(own) * (len(own) - 1)))

    said = place.explorer.locator(".genrec-section", has_text="Coherence").locator("p").inner_text()
    inside = re.search(r"mean cosine of all pairs (-?[\d.]+)", said)
    assert inside is not None and float(inside[1]) == pytest.approx(alike(members), abs=0.006)
    chance = re.search(r"as many items at random (-?[\d.]+) \(90 % from (-?[\d.]+) to (-?[\d.]+)\)", said)
    assert chance is not None
    rng = np.random.default_rng(0)
    drawn = [alike(rng.choice(len(vectors), min(members.size, 256), replace=False)) for _ in range(200)]
    assert float(chance[1]) == pytest.approx(np.mean(drawn), abs=0.03)
    assert float(chance[2]) - 0.02 <= np.quantile(drawn, 0.5) <= float(chance[3]) + 0.02


def targets_of(place: Place) -> tuple[Any, Any]:
    """The lists and targets of the run's test users."""
    users = place.state.records.users
    assert users is not None
    return next(iter(place.state.records.recommended.values())), users["target"].to_numpy()


def test_which_codes_the_recommender_confuses_and_where_hits_are_lost(place: Place) -> None:
    place.notebook.open_tab(place.explorer, "Recommender")  # 1
    if place.run is None:
        expect(place.explorer.get_by_text("No recommendations yet")).to_have_count(1)
        return
    lists, targets = targets_of(place)
    codes = place.state.catalogue.codes.codes
    lost, reached = Counter[int](), len(targets)
    for items, target in zip(lists.tolist(), targets.tolist(), strict=True):
        own = codes[target].tolist()
        prefixes = [codes[item].tolist() for item in items if item >= 0]
        for level in range(codes.shape[1]):
            if not any(prefix[: level + 1] == own[: level + 1] for prefix in prefixes):
                lost[level + 1] += 1
                break
    for row in columns(place.part("Where targets are lost")):
        assert (number(row["reached"]), number(row["lost"])) == (reached, lost[int(row["level"])])
        reached -= lost[int(row["level"])]
    first = codes[lists[:, 0], 0]
    pairs = Counter(zip(codes[targets, 0].tolist(), first.tolist(), strict=True))
    rows = columns(place.part("that are confused"))
    for row in rows[:5]:
        pair = int(row["target"].split()[0]), int(row["predicted"].split()[0])
        assert pair[0] != pair[1] and number(row["users"]) == pairs[pair]
    assert number(rows[0]["users"]) == max(size for (a, b), size in pairs.items() if a != b)
    place.part("that are confused").locator(".genrec-tall .genrec-row").first.click()  # 2
    place.notebook.settle()
    expect(heading(place.explorer)).to_have_text(f"Prefix {rows[0]['target'].split()[0]}")


def test_what_changed_between_two_tokenizers(place: Place) -> None:
    two = place.state.two
    assert two is not None
    place.notebook.open_tab(place.explorer, "Compare")  # 1
    before, after = two.codes_of(0)
    went = Counter(zip(before.tolist(), after.tolist(), strict=True))
    rows = columns(place.part("Items that went from one code to another"))
    assert number(rows[0]["items"]) == max(went.values())
    for row in rows[:5]:
        assert number(row["items"]) == went[int(row["code a"]), int(row["code b"])]
    of_a, of_b = Counter(before.tolist()), Counter(after.tolist())
    became = columns(place.part("What became of the codes"))
    for row in became[:8]:
        code = int(row["code"])
        shares = {b: (n / of_a[code], n / of_b[b]) for (a, b), n in went.items() if a == code}
        kept = any(own >= 0.5 and other >= 0.5 for own, other in shares.values())
        merged = any(own >= 0.5 for own, _ in shares.values())
        split = sum(own for own, other in shares.values() if other >= 0.5) >= 0.5 - 1e-12
        fate = "kept" if kept else "merged" if merged else "split" if split else "moved"
        assert (number(row["items"]), row["fate"]) == (of_a[code], fate)
    place.part("What became of the codes").locator(".genrec-tall .genrec-row").first.click()  # 2
    place.notebook.settle()
    expect(heading(place.explorer)).to_have_text(f"Prefix {became[0]['code']}")
    size = int((place.state.catalogue.codes.codes[:, 0] == int(became[0]["code"])).sum())
    expect(fact(place.explorer, "items").first).to_have_text(f"{size:,}")


def test_whether_sharing_between_domains_is_meaningful(place: Place) -> None:
    catalogue = place.state.catalogue
    place.notebook.open_tab(place.explorer, "Sharing")  # 1
    if len(catalogue.domains) == 1:
        expect(place.explorer.get_by_text("One domain only: no code can be shared.")).to_have_count(1)
    vectors = np.asarray(catalogue.known_unit, dtype=np.float64)
    domains, codes = catalogue.codes.domain_index, catalogue.codes.codes

    def across(groups: Any, *, of_two: bool) -> tuple[float, int]:
        """The mean cosine of pairs in a group, of two domains or of one, and their number."""
        total, count = 0.0, 0
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            if rows.size < 2:
                continue
            products = vectors[rows] @ vectors[rows].T
            wanted = np.triu((domains[rows][:, None] != domains[rows][None]) == of_two, 1)
            total, count = total + float(products[wanted].sum()), count + int(wanted.sum())
        return total / count if count else np.nan, count

    chance = {of_two: across(np.zeros(len(codes)), of_two=of_two)[0] for of_two in (False, True)}
    for row in columns(place.part("with the same codes up to a level")):
        level, of_two = int(row["level"]), row["group"] == "two domains"
        _, groups = np.unique(codes[:, :level], axis=0, return_inverse=True)
        mean, pairs = across(groups, of_two=of_two)
        assert number(row["pairs"]) == pairs
        assert number(row["chance"]) == pytest.approx(chance[of_two], abs=0.006)
        if pairs:
            assert number(row["inside"]) == pytest.approx(mean, abs=0.006)


def test_how_the_members_of_a_code_changed_over_epochs(place: Place) -> None:
    place.notebook.click_row(place.explorer)  # 1
    code = int(heading(place.explorer).inner_text().removeprefix("Prefix "))
    place.notebook.open_tab(place.explorer, "Training")  # 2
    if place.run is None:
        expect(place.explorer.get_by_text("This tokenizer recorded no epochs.")).to_have_count(1)
        return
    final = place.state.final.codes.codes[:, 0] == code
    earlier: Any = None
    for row in columns(place.part(f"Items of {code} by epoch")):
        epoch = row["epoch"]
        members = final if epoch == "final" else place.state.codes_by_epoch[int(epoch)].codes[:, 0] == code
        before = members if earlier is None else earlier
        come, gone = (members & ~before).sum(), (before & ~members).sum()
        expected = [members.sum(), come, gone, (members & final).sum()]
        assert [number(row[name]) for name in ("items", "come", "gone", "also final")] == expected
        earlier = members


def test_whether_a_miss_comes_from_the_codebook(place: Place, screenshots: Path) -> None:
    place.notebook.open_tab(place.explorer, "Recommender")  # 1
    if place.run is None:
        expect(place.explorer.get_by_text("No recommendations yet")).to_have_count(1)
        return
    lists, targets = targets_of(place)
    place.explorer.locator("[data-part=tab] select").nth(1).select_option("missed")  # 2
    place.notebook.settle()
    row = place.part("Users by what they took next").locator(".genrec-tall .genrec-row").first
    user = int(number(row.locator(".genrec-number").first.inner_text()))
    target = int(targets[user])
    assert target not in lists[user]
    row.click()  # 3
    place.notebook.settle()
    catalogue = place.state.catalogue
    expect(place.chosen()).to_have_text(catalogue.titles[target])
    own = tuple(catalogue.codes.codes[target].tolist())
    expect(heading(place.explorer)).to_contain_text(" › ".join(map(str, own)))
    same = (catalogue.codes.codes == catalogue.codes.codes[target]).all(axis=1)
    of_domains = Counter(catalogue.codes.domain_index[same].tolist()).values()
    expect(fact(place.explorer, "twins")).to_have_text(str(sum(count for count in of_domains if count > 1)))
    title = place.explorer.locator("[data-part=tab]")
    expect(title).to_contain_text("its exact rank is")
    place.notebook.shoot(place.explorer, screenshots / f"exact_rank_{place.run.name}.png")
    users = place.state.records.users
    assert users is not None
    asked = users.row(user, named=True)
    model = load_adapted(place.run, place.run.config.name, asked["domain"])
    items = model.codes.domain_items(asked["domain"])
    with torch.inference_mode():
        memory = model.eval().remember([list(asked["history"])])
        known: dict[tuple[int, ...], Any] = {}
        for length in range(model.codes.levels):
            prefixes = sorted({tuple(codes) for codes in model.codes.codes[items, :length].tolist()})
            rows = torch.tensor(prefixes, dtype=torch.long).reshape(len(prefixes), length)
            of_user = memory.of_users(torch.zeros(len(prefixes), dtype=torch.long))
            known |= dict(zip(prefixes, model.continuations(of_user, rows).double(), strict=True))
    scores = {
        item: sum(float(known[tuple(codes[:length])][code]) for length, code in enumerate(codes))
        for item, codes in zip(items.tolist(), model.codes.codes[items].tolist(), strict=True)
    }
    better = sum(score > scores[target] + 1e-4 for score in scores.values())
    near = sum(abs(score - scores[target]) <= 1e-4 for score in scores.values())
    text = title.text_content() or ""
    rank = re.search(rf"its exact rank is ([\d,]+) of {len(items):,}", text)
    assert rank is not None and better < number(rank[1]) <= better + near
    best = sorted(scores, key=lambda item: -scores[item])[:10]
    # the beam's ten items are cards of the page
    cards = place.explorer.locator(".genrec-card", has_text=re.compile(r"place \d+$")).all()
    titles = [card.locator(".genrec-title").inner_text() for card in cards]
    found = re.search(r"the beam found (\d+) of the 10 that an exact search ranks first", text)
    assert found is not None and len(titles) == 10
    assert int(found[1]) <= sum(catalogue.titles[item] in titles for item in best)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_a_reader_of_the_screen_meets_nothing_serious_in_any_view(page: NotebookPage, mode: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-playwright-python")
    explorer = page.explorer(1)
    explorer.scroll_into_view_if_needed()
    page.start_over(explorer)
    if mode == "dark":
        explorer.get_by_role("button", name="dark or light").click()
    expect(explorer).to_have_class(re.compile(f"genrec-{mode}"))
    page.click_row(explorer)
    for tab in EXPLORER_VIEWS:
        page.open_tab(explorer, tab)
        found = axe.Axe().run(page.page, context=f".genrec-explorer.genrec-{mode}").response["violations"]
        bad = [one for one in found if one["impact"] in ("serious", "critical")]
        serious = [(one["id"], one["nodes"][0]["html"]) for one in bad]
        assert serious == [], tab
    if mode == "dark":
        explorer.get_by_role("button", name="dark or light").click()
