"""Reads items' pictures as RGB, and cuts them into the tokens to reconstruct."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional

from genrec_lab.data.picture_files import DAMAGED, has_picture, opened_picture
from genrec_lab.encoders.hub import local_folder, model_identity
from genrec_lab.training import device, moved

# More are not needed: Qwen2-VL reads at most 1,024 tokens of 28 x 28 pixels, 0.8 million.
MAX_PIXELS = 2_000_000
_ORIENTATION = 0x0112
# Names of the repair counts by picture mode; other modes need no repair.
_CONVERTED = {
    **dict.fromkeys(("1", "L", "LA", "I;16", "I;16B", "I;16L", "I"), "pictures_from_grey"),
    **dict.fromkeys(("P", "PA"), "pictures_from_palette"),
    "CMYK": "pictures_from_cmyk",
}


class PictureError(ValueError):
    """Raised for a picture that cannot be used; the message names the item and the file."""


def read_picture(
    path: str | Path,
    root: str | Path | None = None,
    max_pixels: int = MAX_PIXELS,
    item: str = "?",
    repairs: MutableMapping[str, int] | None = None,
) -> Image.Image:
    """Read a picture file as RGB, upright, with at most `max_pixels` pixels.

    Greyscale, CMYK and palette pictures are converted, transparent ones get a white background, animated ones
    give their first frame, large ones are shrunk (JPEGs while decoding); each repair is counted in `repairs`.
    `root` is the folder that must hold the file, and relative paths start there; `item` names the item in
    messages. Raises PictureError for a file that is missing, outside `root`, damaged, without colours of 8 or
    16 bits, or too large to decode.
    """
    file = inside(path, root, item)
    counts: MutableMapping[str, int] = {} if repairs is None else repairs
    if not has_picture(file):
        raise PictureError(f"item {item}: there is no picture {file}; restore it, or drop it from the item")
    try:
        with opened_picture(file) as opened:
            return _upright_rgb(opened, max_pixels, counts)
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"item {item}: {file} is too large to decode ({error}); shrink the file"
        ) from error
    except DAMAGED as error:
        raise PictureError(
            f"item {item}: {file} is not a picture that can be read ({error}); restore it, or drop it from "
            "the item"
        ) from error


def inside(path: str | Path, root: str | Path | None, item: str = "?") -> Path:
    """Return the resolved path of a picture; raises PictureError if it is not below `root`."""
    if root is None:
        return Path(path).expanduser()
    folder = Path(root).expanduser().resolve()
    file = (folder / Path(path).expanduser()).resolve()
    if not file.is_relative_to(folder):
        raise PictureError(
            f"item {item}: picture {str(path)!r} is at {file}, outside the pictures' folder {folder}; "
            "move it there, or name the folder that holds all pictures"
        )
    return file


def _upright_rgb(opened: Image.Image, max_pixels: int, repairs: MutableMapping[str, int]) -> Image.Image:
    def count(what: str) -> None:
        repairs[what] = repairs.get(what, 0) + 1

    if getattr(opened, "n_frames", 1) > 1:
        opened.seek(0)
        count("pictures_first_frame")
    target = _shrunk_size(opened.size, max_pixels)
    if target is not None:
        count("pictures_shrunk")
        opened.draft(None, target)  # JPEG: decodes at 1/2, 1/4 or 1/8, never below the target
    image = opened
    if opened.getexif().get(_ORIENTATION, 1) in range(2, 9):
        image = ImageOps.exif_transpose(opened)
        count("pictures_turned")
    if image.mode in _CONVERTED:
        count(_CONVERTED[image.mode])
    image, was_transparent = _rgb(image)
    if was_transparent:
        count("pictures_on_white")
    # Checked again: the draft may be small enough now, and rotation swaps the sides.
    target = _shrunk_size(image.size, max_pixels)
    return image if target is None else image.resize(target, Image.Resampling.LANCZOS, reducing_gap=2.0)


def _shrunk_size(size: tuple[int, int], max_pixels: int) -> tuple[int, int] | None:
    width, height = size
    if width * height <= max_pixels:
        return None
    factor = (max_pixels / (width * height)) ** 0.5
    return max(1, int(width * factor)), max(1, int(height * factor))


def _rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """Return the picture as RGB, and whether some of it was transparent."""
    if image.mode == "I" or image.mode.startswith("I;"):
        # 16 bits per pixel, which Pillow would clip at 255 instead of scaling.
        grey = np.clip(np.asarray(image, dtype=np.int64) // 257, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB"), False
    if image.mode == "F":
        raise ValueError("its pixels are floats of unknown range; save it with 8 bits a colour")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        if np.asarray(layered)[..., 3].min() < 255:
            white = Image.new("RGBA", layered.size, "white")
            return Image.alpha_composite(white, layered).convert("RGB"), True
        return layered.convert("RGB"), False
    return image.convert("RGB"), False


def centre_square(image: Image.Image, side: int) -> Tensor:
    """Return the centre square of a picture, scaled to `(3, side, side)` float32 in 0..1."""
    square = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(square, dtype=np.uint8))
    return pixels.permute(2, 0, 1).float() / 255


class PictureTarget(BaseModel):
    """The decoder's target for a picture: P tokens of c channels, from the centre square.

    By default, pixel patches (Eq 9's raw image). With `autoencoder`, the latents of a diffusers
    AutoencoderKL, one token per position, as in the authors' code with 256 px and 16 x 16 latents of 16
    channels.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    size: int = Field(64, ge=1, description="side of the square picture in px")
    patch: int = Field(8, ge=1, description="side of a patch in px; unused with an autoencoder")
    autoencoder: str | None = Field(None, description="folder of a diffusers AutoencoderKL, for latents")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        step = self._step
        if self.size % step:
            what = "patch" if self.autoencoder is None else "the autoencoder's reduction"
            raise ValueError(f"size = {self.size} is not a multiple of {what} = {step}; choose one that is")
        return self

    @property
    def side(self) -> int:
        """Tokens along one side of the picture."""
        return self.size // self._step

    @property
    def tokens(self) -> int:
        """P, tokens per picture."""
        return self.side**2

    @property
    def channels(self) -> int:
        """c, the channels of a token."""
        if self.autoencoder is None:
            return 3 * self.patch**2
        return int(_autoencoder_config(self.autoencoder)["latent_channels"])

    @property
    def _step(self) -> int:
        """Pixels along one side of a token."""
        if self.autoencoder is None:
            return self.patch
        return int(2 ** (len(_autoencoder_config(self.autoencoder)["block_out_channels"]) - 1))

    def identity(self) -> dict[str, object]:
        """Return what identifies the target in a cache name; the autoencoder by its content."""
        if self.autoencoder is None:
            return {"size": self.size, "patch": self.patch}
        return {"size": self.size, "autoencoder": model_identity(self.autoencoder)}

    def to_tokens(self, images: Tensor) -> Tensor:
        """Convert pictures (3, S, S) or (B, 3, S, S) in 0..1 to tokens (P, c) or (B, P, c) near [-1, 1]."""
        if images.shape[-3:] != (3, self.size, self.size) or images.ndim not in (3, 4):
            raise ValueError(
                f"pictures have shape {tuple(images.shape)}; expected (3, {self.size}, {self.size}), with or "
                "without a batch before it"
            )
        if images.ndim == 3:
            return self.to_tokens(images[None])[0]
        scaled = 2 * images.float() - 1
        if self.autoencoder is not None:
            return self._encode(scaled)
        return functional.pixel_unshuffle(scaled, self.patch).flatten(2).transpose(1, 2)

    def to_images(self, tokens: Tensor) -> Tensor:
        """Convert tokens (B, P, c) to pictures (B, 3, S, S), clipped to 0..1; the inverse of `to_tokens`."""
        if tokens.ndim != 3 or tokens.shape[1:] != (self.tokens, self.channels):
            raise ValueError(
                f"picture tokens have shape {tuple(tokens.shape)}; expected (B, {self.tokens}, "
                f"{self.channels})"
            )
        grid = tokens.float().transpose(1, 2).unflatten(2, (self.side, self.side))
        own = self.autoencoder is None
        scaled = functional.pixel_shuffle(grid, self.patch) if own else self._decode(grid)
        return ((scaled + 1) / 2).clamp(0, 1)

    @torch.no_grad()
    def _encode(self, scaled: Tensor) -> Tensor:
        # The posterior's mean instead of a sample, so that a picture has the same target with and without
        # cache.
        where = device()
        model, shift, scale = _autoencoder(str(self.autoencoder), where)
        latents = (model.encode(moved(scaled, where)).latent_dist.mode() - shift) * scale
        return latents.flatten(2).transpose(1, 2).contiguous().to(scaled.device)

    @torch.no_grad()
    def _decode(self, latents: Tensor) -> Tensor:
        where = device()
        model, shift, scale = _autoencoder(str(self.autoencoder), where)
        return model.decode(moved(latents, where) / scale + shift).sample.to(latents.device)


@lru_cache(maxsize=4)
def _autoencoder_config(folder: str) -> dict[str, Any]:
    file = local_folder(folder) / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if config.get("_class_name") != "AutoencoderKL":
        found = f"a {config['_class_name']}" if "_class_name" in config else "no config.json"
        raise ValueError(
            f'autoencoder = "{folder}" holds {found}; give the folder of a diffusers AutoencoderKL, the one '
            "with config.json and its weights"
        )
    return config


@lru_cache(maxsize=1)
def _autoencoder(folder: str, where: torch.device) -> tuple[Any, float, float]:
    """Return the autoencoder on a device, with the shift and the scaling factor of its latents."""
    from diffusers import AutoencoderKL

    config = _autoencoder_config(folder)
    model = AutoencoderKL.from_pretrained(local_folder(folder), local_files_only=True).to(where).eval()
    return model, float(config.get("shift_factor") or 0.0), float(config.get("scaling_factor") or 1.0)
