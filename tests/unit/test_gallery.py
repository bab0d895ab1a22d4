"""The gallery shows what is there, and stays small enough for a repository."""

import re
from pathlib import Path

import pytest
from PIL import Image

gallery = pytest.importorskip("docs.gallery", reason="no playwright", exc_type=ImportError)

PAGE = gallery.PICTURES.with_suffix(".md")


def test_every_picture_is_shown_and_every_shown_picture_is_there() -> None:
    shown = re.findall(r"!\[[^\]]*\]\(gallery/([^)]+)\)", PAGE.read_text(encoding="utf-8"))
    assert len(shown) == len(set(shown)) == len(gallery.EXPLORER) + len(gallery.FIGURES)
    assert set(shown) == {file.name for file in gallery.PICTURES.iterdir()}
    assert sum(file.stat().st_size for file in gallery.PICTURES.iterdir()) <= gallery.MOST_BYTES


def test_a_compressed_picture_is_smaller_and_looks_the_same(tmp_path: Path) -> None:
    file = tmp_path / "bars.png"
    image = Image.new("RGB", (400, 300), "#14181D")
    for place, colour in enumerate(("#0072B2", "#E69F00", "#009E73")):
        image.paste(colour, (50, 40 + 80 * place, 350, 90 + 80 * place))
    image.save(file)
    before = file.stat().st_size
    gallery.compress(file)
    after = Image.open(file).convert("RGB")
    assert file.stat().st_size < before
    assert [after.getpixel((60, 50 + 80 * place)) for place in range(3)] == [
        image.getpixel((60, 50 + 80 * place)) for place in range(3)
    ]
