"""Downloads from a server that breaks, lies, redirects and refuses: the same bytes, or a clear error."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec_lab.data import DataError
from genrec_lab.data.downloads import DownloadRecord, download, public_address, require_safe
from tests.unit.faulty_server import FaultyServer, serving

CONTENT = gzip.compress(np.random.default_rng(0).bytes(60_000), mtime=0)
PASSING = (
    "break",
    "short",
    "long",
    "again",
    "page",
    "no_range",
    "wrong_range",
    "416",
    "stall",
    "429",
    "500",
    "503",
)


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with serving({"/a.gz": CONTENT, "/b.gz": CONTENT}) as state:
        yield state


def fetch(server: FaultyServer, target: Path, faults: list[str], *paths: str) -> DownloadRecord:
    """Download from the server once with these faults before the first path's sound answers."""
    server.requests.clear()
    server.plan((paths or ("/a.gz",))[0], faults)
    addresses = [server.address + path for path in paths or ("/a.gz",)]
    return download(addresses, target, timeout=5.0, sleep=lambda seconds: None)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(faults=st.lists(st.sampled_from(PASSING), max_size=4))
def test_any_passing_faults_give_the_same_bytes(
    server: FaultyServer, tmp_path_factory: pytest.TempPathFactory, faults: list[str]
) -> None:
    target = tmp_path_factory.mktemp("fetched") / "a.gz"
    record = fetch(server, target, list(faults))
    assert target.read_bytes() == CONTENT
    assert record.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert record.bytes == len(CONTENT)
    assert sorted(file.name for file in target.parent.iterdir()) == ["a.gz", "a.gz.download.json"]


def test_a_broken_download_goes_on_where_it_broke(server: FaultyServer, tmp_path: Path) -> None:
    fetch(server, tmp_path / "a.gz", ["break", "break"])
    half = len(CONTENT) // 2
    later = half + (len(CONTENT) - half) // 2
    assert [wanted for _, wanted in server.requests] == [None, f"bytes={half}-", f"bytes={later}-"]


def test_a_killed_download_goes_on_in_the_next_process(server: FaultyServer, tmp_path: Path) -> None:
    target = tmp_path / "a.gz"
    server.plan("/a.gz", ["break"])
    with pytest.raises(DataError, match=r"bytes of the .* announced"):
        download([server.address + "/a.gz"], target, attempts=1)
    assert target.with_name("a.gz.partial").stat().st_size == len(CONTENT) // 2
    assert not target.exists()
    fetch(server, target, [])
    assert server.requests == [("/a.gz", f"bytes={len(CONTENT) // 2}-")]
    assert target.read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_begun_anew(tmp_path: Path) -> None:
    other = gzip.compress(b"another version", mtime=0)
    with serving({"/a.gz": CONTENT}) as server:
        server.plan("/a.gz", ["break"])
        with pytest.raises(DataError, match=r"bytes of the .* announced"):
            download([server.address + "/a.gz"], tmp_path / "a.gz", attempts=1)
        server.files["/a.gz"] = other
        download([server.address + "/a.gz"], tmp_path / "a.gz")
    assert (tmp_path / "a.gz").read_bytes() == other


@pytest.mark.parametrize("code", ["403", "404"])
def test_a_mirror_that_refuses_is_left_for_the_next(server: FaultyServer, tmp_path: Path, code: str) -> None:
    record = fetch(server, tmp_path / "x.gz", [code], "/a.gz", "/b.gz")
    assert [path for path, _ in server.requests] == ["/a.gz", "/b.gz"]
    assert record.address.endswith("/b.gz")


def test_all_answers_are_named_where_nobody_gives_the_file(server: FaultyServer, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"(?s)none of 2 addresses.*/a\.gz: answered 500.*/no\.gz: answered 404"
    ):
        fetch(server, tmp_path / "x.gz", ["500"] * 5, "/a.gz", "/no.gz")
    assert not (tmp_path / "x.gz").exists()


def test_a_server_that_asks_to_wait_is_waited_for(server: FaultyServer, tmp_path: Path) -> None:
    waits: list[float] = []
    server.plan("/a.gz", ["429", "500"])
    download([server.address + "/a.gz"], tmp_path / "a.gz", sleep=waits.append)
    assert waits == [7.0, 2.0]


@pytest.mark.parametrize("fault", ["away", "loop"])
def test_redirects_to_unsafe_places_or_in_circles_are_not_followed(
    server: FaultyServer, tmp_path: Path, fault: str
) -> None:
    with pytest.raises(DataError, match="go over https" if fault == "away" else "redirect"):
        fetch(server, tmp_path / "a.gz", [fault])
    server.faults.clear()
    assert not (tmp_path / "a.gz").exists()


@pytest.mark.parametrize(
    "address",
    [
        "http://example.com/a",
        "ftp://example.com/a",
        "file:///etc/passwd",
        "https:///a",
        "a.gz",
        "http://10.0.0.1/a",
    ],
)
def test_addresses_that_are_not_asked(address: str) -> None:
    with pytest.raises(DataError, match="downloads go over https"):
        require_safe(address)
    assert require_safe("https://example.com/a") and require_safe("http://[::1]:8/a")


def test_no_secret_of_an_address_is_written_down(server: FaultyServer, tmp_path: Path) -> None:
    address = server.address.replace("http://", "http://me:secret@") + "/a.gz?token=secret#secret"
    assert "secret" not in public_address(address)
    download([server.address + "/a.gz?token=secret"], tmp_path / "a.gz")
    assert "secret" not in "".join(file.read_text() for file in tmp_path.glob("*.json"))
    with pytest.raises(DataError) as error:
        download([server.address + "/no.gz?token=secret"], tmp_path / "no.gz")
    assert "token" not in str(error.value)


def test_a_fetched_file_that_was_cut_later_is_not_taken(server: FaultyServer, tmp_path: Path) -> None:
    fetch(server, tmp_path / "a.gz", [])
    (tmp_path / "a.gz").write_bytes(CONTENT[:100])
    with pytest.raises(DataError, match=r"100 bytes, but .* were fetched; delete it"):
        fetch(server, tmp_path / "a.gz", [])


def test_a_length_that_is_not_announced(server: FaultyServer, tmp_path: Path) -> None:
    assert fetch(server, tmp_path / "a.gz", ["unsaid"]).bytes == len(CONTENT)
    # cut off, which gzip's own checksum shows
    assert fetch(server, tmp_path / "b.gz", ["unsaid and broken", "unsaid"]).attempts == 2
    with pytest.raises(DataError, match="announced no length, so a truncated file would go unnoticed"):
        fetch(server, tmp_path / "c.csv", ["unsaid"])


@pytest.mark.parametrize(("fault", "said"), [("sound", "announced"), ("unsaid", "sent more than")])
def test_more_than_may_come_is_broken_off(
    server: FaultyServer, tmp_path: Path, fault: str, said: str
) -> None:
    server.plan("/a.gz", [fault])
    with pytest.raises(DataError, match=rf"{said}.*{len(CONTENT) - 1:,}"):
        download([f"{server.address}/a.gz"], tmp_path / "a.gz", timeout=5.0, most_bytes=len(CONTENT) - 1)
    assert not (tmp_path / "a.gz.partial").exists()


def test_a_file_put_there_by_hand_is_taken_as_it_is(server: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(b"mine")
    assert fetch(server, tmp_path / "a.gz", []).bytes == 4
    assert server.requests == []
    assert json.loads("[]") == list(tmp_path.glob("*.json"))
