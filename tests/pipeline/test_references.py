"""Notebook 04 compares: a run's tokenizers alone, and beside identifiers of a folder on the same items."""

import json

import numpy as np
import pytest

from genrec_lab.codes import CodesError
from genrec_lab.lab import (
    codes_of_same_items,
    load_identified,
    load_prepared,
    open_run,
    prepare_data,
    train_tokenizers,
)
from genrec_lab.lab.rows import facts_of
from genrec_lab.lab.tokenise import tokenizing_tasks

KINDS = ["oak chair", "glass lamp", "wool rug", "steel pan"]


def catalogue(folder, items, seed):
    """An LC-Rec pair of files; the items' ids begin at 100 and count down."""
    rng = np.random.default_rng(seed)
    ids = [str(100 + items - place) for place in range(items)]
    users = {str(user): rng.choice(ids, 6, replace=False).tolist() for user in range(60)}
    texts = {one: {"title": f"{KINDS[place % 4]} number {place}"} for place, one in enumerate(ids)}
    folder.mkdir(parents=True)
    (folder / f"{folder.name}.inter.json").write_text(json.dumps(users))
    (folder / f"{folder.name}.item.json").write_text(json.dumps(texts))
    return ids


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two domains, whose ids are partly the same, and a run of them by name."""
    root = tmp_path_factory.mktemp("references")
    ids = {name: catalogue(root / name, items, items) for name, items in (("Desk", 60), ("Floor", 70))}

    def opened(references="", name="lone"):
        return open_run(
            name,
            dataset={"name": "lcrec", "domains": {domain: str(root / domain) for domain in ids}},
            preset="gmc_tiny",
            overrides={"compare": ["tiger"], "tokenizer.epochs": 2, "reference_codes": references},
            root=root / "runs",
            change=True,
        )

    run = opened()
    prepare_data(run)
    train_tokenizers(run)
    return root, ids, opened


def index_file(folder, name, ids, seed=0):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    codes = {one: [int(code) for code in rng.integers(0, 9, 2)] for one in rng.permutation(ids).tolist()}
    tokens = {one: [f"<a_{a}>", f"<b_{b}>"] for one, (a, b) in codes.items()}
    (folder / f"{name}.index.json").write_text(json.dumps(tokens))
    return codes


def test_without_references_the_runs_own_tokenizers_are_compared_on_all_items(data):
    run = data[2]()
    found = codes_of_same_items(run)
    assert list(found) == ["gmc_tiny", "tiger"]
    assert {codes.n_items for codes in found.values()} == {130}
    np.testing.assert_array_equal(found["gmc_tiny"].codes, load_identified(run).raw.codes)


def test_references_meet_the_items_with_their_ids_and_change_no_result(data, monkeypatch):
    root, ids, opened = data
    monkeypatch.setenv("PLACE", str(root))
    given = index_file(root / "refs", "other", ids["Floor"])
    run = opened("${PLACE}/refs")
    tasks = tokenizing_tasks(facts_of(run))
    assert tasks and all(run.state(task).usable for task in tasks)  # nothing is trained again for it
    found = codes_of_same_items(run)
    assert list(found) == ["other", "this run: gmc_tiny", "this run: tiger"]
    floor = load_prepared(run).dataset.items.filter(domain="Floor")
    assert found["other"].codes.tolist() == [given[key] for key in floor["key"].to_list()]
    own = load_identified(run).raw
    assert found["this run: gmc_tiny"].codes.tolist() == own.codes[floor["item"].to_numpy()].tolist()


def test_files_that_fit_no_domain_are_refused_with_the_counts(data):
    root, ids, opened = data
    index_file(root / "few", "few", ids["Desk"][:-1])
    with pytest.raises(CodesError, match=r"\{'few': 59\} items fit none .*'Desk': 60, 'Floor': 70"):
        codes_of_same_items(opened(str(root / "few")))
    index_file(root / "more", "more", [*sorted({*ids["Floor"], *ids["Desk"]}), "1"])
    with pytest.raises(CodesError, match="or fit several equally well"):
        codes_of_same_items(opened(str(root / "more")))
