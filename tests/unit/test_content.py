"""Content: it comes from a dataset item by item, and what no encoder could read is refused by name."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from genrec_lab.data import Dataset, load_dataset
from genrec_lab.encoders.content import Content, ContentError, PreparedContent, content_of
from genrec_lab.encoders.pictures import PictureError


def dataset(texts: list[str], images: list[str | None]) -> Dataset:
    items = pl.DataFrame(
        {
            "item": list(range(len(texts))),
            "domain": "Garden",
            "title": texts,
            "text": texts,
            "image": images,
            "key": [f"B{i}" for i in range(len(texts))],
        },
        schema_overrides={"image": pl.String},
    )
    sequences = pl.DataFrame({"user": [0], "domain": ["Garden"], "items": [list(range(len(texts)))]})
    return Dataset("toy", items, sequences)


def test_content_follows_the_items_of_a_dataset(tmp_path: Path) -> None:
    content = content_of(dataset(["a spade", "a rake"], [str(tmp_path / "spade.png"), None]))
    assert content == Content(("a spade", "a rake"), (tmp_path / "spade.png", None), ("B0", "B1"))
    assert len(content) == 2
    assert content.select(np.array([1])) == Content(("a rake",), (None,), ("B1",))


def test_content_of_bazaar_has_a_picture_an_item(tmp_path: Path) -> None:
    bazaar = load_dataset("bazaar", items=300, users=600, domains=["Garden"], images=tmp_path)
    content = content_of(bazaar, root=tmp_path)
    assert content.texts == tuple(bazaar.items["text"])
    assert all(picture is not None and picture.is_file() for picture in content.pictures)


def test_relative_pictures_start_at_the_root(tmp_path: Path) -> None:
    content = content_of(dataset(["a spade"], ["inner/spade.png"]), root=tmp_path)
    assert content.pictures == (tmp_path.resolve() / "inner" / "spade.png",)


def test_a_picture_outside_the_root_names_its_item(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"item B1: picture '\.\./x\.png' .* outside"):
        content_of(dataset(["a spade", "a rake"], [None, "../x.png"]), root=tmp_path)


def test_an_item_without_any_content_is_named() -> None:
    with pytest.raises(
        ContentError, match=r"item B1 has neither text nor picture \(2 of 3 items have neither\)"
    ):
        content_of(dataset(["a spade", "", "  "], [None, None, None]))
    assert content_of(dataset(["", "a rake"], ["spade.png", None])).texts[0] == ""


def test_lengths_must_agree_and_something_must_be_there() -> None:
    with pytest.raises(ContentError, match=r"'texts': 2, 'pictures': 1, 'keys': 2"):
        Content(("a", "b"), (None,), ("1", "2"))
    with pytest.raises(ContentError, match="no items"):
        Content((), (), ())


@pytest.mark.parametrize("items", [[], [3], [-1], [[0, 1]]])
def test_batches_refuse_items_that_are_not_there(items: list[int]) -> None:
    prepared = PreparedContent(3, lambda rows, among: {"rows": torch.from_numpy(rows)})
    assert prepared.batch([2, 0, 2])["rows"].tolist() == [2, 0, 2] and len(prepared) == 3
    with pytest.raises(ContentError, match=r"indices in 0\.\.2"):
        prepared.batch(items)
