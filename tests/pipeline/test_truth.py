"""Every number that a run shows is the number of this code, these settings and these data.

Black-box tests on copies of one finished tiny run, and of the package where code is changed.
"""

from __future__ import annotations

import ast
import json
import math
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec_lab.data import DataError
from genrec_lab.lab import chain, results
from genrec_lab.lab.doctor import doctor
from genrec_lab.lab.report import build_report
from genrec_lab.lab.store import Run, RunError, existing_run, open_run, unopened_run
from tests.nightly import AT_NIGHT
from tests.pipeline.truth_chain import (
    PARAMETERS,
    REPOSITORY,
    STAGES,
    TRAINING,
    ask,
    copy_of_package,
    make,
    metrics,
    plan,
    tasks,
    to_run,
)

pytestmark = pytest.mark.slow

PREPARED, TOKENIZED, TRAINED, ADAPTED, EVALUATED = STAGES
PAGE = [REPOSITORY / "notebooks" / f"{EVALUATED}.ipynb"]


@dataclass(frozen=True)
class Finished:
    """A finished run below `root`, the copy of the package that made it, and what that says of it."""

    root: Path
    package: Path
    look: dict[str, Any]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One run, made by a copy of the package, and the page of its evaluation."""
    root = tmp_path_factory.mktemp("finished")
    package = copy_of_package(tmp_path_factory.mktemp("package"))
    git(package, "init", "-q")
    (package / ".gitignore").write_text("__pycache__/\n")
    commit(package)
    look = ask("make", "truth", root, package, **PARAMETERS)
    chain.run({"run": "truth", **PARAMETERS}, only=[EVALUATED], root=root, quiet=True)
    return Finished(root, package, look)


@pytest.fixture
def run(finished: Finished, tmp_path: Path) -> Run:
    """A copy of the finished run that a test may damage."""
    shutil.copytree(finished.root, tmp_path / "runs", symlinks=True)
    return existing_run("truth", tmp_path / "runs")


@pytest.fixture
def edited(finished: Finished) -> Iterator[Callable[[str, str, str], None]]:
    """Replace text in a file of the package's copy; it is as it was after the test."""
    before: dict[Path, bytes] = {}

    def edit(file: str, old: str, new: str) -> None:
        path = finished.package / "genrec_lab" / file
        before.setdefault(path, path.read_bytes())
        text = path.read_text()
        assert text.count(old) == 1, f"{file} does not hold {old!r} once"
        path.write_text(text.replace(old, new))

    yield edit
    for path, content in before.items():
        path.write_bytes(content)


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@localhost")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(package: Path) -> str:
    git(package, "add", ".")
    git(package, "commit", "-q", "-m", "a change")
    return git(package, "rev-parse", "HEAD")


