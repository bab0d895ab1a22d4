"""Residual k-means against faiss-cpu's ResidualQuantizer: codebooks and codes of 1,000,000 vectors.

64 dimensions, 4 levels of 256 codes. Residual k-means takes the nearest codeword level by level, which is the
peer with a beam of 1; its default beam of 5 is shown beside it. Ours must have no higher error than either.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import Check, Comparison, Options, compare, main
from benchmarks.rqvae import clustered
from genrec_lab.models.tokenizers.quantizers import residual_kmeans

LEVELS, DIMENSIONS = 4, 64
OURS, PEER, WIDE = "genrec_lab", "faiss, beam 1", "faiss, beam 5 (its default)"


def measure(options: Options) -> list[Comparison]:
    """Ours against the peer, from vectors to codes."""
    import faiss

    items, bits = (3_000, 5) if options.small else (1_000_000, 8)
    x = clustered(items, DIMENSIONS)
    faiss.omp_set_num_threads(torch.get_num_threads())

    def ours() -> np.ndarray:
        codebooks, codes, _ = residual_kmeans(x, LEVELS, 2**bits, 0)
        return sum(codebook[code] for codebook, code in zip(codebooks, codes.T, strict=True))

    def theirs(beam: int) -> Callable[[], np.ndarray]:
        def run() -> np.ndarray:
            quantizer = faiss.ResidualQuantizer(DIMENSIONS, LEVELS, bits)
            quantizer.max_beam_size = beam
            quantizer.train(x)
            return quantizer.decode(quantizer.compute_codes(x))

        return run

    def agree(results: Mapping[str, Any]) -> Iterator[Check]:
        errors = {name: float(np.square(x - vectors).sum(1).mean()) for name, vectors in results.items()}
        for name in (PEER, WIDE):
            yield Check(
                f"squared error {errors[OURS]:.4f}, {name}: {errors[name]:.4f}",
                errors[OURS] <= errors[name] * (1.05 if options.small else 1.01),
            )

    return [
        compare(
            f"Residual k-means: {items:,} x {DIMENSIONS}, {LEVELS} x {2**bits}",
            {OURS: ours, PEER: theirs(1), WIDE: theirs(5)},
            agree,
            options,
            unit="vectors",
            amount=items,
            peer=PEER,
            targets={OURS: 1.0},
        )
    ]


if __name__ == "__main__":
    sys.exit(main(measure))
