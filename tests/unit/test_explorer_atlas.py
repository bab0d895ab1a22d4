"""The parquet file for embedding-atlas: an item a row, read back, with coordinates where the map has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec_lab.codes import ItemCodes
from genrec_lab.viz.explorer import CodedCatalogue, ExplorerState, RunRecords, write_atlas
from genrec_lab.viz.explorer.widget import Explorer
from genrec_lab.viz.projection import Projection

EVIL = "<script>alert(1)</script> 🪑 كرسي"


@pytest.fixture
def catalogue() -> CodedCatalogue:
    return CodedCatalogue(
        "desk",
        ItemCodes([[1, 0, 2], [0, 3, 1], [1, 0, 2], [0, 0, 0]], (2, 4, 3), ["a", "b", "a", "b"]),
        [EVIL, "lamp", "", "rug"],
        traffic=[5, 0, 7, 1],
        images=["/p/0.jpg", None, "/p/2.jpg", None],
        keys=["B01", 7, "x y", "z"],
    )


@pytest.fixture
def maps() -> dict[str, Projection]:
    points = np.arange(18, dtype=np.float64).reshape(3, 3, 2)
    return {"t-SNE": Projection(points, np.array([3, 0, 2]), "tsne", 0, 4)}


def test_every_item_is_a_row_that_is_read_back(
    catalogue: CodedCatalogue, maps: dict[str, Projection], tmp_path: Path
) -> None:
    made = write_atlas(catalogue, tmp_path / "new folder" / "a.parquet", maps, level=1, length=2)
    assert (made.items, made.mapped) == (4, 3)
    assert made.command == f"embedding-atlas '{made.file}' --text title --x x --y y"
    frame = pl.read_parquet(made.file)
    assert frame.schema["x"] == frame.schema["y"] == pl.Float32
    assert frame.to_dict(as_series=False) == {
        "id": [0, 1, 2, 3],
        "key": ["B01", "7", "x y", "z"],
        "domain": ["a", "b", "a", "b"],
        "title": [EVIL, "lamp", "", "rug"],
        "codes": ["1 › 0 › 2", "0 › 3 › 1", "1 › 0 › 2", "0 › 0 › 0"],
        "prefix": ["1 › 0", "0 › 3", "1 › 0", "0 › 0"],
        "code_1": [1, 0, 1, 0],
        "code_2": [0, 3, 0, 0],
        "code_3": [2, 1, 2, 0],
        "interactions": [5, 0, 7, 1],
        "picture": ["/p/0.jpg", None, "/p/2.jpg", None],
        "x": [8.0, None, 14.0, 2.0],
        "y": [9.0, None, 15.0, 3.0],
    }
    assert [file.name for file in made.file.parent.iterdir()] == ["a.parquet"]


def test_without_a_map_the_file_has_no_coordinates(catalogue: CodedCatalogue, tmp_path: Path) -> None:
    made = write_atlas(catalogue, tmp_path / "a.parquet")
    assert made.mapped == 0 and "--x" not in made.command
    assert pl.read_parquet(made.file).columns[-2:] == ["interactions", "picture"]
    with pytest.raises(ValueError, match=r"level: 3 and length: 1, expected 0\.\.2 and 1\.\.3"):
        write_atlas(catalogue, tmp_path / "a.parquet", level=3)


def test_the_button_writes_into_the_run_folder(
    make_catalogue: Callable[..., CodedCatalogue], maps: dict[str, Projection], tmp_path: Path
) -> None:
    view = Explorer(ExplorerState(make_catalogue(1, 60), records=RunRecords(folder=tmp_path)), maps=maps)
    view.state.select(prefix=(1,))
    view.atlas.click()
    file = tmp_path / "exports" / "embedding_atlas.parquet"
    assert "60 items written, 3 of them on the map" in view.export.value and str(file) in view.export.value
    frame = pl.read_parquet(file)
    assert frame.filter(pl.col("x").is_not_null())["id"].to_list() == [0, 2, 3]
    assert frame["prefix"].to_list() == [
        str(code) for code in view.state.catalogue.codes.codes[:, 0].tolist()
    ]
    alone = Explorer(ExplorerState(make_catalogue(1, 60)))
    alone.atlas.click()
    assert "has no run folder" in alone.message.value