def look(finished: Finished, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = ask("look", "truth", finished.root, finished.package, **changes)
    return found


def rows_of(planned: Mapping[str, Mapping[str, str]], stages: tuple[str, ...] = STAGES) -> set[str]:
    return {step["row"] for step in planned.values() if step["action"] == "run" and step["stage"] in stages}


# -- 1: code -----------------------------------------------------------------------------------------------


def test_the_finished_run_has_nothing_to_do_in_this_checkout_either(finished: Finished, run: Run) -> None:
    assert to_run(finished.look["plan"]) == set()
    assert to_run(plan(run)) == set()
    assert metrics(run) == finished.look["metrics"]
    assert [step.action for step in chain.plan(run, PAGE)] == ["keep"] * 6


def test_a_changed_loss_makes_the_rows_that_reach_it_anew_and_no_other(
    finished: Finished, edited: Callable[..., None]
) -> None:
    old = "    return (similarity.logsumexp(dim=1) - own).mean()"
    edited("losses.py", old, old + " * 1000")
    planned = look(finished)["plan"]
    assert rows_of(planned) == {"gmc_tiny", "tiger"}
    assert rows_of(planned, (TOKENIZED,)) == {"gmc_tiny", "tiger"}
    why = planned[f"{TOKENIZED}/tiger/tokenizers/Garden"]["why"]
    assert why == "the code that made it has changed (genrec_lab.losses.domain_contrastive_loss)."


def test_the_report_begins_with_how_the_runs_own_method_compares(run: Run) -> None:
    html = build_report(run).read_text()
    values = {}
    for row in ("gmc_tiny", "tiger", "sasrec", "popularity"):
        ranked = pl.read_parquet(run.folder / EVALUATED / row / "rankings.parquet")
        values[row] = [
            next((1 / math.log2(place + 2) for place, item in enumerate(items) if item == target), 0.0)
            for items, target in ranked.select("items", "target").iter_rows()
        ]
    means = {row: sum(of_row) / len(of_row) for row, of_row in values.items()}
    other = max((row for row in means if row != "gmc_tiny"), key=lambda row: means[row])
    found = re.search(r'class="finding">(gmc_tiny [^<]*) in NDCG@10: ([+-][.\d]+) ', html)
    assert found is not None and other in found[1].split()
    assert float(found[2]) == pytest.approx(means["gmc_tiny"] - means[other], abs=6e-5)
    assert html.index('class="finding"') < html.index("<h2>Results")
    assert len(re.findall("this run&#39;s method|this run's method", html)) == 7  # once in each table


def test_a_changed_metric_changes_the_numbers_and_trains_nothing(
    finished: Finished, edited: Callable[..., None]
) -> None:
    edited("evaluation/ranking.py", "1.0 / np.log2(ranks + 2.0)", "0.5 / np.log2(ranks + 2.0)")
    found = look(finished)
    assert not any(place.startswith(TRAINING) for place in to_run(found["plan"]))
    assert not rows_of(found["plan"]) & {"gmc_tiny", "tiger", "sasrec", "popularity"}
    ranked = [row for row in finished.look["metrics"] if row["method"] != "best possible"]
    now = [row for row in found["metrics"] if row["method"] != "best possible"]
    for before, after in zip(ranked, now, strict=True):
        factor = 0.5 if before["metric"] == "ndcg" else 1.0
        assert after["value"] == pytest.approx(factor * before["value"], abs=1e-12)
    assert any(row["value"] for row in now if row["metric"] == "ndcg")


class Rewritten(ast.NodeTransformer):
    """Other docstrings, and other annotations of what private functions return."""

    def visit(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node):
            node.body[0] = ast.Expr(ast.Constant("Another docstring."))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("_") and not node.decorator_list:
            node.returns = ast.Name("object", ast.Load()) if node.returns else None
        return node


def test_comments_docstrings_annotations_and_layout_of_every_file_change_nothing(
    finished: Finished, tmp_path: Path
) -> None:
    package = copy_of_package(tmp_path / "rewritten")
    files = sorted((package / "genrec_lab").rglob("*.py"))
    for file in files:
        tree = Rewritten().visit(ast.parse(file.read_text()))
        text = ast.unparse(ast.fix_missing_locations(tree)).replace("\n\n", "\n\n\n\n# Another comment.\n")
        file.write_text("# A first comment.\n\n" + text + "\n\n\n# And a last one.\n")
    assert len(files) > 100
    found = ask("look", "truth", finished.root, package)
    assert to_run(found["plan"]) == set()
    assert found["metrics"] == finished.look["metrics"]


# -- 3: what is derived --------------------------------------------------------------------------------------


def tables(run: Run) -> tuple[str, list[dict[str, Any]]]:
    build_report(run)
    records: list[dict[str, Any]] = json.loads((run.folder / "metrics.json").read_text())["records"]
    return (run.folder / "report.html").read_text(), records


@pytest.mark.parametrize("harm", ["edited", "deleted", "foreign"])
def test_metrics_come_from_rankings_whatever_stands_beside_them(run: Run, harm: str) -> None:
    report, records = tables(run)
    file = run.folder / "metrics.json"
    if harm == "edited":
        content = json.loads(file.read_text())
        content["records"][0]["value"] = 0.99
        file.write_text(json.dumps(content))
    elif harm == "deleted":
        file.unlink()
    else:
        pl.DataFrame({"items": [[1, 2]], "user": [0]}).write_parquet(run.folder / EVALUATED / "mine.parquet")
    found = [str(finding) for finding in doctor("truth", run.folder.parent)]
    # What `genrec clean` does not remove is left to the user.
    foreign = "belongs to no result. Nothing reads it; you can delete it."
    expected = {"edited": "changed after", "deleted": "missing", "foreign": foreign}
    assert len(found) == 1 and expected[harm] in found[0]
    assert metrics(run) == records
    assert tables(run) == (report, records)
    assert to_run(plan(run)) == set()
    assert {step.action for step in chain.plan(run, PAGE)} == {"keep"}


def test_missing_figures_make_their_page_anew_and_nothing_else(run: Run) -> None:
    figures = list((run.folder / "figures").iterdir())
    assert len(figures) > 2
    lost = min(figures)
    lost.unlink()
    steps = chain.plan(run, PAGE)
    assert [step.row for step in steps if step.action == "run"] == [""]
    assert steps[-1].why == f"its figure {lost.stem} is missing."
    shutil.rmtree(run.folder / "figures")
    assert [step.row for step in chain.plan(run, PAGE) if step.action == "run"] == [""]
    build_report(run)  # without figures, not with a traceback


# -- 4 and the doctor: damaged files -------------------------------------------------------------------------


def outputs(run: Run) -> list[Path]:
    return [
        file for task in tasks(run) for file in sorted((run.folder / task.place).rglob("*")) if file.is_file()
    ]


def place_of(run: Run, file: Path) -> str | None:
    """The result that a file belongs to."""
    path = file.relative_to(run.folder).as_posix()
    return next((task.place for task in tasks(run) if path.startswith(f"{task.place}/")), None)


def test_a_space_after_any_file_costs_that_result_alone(run: Run) -> None:
    files = [(file, place_of(run, file)) for file in outputs(run)]
    assert len(files) > 50
    for file, place in files:
        content = file.read_bytes()
        file.write_bytes(content + b" ")
        planned = to_run(plan(run))
        file.write_bytes(content)
        # a space after a record's end is none of its values
        assert planned == (set() if file.name == results.RECORD else {place}), file
    assert to_run(plan(run)) == set()


def test_a_result_that_comes_out_equal_stops_what_follows(run: Run) -> None:
    before = plan(run)
    place = f"{TRAINED}/tiger/domains/Garden"
    history = run.folder / place / "history-0.json"
    history.write_text(history.read_text() + " ")
    assert to_run(plan(run)) == {place}
    make(run)
    now = plan(run)
    assert to_run(now) == set()
    assert {one for one in now if now[one]["why"] != before[one]["why"]} <= {place}
    log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert [event["place"] for event in log if event["event"] == "finished"][-1] == place
    assert {step.action for step in chain.plan(run, PAGE)} == {"keep"}


def flipped(content: bytes, rng: random.Random) -> bytes:
    """Content with the lowest bit of one byte changed."""
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_the_doctor_finds_a_flipped_byte_in_every_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor("truth", run.folder.parent) == []
    whole = {file: file.read_bytes() for file in sorted(run.folder.rglob("*")) if file.is_file()}
    rng = random.Random(0)
    unnoticed, seen = [], set[str]()
    # `make nightly` takes them all, a test run every fourth, the first of each kind among them.
    kinds = {(file.suffix, file.parent.name): file for file in reversed(whole)}
    chosen = whole if AT_NIGHT else {*list(whole)[::4], *kinds.values()}
    for file, content in whole.items():
        # locks and their holders hold nothing that a run shows
        if file not in chosen or not content or file.suffix in (".lock", ".holder"):
            continue
        file.write_bytes(flipped(content, rng))
        place, path = place_of(run, file), file.relative_to(run.folder).as_posix()
        with monkeypatch.context() as patch:
            if (kind := path.partition("/")[0]) in seen:  # the report is written once for a stage
                patch.setattr("genrec_lab.lab.doctor.build_report", lambda run: None)
            found = doctor("truth", run.folder.parent)
        seen.add(kind)
        where = place or (f"figures/{file.name}" if file.parent.name == "figures" else path)
        if not any(finding.place in (where, path) for finding in found):
            unnoticed.append(path)
        again = existing_run("truth", run.folder.parent)
        planned = plan(again)
        made = to_run(planned)
        if file.name == results.RECORD:
            # without a record nobody knows whether it comes out equal; what reads it waits for that
            made = {one for one in made if "is made first" not in planned[one]["why"]}
        assert made == ({place} if place else set()), path
        pages = file.parent.name in ("figures", "notebooks") or path == "manifest.json"
        steps = chain.plan(again, PAGE)
        if place is None:
            assert [step.action for step in steps] == ["keep"] * (len(steps) - 1) + [
                "run" if pages else "keep"
            ], path
        for one, before in whole.items():
            if not one.is_file() or one.read_bytes() != before:
                one.write_bytes(before)
    assert unnoticed == []
    assert doctor("truth", run.folder.parent) == []


# -- 2: settings ---------------------------------------------------------------------------------------------


def pretend(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every result of a run whose data are prepared a file in place of what its function would make."""

    def call(self: Run, task: Any, folder: Path, scratch: Path) -> dict[str, Any]:
        (folder / "made.txt").write_text(task.place)
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_call", call)
        for task in tasks(run):
            run.make(task)


def planned_with(run: Run, overrides: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The plan of a run with other values of some settings."""
    changed = {**run.parameters["overrides"], **overrides}
    opened = unopened_run(run.name, overrides=changed, root=run.folder.parent, change=True)
    return plan(opened)


@pytest.fixture(scope="module")
def baselines(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with LETTER and IDGenRec beside other rows, whose results are pretended."""
    overrides = {"compare": ["popularity", "sasrec", "gru4rec", "tiger", "letter", "idgenrec", "p5_cid"]}
    run = pretended(tmp_path_factory.mktemp("baselines"), "baselines_tiny", overrides)
    assert to_run(plan(run)) == set()
    return run


def pretended(root: Path, preset: str, overrides: dict[str, Any], **options: Any) -> Run:
    dataset = {**PARAMETERS["dataset"], **options}
    run = open_run("pretended", dataset=dataset, preset=preset, overrides=overrides, root=root)
    make_data(run)
    with pytest.MonkeyPatch.context() as patch:
        pretend(run, patch)
    return run


GENERATIVE = {"tiger", "letter", "idgenrec", "p5_cid"}


@pytest.mark.parametrize(
    ("overrides", "tokenized", "trained"),
    [
        ({"rows.sasrec.training.epochs": 9}, {"letter"}, {"sasrec", "letter"}),
        ({"training.epochs": 7}, {"idgenrec"}, GENERATIVE),
        ({"recommender.d_model": 64}, {"idgenrec"}, GENERATIVE),
        ({"decoding.precision": "bf16"}, set(), GENERATIVE),
        ({"decoding.test_beams": 12}, set(), set()),
        ({"rows.gru4rec.training.epochs": 3}, set(), {"gru4rec"}),
        ({"tokenizer.epochs": 5}, {"tiger", "letter"}, {"tiger", "letter"}),
    ],
)
def test_a_setting_makes_the_rows_anew_whose_own_config_it_changes(
    baselines: Run, overrides: dict[str, Any], tokenized: set[str], trained: set[str]
) -> None:
    planned = planned_with(baselines, overrides)
    assert rows_of(planned, (TOKENIZED,)) == tokenized
    assert rows_of(planned, (TRAINED,)) == trained
    ranked = GENERATIVE if "decoding.test_beams" in overrides else trained
    assert rows_of(planned, (EVALUATED,)) == ranked


def test_tiger_beside_utgrec_has_the_budget_of_its_adaptation(tmp_path: Path) -> None:
    domains = ["Garden", "Kitchen", "Wardrobe"]
    overrides = {"transfer.targets": ["Wardrobe"], "compare": ["popularity", "sasrec", "tiger"]}
    run = pretended(tmp_path, "utgrec_tiny", overrides, domains=domains, images=True)
    planned = planned_with(run, {"adaptation.training.epochs": 40})
    assert rows_of(planned, (TOKENIZED,)) == set()
    assert rows_of(planned, (TRAINED,)) == {"tiger"}
    assert rows_of(planned, (ADAPTED,)) == {"utgrec_tiny"}
    assert rows_of(planned, (EVALUATED,)) == {"tiger", "utgrec_tiny"}


# -- 5: data files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", ["ratings.csv", "../x.csv"])
def test_a_changed_data_file_is_read_again_wherever_it_is(tmp_path: Path, changed: str) -> None:
    base = tmp_path / "here"
    base.mkdir()
    ratings = [f"u{user},i{(user + step) % 30},{step}" for user in range(60) for step in range(6)]
    (base / "ratings.csv").write_text("\n".join(["user,item,timestamp", *ratings, ""]))
    titles = [f"i{item},title {item}" for item in range(30)]
    (base / "../x.csv").write_text("\n".join(["item,title", *titles, ""]))
    dataset = {"name": "frames", "interactions": "ratings.csv", "items": "../x.csv"}
    spec = base / "run.yaml"
    spec.write_text(json.dumps({"run": "own", "dataset": dataset, "preset": "baselines_tiny"}))
    run = open_run("own", dataset=dataset, preset="baselines_tiny", root=tmp_path / "runs", base=base)
    make_data(run)

    def step() -> tuple[str, str]:
        results.forget_hashes()
        done = chain.run(spec, only=[PREPARED], dry_run=True, root=tmp_path / "runs", quiet=True)
        return done.steps["own"][0].action, done.steps["own"][0].why

    assert step()[0] == "keep"
    with (base / changed).open("a") as file:
        file.write("u1,i2,9\n" if changed == "ratings.csv" else "i99,title 99\n")
    action, why = step()
    assert action == "run"
    assert f"files.{changed}" in why


def make_data(run: Run) -> None:
    from genrec_lab.lab import prepare_data

    prepare_data(run)


# -- 6: provenance -------------------------------------------------------------------------------------------


def test_a_result_keeps_the_revision_that_made_it(
    finished: Finished, edited: Callable[..., None], tmp_path: Path
) -> None:
    first = git(finished.package, "rev-parse", "HEAD")
    assert {made["revision"] for made in finished.look["provenance"]} == {first}
    shutil.copytree(finished.root, tmp_path / "runs")
    edited("lab/evaluate.py", "domain: Popularity().fit(", "domain: None or Popularity().fit(")
    second = commit(finished.package)
    found = ask("make", "truth", tmp_path / "runs", finished.package)["provenance"]
    assert {made["row"] for made in found if made["revision"] == second} == {"popularity"}
    assert {made["revision"] for made in found if made["row"] != "popularity"} == {first}
    assert not any(made["dirty"] for made in found)
    report = (build_report(existing_run("truth", tmp_path / "runs"))).read_text()
    assert first[:12] in report
    assert second[:12] in report


# -- 7: names ------------------------------------------------------------------------------------------------

SOURCE = f"{REPOSITORY / 'tests/pipeline/truth_chain.py'}:bazaar_with"
PLAIN = ["Garden", "Kitchen", "Studio", "Workshop", "Wardrobe", "Playroom"]
ODD = [
    ["/genrec_absolute", "../../x", ".", "a/b", "a_b", "x" * 300],
    ["all", "pretrained", "..", "Average", "C:", "all~5ef5ef0364b6939c4ca6"],
]
ROWS = ["popularity", "sasrec", "unisrec", "tiger", "idgenrec", "p5_cid", "gmc"]


ONE_EPOCH = {
    "one_pass": None,
    "tokenizer.epochs": 2,
    "training.epochs": 1,
    "rows.sasrec.training.epochs": 1,
    "rows.unisrec.training.epochs": 1,
}


def named(
    root: Path, names: list[str], compare: list[str], preset: str = "gmc_tiny", **overrides: Any
) -> Run:
    overrides["compare"] = [row for row in compare if row != "gmc" or preset != "gmc_tiny"]
    dataset = {"name": SOURCE, "names": names}
    root.mkdir(parents=True)
    return open_run("named", dataset=dataset, preset=preset, overrides=overrides, root=root, base=root)


def places_of(root: Path, names: list[str]) -> list[tuple[str, str, int]]:
    """Stage, row and place of the domain of every result; each must have its own folder below the run's."""
    run = named(root, names, ROWS)
    with pytest.MonkeyPatch.context() as patch:
        make_data(run)
        pretend(run, patch)
    found = tasks(run)
    assert len({task.place.casefold() for task in found}) == len(found)
    assert all((run.folder / task.place).resolve().is_relative_to(run.folder.resolve()) for task in found)
    assert all((run.folder / task.place / results.RECORD).is_file() for task in found)
    assert to_run(plan(run)) == set()
    for task in found:  # each domain has a model of its own
        models = task.inputs.get("models", {})
        assert list(models) == (names if models else [])
    return [(task.stage, task.row, names.index(task.scope) if task.scope in names else -1) for task in found]


@pytest.fixture(scope="module")
def plain_places(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, int]]:
    return places_of(tmp_path_factory.mktemp("plain") / "runs", PLAIN)


@pytest.mark.parametrize("names", ODD)
def test_no_name_of_a_domain_leaves_the_run_or_shares_a_folder(
    tmp_path: Path, names: list[str], plain_places: list[tuple[str, str, int]]
) -> None:
    odd = places_of(tmp_path / "deep/er" / "odd", names)
    assert [place[:2] for place in odd] == [place[:2] for place in plain_places]
    assert not Path("/genrec_absolute").exists()
    outside = [path.name for path in tmp_path.rglob("*") if path.is_dir() and path.parent in (
        tmp_path, tmp_path / "deep", tmp_path / "deep/er")]  # fmt: skip
    assert sorted(outside) == ["deep", "er", "odd"]


def test_rows_learn_and_rank_in_domains_that_are_named_as_the_lab_names_things(tmp_path: Path) -> None:
    names = ["all", "../../x", "pretrained"]
    found = {}
    for kind, domains in {"plain": PLAIN[:3], "odd": names}.items():
        rows = ["popularity", "sasrec", "unisrec", "tiger"]
        run = named(tmp_path / kind, domains, rows, "baselines_tiny", **ONE_EPOCH)
        make(run)
        table = run.metrics()
        assert table["domain"].unique(maintain_order=True).to_list() == [*domains, "average"]
        found[kind] = table["value"].to_list()
    assert found["odd"] == found["plain"]


def test_a_domain_called_average_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    run = named(tmp_path / "runs", ["Garden", "average"], ["popularity"], "baselines_tiny")
    with pytest.raises(DataError, match=r"average.*rename"):
        make_data(run)


# -- 8: protocol ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def protocol(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, str], Any]]:
    """The same rows learnt from the same data, from those with other test and other validation targets.

    By what was replaced: the digest of each result, and the rankings of each row.
    """
    found = {}
    for poisoned in ("", "test", "valid"):
        dataset = {"name": SOURCE, "names": ["Garden", "Kitchen"], "poisoned": poisoned}
        overrides = {"compare": ["popularity", "sasrec"], "tokenizer.epochs": 2, "training.epochs": 2}
        overrides["one_pass"] = None
        run = open_run(
            "poisoned", dataset=dataset, preset="gmc_tiny", overrides=overrides, change=True,
            root=tmp_path_factory.getbasetemp() / "protocol",
        )  # fmt: skip
        make(run)
        digests = {task.place: str(run.state(task).digest) for task in tasks(run)}
        rankings = {
            row: pl.read_parquet(run.folder / EVALUATED / row / "rankings.parquet")
            for row in ("gmc_tiny", "sasrec", "popularity")
        }
        found[poisoned] = digests, rankings
    return found


def test_no_row_learns_from_a_test_target_or_chooses_an_epoch_by_it(protocol: dict[str, Any]) -> None:
    (before, ranked), (now, ranked_now) = protocol[""], protocol["test"]
    assert before[f"{PREPARED}/data"] != now[f"{PREPARED}/data"]
    learnt = [place for place in before if place.startswith(TRAINING)]
    assert len(learnt) >= 7
    # weights, codes, validation metrics of every epoch and the epoch that was chosen
    assert {place: now[place] for place in learnt} == {place: before[place] for place in learnt}
    for row, frame in ranked.items():
        assert (frame["target"] != ranked_now[row]["target"]).all()
        assert ranked_now[row].drop("target").equals(frame.drop("target"))


def test_test_users_are_ranked_for_test_targets(protocol: dict[str, Any]) -> None:
    (before, ranked), (now, ranked_now) = protocol[""], protocol["valid"]
    for row, frame in ranked.items():
        columns = ("user", "domain", "target")
        assert ranked_now[row].select(columns).equals(frame.select(columns))
    trained = [place for place in before if place.startswith((TRAINED, ADAPTED))]
    assert all(before[place] != now[place] for place in trained)  # validation was seen by all of them
    tokenized = [place for place in before if place.startswith(TOKENIZED)]
    assert all(before[place] == now[place] for place in tokenized)


# -- 9: a run is opened by its name --------------------------------------------------------------------------


def test_a_run_that_is_opened_by_name_keeps_its_data_and_all_else(run: Run) -> None:
    before = (run.folder / "manifest.json").read_bytes()
    again = open_run(run.name, root=run.folder.parent)
    assert again.parameters == {"run": "truth", **PARAMETERS}
    assert to_run(plan(again)) == set()
    with pytest.raises(RunError, match=r"dataset\.items: 300 before, 900 now"):
        open_run(run.name, dataset={**PARAMETERS["dataset"], "items": 900}, root=run.folder.parent)
    assert (run.folder / "manifest.json").read_bytes() == before
