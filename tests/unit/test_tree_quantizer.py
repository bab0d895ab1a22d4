"""Tree codebooks: the prefix residual and its inverse, gradients, freezing, prefixes, starts and restarts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, multiprocessing

from genrec_lab.codes import ItemCodes
from genrec_lab.models.tokenizers.tree_quantizer import (
    TreeQuantizer,
    TreeQuantizerConfig,
    inverse_prefix_residual,
    prefix_residual,
)

SMALL = TreeQuantizerConfig(root_size=6, leaf_size=9, dimension=4)
PLAIN = SMALL.model_copy(update={"structure": "levels"})


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantizer(config: TreeQuantizerConfig = SMALL, seed: int = 0) -> TreeQuantizer:
    return TreeQuantizer(config, torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 2**31), levels=st.integers(1, 6))
def test_the_inverse_gives_back_what_the_prefix_residual_took(seed: int, levels: int) -> None:
    h = drawn(3, levels, 5, seed=seed).double()
    torch.testing.assert_close(inverse_prefix_residual(prefix_residual(h)), h, rtol=0, atol=1e-12)
    torch.testing.assert_close(prefix_residual(inverse_prefix_residual(h)), h, rtol=0, atol=1e-12)


def test_levels_2_to_l_share_the_leaf_book_and_the_root_has_its_own() -> None:
    model = quantizer()
    root, second, third = model.codebooks()
    assert root.shape == (6, 4) and second.shape == (9, 4)
    assert second is third
    assert model.sizes == (6, 9, 9) and model.shared_levels == (1, 2)
    codes = model(drawn(20, 3, 4)).codes.numpy()
    assert ItemCodes(codes, model.sizes, shared_levels=model.shared_levels).vocabulary_size == 2 + 6 + 9


def test_gradient_goes_straight_through_the_codes() -> None:
    model = quantizer()
    h = drawn(5, 3, 4).requires_grad_()
    weights = drawn(5, 3, 4, seed=1)
    (model(h).vectors * weights).sum().backward()
    torch.testing.assert_close(h.grad, weights)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("config", [SMALL, PLAIN])
def test_the_loss_reaches_every_parameter_and_the_input(config: TreeQuantizerConfig) -> None:
    model = quantizer(config)
    h = drawn(64, 3, 4).requires_grad_()
    model(h).loss.backward()
    assert h.grad is not None and h.grad.abs().sum() > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_one_items_gradient_moves_the_whole_projected_codebook_only_in_a_tree() -> None:
    """What E·W is for: a code that no item has moves with W, where a plain codebook leaves it."""
    for config, moves in ((SMALL, True), (PLAIN, False)):
        model = quantizer(config)
        h = drawn(1, 3, 4)
        before = model.codebooks()[0].detach().clone()
        quantized = model(h)
        quantized.loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
        moved = (model.codebooks()[0] - before).abs().sum(dim=1) > 0
        others = torch.arange(6) != quantized.codes[0, 0]
        assert bool(moved[others].all()) is moves


@pytest.mark.parametrize("config", [SMALL, PLAIN])
def test_codes_are_the_nearest_codewords_also_under_autocast(config: TreeQuantizerConfig) -> None:
    # 200 codes close to each other: bfloat16 would tie most of them
    model = quantizer(config.model_copy(update={"root_size": 200, "leaf_size": 200}))
    with torch.no_grad():
        for book in model.books:
            book.matrix.mul_(0.01).add_(1.0)
    h = drawn(50, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        under = model(h)
    residuals = prefix_residual(h) if config.structure == "tree" else h
    for level, codebook in enumerate(model.codebooks()):
        distances = torch.cdist(residuals[:, level].double(), codebook.double())
        chosen = distances.gather(1, under.codes[:, level : level + 1])[:, 0]
        torch.testing.assert_close(chosen, distances.min(dim=1).values, rtol=1e-5, atol=1e-5)
    assert under.vectors.dtype == under.loss.dtype == torch.float32
    assert torch.equal(under.codes, model(h).codes)


def test_plain_levels_quantise_the_content_itself() -> None:
    model = quantizer(PLAIN)
    h = drawn(7, 3, 4)
    quantized = model(h)
    assert torch.equal(quantized.residuals, h)
    assert model.sizes == (6, 6, 6) and model.shared_levels == ()
    assert {name.split(".")[-1] for name, _ in model.named_parameters()} == {"matrix"}
    expected = torch.stack(
        [book[code] for book, code in zip(model.codebooks(), quantized.codes.T, strict=True)], dim=1
    )
    torch.testing.assert_close(quantized.vectors, expected)
    per_level = [1.25 * (h[:, i] - expected[:, i]).square().sum(dim=1).mean() for i in range(3)]
    torch.testing.assert_close(quantized.loss, torch.stack(per_level).mean())


@pytest.mark.parametrize("structure", ["tree", "levels"])
def test_reductions_differ_by_the_dimension(structure: str) -> None:
    paper, code = (
        quantizer(SMALL.model_copy(update={"structure": structure, "reduction": reduction}))
        for reduction in ("paper", "code")
    )
    h = drawn(5, 3, 4)
    assert code(h).loss.item() == pytest.approx(paper(h).loss.item() / 4, rel=1e-6)


@pytest.mark.parametrize("config", [SMALL, PLAIN])
def test_every_prefix_gives_the_content_of_its_levels(config: TreeQuantizerConfig) -> None:
    model = quantizer(config)
    quantized = model(drawn(8, 3, 4))
    for length in (1, 2, 3):
        torch.testing.assert_close(
            model.from_codes(quantized.codes[:, :length]), quantized.vectors[:, :length]
        )


@pytest.mark.parametrize(
    "prefix, message",
    [
        (torch.zeros(2, 4, dtype=torch.int64), r"shape \(2, 4\); expected \(items, 1 to 3 codes\)"),
        (torch.zeros(2, 0, dtype=torch.int64), r"shape \(2, 0\)"),
        (torch.tensor([[0, 8], [5, 9]]), r"code 9 of row 1 at level 2 .* expected 0 to 8"),
        (torch.tensor([[6]]), r"code 6 of row 0 at level 1 .* expected 0 to 5"),
        (torch.tensor([[-1]]), r"code -1 of row 0"),
    ],
)
def test_impossible_prefixes_are_refused(prefix: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantizer().from_codes(prefix)


@pytest.mark.parametrize("shape", [(2, 2, 4), (2, 3, 5)])
def test_content_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(items, 3 levels, 4 dimensions\)"):
        quantizer()(torch.zeros(shape))


def test_a_tree_has_at_least_two_levels() -> None:
    with pytest.raises(ValidationError, match="levels"):
        TreeQuantizerConfig(levels=1)


@pytest.mark.parametrize("fixed", [True, False])
def test_fixed_matrices_stay_while_projections_move(fixed: bool) -> None:
    model = quantizer()
    if fixed:
        model.fix_codebook_matrices()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    model(drawn(64, 3, 4)).loss.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        stays = fixed and name.endswith("matrix")
        assert torch.equal(parameter, before[name]) is stays, name


def test_the_same_generator_gives_the_same_books() -> None:
    one, again, other = quantizer(seed=3), quantizer(seed=3), quantizer(seed=4)
    for a, b, c in zip(one.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)


def test_rows_of_e_have_unit_length_on_average() -> None:
    model = quantizer(TreeQuantizerConfig())
    for book in model.books:
        assert book.matrix.norm(dim=1).square().mean().item() == pytest.approx(1.0, rel=0.03)


class TestKMeansStart:
    def test_codewords_become_the_centres_of_what_each_book_quantises(self) -> None:
        generator = np.random.default_rng(0)
        roots, steps = generator.normal(size=(6, 4)) * 10, generator.normal(size=(9, 4)) * 10
        increments = np.stack(
            [
                roots[generator.integers(6, size=300)],
                steps[generator.integers(9, size=300)],
                steps[generator.integers(9, size=300)],
            ],
            axis=1,
        )
        content = inverse_prefix_residual(torch.tensor(increments, dtype=torch.float32))
        model = quantizer(SMALL.model_copy(update={"kmeans_start": True}))
        model.start_from(content, seed=1)
        quantized = model(content)
        assert quantized.loss.item() < 1e-6
        assert len(quantized.codes[:, 0].unique()) == 6 and len(quantized.codes[:, 1:].unique()) == 9
        for book in model.books:
            assert torch.equal(book.projection, torch.eye(4))

    def test_it_works_for_fewer_items_than_codes_and_for_plain_levels(self) -> None:
        content = drawn(4, 3, 4)
        model = quantizer(PLAIN)
        model.start_from(content, seed=1)
        quantized = model(content)
        torch.testing.assert_close(quantized.vectors, content, atol=1e-5, rtol=0)

    def test_autocast_changes_nothing(self) -> None:
        content = drawn(300, 3, 4)
        plain, cast = (quantizer(SMALL.model_copy(update={"kmeans_start": True})) for _ in range(2))
        plain.start_from(content, seed=1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast.start_from(content, seed=1)
        for one, other in zip(plain.codebooks(), cast.codebooks(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)

    def test_the_seed_decides(self) -> None:
        books = []
        for seed in (1, 1, 2):
            model = quantizer()
            model.start_from(drawn(100, 3, 4), seed)
            books.append(model.codebooks()[1].detach())
        assert torch.equal(books[0], books[1]) and not torch.equal(books[0], books[2])


class TestRestart:
    CONFIG = SMALL.model_copy(update={"restart_dead": True, "restart_every": 3})

    def far_from_all(self, config: TreeQuantizerConfig = CONFIG) -> tuple[TreeQuantizer, Tensor]:
        """Codewords far from the items: at first one or few of them get all."""
        model = quantizer(config)
        with torch.no_grad():
            for book in model.books:
                book.matrix.add_(torch.tensor([5.0, 0, 0, 0]))
                if book.projection is not None:
                    book.projection.add_(0.1 * drawn(4, 4, seed=5))
        return model.train(), drawn(60, 3, 4)

    @pytest.mark.parametrize("structure", ["tree", "levels"])
    def test_unused_codewords_land_on_items_when_it_is_time(self, structure: str) -> None:
        model, h = self.far_from_all(self.CONFIG.model_copy(update={"structure": structure}))
        torch.manual_seed(0)
        used = model(h).codes[:, 0].unique()
        model(h)
        model(h)
        assert len(used) < 6
        before = model.codebooks()[0].detach().clone()
        model(h)  # after the third batch
        after = model.codebooks()[0].detach()
        dead = [code for code in range(6) if code not in used]
        torch.testing.assert_close(after[used], before[used])
        residuals = model.increments(h)[:, 0]
        assert torch.cdist(after[dead], residuals).min(dim=1).values.max() < 1e-3
        assert len(model(h).codes[:, 0].unique()) > len(used)

    def test_gradients_flow_in_every_batch(self) -> None:
        model, h = self.far_from_all()
        for _ in range(7):
            content = h.clone().requires_grad_()
            quantized = model(content)
            (quantized.loss + quantized.vectors.sum()).backward()
            assert content.grad is not None and content.grad.isfinite().all()

    def test_evaluation_counts_and_moves_nothing(self) -> None:
        model, h = self.far_from_all()
        model.eval()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for _ in range(4):
            model(h)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    def test_fixed_matrices_are_not_moved(self) -> None:
        model, h = self.far_from_all()
        model.fix_codebook_matrices()
        before = [book.matrix.clone() for book in model.books]
        for _ in range(4):
            model(h)
        assert all(torch.equal(book.matrix, old) for book, old in zip(model.books, before, strict=True))

    def test_off_it_moves_nothing(self) -> None:
        model, h = self.far_from_all(SMALL.model_copy(update={"restart_every": 1}))
        before = model.codebooks()[0].detach().clone()
        model(h)
        assert torch.equal(model.codebooks()[0], before)

    def test_two_processes_keep_one_codebook_and_what_either_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", os.environ.get("GLOO_SOCKET_IFNAME", "lo"))
        multiprocessing.start_processes(process, (str(tmp_path),), nprocs=2, start_method="fork")
        one, other = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
        np.testing.assert_array_equal(one["after"], other["after"])
        used = np.union1d(one["codes"], other["codes"])
        assert len(used) > max(len(np.unique(one["codes"])), len(np.unique(other["codes"])))
        np.testing.assert_array_equal(one["after"][used], one["before"][used])
        dead = np.setdiff1d(np.arange(16), used)
        moved = (one["after"][dead] != one["before"][dead]).any(axis=1)
        assert len(dead) > 4 and moved.sum() == 8  # as many as both processes have items


def process(rank: int, folder: str) -> None:
    """One of two processes that quantise different items until codewords restart; writes what it then has."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    try:
        config = SMALL.model_copy(update={"root_size": 16, "restart_dead": True, "restart_every": 1})
        model = quantizer(config).train()
        torch.manual_seed(rank)
        before = model.codebooks()[0].detach().clone()
        codes = model(drawn(4, 3, 4, seed=rank)).codes[:, 0]
        model(drawn(4, 3, 4, seed=rank))
        after = model.codebooks()[0].detach()
        np.savez(f"{folder}/{rank}.npz", before=before.numpy(), after=after.numpy(), codes=codes.numpy())
    finally:
        torch.distributed.destroy_process_group()
