"""Trains small models and writes their losses: alone, or as one of two processes, `python … FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import polars as pl
import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import Tensor, nn

from genrec_lab.codes import ItemCodes
from genrec_lab.data.batches import PairBatches
from genrec_lab.models import Recommender, T5Config
from genrec_lab.training import TrainingConfig, fit

TINY = T5Config(
    d_model=16, d_kv=4, heads=3, d_ff=24, encoder_layers=1, decoder_layers=1, dropout=0.0,
    relative_buckets=8, relative_max_distance=16,
)  # fmt: skip


class Contrast(nn.Module):
    """A loss that compares the samples of a batch, as the tokenizers' alignment does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """The mean of each sample's log-softmax over all samples' similarities."""
        z = self.layer(x)
        return -(z @ z.T).log_softmax(dim=1).diagonal().mean()


class Vectors:
    """Three batches of seven vectors."""

    def __len__(self) -> int:
        return 3

    def __call__(self, epoch: int, seed: int) -> list[dict[str, Tensor]]:
        """The batches of one epoch."""
        generator = torch.Generator().manual_seed(100 * seed + epoch)
        return [{"x": torch.randn(7, 4, generator=generator)} for _ in range(3)]


def main(folder: Path) -> None:
    """Train both, with checkpoints; the first process writes losses and weights."""
    config = TrainingConfig(epochs=3, batch_size=4, learning_rate=0.01, precision="fp32")
    torch.manual_seed(2)
    model = Recommender(ItemCodes([[item // 3, item % 3] for item in range(9)], (4, 4)), TINY)
    rng = torch.Generator().manual_seed(3)
    # 13 pairs in batches of 4: the last batch has a row for one process only.
    histories = [torch.randint(9, (1 + row % 3,), generator=rng).tolist() for row in range(13)]
    frame = pl.DataFrame({"user": range(13), "history": histories, "target": [row % 9 for row in range(13)]})
    told = fit(model, PairBatches(frame, 4), config, checkpoints=folder / "recommender", seed=1)
    torch.manual_seed(5)
    contrast = Contrast()
    also = fit(contrast, Vectors(), config, checkpoints=folder / "contrast", seed=1)
    rank = PartialState().process_index
    losses = [[record.loss for record in result.history] for result in (told, also)]
    (folder / f"losses-{rank}.json").write_text(json.dumps(losses))
    save_file(
        {name: t.clone() for name, t in model.t5.state_dict().items()}, folder / f"weights-{rank}.safetensors"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
