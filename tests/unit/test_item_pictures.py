"""The figure of items with pictures."""

import base64
import io

import polars as pl
import pytest
from PIL import Image

from genrec_lab.viz.figures import item_pictures
from genrec_lab.viz.figures.pictures import picture_uri


def painted(folder, name, colour, size=(400, 200)):
    file = folder / f"{name}.png"
    Image.new("RGB", size, colour).save(file)
    return str(file)


@pytest.fixture
def items(tmp_path):
    images = [painted(tmp_path, str(n), (20 * n, 0, 0)) for n in range(9)] + [None]
    return pl.DataFrame(
        {
            "title": [f"Thing <b>{n}</b> & $x$" for n in range(10)],
            "domain": ["A"] * 6 + ["B"] * 4,
            "image": images,
        }
    )


def test_a_picture_is_stored_small_and_as_it_was(tmp_path):
    uri = picture_uri(painted(tmp_path, "red", (200, 10, 10)))
    kind, _, content = uri.partition(",")
    stored = Image.open(io.BytesIO(base64.b64decode(content)))
    assert kind == "data:image/png;base64"
    assert stored.size == (160, 80)
    assert stored.getpixel((80, 40)) == (200, 10, 10)


def test_as_many_cards_as_there_is_room_for_domains_together(items):
    figure = item_pictures(items, rows=1, seed=3)
    texts = [note.text for note in figure.layout.annotations]
    assert len(figure.layout.images) == len(texts) == 6
    # 6 of 9 pictured items: two thirds of the six of A and of the three of B
    assert [text[-len("<i>A</i>") :] for text in texts] == ["<i>A</i>"] * 4 + ["<i>B</i>"] * 2
    assert "&lt;b&gt;" in texts[0]
    assert figure.layout.title.text.startswith("6 of 9 items with a picture")
    assert "1 item without a picture" in figure.layout.title.subtitle.text
    again = item_pictures(items, rows=1, seed=3)
    assert again == figure


def test_all_items_are_drawn_where_they_are_few(items):
    figure = item_pictures(items, rows=5)
    assert len(figure.layout.images) == 9
    assert figure.layout.yaxis.range == (2, 0)


def test_missing_pictures_are_an_error_that_names_the_file(items, tmp_path):
    with pytest.raises(ValueError, match="none of 1 has a picture"):
        item_pictures(items.tail(1))
    (tmp_path / "3.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"3\.png: not a picture"):
        item_pictures(items)
    (tmp_path / "3.png").unlink()
    with pytest.raises(ValueError, match=r"3\.png: not a picture"):
        item_pictures(items)
