"""Names that become folders: those of runs, of domains, of rows."""

from __future__ import annotations

import hashlib
import re
import unicodedata

LONGEST = 100  # bytes; file systems allow 255, and files in the folder need room below a longest path
# What the lab itself calls so: what is trained over all domains, the average over them; the folder of caches.
_OF_DOMAINS = ("all", "average")
_BESIDE_RUNS = ("cache",)
# Windows keeps the names of its devices for itself, with any ending.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_PLAIN = re.compile(r"\w(?:[\w .-]*[\w-])?")
_RUN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")


def safe_name(name: str) -> str:
    """Return a plain folder name of at most 100 bytes for any text; different texts get different names.

    Letters, digits, "_", "-", and points and spaces inside the name stay as they are. Every other name is
    shortened to what it has of these and ends in "~" and 20 digits of its SHA-256.

    >>> safe_name("Musical Instruments")
    'Musical Instruments'
    >>> safe_name("../../x")
    'x~9cdf6a50100a862e1428'
    """
    if (
        _PLAIN.fullmatch(name)
        and len(name.encode()) <= LONGEST
        and unicodedata.normalize("NFC", name) == name  # file systems may hold two spellings for one
        and not _reserved(name, _OF_DOMAINS)
    ):
        return name
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    short = re.sub(r"[^A-Za-z0-9]+", "_", letters).strip("_")[:60]
    return f"{short or 'name'}~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:20]}"


def run_name_problem(name: str) -> str | None:
    """Return why a text cannot name a run, whose folder has the very same name; None if it can."""
    if _reserved(name, _BESIDE_RUNS):
        return "that name is reserved; choose another"
    if len(name) > LONGEST:
        return f"a run's name has at most {LONGEST} characters, this one has {len(name):,}; shorten it"
    if not _RUN.fullmatch(name):
        return (
            "a run's name has only letters, digits, '.', '_' and '-', such as demo, and no '.' at either end"
        )
    return None


def _reserved(name: str, ours: tuple[str, ...]) -> bool:
    return name.casefold() in ours or _DEVICE.fullmatch(name) is not None
