"""What is equal when it is made again (docs/full_runs.md): to the bit, or within a tolerance."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from genrec_lab.codes import ItemCodes
from genrec_lab.data.batches import PairBatches
from genrec_lab.decoding import CodeTrie, beam_search
from genrec_lab.models import Recommender, T5Config
from genrec_lab.models.tokenizers import RQVAE
from genrec_lab.models.tokenizers.tree_quantizer import Codebook
from genrec_lab.training import TrainingConfig, fit

CODES = ItemCodes([[item // 12, item % 12] for item in range(144)], (12, 12))
RNG = np.random.default_rng(0)
HISTORIES = RNG.integers(0, 144, (96, 6)).tolist()
PAIRS = pl.DataFrame(
    {"user": range(96), "history": HISTORIES, "target": [row[0] for row in HISTORIES]},
    schema_overrides={"user": pl.Int64},
)
VECTORS = RNG.normal(size=(400, 64)).astype(np.float32)
SIZES = T5Config(d_model=64, d_kv=16, heads=4, d_ff=256, encoder_layers=1, decoder_layers=1)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def trained() -> tuple[list[Tensor], float, np.ndarray]:
    """A T5 with dropout after three epochs: its weights, its last loss, its rankings' scores."""
    torch.manual_seed(1)
    model = Recommender(CODES, SIZES)
    config = TrainingConfig(epochs=3, batch_size=32, learning_rate=1e-3, precision="fp32")
    loss = fit(model, PairBatches(PAIRS, 32), config, seed=4).history[-1].loss
    scores = beam_search(model, HISTORIES[:40], CodeTrie(CODES), 20, 10).scores
    return [weight.detach().clone() for weight in model.parameters()], loss, scores


def tokenized() -> np.ndarray:
    config = RQVAE.Config(kind="rqvae", hidden=(64,), levels=2, dimension=16, codebook_size=16, epochs=4)
    return RQVAE(config).fit(VECTORS, seed=2).encode(VECTORS)


@pytest.mark.parametrize("count", [1, 2])
def test_with_the_same_threads_it_is_the_same_to_the_bit(threads, count: int) -> None:
    threads(count)
    (weights, loss, scores), (again, loss_again, scores_again) = trained(), trained()
    assert all(torch.equal(one, other) for one, other in zip(weights, again, strict=True))
    assert loss == loss_again
    np.testing.assert_array_equal(scores, scores_again)
    np.testing.assert_array_equal(tokenized(), tokenized())


def test_a_restarted_codeword_is_the_same_to_the_bit() -> None:
    """Of `torch.linalg.lstsq` 200 calls with one input give some 20 results."""
    points = torch.randn(300, 48, generator=torch.Generator().manual_seed(0))
    projection = torch.randn(48, 48, generator=torch.Generator().manual_seed(1))
    found = set()
    for _ in range(200):
        book = Codebook(120, 48, projected=True, identity=False)
        book.projection.data.copy_(projection)
        torch.manual_seed(2)
        book.restart_dead(points.clone())
        found.add(book.matrix.detach().numpy().tobytes())
    assert len(found) == 1
    assert torch.cdist(book.codewords(), points).min(dim=1).values.max() < 0.1


def test_with_other_threads_it_is_the_same_within_the_stated_tolerance(threads) -> None:
    results = []
    for count in (1, 2):
        threads(count)
        results.append((*trained()[1:], tokenized()))
    (loss, scores, codes), (other_loss, other_scores, other_codes) = results
    assert other_loss == pytest.approx(loss, rel=1e-4)
    np.testing.assert_allclose(other_scores, scores, atol=1e-3)
    assert (codes == other_codes).mean() >= 0.99


def test_deterministic_refuses_operations_whose_results_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    class Varying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, **batch: Tensor) -> Tensor:
            return torch.zeros(3).put_(torch.tensor([0]), self.weight[:1]).sum()

    config = TrainingConfig(epochs=1, batch_size=32, precision="fp32")
    fit(Varying(), PairBatches(PAIRS, 32), config)
    monkeypatch.setenv("GENREC_DETERMINISTIC", "1")
    try:
        with pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"):
            fit(Varying(), PairBatches(PAIRS, 32), config)
        again = trained(), trained()
        assert again[0][1] == again[1][1]
    finally:
        torch.use_deterministic_algorithms(False)
