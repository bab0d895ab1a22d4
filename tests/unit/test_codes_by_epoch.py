"""The codes that a tokenizer keeps of its epochs: which, how many, and the same after a resumed training."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from genrec_lab.models.tokenizers import RQVAE
from genrec_lab.models.tokenizers.epochs import Lesson


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=80, unique=True))
def test_at_most_sixteen_are_kept_the_first_and_the_last_among_them(epochs: list[int]) -> None:
    lesson = Lesson(nn.Linear(1, 1), 3, 2)
    for epoch in sorted(epochs):
        lesson.keep(epoch, np.full((3, 2), epoch % 7))
    kept = list(lesson.kept)
    assert kept == sorted(kept) and set(kept) <= set(epochs)
    assert len(kept) == min(len(epochs), 16)
    assert kept[0] == min(epochs) and kept[-1] == max(epochs)
    other = Lesson(nn.Linear(1, 1), 3, 2)
    other.set_extra_state(lesson.get_extra_state())
    assert list(other.kept) == kept
    assert all(np.array_equal(other.kept[epoch], codes) for epoch, codes in lesson.kept.items())


def test_early_epochs_are_kept_more_densely() -> None:
    lesson = Lesson(nn.Linear(1, 1), 1, 1)
    for epoch in range(1, 1001):
        lesson.keep(epoch, np.zeros((1, 1)))
    kept = np.array(list(lesson.kept))
    ratios = kept[1:] / kept[:-1]
    assert (kept < 100).sum() > 4 and ratios.max() < 4


def test_the_last_ones_are_those_of_the_tokenizer_and_a_resumed_training_keeps_the_same(
    tmp_path: Path,
) -> None:
    x = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    config = {"levels": 2, "codebook_size": 8, "hidden": (16, 4), "batch_size": 20}
    config |= {"report_every": 1, "select": "last"}
    whole = RQVAE(RQVAE.Config(epochs=6, **config)).fit(x)
    assert list(whole.codes_by_epoch) == [1, 2, 3, 4, 5, 6]
    assert np.array_equal(whole.codes_by_epoch[6], whole.encode(x))
    RQVAE(RQVAE.Config(epochs=3, **config)).fit(x, checkpoint=tmp_path, checkpoint_every=1)
    resumed = RQVAE(RQVAE.Config(epochs=6, **config)).fit(x, checkpoint=tmp_path, checkpoint_every=1)
    assert list(resumed.codes_by_epoch) == [1, 2, 3, 4, 5, 6]
    for epoch, codes in whole.codes_by_epoch.items():
        assert np.array_equal(resumed.codes_by_epoch[epoch], codes)


def test_churn_is_measured_beyond_the_epochs_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[np.ndarray] = []
    keep = Lesson.keep
    monkeypatch.setattr(Lesson, "keep", lambda *given: (measured.append(given[2]), keep(*given))[1])
    x = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    sizes = {"levels": 2, "codebook_size": 8, "hidden": (16, 4), "batch_size": 20, "report_every": 1}
    found = RQVAE(RQVAE.Config(epochs=24, learning_rate=0.02, **sizes)).fit(x)
    assert len(found.codes_by_epoch) == 16 and len(measured) == 24
    changed = [(one != other).mean(axis=0).tolist() for one, other in pairwise(measured)]
    assert [record["churn"] for record in found.epochs[1:]] == changed
    assert any(any(shares) for shares in changed[16:])
