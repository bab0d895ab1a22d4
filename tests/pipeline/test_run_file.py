"""Run files, the choice of notebooks, and what is refused before anything runs."""

from pathlib import Path

import nbformat
import pytest

from genrec_lab.data import load_dataset
from genrec_lab.data.checking import dataset_problems
from genrec_lab.lab import RunError
from genrec_lab.lab.notebooks import check_notebook, choose_notebooks
from genrec_lab.lab.runfile import read_run_file
from genrec_lab.presets import ABLATIONS, load, variants

GOOD = 'run: demo\ndataset: {name: bazaar, domains: {Shop: "${SHOP_DATA}/shop"}}\npreset: tiny\n'
OURS = Path(__file__).parents[2] / "papermill_runs"
ALL = [str(file.relative_to(OURS)) for file in sorted(OURS.rglob("*.yaml")) if "out" not in file.parts]
ON_REAL_DATA = [name for name in ALL if "${GENREC_DATA}" in (OURS / name).read_text()]
NAMED_BY_THE_DATA = {  # where a run file lists no domains
    "studies/halves.yaml": ["Beauty A", "Beauty B"],
    "studies/halves_office.yaml": ["Office A", "Office B"],
    "studies/letter_codes.yaml": ["Beauty"],
}
PARAMETERS = 'run = "demo"\ndataset = {"name": "bazaar"}\npreset = "tiny"\noverrides = {}\nseed = 0'


@pytest.fixture
def yaml_file(tmp_path):
    def write(text):
        file = tmp_path / "gmc.yaml"
        file.write_text(text)
        return file

    return write


def test_a_run_file_is_read_with_its_defaults(yaml_file):
    assert read_run_file(yaml_file(GOOD)).parameters() == {
        "run": "demo", "dataset": {"name": "bazaar", "domains": {"Shop": "${SHOP_DATA}/shop"}},
        "preset": "tiny", "overrides": {}, "seed": 0,
    }  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_our_run_files_name_runs_of_their_own_and_settings_that_there_are(name):
    spec = read_run_file(OURS / name)
    config = load(spec.preset, spec.overrides)
    assert "$" in str(spec.dataset) or not dataset_problems(spec.dataset)
    assert [other for other in ALL if read_run_file(OURS / other).run == spec.run] == [name]
    if name.startswith("ablations/"):
        method = spec.preset.split("_")[0]
        assert list(variants(config)) == [row for row in ABLATIONS if row.startswith(f"{method}_")]


@pytest.mark.parametrize("name", ON_REAL_DATA)
def test_our_run_files_find_their_real_data(real_data, monkeypatch, name):
    monkeypatch.setenv("GENREC_DATA", str(real_data))
    options = dict(read_run_file(OURS / name).dataset)
    dataset = load_dataset(options.pop("name"), **options)
    assert list(dataset.domains) == list(options.get("domains") or NAMED_BY_THE_DATA[name])
    if "posters" in (OURS / name).read_text():
        assert dataset.items.filter(domain="Movies")["image"].null_count() == 0


def test_settings_are_laid_over_the_file(yaml_file):
    sets = ["overrides.tokenizer.levels=4", "dataset.domains.Shop=null", "dataset.items=300", "seed=3",
            "overrides.recommender.rate=1.0e-3", "run=other", "notebooks=[01_data_preparation]"]  # fmt: skip
    spec = read_run_file(yaml_file(GOOD), sets)
    assert spec.overrides == {"tokenizer.levels": 4, "recommender.rate": 0.001}
    assert spec.dataset == {"name": "bazaar", "domains": {"Shop": None}, "items": 300}
    assert (spec.run, spec.seed, spec.notebooks) == ("other", 3, ("01_data_preparation",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "presett: x\n", r"gmc\.yaml: the key 'presett' is unknown \(did you mean 'preset'\?\)"),
        (GOOD + "preset: other\n", "'preset' is given twice"),
        ("run: demo\npreset: tiny\n", "the key 'dataset' is missing"),
        ("", "holds no keys"),
        ("run: [", "line 1: this is not valid YAML"),
        (GOOD + "seed: one\n", "seed is 'one'; expected a whole number"),
        (GOOD + "seed: true\n", "seed is True"),
        (GOOD + "overrides: [1]\n", r"overrides is \[1\]; expected a mapping"),
        (GOOD + "overrides: {training.rate: 1e-3}\n", r"write 1\.0e-3"),
        (GOOD + "overrides: {training.rate: 2e3}\n", r"write 2\.0e\+3"),
        (GOOD + "overrides: {4: 1}\n", "the key 4 is not text"),
        (GOOD + "overrides: {since: 2018-01-01}\n", "a date; put it in quotes"),
        (GOOD + "notebooks: 01_data_preparation\n", "notebooks is '01_data_preparation'; expected a list"),
    ],
)
def test_what_is_wrong_in_a_run_file_is_named(yaml_file, text, message):
    with pytest.raises(RunError, match=f"(?s){message}"):
        read_run_file(yaml_file(text))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sed=1", "the key 'sed' is unknown .did you mean 'seed'"),
        ("seed", "not of the form key=value"),
        ("=3", "not of the form key=value"),
        ("seed.part=3", "seed has no parts"),
        ("dataset.name.part=3", "'bazaar', which has no part 'part'"),
        ("seed=[", "not valid YAML"),
    ],
)
def test_what_is_wrong_in_a_setting_is_named(yaml_file, setting, message):
    with pytest.raises(RunError, match=message):
        read_run_file(yaml_file(GOOD), [setting])


