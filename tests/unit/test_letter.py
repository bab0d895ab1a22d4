"""LETTER's tokenizer: what its two losses do, what a kill leaves unchanged, what it refuses."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrec_lab.models.tokenizers.letter import Letter, LetterConfig, LetterNetwork

Record = Mapping[str, Any]

SMALL = {
    "hidden": (16,),
    "dimension": 4,
    "levels": 2,
    "codebook_size": 12,
    "clusters": 3,
    "cluster_every": 4,
    "batch_size": 40,
    "epochs": 10,
    "report_every": 5,
}


def catalogue(items: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Content (N, 8) and collaborative vectors (N, 4) that have nothing to do with each other."""
    generator = np.random.default_rng(0)
    content = generator.normal(size=(6, 8))[np.arange(items) % 6] + 0.3 * generator.normal(size=(items, 8))
    tastes = generator.normal(size=(5, 4))[generator.integers(5, size=items)]
    return content.astype(np.float32), (2 * tastes).astype(np.float32)


def trained(reports: list[Record] | None = None, **changes: object) -> Letter:
    x, tastes = catalogue()
    hear = None if reports is None else reports.append
    return Letter(LetterConfig(**SMALL | changes), collaborative=tastes).fit(x, on_epoch=hear)


def test_alignment_draws_codes_to_the_collaborative_vectors() -> None:
    with_it: list[Record] = []
    without: list[Record] = []
    changes = {"epochs": 120, "learning_rate": 5e-3, "diversity_weight": 0.0}
    trained(with_it, **changes, collaborative_weight=1.0)
    trained(without, **changes, collaborative_weight=0.0)
    assert with_it[-1]["collaborative"] < 0.8 * without[-1]["collaborative"]
    assert without[-1]["reconstruction"] < with_it[-1]["reconstruction"]


def test_diversity_gathers_the_codewords_of_a_cluster() -> None:
    def gathered(model: Letter) -> float:
        """Mean inner product within clusters less that between clusters."""
        (book, _), labels = model.codebooks, model.model.clusters[0].numpy()
        same = labels[:, None] == labels[None, :]
        products = book @ book.T / np.square(book).sum(axis=1).mean()
        np.fill_diagonal(same, False)
        return float(products[same].mean() - products[~same].mean())

    changes = {"epochs": 60, "learning_rate": 5e-3, "cluster_every": 1000, "restart_dead_codes": False}
    assert gathered(trained(**changes, diversity_weight=0.3)) > gathered(
        trained(**changes, diversity_weight=0.0)
    )


def test_partners_are_the_other_codes_of_the_cluster_all_equally_likely() -> None:
    model = trained().model
    codes = torch.randint(12, (30_000, 2), generator=torch.Generator().manual_seed(0))
    partners = model.draw_partners(codes)
    for level, labels in enumerate(model.clusters):
        own, drawn = codes[:, level], partners[:, level]
        assert torch.equal(labels[own], labels[drawn])
        for code in range(12):
            others = [k for k in range(12) if k != code and labels[k] == labels[code]]
            counts = torch.bincount(drawn[own == code], minlength=12)
            assert set(torch.nonzero(counts).flatten().tolist()) == set(others)
            assert counts[others].float().std(correction=0) < 0.1 * counts[others].float().mean()


@pytest.mark.parametrize(
    ("size", "clusters", "expected"),
    [(256, 10, (10, 10, 60)), (16, 10, (8, 2, 48)), (2, 10, (1, 2, 6)), (1024, 10, (10, 10, 103))],
)
def test_clusters_hold_all_codes_and_each_code_has_a_partner(
    size: int, clusters: int, expected: tuple[int, int, int]
) -> None:
    config = LetterConfig(**SMALL | {"codebook_size": size, "clusters": clusters})
    count, least, most = config.cluster_sizes
    assert (count, least, most) == expected
    assert count * least <= size <= count * most
    model = LetterNetwork(3, config, generator=torch.Generator().manual_seed(0))
    model.start_epoch(1, seed=0)
    for labels in model.clusters:
        sizes = torch.bincount(labels, minlength=count)
        assert least <= sizes.min() and sizes.max() <= most


def test_a_killed_training_goes_on_between_two_clusterings(tmp_path: Path) -> None:
    x, tastes = catalogue()
    # A training of six epochs stands for one killed after six; it differs only in that its last epoch
    # restarts no dead code.
    small = SMALL | {"restart_dead_codes": False}
    unbroken = trained(restart_dead_codes=False)
    short = Letter(LetterConfig(**small | {"epochs": 6}), collaborative=tastes)
    short.fit(x, checkpoint=tmp_path)
    resumed = Letter(LetterConfig(**small), collaborative=tastes).fit(x, checkpoint=tmp_path)
    for name, tensor in unbroken.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    with pytest.raises(ValueError, match="belongs to a training with other vectors = "):
        Letter(LetterConfig(**small), collaborative=2 * tastes).fit(x, checkpoint=tmp_path)


def test_a_saved_tokenizer_needs_no_collaborative_vectors(tmp_path: Path) -> None:
    x, _ = catalogue()
    model = trained()
    model.save(tmp_path)
    again = Letter.load(tmp_path)
    for one, other in zip(again.tokenize(x), model.tokenize(x), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="LETTER's losses need the items' collaborative vectors"):
        again.model(torch.from_numpy(x), torch.zeros(len(x), dtype=torch.long))
    with pytest.raises(ValueError, match=r"Letter needs items, but none were given; pass ItemContent\.from"):
        Letter(LetterConfig(**SMALL)).fit(x)


def test_vectors_that_do_not_fit_are_refused() -> None:
    x, tastes = catalogue()
    config = LetterConfig(**SMALL)

    def fit(tastes: np.ndarray, items: int = 120) -> Letter:
        return Letter(config, collaborative=tastes).fit(x[:items])

    with pytest.raises(ValueError, match=r"have shape \(119, 4\); expected \(120, 4\)"):
        fit(tastes[1:])
    with pytest.raises(ValueError, match=r"have shape \(120, 3\); expected \(120, 4\)"):
        fit(tastes[:, :3])
    tastes[3] = np.nan
    with pytest.raises(ValueError, match="first for item 3"):
        fit(tastes)
    with pytest.raises(ValueError, match="codebook_size = 12 is larger than the catalogue"):
        fit(np.ones((9, 4)), 9)
