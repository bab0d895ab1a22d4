"""The diffusion loss of picture tokens (UTGRec Eq. 9) after Li et al. 2024 (MAR), token by token.

Shapes: M tokens, d dimensions of a condition, c channels of a token, w width of the network.
Schedule, noise and sampling come from diffusers, which is imported on first use because that takes seconds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Generator, Tensor, nn
from torch.nn import functional

from genrec_lab.models.layers import drawn_linear
from genrec_lab.training import processes

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, DDPMScheduler

_FREQUENCIES = 128  # of a step's embedding, as in MAR
_LONGEST_PERIOD = 10_000  # steps, as in transformers


class DiffusionConfig(BaseModel):
    """Sizes of the diffusion loss; the defaults are those of UTGRec's code."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    width: int = Field(1024, ge=1, description="w, width of the network; at least c, the channels of a token")
    depth: int = Field(3, ge=1, description="residual blocks of the network")
    steps: int = Field(1000, ge=1, description="of the noising")
    sampling_steps: int = Field(100, ge=1, description="steps to sample a token, at most `steps`")
    repeats: int = Field(4, ge=1, description="noise samples and steps drawn for each token of a batch")
    schedule: Literal["squaredcos_cap_v2", "linear"] = Field(
        "squaredcos_cap_v2", description="name in diffusers; the default is the cosine schedule"
    )
    sampler: Literal["ddpm", "ddim"] = Field("ddpm", description="ddim needs fewer steps")

    @model_validator(mode="after")
    def _samples_in_the_steps(self) -> DiffusionConfig:
        if self.sampling_steps > self.steps:
            raise ValueError(
                f"diffusion.sampling_steps is {self.sampling_steps}, more than diffusion.steps = {self.steps}"
            )
        return self


