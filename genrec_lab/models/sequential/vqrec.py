"""VQ-Rec (Hou et al. 2023): maps text to discrete codes and these to vectors, to depend less on the text.

Values are from the authors' code (RUCAIBox/VQ-Rec). An item's vector is the mean of its code vectors (the
paper's pooling; a sum has the same cosine). Our changes: every position of a sequence is a sample; a position
whose target is the same item is not a negative (the code counts its logit as 0); the rotation and the codes
are fitted to all items of the domain, including those without training sequences, because every row uses the
whole catalogue; the gradient of the permutation passes straight through its rounding (none does in the code),
and the final permutation is exact, found by assignment; histories have 20 items.
Letters: B users, T positions, D width, N items, M codes per item, K values of a code.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from genrec_lab.models.sequential.base import PRETRAINING, Phase
from genrec_lab.models.sequential.batches import next_items
from genrec_lab.models.sequential.layers import CosineModel, VectorEncoder, VectorEncoderConfig, start_small
from genrec_lab.models.sequential.objectives import in_batch_contrast, kept_at_random
from genrec_lab.models.tokenizers.product_quantization import ProductQuantizationConfig, ProductQuantizer
from genrec_lab.training.processes import drawn_for_all


class VQRecConfig(VectorEncoderConfig):
    """Sizes of VQ-Rec, its codes and negatives, and the matching of its codes to a new domain."""

    kind: Literal["vqrec"] = "vqrec"
    codes: int = Field(32, ge=1)  # M; must divide the dimensions of a text vector
    bits: int = Field(8, ge=1, le=8)  # K = 2^bits, at most the number of items
    temperature: float = Field(0.07, gt=0)
    fake_share: float = Field(0.75, ge=0, le=1)  # rho: share of random codes in a fake negative
    sinkhorn_rounds: int = Field(3, ge=1)
    sinkhorn_temperature: float = Field(0.7, gt=0)
    freeze_encoder: bool = True  # in fine-tuning, after pre-training


class VQRec(CosineModel):
    """Self-attention over pooled code vectors; scores are cosines with those of all items."""

    Config: ClassVar = VQRecConfig
    divisible: ClassVar = True
    config: VQRecConfig
    needs: ClassVar = ("text",)
    phases: ClassVar = (PRETRAINING, Phase("permutation", validated=False, epochs=5), Phase("fine-tuning"))
    own_weights: ClassVar = ("codes", "permutation")
    codes: Tensor

    def make(self) -> None:
        """Start from random weights; the codes are computed on first use, because that takes long."""
        c = self.config
        self.values = 2**c.bits
        self.register_buffer("codes", torch.full((len(self.items), c.codes), -1))
        self._has_codes = False
        self.code_vectors = nn.Parameter(torch.empty(c.codes, self.values, c.width))
        self.encoder = VectorEncoder(c)
        start_small(self)
        nn.init.normal_(self.code_vectors, std=0.02)
        self.permutation: nn.Parameter | None = None

    def begin(self, phase: str) -> None:
        """Train everything, then only the permutation, then the rearranged code vectors."""
        super().begin(phase)
        self._make_codes()
        if phase == "permutation":
            if not self.pretrained:
                # Without pre-training, the code vectors have no meaning to match.
                return
            self.requires_grad_(False)
            drawn = torch.randn(self.config.codes, self.values, self.values, device=self.codes.device)
            self.permutation = nn.Parameter(drawn)
        elif phase == "fine-tuning":
            self._fix_permutation()
            self.requires_grad_(True)
            if self.pretrained and self.config.freeze_encoder:
                self.encoder.freeze()

    def forward(self, sequences: Tensor) -> Tensor:
        """Return the loss of the phase; `sequences` (B, T + 1) holds positions in `items`, padded with -1."""
        if self.phase != "pretraining":
            return self.next_item_loss(sequences)
        histories, real, wanted = next_items(sequences)
        table = self.item_vectors()
        states = self.states(histories, table)[real]
        fakes = self._pooled(self.fake_codes(self.codes[wanted]), self.code_vectors)
        return in_batch_contrast(states, table[wanted], wanted, self.config.temperature, fakes)

    def item_vectors(self) -> Tensor:
        """Return the vectors (N, D) of all items, using the permutation while it is trained."""
        self._make_codes()
        vectors: Tensor = self.code_vectors
        if self.permutation is not None:
            vectors = self.permutation_matrices() @ vectors
        return self._pooled(self.codes, vectors)

    def fake_codes(self, codes: Tensor) -> Tensor:
        """(R, M) -> (R, M): replace each code with probability rho by a uniform one (enhanced negatives)."""

        def draw(rows: int) -> Tensor:
            return torch.randint(self.values, (rows, codes.shape[1]), device=codes.device)

        drawn = drawn_for_all(draw, len(codes))
        return torch.where(kept_at_random(codes, self.config.fake_share), codes, drawn)

    def permutation_matrices(self) -> Tensor:
        """Return (M, K, K), whose rows each select one code vector; the gradient is that of the soft choice.

        Uses Gumbel-Sinkhorn, with noise only in training.
        """
        if self.permutation is None:
            raise RuntimeError("VQ-Rec has a permutation only in its phase 'permutation'; begin that phase")
        c, noisy = self.config, self.permutation.clone()
        if self.training:
            uniform = torch.rand_like(noisy).clamp(1e-6, 1 - 1e-6)
            noisy = self.permutation - torch.log(-torch.log(uniform))
        soft = sinkhorn(noisy / c.sinkhorn_temperature, c.sinkhorn_rounds)
        hard = F.one_hot(soft.argmax(-1), self.values).to(soft.dtype)
        return hard + soft - soft.detach()

    @torch.no_grad()
    def _fix_permutation(self) -> None:
        """Rearrange the code vectors by the permutation nearest to the learned matrices, and drop these."""
        if self.permutation is None:
            return
        c = self.config
        soft = sinkhorn(self.permutation / c.sinkhorn_temperature, c.sinkhorn_rounds).cpu().numpy()
        chosen = [torch.from_numpy(linear_sum_assignment(-matrix)[1]) for matrix in soft]
        for vectors, order in zip(self.code_vectors.data, chosen, strict=True):
            vectors.copy_(vectors[order.to(vectors.device)])
        self.permutation = None

    def _make_codes(self) -> None:
        if not self._has_codes and bool((self.codes < 0).any()):
            text = self.domain.text_vectors().numpy()
            self.codes.copy_(text_codes(text, self.config.codes, self.config.bits))
        self._has_codes = True  # on the host: reading it from the device at each step would synchronise

    def _pooled(self, codes: Tensor, vectors: Tensor) -> Tensor:
        """(R, M) codes, (M, K, D) vectors -> (R, D), the mean over the codes."""
        flat = codes + torch.arange(codes.shape[1], device=codes.device) * self.values
        return F.embedding_bag(flat, vectors.flatten(0, 1), mode="mean")


def text_codes(vectors: np.ndarray, codes: int, bits: int) -> Tensor:
    """Return (N, M) codes below 2^bits of text vectors (N, V), by optimised product quantisation.

    The authors' "OPQ{M},IVF1,PQ{M}x{bits}" of faiss without the index. Raises ValueError if M does not divide
    V or there are fewer items than values of a code, ModuleNotFoundError if faiss is missing.
    """
    n, width = vectors.shape
    if width % codes:
        raise ValueError(
            f"vqrec.codes is {codes}, which does not divide the {width} dimensions of a text vector; "
            f"expected one of {[m for m in range(1, width + 1) if width % m == 0]}"
        )
    if n < 2**bits:
        raise ValueError(
            f"vqrec.bits is {bits}, so a code has {2**bits} values, but there are only {n} items; set it to "
            f"{n.bit_length() - 1} or less"
        )
    config = ProductQuantizationConfig(kind="opq", levels=codes, codebook_size=2**bits)
    try:
        quantizer = ProductQuantizer(config).fit(vectors)
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "the row 'vqrec' needs faiss for its codes, which is not installed: "
            "`pip install 'genrec-lab[baselines]'`, or remove the row from compare"
        ) from missing
    return torch.from_numpy(quantizer.encode(vectors))


def sinkhorn(scores: Tensor, rounds: int) -> Tensor:
    """(…, K, K) -> (…, K, K): normalise the exponentials' rows, then columns, to sum 1, `rounds` times."""
    for _ in range(rounds):
        scores = scores - scores.logsumexp(-1, keepdim=True)
        scores = scores - scores.logsumexp(-2, keepdim=True)
    return scores.exp()
