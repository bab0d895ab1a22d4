"""Vectors of pictures: the mean over places, of length one, zeros where there is no picture."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genrec_lab.encoders.content import Content
from genrec_lab.encoders.picture_features import PictureFeatures, encode_pictures
from genrec_lab.encoders.pictures import PictureError, centre_square, read_picture


def content(folder: Path) -> Content:
    """Three items: a picture of two halves, none, and another picture."""
    paths = [folder / "halves.png", folder / "grey.png"]
    halves = np.zeros((300, 280, 3), dtype=np.uint8)
    halves[:, :140] = (250, 30, 60)
    Image.fromarray(halves).save(paths[0])
    Image.fromarray(np.full((40, 50), 90, dtype=np.uint8)).save(paths[1])
    return Content(("a", "b", "c"), (paths[0], None, paths[1]), ("one", "two", "three"))


def test_a_vector_is_the_mean_of_the_features_of_all_places(tmp_path: Path) -> None:
    items = content(tmp_path)
    vectors = encode_pictures(items, "pixels", progress=False)
    for item in (0, 2):
        picture = items.pictures[item]
        assert picture is not None
        seen = PictureFeatures("pixels").of(centre_square(read_picture(picture), 224)[None])[0]
        mean = torch.stack([row.double() for row in seen.float()]).sum(0) / len(seen)
        np.testing.assert_allclose(vectors[item], mean / mean.norm(), atol=1e-4)
    np.testing.assert_array_equal(vectors[1], 0)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 0, 1], atol=1e-6)


def test_the_cache_gives_the_same_and_follows_the_pictures(tmp_path: Path) -> None:
    items, cache = content(tmp_path), tmp_path / "cache"
    first = encode_pictures(items, "pixels", cache, progress=False)
    stamps = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    np.testing.assert_array_equal(encode_pictures(items, "pixels", cache, progress=False), first)
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == stamps
    Image.new("RGB", (20, 20), "white").save(tmp_path / "grey.png")
    assert not np.array_equal(encode_pictures(items, "pixels", cache, progress=False)[2], first[2])


def test_pictures_that_are_not_there_are_named(tmp_path: Path) -> None:
    nothing = Content(("a", "b"), (None, None), ("one", "two"))
    with pytest.raises(PictureError, match=r'none of the 2 items has a picture.* set pictures to "none"'):
        encode_pictures(nothing, "pixels", progress=False)
    gone = Content(("a",), (tmp_path / "gone.png",), ("one",))
    with pytest.raises(PictureError, match="item one: there is no picture"):
        encode_pictures(gone, "pixels", progress=False)
