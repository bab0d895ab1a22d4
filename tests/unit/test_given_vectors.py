"""Vectors that somebody else computed: in item order or by key, from each kind of file; what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from genrec_lab.data import DataError
from genrec_lab.encoders import text_encoder
from genrec_lab.encoders.given import GivenVectorsConfig, read_vectors
from genrec_lab.presets import PresetError, load
from genrec_lab.registry import relative_to

ITEMS = pl.DataFrame({"item": [0, 1, 2], "domain": ["A", "A", "B"], "key": ["007", "b", "9"]})
VECTORS = np.array([[0.0, 1.5], [2.0, 3.0], [4.0, -5.0]], dtype=np.float32)
ORDER = [2, 0, 1]  # of the rows in files with keys
KEYS = [ITEMS["key"][place] for place in ORDER]


def as_lists(file: Path) -> None:
    pl.DataFrame({"key": [*KEYS, "unknown"], "vector": [*VECTORS[ORDER].tolist(), [9.0, 9.0]]}).write_parquet(
        file
    )


def as_columns(file: Path) -> None:
    table = pl.DataFrame(VECTORS[ORDER], schema=["d0", "d1"])
    table.with_columns(item_id=pl.Series(KEYS)).write_parquet(file)


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "rows": ("v.npy", lambda file: np.save(file, VECTORS)),
    "half": ("Beauty.emb-llama-td.npy", lambda file: np.save(file, VECTORS.astype(np.float16))),
    "array": ("v.safetensors", lambda file: save_file({"embeddings": VECTORS}, file)),
    "by key": (
        "v.safetensors",
        lambda file: save_file({k: VECTORS[p] for k, p in zip(KEYS, ORDER, strict=True)}, file),
    ),
    "lists": ("v.parquet", as_lists),
    "columns": ("v.parquet", as_columns),
    "no keys": ("v.parquet", lambda file: pl.DataFrame(VECTORS, schema=["a", "b"]).write_parquet(file)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_vectors_come_in_the_order_of_the_items(tmp_path: Path, kind: str) -> None:
    name, write = WRITERS[kind]
    write(tmp_path / name)
    with relative_to(tmp_path):
        found = read_vectors(name, ITEMS)
        encoder = text_encoder(GivenVectorsConfig(file=name))
        np.testing.assert_array_equal(encoder.of_items(ITEMS), VECTORS)
        with pytest.raises(ValueError, match="has vectors of items and encodes no texts"):
            encoder.encode(["a text"])
    np.testing.assert_array_equal(found, VECTORS)
    assert found.dtype == np.float32


def test_keys_may_stand_in_a_file_of_their_own_and_domains_have_theirs(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", VECTORS[ORDER])
    (tmp_path / "keys.txt").write_text("\n".join(KEYS) + "\n")
    for domain, rows in (("A", [0, 1]), ("B", [2])):
        np.save(tmp_path / f"{domain}.npy", VECTORS[rows])
    with relative_to(tmp_path):
        np.testing.assert_array_equal(read_vectors("v.npy", ITEMS, "keys.txt"), VECTORS)
        np.testing.assert_array_equal(read_vectors("{domain}.npy", ITEMS), VECTORS)
        (tmp_path / "keys.txt").write_text("007 b")
        with pytest.raises(DataError, match=r"keys.txt: 2 keys for 3 vectors"):
            read_vectors("v.npy", ITEMS, "keys.txt")
        np.save(tmp_path / "B.npy", VECTORS[:1, :1])
        with pytest.raises(DataError, match="differ in length; give files of one model"):
            read_vectors("{domain}.npy", ITEMS)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "v.npy",
            VECTORS[:2],
            "v.npy: 2 vectors for 3 items; give one per item in the data's order, or keys",
        ),
        ("v.npy", VECTORS[0], r"an array of shape \(2,\) and type float32; expected \(items, dimensions\)"),
        ("v.npy", VECTORS.astype(str), "expected"),
        ("v.npy", np.array([[1.0], [np.nan], [2.0]]), "the vector of item 'b' is not finite"),
        ("v.txt", VECTORS, "no vectors can be read"),
        ("nothing.npy", None, "nothing.npy is not there"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, array: np.ndarray, message: str
) -> None:
    if array is not None:
        with (tmp_path / name).open("wb") as file:
            np.save(file, array)
    with relative_to(tmp_path), pytest.raises(DataError, match=message):
        read_vectors(name, ITEMS)


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "v.parquet"
    for keys, message in (
        (["007", "b", "8"], r"no vector for item .9. \(1 such items\)"),
        (["007", "b", "b"], "an item has two vectors"),
    ):
        pl.DataFrame({"key": keys, "v": VECTORS.tolist()}).write_parquet(file)
        with pytest.raises(DataError, match=message):
            read_vectors(str(file), ITEMS)
    file.write_text("no table")
    with pytest.raises(DataError, match="no vectors can be read"):
        read_vectors(str(file), ITEMS)
    save_file({"a": VECTORS, "b": VECTORS}, tmp_path / "two.safetensors")
    with pytest.raises(DataError, match="neither one array of all items nor a vector for each key"):
        read_vectors(str(tmp_path / "two.safetensors"), ITEMS)


def test_a_run_names_files_of_vectors() -> None:
    config = load("gmc_tiny", {"text": {"kind": "given", "file": "v.npy"}, "pictures": "p.npy"})
    assert (config.text.kind, config.text.file, config.pictures) == ("given", "v.npy", "p.npy")
    message = r"'efficientnet' is not a picture model; expected efficientnet-lite0"
    with pytest.raises(PresetError, match=message):
        load("gmc_tiny", {"pictures": "efficientnet"})
