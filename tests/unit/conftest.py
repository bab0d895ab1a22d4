"""What tests of models and training share: tiny recommenders, scores by brute force, a toy problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from types import SimpleNamespace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genrec_lab.codes import EOS, PAD, ItemCodes
from genrec_lab.models import Recommender, T5Config
from genrec_lab.models.layers import PooledDropout
from genrec_lab.training import TrainingResult
from genrec_lab.viz.explorer import CodedCatalogue

if TYPE_CHECKING:
    from transformers import T5ForConditionalGeneration

TINY = T5Config(
    d_model=16,
    d_kv=4,
    heads=3,
    d_ff=24,
    encoder_layers=2,
    decoder_layers=2,
    relative_buckets=8,
    relative_max_distance=16,
)


def unique_codes(items: dict[str, int], sizes: Sequence[int], seed: int = 0) -> ItemCodes:
    """Random identifiers for so many items a domain, unique within each, the domains' items mixed."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[np.ndarray, str]] = []
    for domain, count in items.items():
        chosen = rng.choice(int(np.prod(sizes)), size=count, replace=False)
        rows += [(row, domain) for row in np.stack(np.unravel_index(chosen, sizes), axis=1)]
    order = rng.permutation(len(rows))
    return ItemCodes(np.array([rows[i][0] for i in order]), tuple(sizes), domains=[rows[i][1] for i in order])


def tiny_recommender(
    codes: ItemCodes, *, sharpness: float = 1.0, seed: int = 0, config: T5Config = TINY
) -> Recommender:
    """A recommender with random weights; sharpness multiplies its logits: 0.001 is flat, 10 is peaked."""
    torch.manual_seed(seed)
    model = Recommender(codes, config)
    with torch.no_grad():
        model.t5.decoder_norm.weight.mul_(sharpness)
    return model.eval()


_THEIRS: WeakKeyDictionary[Recommender, T5ForConditionalGeneration] = WeakKeyDictionary()


@torch.no_grad()
def score_by_force(model: Recommender, history: Sequence[int], items: Sequence[int]) -> np.ndarray:
    """Sum log P(code) of each item in float64, from transformers' T5 with the weights at the first call."""
    theirs = _THEIRS.get(model)
    if theirs is None:
        theirs = _THEIRS[model] = model.to_transformers()
    tokens = torch.from_numpy(model.codes.tokens())
    read = torch.tensor([[*tokens[list(history)].flatten().tolist(), EOS]]).expand(len(items), -1)
    wanted = tokens[torch.as_tensor(items)]
    written = torch.cat([torch.full((len(items), 1), PAD), wanted[:, :-1]], dim=1)
    log_probs = theirs(input_ids=read, decoder_input_ids=written).logits.double().log_softmax(-1)
    return log_probs.gather(2, wanted[:, :, None]).sum((1, 2)).numpy()


def best_by_force(scores: np.ndarray, items: Sequence[int], top_k: int) -> list[int]:
    """The items with the highest scores, the lower index first where two are equal."""
    return [item for _, item in sorted((-score, item) for score, item in zip(scores, items, strict=True))][
        :top_k
    ]


# --- a toy problem for the training loop


