"""Amazon's raw files of three editions: read as a plain-Python twin reads them, or refused with a message."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from genrec_lab.data import DataError, Dataset, load_dataset
from genrec_lab.data.amazon import lines_beside_paper
from genrec_lab.data.item_text import flat_text, plain_text
from genrec_lab.lab.prepare import data_files
from tests.unit.amazon_raw import CATEGORY, NAMES, expected_sequences, raw
from tests.unit.faulty_server import serving

EDITIONS = tuple(NAMES)


def by_key(dataset: Dataset) -> dict[str, list[str]]:
    """Each user's sequence in the source's own ids."""
    keys = dataset.items["key"].to_list()
    return {key: [keys[item] for item in items] for _, _, items, key in dataset.sequences.iter_rows()}


@pytest.mark.parametrize("edition", EDITIONS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sequences_are_those_of_the_loops(tmp_path: Path, edition: str, seed: int) -> None:
    made = raw(edition, seed)
    dataset = load_dataset(edition, folder=made.write(tmp_path))
    wanted = expected_sequences(made)
    assert len(wanted) > 5
    assert by_key(dataset) == wanted
    assert dataset.domains == (CATEGORY,)
    assert dataset.items["key"].to_list() == sorted(dataset.items["key"])


@pytest.mark.parametrize("edition", EDITIONS)
def test_every_interaction_is_kept_or_counted(tmp_path: Path, edition: str) -> None:
    made = raw(edition, 3)
    dataset = load_dataset(edition, folder=made.write(tmp_path))
    removed = ("repeated_reviews_removed", "interactions_removed_by_k_core")
    removed += ("interactions_of_items_without_title_removed",)
    lost = sum(dataset.repairs.get(what, 0) for what in removed)
    assert dataset.n_interactions + lost == len(made.events)
    assert dataset.repairs["repeated_reviews_removed"] > 0


@pytest.mark.parametrize("edition", EDITIONS)
def test_unpacked_files_and_options_give_what_they_say(tmp_path: Path, edition: str) -> None:
    made = raw(edition, 1)
    packed = load_dataset(edition, folder=made.write(tmp_path / "packed"))
    plain = load_dataset(edition, folder=made.write(tmp_path / "plain", packed=False), category=CATEGORY)
    assert plain.fingerprint() == packed.fingerprint()
    loose = load_dataset(edition, folder=tmp_path / "plain", k_core=None, repeats="all", require_title=False)
    assert loose.n_interactions == len(made.events)
    assert loose.repairs["items_not_described"] == 2
    titled = load_dataset(edition, folder=tmp_path / "plain", require_title=True, k_core=3)
    assert by_key(titled) == expected_sequences(made, 3, require_title=True)


def test_2014_text_is_title_brand_and_categories(tmp_path: Path) -> None:
    dataset = load_dataset("amazon2014", folder=raw("amazon2014").write(tmp_path))
    row = dataset.items.row(by_predicate=pl.col("key") == "B000000001", named=True)
    assert row["title"] == 'Rake\'s No. 1 & "More"'
    assert row["text"] == 'Rake\'s No. 1 & "More" Garden, Hand Tools, Kind 1'
    assert row["description"] == 'It\'s "sharp" & light'
    assert row["image_url"] == "http://ecx.images-amazon.com/images/I/1.jpg"


def test_2018_html_is_taken_out_and_doubled_records_are_counted(tmp_path: Path) -> None:
    made = raw("amazon2018")
    dataset = load_dataset("amazon2018", folder=made.write(tmp_path))
    row = dataset.items.row(by_predicate=pl.col("key") == "B000000001", named=True)
    assert row["text"] == "Saw & Co 1 by Oak Patio, Garden, Kind 1"
    assert row["description"] == "Steel blade"
    assert row["features"] == "Long"
    assert row["image_url"] == "https://images/1.jpg"
    assert dataset.repairs["titles_made_of_script"] == len([t for t in made.titles.values() if not t])
    described = [json.loads(line)["asin"] for line in made.metadata]
    assert dataset.repairs["item_records_differing"] == 4
    assert dataset.repairs["item_records_repeated"] == len(described) - len(set(described)) - 4
    # The first record holds: none of the later brands came through.
    assert set(dataset.items["brand"]) == {"by Oak"}


def test_2023_takes_the_main_large_picture_and_the_parent(tmp_path: Path) -> None:
    dataset = load_dataset("amazon2023", folder=raw("amazon2023").write(tmp_path))
    first = dataset.items.row(by_predicate=pl.col("key") == "B000000001", named=True)
    assert first["text"] == "Hoe 1 Ash handle Forged head Patio, Tools"
    assert first["image_url"] == "https://large/1.jpg"
    fourth = dataset.items.row(by_predicate=pl.col("key") == "B000000004", named=True)
    assert fourth["image_url"] == ""
    # Without categories of its own an item has its main one.
    third = dataset.items.row(by_predicate=pl.col("key") == "B000000003", named=True)
    assert third["categories"] == "Patio"


def test_the_five_core_files_are_read_where_named(tmp_path: Path) -> None:
    made = raw("amazon2018")
    folder = made.write(tmp_path)
    (folder / f"{CATEGORY}.json.gz").rename(folder / f"{CATEGORY}_5.json.gz")
    with pytest.raises(DataError, match=rf"no {CATEGORY}\.json\.gz in .*did you mean"):
        load_dataset("amazon2018", folder=folder)
    dataset = load_dataset("amazon2018", folder=folder, reviews="5core")
    assert by_key(dataset) == expected_sequences(made)
    assert dataset.domains == (CATEGORY,)


def test_several_domains_share_options_and_name_their_files(tmp_path: Path) -> None:
    raw("amazon2018", 1).write(tmp_path / "a")
    raw("amazon2018", 2).write(tmp_path / "b")
    dataset = load_dataset(
        "amazon2018",
        domains={"A": tmp_path / "a", "B": {"folder": tmp_path / "b", "category": CATEGORY}},
        k_core=4,
    )
    assert dataset.domains == ("A", "B")
    assert set(dataset.sources) == {f"{domain}/{name}" for domain in "AB" for name in NAMES["amazon2018"]}
    again = tmp_path / "written"
    dataset.write(again)
    assert Dataset.read(again).sources == dataset.sources


@pytest.mark.parametrize("edition", EDITIONS)
def test_a_disturbed_download_gives_the_undisturbed_dataset(
    tmp_path: Path, edition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    made = raw(edition, 1)
    files = made.served(made.write(tmp_path / "local"))
    undisturbed = load_dataset(edition, folder=tmp_path / "local")
    with serving(files) as server:
        reviews, metadata = files
        server.plan(reviews, ["break", "500", "429", "short"])
        server.plan(metadata, ["403", "again", "long", "stall"])
        dataset = load_dataset(
            edition,
            folder=tmp_path / "fetched",
            category=CATEGORY,
            download=True,
            mirrors=[server.address, server.address + "/"],
        )
        asked = len(server.requests)
        # What is there is not fetched again.
        load_dataset(
            edition, folder=tmp_path / "fetched", category=CATEGORY, download=True, mirrors=[server.address]
        )
        assert len(server.requests) == asked
    assert dataset.fingerprint() == undisturbed.fingerprint()
    assert dataset.repairs == undisturbed.repairs
    noted = dataset.sources[f"{CATEGORY}/{NAMES[edition][0]}"]
    assert noted["bytes"] == len(files[reviews]) and len(noted["sha256"]) == 64
    assert not list((tmp_path / "fetched").glob("*.partial*"))


def test_folders_that_fill_by_download_do_not_make_a_stage_stale(tmp_path: Path) -> None:
    for download, same in ((True, True), (False, False)):
        folder = tmp_path / str(download)
        folder.mkdir()
        (folder / "a").write_text("1")
        dataset = {"name": "amazon2018", "download": download, "domains": {"A": {"folder": str(folder)}}}
        before = data_files(dataset, tmp_path)
        (folder / "b").write_text("2")
        assert (data_files(dataset, tmp_path) == before) is same


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reviews": "some"}, "reviews is 'some', expected 'all' or '5core'"),
        ({"repeats": "last"}, "repeats is 'last', expected 'first' or 'all'"),
        ({"download": 1}, "download is 1, expected true or false"),
        ({"download": True}, "category is not given; a download needs its name"),
        ({"category": "../etc"}, r"category is '\.\./etc', expected a name as in the files' names"),
        ({"mirrors": "https://x"}, "mirrors is 'https://x', expected a list of addresses"),
        ({"download": True, "category": "X", "mirrors": ["http://example.com"]}, "downloads go over https"),
        ({"download": True, "category": "X", "mirrors": ["file:///etc"]}, "downloads go over https"),
        ({"mirrors": ["https://me:tok@x.org/a"]}, "^((?!tok@).)*has a user, a query"),
        ({"mirrors": ["https://x.org/a?key=tok"]}, "^((?!tok).)*has a user, a query"),
        ({"k_core": 500}, "the 500-core of .* interactions is empty"),
        ({"k_core": 0}, "k is 0, expected a whole number"),
        ({"text_template": "{nothing}"}, "no column 'nothing'"),
        ({"catgory": "X"}, r"catgory is unknown \(did you mean 'category'"),
    ],
)
def test_options_that_are_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    folder = raw("amazon2018", 1).write(tmp_path)
    with pytest.raises(DataError, match=message):
        load_dataset("amazon2018", folder=folder, **options)


def test_a_folder_of_two_categories_asks_for_one(tmp_path: Path) -> None:
    folder = raw("amazon2023").write(tmp_path)
    (folder / "meta_Books.jsonl.gz").write_bytes(gzip.compress(b"{}\n"))
    with pytest.raises(DataError, match=r"metadata of 2 categories \(Books, Garden_Tools\).*category=\.\.\."):
        load_dataset("amazon2023", folder=folder)
    with pytest.raises(DataError, match="reviews is unknown"):
        load_dataset("amazon2023", folder=folder, reviews="5core")


def test_reviews_and_metadata_of_different_categories_are_refused(tmp_path: Path) -> None:
    made = raw("amazon2018")
    made.metadata = [line.replace("B00000", "C00000") for line in made.metadata]
    with pytest.raises(DataError, match=r"none of .* items has a title; check that reviews and metadata"):
        load_dataset("amazon2018", folder=made.write(tmp_path))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a &amp;amp; b", "a & b"),
        ("<b>bold</b> x<br/>y", "bold x y"),
        ("x <y and z> w", "x <y and z> w"),
        ("1 < 2 &gt; 0", "1 < 2 > 0"),
        ("<script>alert(1)</script>left", "left"),
        ("&lt;script&gt;alert(1)&lt;/script&gt;left", "left"),
        ("<style>a{}", ""),
        ("a<!-- hidden -->b", "a b"),
        ("tab\tand\x00nul \ud83d half", "tab and nul half"),
        ("caf\u00e9 \U0001f600", "caf\u00e9 \U0001f600"),
        ('<span class="a" onload="x()">t</span>', "t"),
    ],
)
def test_html_remains_are_taken_out(text: str, clean: str) -> None:
    assert plain_text(text) == clean


def test_texts_in_lists_are_joined_and_objects_refused() -> None:
    assert flat_text([["a", "b"], ["a", None, 5]], ", ", "here") == "a, b, 5"
    with pytest.raises(DataError, match=r"here holds .*, a dict; expected text"):
        flat_text(["a", {"b": 1}], ", ", "here")


def test_statistics_are_said_in_sentences(tmp_path: Path) -> None:
    raw("amazon2023", 1).write(tmp_path)
    names = ("A", "B", "C", "D", "E", "Office")
    dataset = load_dataset("amazon2023", domains=dict.fromkeys(names, tmp_path))
    lines = lines_beside_paper(dataset, "amazon2023", ["Office"])
    each = dataset.n_users // 6
    assert lines[0].startswith(f"Pre-training: {5 * each:,} users ({5 * each - 999_334:,}), ")
    assert lines[1].startswith(f"Office: {each} users ({each - 223_308:,}), ")
    assert all(line.endswith("DIFFERS from UTGRec Table 1") for line in lines)
    assert len(lines) == 2 and len(lines_beside_paper(dataset, "amazon2023")) == 1
    assert lines_beside_paper(dataset, "lcrec") == []
    assert lines_beside_paper(dataset.select("A"), "amazon2018") == []


@pytest.mark.real_data
def test_published_files_agree_with_the_paper(real_data: Path) -> None:
    dataset = load_dataset("lcrec", domains={"Scientific": real_data / "scientific_2018"})
    assert lines_beside_paper(dataset, "amazon2018") == [
        "Scientific: 8,317 users, 4,344 items, 58,492 interactions: as GMC Table 2"
    ]
