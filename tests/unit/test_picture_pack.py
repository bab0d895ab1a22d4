"""Pictures in one file: the same whatever the server does, bounded, resumed, and read like files."""

from __future__ import annotations

import io
import sqlite3
import struct
import zlib
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from genrec_lab.data import DataError, load_dataset
from genrec_lab.data.assembly import found_images
from genrec_lab.data.picture_files import (
    PictureCounts,
    fetch_pictures,
    has_picture,
    packed_names,
    picture_source,
    writing_pack,
)
from genrec_lab.encoders.content import content_of
from genrec_lab.encoders.pictures import PictureError, read_picture
from genrec_lab.viz.figures.pictures import item_pictures
from tests.unit.amazon_raw import CATEGORY, raw
from tests.unit.faulty_server import serving


def picture(colour: str, size: tuple[int, int] = (40, 30), kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """A picture's bytes."""
    stored = io.BytesIO()
    Image.new(mode, size, colour).save(stored, kind)
    return stored.getvalue()


def bomb() -> bytes:
    """A PNG of a few hundred bytes that says it has 40,000 x 40,000 pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 10_000))
        + chunk(b"IEND", b"")
    )


def colour(path: Path) -> tuple[int, ...]:
    """The colour in the middle of a picture, rounded to tens as JPEG does not keep it."""
    image = read_picture(path)
    pixel = image.getpixel((image.width // 2, image.height // 2))
    assert isinstance(pixel, tuple)
    return tuple(round(value / 10) * 10 for value in pixel)


PICTURES = {
    "/red": picture("red"),
    "/blue": picture("blue", (900, 300)),
    "/green": picture("#00ff00", kind="PNG"),
}


def test_pictures_come_whatever_the_server_does(tmp_path: Path) -> None:
    with serving(PICTURES) as server:
        server.plan("/red", ["500", "break"])
        server.plan("/blue", ["429", "again", "stall"])
        server.plan("/green", ["short", "again"])
        addresses = {key: f"{server.address}/{key}" for key in ("red", "blue", "green")}
        waits: list[float] = []
        found = fetch_pictures(addresses, tmp_path / "a.pictures", side=64, sleep=waits.append)
    assert found == PictureCounts(3, 0, {})
    assert max(waits) == 2.0
    assert packed_names(tmp_path / "a.pictures") == {"red.jpg", "blue.jpg", "green.jpg"}
    assert colour(tmp_path / "a.pictures" / "red.jpg") == (250, 0, 0)
    assert colour(tmp_path / "a.pictures" / "green.jpg") == (0, 260, 0)
    assert read_picture(tmp_path / "a.pictures" / "blue.jpg").size == (64, 21)


def test_what_is_no_picture_is_counted_by_reason_and_not_asked_again(tmp_path: Path) -> None:
    held = {
        "/page": b"<html>",
        "/bomb": bomb(),
        "/dot": picture("red", (1, 1), "GIF", "P"),
        "/half": PICTURES["/red"][:200],
        "/tiff": picture("red", kind="TIFF"),
        "/huge": b"\xff\xd8" + b"0" * (10 * 2**20),
        "/red": PICTURES["/red"],
    }
    pack = tmp_path / "a.pictures"
    with serving(held) as server:
        keys = [*(path[1:] for path in held), "gone", "refused"]
        server.plan("/refused", ["403"])
        addresses = {key: f"{server.address}/{key}" for key in keys}
        addresses |= {"none": "", "plain": "http://example.com/a.jpg", "file": "file:///etc/passwd"}
        found = fetch_pictures(addresses, pack, sleep=lambda seconds: None)
        assert found.missing == {
            "answered 403": 1,
            "answered 404": 1,
            "below 8 px a side": 1,
            "more than 10 MB": 1,
            "more than 30 million pixels": 1,
            "no address": 1,
            "no https address": 2,
            "answered text/html, no picture": 1,
            "no picture that can be read": 2,
        }
        assert found.fetched + sum(found.missing.values()) == len(addresses)
        asked = len(server.requests)
        again = fetch_pictures(addresses, pack, sleep=lambda seconds: None)
        assert len(server.requests) == asked
    assert again == PictureCounts(0, 1, found.missing)


def test_what_was_out_of_reach_is_asked_again_and_the_rest_is_kept(tmp_path: Path) -> None:
    pack = tmp_path / "a.pictures"
    with serving(PICTURES) as server:
        addresses = {key: f"{server.address}/{key}" for key in ("red", "blue")}
        server.plan("/blue", ["500"] * 3)
        first = fetch_pictures(addresses, pack, sleep=lambda seconds: None)
        assert first == PictureCounts(1, 0, {"answered 500": 1})
        server.requests.clear()
        assert fetch_pictures(addresses, pack) == PictureCounts(1, 1, {})
        assert [path for path, _ in server.requests] == ["/blue"]


def test_a_killed_download_keeps_its_batches(tmp_path: Path) -> None:
    held = {f"/{number}": PICTURES["/red"] for number in range(200)}
    pack = tmp_path / "a.pictures"

    def killed(done: int, total: int) -> None:
        if done == 150:
            raise KeyboardInterrupt

    with serving(held) as server:
        addresses = {path[1:]: server.address + path for path in held}
        with pytest.raises(KeyboardInterrupt):
            fetch_pictures(addresses, pack, progress=killed)
        kept = len(packed_names(pack))
        assert 128 <= kept < 200
        found = fetch_pictures(addresses, pack, connections=3)
        assert found == PictureCounts(200 - kept, kept, {})


def test_connections_are_bounded(tmp_path: Path) -> None:
    held = {f"/{number}": PICTURES["/red"] for number in range(60)}
    with serving(held) as server:
        server.takes = 0.02
        fetch_pictures(
            {path[1:]: server.address + path for path in held}, tmp_path / "a.pictures", connections=3
        )
        assert 2 <= server.most_at_once <= 3


@pytest.mark.parametrize("key", ["", "a/b", "../x", "..", "a\\b", "a\x00"])
def test_keys_that_would_leave_the_file_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(DataError, match="cannot name a picture"):
        fetch_pictures({key: "https://example.com/a.jpg"}, tmp_path / "a.pictures")


def test_files_that_are_no_pack_or_another_one_are_refused(tmp_path: Path) -> None:
    pack = tmp_path / "a.pictures"
    with writing_pack(pack, "side 64"):
        pass
    with pytest.raises(DataError, match=r"written as .* with side 64, but requested is .* with side 256"):
        fetch_pictures({}, pack)
    pack.write_bytes(b"no database" * 100)
    with pytest.raises(DataError, match="not a file of pictures, or damaged"):
        packed_names(pack)
    with pytest.raises(DataError, match="not a file of pictures, or damaged"):
        fetch_pictures({}, pack)
    sqlite3.connect(tmp_path / "b.pictures").close()
    (tmp_path / "b.pictures").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read or written"):
        packed_names(tmp_path / "b.pictures")


def test_packed_pictures_are_read_where_files_are(tmp_path: Path) -> None:
    pack = tmp_path / "a.pictures"
    with serving(PICTURES) as server:
        fetch_pictures({"red": server.address + "/red"}, pack)
    repairs: dict[str, int] = {}
    items = pl.DataFrame({"key": ["red", "blue"], "title": ["R", "B"], "domain": ["D", "D"]})
    found = found_images(items, "a.pictures/{key}.jpg", tmp_path, repairs)
    assert found["image"].to_list() == [str(pack / "red.jpg"), None]
    assert repairs == {"items_without_image": 1}
    assert item_pictures(found).layout.images[0].source.startswith("data:image/png;base64,")
    assert has_picture(pack / "red.jpg") and not has_picture(pack / "blue.jpg")
    assert isinstance(picture_source(tmp_path / "other.jpg"), Path)
    with pytest.raises(FileNotFoundError, match="has no picture blue"):
        picture_source(pack / "blue.jpg")
    with pytest.raises(PictureError, match="there is no picture"):
        read_picture(pack / "blue.jpg", item="7")
    with pytest.raises(PictureError, match="outside the pictures' folder"):
        read_picture(pack / ".." / ".." / "x.jpg", root=tmp_path, item="7")


def test_a_category_with_pictures_to_download(tmp_path: Path) -> None:
    made = raw("amazon2023", 1)
    with serving({f"/{number}.jpg": PICTURES["/red"] for number in range(1, 20, 2)}) as server:
        made.metadata = [line.replace("https://large", server.address) for line in made.metadata]
        folder = made.write(tmp_path)
        dataset = load_dataset("amazon2023", folder=folder, images="download")
        asked = len(server.requests)
        again = load_dataset("amazon2023", folder=folder, images="download")
        assert len(server.requests) == asked
    images = dataset.items["image"].drop_nulls().to_list()
    assert images and all(path.startswith(str(folder / f"{CATEGORY}.pictures")) for path in images)
    missing = dataset.n_items - len(images)
    assert dataset.repairs["items_without_image"] == missing
    counted = sum(count for what, count in dataset.repairs.items() if what.startswith("pictures_missing_"))
    assert counted == missing
    assert again.fingerprint() == dataset.fingerprint()
    assert colour(content_of(dataset, root=folder).pictures[1] or Path()) == (250, 0, 0)