class ToyRegression(nn.Module):
    """A small network with dropout, whose forward is its loss."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.up, self.dropout, self.down = nn.Linear(3, 32), PooledDropout(0.1), nn.Linear(32, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.mse_loss(self.down(self.dropout(torch.tanh(self.up(x))))[:, 0], y)


class ToyLine:
    """y = x1 - 2 x2, in batches whose order is drawn from epoch and seed; the last batch is smaller."""

    def __init__(self, samples: int = 50, batch_size: int = 16) -> None:
        rng = np.random.default_rng(0)
        self.x = torch.from_numpy(rng.normal(size=(samples, 3)).astype(np.float32))
        self.y = self.x[:, 0] - 2 * self.x[:, 1]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch_size)

    def __call__(self, epoch: int, seed: int) -> Iterator[dict[str, Tensor]]:
        order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(self.x)))
        for rows in order.split(self.batch_size):
            yield {"x": self.x[rows], "y": self.y[rows]}


def error_of(model: ToyRegression, data: ToyLine) -> Callable[[], dict[str, float]]:
    @torch.no_grad()
    def validate() -> dict[str, float]:
        model.eval()
        return {"ndcg@10": -model(data.x, data.y).item()}

    return validate


def scripted(values: list[float], seen: list[dict[str, Tensor]], model: nn.Module):
    """A validation that gives these values in turn and keeps the weights that it saw."""
    script = iter(values)

    def validate() -> dict[str, float]:
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"ndcg@10": next(script), "recall@10": 0.5}

    return validate


def numbers(result: TrainingResult) -> list[object]:
    """Everything of a result but the times."""
    timeless = [
        {name: value for name, value in asdict(record).items() if "second" not in name and name != "mfu"}
        for record in result.history
    ]
    return [timeless, result.best_epoch, result.best_value, result.stopped_early]


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


# --- a catalogue for the explorer

_TITLE_WORDS = ("oak", "lamp", "red", "blue", "tea", "cup", "garden", "chair", "für", "杯", "non-slip", "12")


def coded_catalogue(
    seed: int = 0,
    items: int = 40,
    sizes: Sequence[int] = (4, 3, 5),
    domains: Sequence[str] = ("Garden", "Kitchen", "Studio"),
    *,
    geometry: bool = True,
    books: int = 1,
    skew: float = 1.0,
    name: str = "made up",
) -> CodedCatalogue:
    """Random codes with collisions and dead codes, titles of few words, traffic with zeros, geometry or none.

    books: 1, or as many as domains: then a domain's codes lie in its own block of each level.
    """
    rng = np.random.default_rng(seed)
    weights = [rng.dirichlet(np.full(size, skew)) for size in sizes]
    codes = np.stack([rng.choice(len(w), size=items, p=w) for w in weights], axis=1)
    domain = rng.integers(0, len(domains), items)
    named = [domains[place] for place in domain]
    of_items = ItemCodes(codes, tuple(sizes), named)
    if books > 1:
        of_items = of_items.with_separate_vocabularies()
        books = len(of_items.domain_names)
    words = [rng.choice(_TITLE_WORDS, size=rng.integers(0, 6)) for _ in range(items)]
    return CodedCatalogue(
        name,
        of_items,
        [" ".join(part) for part in words],
        traffic=rng.poisson(2.0, items) * rng.integers(0, 2, items),
        residuals=rng.normal(size=(items, len(sizes), 4)) if geometry else None,
        codewords=[rng.normal(size=(size, 4)) for size in of_items.sizes] if geometry else None,
        vectors=rng.normal(size=(items, 6)) if geometry else None,
        books=books,
        seed=seed,
    )


# --- fixtures


@pytest.fixture(scope="session")
def make_catalogue() -> Callable[..., CodedCatalogue]:
    """`make_catalogue(seed, items, sizes, domains, geometry=, books=, skew=, name=)` for the explorer."""
    return coded_catalogue


@pytest.fixture(scope="session")
def make_codes() -> Callable[..., ItemCodes]:
    """`make_codes({"a": 5, "b": 3}, sizes, seed)`: unique random identifiers."""
    return unique_codes


@pytest.fixture(scope="session")
def make_recommender() -> Callable[..., Recommender]:
    """`make_recommender(codes, sharpness=, seed=, config=)`: a tiny one, in evaluation mode."""
    return tiny_recommender


@pytest.fixture(scope="session")
def force() -> Callable[..., np.ndarray]:
    """`force(model, history, items)`: log-probabilities of whole identifiers by transformers."""
    return score_by_force


@pytest.fixture(scope="session")
def best() -> Callable[..., list[int]]:
    """`best(scores, items, top_k)`: the items in the order of their scores."""
    return best_by_force


@pytest.fixture(scope="session")
def tiny_config() -> T5Config:
    """Sizes of the tiny recommender."""
    return TINY


@pytest.fixture(scope="session")
def toy() -> SimpleNamespace:
    """Classes `Regression` and `Line`; `error_of`, `scripted`, `numbers`, `same_weights`."""
    return SimpleNamespace(
        Regression=ToyRegression,
        Line=ToyLine,
        error_of=error_of,
        scripted=scripted,
        numbers=numbers,
        same_weights=same_weights,
    )
