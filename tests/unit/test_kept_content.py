"""The figures of what codes keep and of what independent levels lose."""

import base64
import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from genrec_lab.viz.figures import error_shares, kept_by_codes, levels_leave, shares_told


@pytest.fixture
def items(tmp_path):
    Image.new("RGB", (40, 40), (200, 10, 10)).save(tmp_path / "red.png")
    return pl.DataFrame(
        {
            "title": ["Red <b>vase</b>", "Oak chair"],
            "domain": ["A", "B"],
            "text": ["Red vase, of clay.", "Oak chair"],
            "image": [str(tmp_path / "red.png"), None],
        }
    )


CODES = np.array([[3, 1], [0, 7]])
WORDS = [[["red", "oak"], ["vase", "clay"]], [["red", "vase"], ["oak", "red"]]]


def test_told_words_are_counted_by_level(items):
    np.testing.assert_allclose(shares_told(items["text"].to_list(), WORDS), [0.25, 0.75])


def test_a_row_an_item_with_its_own_content_first(items):
    pictures = np.zeros((2, 2, 4, 4, 3))
    pictures[1, 1] = [0, 0, 1]
    figure = kept_by_codes(items, CODES, WORDS, pictures, seed=5)
    assert "25\N{NO-BREAK SPACE}%" in figure.layout.title.text
    assert "75\N{NO-BREAK SPACE}%" in figure.layout.title.text.replace("<br>", " ")
    texts = [note.text for note in figure.layout.annotations]
    assert texts[:3] == ["<b>the item</b>", "<b>1 code</b>", "<b>2 codes</b>"]
    assert texts[3].startswith("Red &lt;b&gt;vase&lt;/b&gt;")
    assert texts[4] == "<b>red</b> oak<br><i>3</i>"
    assert texts[8] == "<b>oak</b> red<br><i>0·7</i>"
    images = figure.layout.images
    assert len(images) == 5  # one item has no picture of its own
    assert [(image.x, image.y) for image in images] == [(0.5, 0), (1.5, 0), (2.5, 0), (1.5, 1), (2.5, 1)]
    last = Image.open(io.BytesIO(base64.b64decode(images[4].source.partition(",")[2])))
    assert last.size == (128, 128)
    assert last.getpixel((60, 60)) == (0, 0, 255)


def test_the_mean_of_many_pictures_stands_right_of_one(items):
    pictures, means = np.zeros((2, 2, 4, 4, 3)), np.ones((2, 2, 4, 4, 3))
    images = kept_by_codes(items, CODES, WORDS, pictures, means).layout.images
    assert len(images) == 9
    one, mean = images[1:3]
    assert one.x < 1.5 < mean.x and one.x + one.sizex < mean.x and one.y == mean.y
    assert mean.x + mean.sizex / 2 < 2
    shown = [
        Image.open(io.BytesIO(base64.b64decode(image.source.partition(",")[2]))) for image in (one, mean)
    ]
    assert [picture.getpixel((0, 0)) for picture in shown] == [(0, 0, 0), (255, 255, 255)]
    with pytest.raises(ValueError, match=r"means: shape \(2, 1, 4, 4, 3\)"):
        kept_by_codes(items, CODES, WORDS, pictures, means[:, :1])


def test_without_pictures_the_note_says_why(items):
    figure = kept_by_codes(items.with_columns(image=pl.lit(None, pl.String)), CODES, WORDS, None)
    assert not figure.layout.images
    note = figure.layout.title.subtitle.text.replace("<br>", " ")
    assert "the tokenizer saw none in training" in note


def test_what_does_not_fit_together_is_refused(items):
    with pytest.raises(ValueError, match="words of 1 items"):
        kept_by_codes(items, CODES, WORDS[:1], None)
    with pytest.raises(ValueError, match=r"pictures: shape \(2, 1, 4, 4, 3\)"):
        kept_by_codes(items, CODES, WORDS, np.zeros((2, 1, 4, 4, 3)))
    with pytest.raises(ValueError, match="no rows"):
        kept_by_codes(items.head(0), CODES[:0], [], None)


def test_the_error_of_a_level_is_measured_against_its_own_variance():
    # level 1: points at -1 and 1, codewords half the way; level 2: no variance at all
    vectors = np.array([[[-1.0], [2.0]], [[1.0], [2.0]]])
    codewords = np.array([[[-0.5], [2.0]], [[0.5], [1.0]]])
    shares, distances = error_shares(vectors, codewords)
    assert shares[0] == pytest.approx(0.25)
    assert np.isnan(shares[1])
    np.testing.assert_allclose(distances, [[0.5, 0.0], [0.5, 1.0]])
    with pytest.raises(ValueError, match="vectors: shape"):
        error_shares(vectors, codewords[:, :1])


def test_the_figure_of_errors_names_the_worst_level_and_every_domain():
    vectors = np.random.default_rng(0).normal(size=(30, 3, 4))
    codewords = vectors * np.array([0.9, 0.1, 0.5])[None, :, None]
    figure = levels_leave(*error_shares(vectors, codewords), ["A"] * 10 + ["B"] * 20, together=False, seed=1)
    assert figure.layout.title.text.startswith("Level 2 leaves 8")
    bars, a, b = figure.data
    np.testing.assert_allclose(bars.y, 100 * error_shares(vectors, codewords)[0])
    np.testing.assert_allclose(a.y, np.linalg.norm(vectors - codewords, axis=2)[:10].mean(axis=0))
    assert (a.name, b.name) == ("A", "B")
    far = levels_leave(*error_shares(vectors, codewords + 9), ["A"] * 30, together=False)
    assert " times the variance" in far.layout.title.text.replace("<br>", " ")
    assert all(text.endswith(" times") for text in far.data[0].text)