class AdaptiveBlock(nn.Module):
    """A residual MLP; the condition shifts and scales its layer norm and gates its output."""

    def __init__(self, width: int, generator: Generator | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.inner = drawn_linear(width, width, generator)
        self.outer = drawn_linear(width, width, generator)
        self.modulation = drawn_linear(width, 3 * width, generator, scale=0.0)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(M, w) tokens, (M, w) conditions -> (M, w)."""
        shift, scale, gate = self.modulation(functional.silu(condition)).chunk(3, dim=-1)
        hidden = self.norm(x) * (1 + scale) + shift
        return x + gate * self.outer(functional.silu(self.inner(hidden)))


class AdaptiveMLP(nn.Module):
    """The network that predicts the noise in a token, given its step and its condition."""

    def __init__(
        self, channels: int, condition: int, config: DiffusionConfig, generator: Generator | None = None
    ) -> None:
        super().__init__()
        width = config.width
        self.token = drawn_linear(channels, width, generator)
        self.condition = drawn_linear(condition, width, generator)
        self.step_inner = drawn_linear(2 * _FREQUENCIES, width, generator)
        self.step_outer = drawn_linear(width, width, generator)
        self.blocks = nn.ModuleList(AdaptiveBlock(width, generator) for _ in range(config.depth))
        # As in MAR, modulations and output start at zero, so the blocks do nothing at first.
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = drawn_linear(width, 2 * width, generator, scale=0.0)
        self.output = drawn_linear(width, channels, generator, scale=0.0)

    def forward(self, noisy: Tensor, steps: Tensor, condition: Tensor) -> Tensor:
        """(M, c) noisy tokens, (M,) steps, (M, d) conditions -> (M, c) noise."""
        embedded = step_embedding(steps).to(noisy.dtype)
        about = self.step_outer(functional.silu(self.step_inner(embedded))) + self.condition(condition)
        x = self.token(noisy)
        for block in self.blocks:
            x = block(x, about)
        shift, scale = self.modulation(functional.silu(about)).chunk(2, dim=-1)
        return self.output(self.norm(x) * (1 + scale) + shift)


class DiffusionLoss(nn.Module):
    """Conditional diffusion of single tokens: the loss in training, and sampling."""

    largest: Tensor  # () largest absolute value of a training token; samples are clamped to it

    def __init__(
        self, channels: int, condition: int, config: DiffusionConfig, generator: Generator | None = None
    ) -> None:
        """`channels` is c, `condition` is d; the weights are drawn from the generator.

        Raises ValueError for a network narrower than a token.
        """
        super().__init__()
        if config.width < channels:
            # The noise of a token has c independent numbers; a narrower network would leave noise in samples.
            raise ValueError(
                f"diffusion.width is {config.width}, less than the {channels} channels of a token, whose "
                f"noise would not fit through it; raise it to {channels} or more, or lower picture.patch"
            )
        self.config, self.channels = config, channels
        self.network = AdaptiveMLP(channels, condition, config, generator)
        self.register_buffer("largest", torch.zeros(()))
        self._schedule: Any = self._scheduler("ddpm")

    def forward(self, condition: Tensor, target: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the mean squared error of the predicted noise: (M, d), (M, c) -> scalar.

        Noise is added to every token `repeats` times, at steps drawn from the generator (by default torch's).
        Without tokens, the result is a zero that still has a gradient.
        """
        target = target.to(torch.promote_types(target.dtype, torch.float32))
        repeats, tokens = self.config.repeats, len(target)
        if self.training:
            most = target.detach().abs().max() if tokens else torch.zeros_like(self.largest)
            self.largest.copy_(torch.maximum(self.largest, processes.largest(most)))
        condition, target = (x.repeat(repeats, 1) for x in (condition, target))
        device = target.device if generator is None else generator.device

        def normal(rows: int) -> Tensor:
            return _normal((repeats, rows, self.channels), generator, target)

        def step(rows: int) -> Tensor:
            return torch.randint(self.config.steps, (repeats, rows), generator=generator, device=device)

        noise = processes.drawn_for_all(normal, tokens, dim=1).flatten(0, 1)
        steps = processes.drawn_for_all(step, tokens, dim=1).flatten().to(target.device)
        noisy = self._schedule.add_noise(target, noise, steps)
        found = self.network(noisy, steps, condition).to(noise.dtype)
        return (found - noise).square().sum() / max(noise.numel(), 1)

    @torch.no_grad()
    def sample(self, condition: Tensor, generator: Generator | None = None) -> Tensor:
        """Draw a token for each condition: (M, d) -> (M, c)."""
        scheduler: Any = self._scheduler(self.config.sampler, float(self.largest))
        scheduler.set_timesteps(self.config.sampling_steps)
        parameter = next(self.parameters())
        token = _normal((len(condition), self.channels), generator, parameter)
        for step in scheduler.timesteps:
            at = step.expand(len(token)).to(token.device)
            found = self.network(token, at, condition).to(token.dtype)
            token = scheduler.step(found, int(step), token, generator=generator).prev_sample
        return token

    def _scheduler(self, sampler: str, largest: float = 0.0) -> DDPMScheduler | DDIMScheduler:
        from diffusers import DDIMScheduler, DDPMScheduler

        kind = DDPMScheduler if sampler == "ddpm" else DDIMScheduler
        # At high noise, a small error of the noise is a large error of the token, so clamp the token.
        return kind(
            num_train_timesteps=self.config.steps,
            beta_schedule=self.config.schedule,
            clip_sample=largest > 0,
            clip_sample_range=largest or 1.0,
        )


def step_embedding(steps: Tensor) -> Tensor:
    """Return cosines and sines of steps, with periods from 2 pi to 20,000 pi: (M,) -> (M, 256) float32."""
    exponents = torch.arange(_FREQUENCIES, device=steps.device, dtype=torch.float32) / _FREQUENCIES
    angles = steps.float()[:, None] * torch.exp(-math.log(_LONGEST_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _normal(shape: tuple[int, ...], generator: Generator | None, like: Tensor) -> Tensor:
    """Draw standard normal numbers from the generator, which may be on another device."""
    device = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=device, dtype=like.dtype).to(like.device)
