"""Break important lines one by one in a copy of the repository and list those that no test notices.

    python tests/mutations.py              # all of them; takes about an hour
    python tests/mutations.py losses.py 31 # those of files that end so, and the 31st

Not collected by pytest and not part of CI. A mutation whose old text is not found exactly once is refused
before anything runs: move it along with the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
COPIED = ("genrec_lab", "tests", "notebooks", "papermill_runs", "examples", "docs", "pyproject.toml")


class Mutation(NamedTuple):
    """A line of a file below genrec_lab, what it becomes, and the tests below tests that must notice."""

    file: str
    old: str
    new: str
    tests: str


_GMC, _LETTER, _UTGREC = (f"equations/test_{name}_losses.py" for name in ("gmc", "letter", "utgrec"))
_RANKING, _SPLIT, _PAIRED = "unit/test_ranking.py", "unit/test_preparation.py", "unit/test_significance.py"
_BEAM, _TRIE, _CODES = "unit/test_beam.py", "unit/test_trie.py", "unit/test_codes.py"
_LOOP, _QUANTIZERS = "unit/test_training.py", "unit/test_quantizers.py"
_STORE, _TRUTH = "pipeline/test_store.py", "pipeline/test_truth.py"
_LEARNT = f"{_TRUTH}::test_no_row_learns_from_a_test_target_or_chooses_an_epoch_by_it"
_TARGETS = f"{_TRUTH}::test_test_users_are_ranked_for_test_targets"
_LAYOUT = f"{_TRUTH}::test_comments_docstrings_annotations_and_layout_of_every_file_change_nothing"

MUTATIONS = (
    Mutation("losses.py", "(x - x_hat).square().sum(dim=-1).mean()", "(x - x_hat).square().mean()", _GMC),
    Mutation("losses.py", "(codebook + beta * commitment).mean()", "(codebook + commitment).mean()", _GMC),
    Mutation(
        "losses.py",
        "codebook = (residuals.detach() - codewords).square().sum(dim=(-2, -1))",
        "codebook = (residuals - codewords).square().sum(dim=(-2, -1))",
        _GMC,
    ),
    Mutation("losses.py", "(similarity.logsumexp(dim=1) - own).mean()", "(own * 0).mean()", _GMC),
    Mutation("losses.py", "similarity.masked_fill(~same,", "similarity.masked_fill(same,", _GMC),
    Mutation("losses.py", "similarity.scatter(1, codes[:, None], -torch.inf)", "similarity", _LETTER),
    Mutation("losses.py", "cross_entropy(similarity / temperature,", "cross_entropy(similarity,", _UTGREC),
    Mutation("losses.py", "(levels[0] + levels[1:].mean()) / 2", "levels.mean()", _UTGREC),
    Mutation("losses.py", 'items if reduction == "paper" else len(tokens)', "len(tokens)", _UTGREC),
    Mutation("evaluation/ranking.py", "1.0 / np.log2(ranks + 2.0)", "0.5 / np.log2(ranks + 2.0)", _RANKING),
    Mutation("evaluation/ranking.py", "np.maximum(ranks, 0)", "np.maximum(ranks, 1)", _RANKING),
    Mutation("evaluation/ranking.py", "(ranks >= 0) & (ranks < k)", "(ranks >= 0) & (ranks <= k)", _RANKING),
    Mutation("evaluation/ranking.py", ", weights=np.asarray(users)))", "))", _RANKING),
    Mutation("data/preparation.py", "in (last - 1, last)", "in (last, last - 1)", _SPLIT),
    Mutation("data/dataset.py", ".then(length - HELD_OUT)", ".then(length - 1)", _SPLIT),
    Mutation("data/preparation.py", ".list.slice(start, ", ".list.slice(0, ", _SPLIT),
    Mutation("data/preparation.py", "        rows = kept\n", "        rows = kept\n        break\n", _SPLIT),
    Mutation("data/preparation.py", 'closed="left"', 'closed="both"', _SPLIT),
    Mutation("data/preparation.py", '.shift(-1).over("user")', ".shift(-1)", _SPLIT),
    Mutation("evaluation/significance.py", "2 * (smaller_side + 1)", "(smaller_side + 1)", _PAIRED),
    Mutation(
        "evaluation/significance.py",
        "smaller_side = min(int((means <= rounding)",
        "smaller_side = max(int((means <= rounding)",
        _PAIRED,
    ),
    Mutation("evaluation/significance.py", "tail = (1 - confidence) / 2", "tail = 1 - confidence", _PAIRED),
    Mutation("decoding/beam.py", "steps.masked_fill_(children < 0, -torch.inf)", "pass", _BEAM),
    Mutation("decoding/beam.py", "(scores[:, :, None] + steps)", "(0 * scores[:, :, None] + steps)", _BEAM),
    Mutation("decoding/beam.py", "columns[:, :, None] * log_probs.shape[2] + codes", "codes", _BEAM),
    Mutation("decoding/trie.py", "if len(parents) < len(table):", "if len(parents) < 0:", _TRIE),
    Mutation("decoding/trie.py", "np.minimum.reduceat(self.items", "np.maximum.reduceat(self.items", _TRIE),
    Mutation(
        "codes/item_codes.py", "np.column_stack([self.domain_index, self.codes])", "self.codes", _CODES
    ),
    Mutation(
        "codes/item_codes.py",
        "self.codes + self.domain_index[:, None] * widths[None, :]",
        "self.codes + 0 * widths[None, :]",
        _CODES,
    ),
    Mutation(
        "models/popularity.py", "np.bincount(places,", "-np.bincount(places,", "unit/test_popularity.py"
    ),
    Mutation(
        "models/recommenders/t5.py",
        "distance = (-distance).clamp(min=0)",
        "distance = distance.clamp(min=0)",
        "unit/test_t5.py",
    ),
    Mutation(
        "models/tokenizers/quantizers.py",
        "vectors + (quantized - vectors).detach()",
        "quantized.detach()",
        f"{_QUANTIZERS} unit/test_rqvae.py",
    ),
    Mutation(
        "models/tokenizers/quantizers.py",
        "residual -= codebook[code]",
        "residual -= 0 * codebook[code]",
        f"{_QUANTIZERS} unit/test_rqvae.py",
    ),
    Mutation("training/loop.py", "state.restore_best()", "pass", _LOOP),
    Mutation("lab/making.py", "and record.key == key and", "and", _STORE),
    Mutation("lab/results.py", 'checked_hash(file) != entry["sha256"]', "False", _STORE),
    Mutation("lab/files.py", "and not _reserved(name, _OF_DOMAINS)", "", "unit/test_names.py"),
    Mutation("lab/code.py", "isinstance(node, ast.stmt) and _is_docstring(node)", "False", _LAYOUT),
    Mutation(
        "lab/recommend.py",
        'pl.read_parquet(data / "valid.parquet")',
        'pl.read_parquet(data / "test.parquet")',
        _LEARNT,
    ),
    Mutation(
        "lab/evaluate.py",
        'part_of(pl.read_parquet(data / "test.parquet"), domains), dataset)',
        'part_of(pl.read_parquet(data / "valid.parquet"), domains), dataset)',
        _TARGETS,
    ),
)  # fmt: skip


def refused() -> Iterator[str]:
    """Say which mutations do not fit the code any more."""
    for number, one in enumerate(MUTATIONS, start=1):
        file = REPOSITORY / "genrec_lab" / one.file
        found = file.read_text(encoding="utf-8").count(one.old) if file.is_file() else 0
        if found != 1:
            yield f"{number}: genrec_lab/{one.file} holds {one.old!r} {found} times, expected once"
        for test in one.tests.split():
            if not (REPOSITORY / "tests" / test.partition("::")[0]).is_file():
                yield f"{number}: tests/{test} is not there"


def chosen(names: Sequence[str]) -> list[tuple[int, Mutation]]:
    """The mutations of some files or numbers, by number; all where nothing is named."""
    numbered = list(enumerate(MUTATIONS, start=1))
    return [
        (number, one)
        for number, one in numbered
        if not names or any(name == str(number) or one.file.endswith(name) for name in names)
    ]


def survives(copy: Path, mutation: Mutation) -> bool:
    """Whether the tests pass with the line broken; RuntimeError where they could not be run."""
    file = copy / "genrec_lab" / mutation.file
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider",
             *(f"tests/{test}" for test in mutation.tests.split())],
            cwd=copy, capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
    finally:
        file.write_text(whole, encoding="utf-8")
    if done.returncode not in (0, 1):
        raise RuntimeError(
            f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return done.returncode == 0


def main(names: Sequence[str]) -> int:
    """Break the chosen lines; print each one's fate, then the survivors. Returns how many survived."""
    if problems := list(refused()):
        print("\n".join(problems))
        return len(problems)
    if not chosen(names):
        print(f"No mutation is of {', '.join(names)}.")
        return 1
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = REPOSITORY / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.is_file():
                shutil.copy(source, copy / name)
        for number, mutation in chosen(names):
            survived = survives(copy, mutation)
            fate = "SURVIVES" if survived else "noticed"
            print(f"{number:2} {fate}  {mutation.file}: {mutation.old!r} -> {mutation.new!r}", flush=True)
            survivors += [number] if survived else []
    print(f"{len(survivors)} of {len(chosen(names))} survive: {survivors}")
    return len(survivors)


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 100))