def test_a_missing_run_file_names_its_neighbours(yaml_file):
    file = yaml_file(GOOD)
    with pytest.raises(RunError, match=r"did you mean 'gmc\.yaml'"):
        read_run_file(file.with_name("gcm.yaml"))


@pytest.fixture
def notebooks(tmp_path):
    """A folder of empty notebooks, and files that are none."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in (
        "05_recommender_training",
        "01_data_preparation",
        "02_tokenizer_training",
        "scratch",
        "1_short",
    ):
        (folder / f"{name}.ipynb").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("listed", "only", "from_", "expected"),
    [
        (None, None, None, ["01", "02", "05"]),
        (None, ["02"], None, ["02"]),
        (None, ["05_recommender_training", "01_data_preparation.ipynb"], None, ["01", "05"]),
        (None, None, "02", ["02", "05"]),
        (["05", "01"], None, None, ["01", "05"]),
        (["05", "01"], None, "05", ["05"]),
    ],
)
def test_notebooks_are_chosen_in_their_order(notebooks, listed, only, from_, expected):
    chosen = choose_notebooks(notebooks, listed, only, from_)
    assert [notebook.stem[:2] for notebook in chosen] == expected


@pytest.mark.parametrize(
    ("listed", "only", "from_", "message"),
    [
        (
            ["02_tokeniser_training"],
            None,
            None,
            r"notebooks names '02_tokeniser_training' \(did you mean '02_tokenizer_training'",
        ),
        (None, ["07"], None, "--only names '07'; the notebooks are"),
        (["01"], None, "02", "--from names '02'"),
        (None, ["01"], "02", "exclude each other"),
    ],
)
def test_notebooks_that_are_not_there_are_named(notebooks, listed, only, from_, message):
    with pytest.raises(RunError, match=message):
        choose_notebooks(notebooks, listed, only, from_)


def notebook_of(folder, parameters):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]}) for source in parameters]
    )
    nbformat.write(notebook, folder / "01_data_preparation.ipynb")
    return folder / "01_data_preparation.ipynb"


def test_a_notebook_with_the_known_parameters_passes(tmp_path):
    check_notebook(notebook_of(tmp_path, [f'"""Explained."""\n# said\n{PARAMETERS}']))


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([], "has 0 cells tagged"),
        ([PARAMETERS, PARAMETERS], "has 2 cells tagged"),
        ([PARAMETERS.replace("preset =", "presett =")], r"'presett' is unknown \(did you mean 'preset'"),
        ([PARAMETERS + "\nruns = []"], "'runs' is unknown"),
        ([PARAMETERS.replace("seed = 0", "")], "does not set 'seed'"),
        ([PARAMETERS + "\nimport os"], "holds 'import os'"),
        ([PARAMETERS.replace("seed = 0", "seed = int(0)")], r"holds 'seed = int\(0\)'"),
    ],
)
def test_a_notebook_must_have_just_the_known_parameters(tmp_path, cells, message):
    with pytest.raises(RunError, match=message):
        check_notebook(notebook_of(tmp_path, cells))


def test_a_file_that_is_no_notebook_is_named(tmp_path):
    (tmp_path / "01_data_preparation.ipynb").write_text("not json")
    with pytest.raises(RunError, match=r"01_data_preparation\.ipynb is not a readable notebook"):
        check_notebook(tmp_path / "01_data_preparation.ipynb")
