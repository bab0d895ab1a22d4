"""Bazaar's pictures: 96 px squares in which every attribute of an item can be seen.

The shape is in the centre. It has the item's colour, its material as surface, and its style as background. A
badge at the bottom left shows the department and the kind of goods (the department's sign, dark on white for
its first kind and white on dark for its second). A badge at the bottom right shows the brand's initials. The
frame has the shop's colour. Each element is drawn once at four times its size and then reduced, so a picture
is composed of a few arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from genrec_lab.bazaar.catalogue import (
    COLOURS,
    KINDS_PER_DEPARTMENT,
    MATERIALS,
    SHAPES,
    STYLES,
    Attributes,
    Shop,
)

SIZE: Final = 96
_FINE: Final = 4 * SIZE
_BADGE: Final = 24
# Slight rotations, in degrees, so that pictures of the same shape differ in their pixels.
TURNS: Final = (-10, -5, 0, 5, 10)

Polygon = list[tuple[float, float]]
RGB = tuple[int, int, int]
Pattern = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of coordinates x and y in pixels

_COLOUR_VALUES: Final[dict[str, RGB]] = {
    "crimson": (196, 30, 58), "amber": (240, 138, 24), "lemon": (247, 218, 62), "olive": (112, 130, 40),
    "teal": (0, 142, 140), "cobalt": (38, 74, 190), "plum": (118, 44, 122), "rose": (240, 138, 172),
    "ivory": (250, 243, 222), "charcoal": (56, 60, 66),
}  # fmt: skip
_FRAME_VALUES: Final[dict[str, RGB]] = {
    "Garden": (62, 124, 64), "Kitchen": (196, 82, 48), "Studio": (96, 74, 160), "Workshop": (70, 84, 98),
    "Wardrobe": (168, 60, 110), "Playroom": (0, 128, 190),
}  # fmt: skip


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates x, y in pixels of the finished picture, (4 SIZE, 4 SIZE) each."""
    line = (np.arange(_FINE) + 0.5) / 4
    return np.broadcast_to(line[None, :], (_FINE, _FINE)), np.broadcast_to(line[:, None], (_FINE, _FINE))


def _shrunk(fine: np.ndarray) -> np.ndarray:
    """Average over 4 x 4 pixels: (4H, 4W, ...) to (H, W, ...)."""
    height, width = fine.shape[0] // 4, fine.shape[1] // 4
    return fine.reshape(height, 4, width, 4, *fine.shape[2:]).mean(axis=(1, 3))


def _stripe(phase: np.ndarray, width: float) -> np.ndarray:
    """Return 1 where `phase`, in periods, is within `width` of a period's start, else 0."""
    return (np.mod(phase, 1.0) < width).astype(float)


def _bamboo(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    cane = np.abs(np.mod(x / 9, 1) - 0.5)
    joint = _stripe((y + 11 * np.mod(np.floor(x / 9), 2)) / 22, 0.09)
    return 0.16 - 0.75 * cane**2 * 2 - 0.22 * joint


def _copper(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    row = np.floor(y / 8)
    dx, dy = np.mod(x + 4 * np.mod(row, 2), 8) - 4, np.mod(y, 8) - 4
    return np.where(np.hypot(dx, dy) < 3.2, -0.05 * (dx + dy), -0.05)


def _ceramic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    shine = np.exp(-((x - 38) ** 2 + (y - 34) ** 2) / 60)
    return 0.55 * shine - 0.16 * (np.hypot(x - 42, y - 38) / 40) ** 2


def _wool(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    slope = np.abs(np.mod(x / 8, 1) - 0.5) * 8
    return 0.17 * np.sin(2 * np.pi * (y - slope) / 5) - 0.12 * _stripe(x / 8 - 0.45, 0.1)


_SURFACES: Final[dict[str, Pattern]] = {
    "oak": lambda x, y: 0.16 * np.sin(2 * np.pi * (x + 2.5 * np.sin(y / 9)) / 6),
    "walnut": lambda x, y: 0.2 * np.sin(2 * np.pi * np.hypot((x - 40) / 2.2, y - 54) / 5.5) - 0.06,
    "bamboo": _bamboo,
    "steel": lambda x, y: (
        0.22 * np.cos(2 * np.pi * (x + y) / 62) + 0.07 * (2 * _stripe((x - y) / 3, 0.5) - 1)
    ),
    "brass": lambda x, y: 0.2 * _stripe(np.hypot(x - 48, y - 44) / 8, 0.4) - 0.04,
    "copper": _copper,
    "glass": lambda x, y: (
        0.3 * ((np.mod(x + y, 46) < 9) | ((np.mod(x + y, 46) > 13) & (np.mod(x + y, 46) < 17)))
    ),
    "ceramic": _ceramic,
    "linen": lambda x, y: 0.17 * (_stripe(x / 4, 0.5) + _stripe(y / 4, 0.5) - 1),
    "wool": _wool,
    "cotton": lambda x, y: 0.06 - 0.24 * np.maximum(_stripe((x + y) / 13, 0.13), _stripe((x - y) / 13, 0.13)),
    "leather": lambda x, y: (
        0.11 * np.sin(x * 1.9 + 2.2 * np.sin(y * 0.8)) * np.sin(y * 2.1 + 2.2 * np.sin(x * 0.7)) - 0.05
    ),
}


@cache
def _surface(material: str) -> np.ndarray:
    """Return what a material adds to a colour's brightness, -1..1: (SIZE, SIZE, 1)."""
    return _shrunk(_SURFACES[material](*_grid()))[..., None]


def _nordic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    dx, dy = np.mod(x, 16) - 8, np.mod(y + 8 * np.mod(np.floor(x / 16), 2), 16) - 8
    arms = np.minimum.reduce([np.abs(dx), np.abs(dy), np.abs(dx - dy) / 1.4, np.abs(dx + dy) / 1.4])
    return ((arms < 0.7) & (np.hypot(dx, dy) < 5)).astype(float)


def _rustic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    board = np.floor(y / 16)
    ends = _stripe((x + 37 * np.mod(board, 3)) / 64, 0.025)
    return np.maximum.reduce([_stripe(y / 16, 0.1), ends, 0.3 * _stripe((y + 1.5 * np.sin(x / 11)) / 4, 0.2)])


def _art_deco(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    drawn = np.zeros_like(x)
    # Scales overlap from the top down: each row of fans covers the bottom of the row above.
    for row in range(-1, 10):
        dx = np.mod(x + 12 * (row % 2), 24) - 12
        radius = np.hypot(dx, y - 12 * row - 12)
        drawn = np.where((radius < 12) & (y < 12 * row + 12), _stripe((radius + 1.1) / 4.1, 0.3), drawn)
    return drawn


# First colour, second colour, and the area of the second colour.
_BACKGROUNDS: Final[dict[str, tuple[RGB, RGB, Pattern]]] = {
    "Nordic": ((204, 216, 228), (250, 252, 255), _nordic),
    "Rustic": ((214, 186, 148), (168, 134, 94), _rustic),
    "Industrial": ((178, 176, 174), (212, 211, 210), lambda x, y: (
        np.maximum(_stripe(y / 12, 0.14), _stripe((x + 12 * np.mod(np.floor(y / 12), 2)) / 24, 0.07)))),
    "Bohemian": ((246, 206, 178), (226, 158, 130), lambda x, y: (
        _stripe((y + np.abs(np.mod(x, 16) - 8)) / 14, 0.45))),
    "Art Deco": ((32, 62, 64), (206, 172, 96), _art_deco),
    "Coastal": ((206, 238, 244), (150, 208, 224), lambda x, y: (
        _stripe((y + 2.6 * np.sin(2 * np.pi * x / 24)) / 12, 0.4))),
    "Retro": ((252, 234, 190), (244, 206, 128), lambda x, y: (
        _stripe(np.arctan2(y - 48, x - 48) / (2 * np.pi) * 12, 0.5))),
    "Minimalist": ((252, 252, 250), (226, 226, 224), lambda x, y: y / SIZE),
}  # fmt: skip


@cache
def _background(style: str) -> np.ndarray:
    """Return a style's background: (SIZE, SIZE, 3) floats 0..255."""
    ground, second, pattern = _BACKGROUNDS[style]
    share = pattern(*_grid())[..., None]
    return _shrunk(np.array(ground) * (1 - share) + np.array(second) * share)


def _regular(corners: int, radius: float, start: float) -> Polygon:
    angles = np.radians(start) + 2 * np.pi * np.arange(corners) / corners
    return [(radius * float(np.cos(a)), radius * float(np.sin(a))) for a in angles]


def _outline(shape: str) -> Polygon:
    """Return a shape's outline around (0, 0), in pixels of the finished picture."""
    arc = np.radians(np.linspace(0, 360, 181))
    if shape == "round":
        return [(28 * float(np.cos(a)), 28 * float(np.sin(a))) for a in arc]
    if shape == "square":
        return [(-25, -25), (25, -25), (25, 25), (-25, 25)]
    if shape == "triangular":
        return [(x, y + 5) for x, y in _regular(3, 34, -90)]
    if shape == "hexagonal":
        return _regular(6, 30, 0)
    if shape == "star-shaped":
        points = zip(_regular(5, 34, -90), _regular(5, 15, -54), strict=True)
        return [(x, y + 2) for pair in points for x, y in pair]
    if shape == "crescent":
        outer = [(31 * np.cos(a) + 3, 31 * np.sin(a)) for a in np.radians(np.linspace(40, 320, 100))]
        inner = [(22.5 * np.cos(a) + 13, 22.5 * np.sin(a)) for a in np.radians(np.linspace(298, 62, 100))]
        return [(float(x), float(y)) for x, y in outer + inner]
    if shape == "leaf-shaped":
        # Two arcs that meet in points, on the diagonal.
        t = np.linspace(-1, 1, 80)
        upper = [(38 * s, -19 * (1 - s * s)) for s in t]
        lower = [(38 * s, 19 * (1 - s * s)) for s in t[::-1]]
        return [(float(0.707 * (x + y)), float(0.707 * (y - x))) for x, y in upper + lower]
    roof = [(24 * float(np.cos(a)), 24 * float(np.sin(a)) - 5) for a in np.radians(np.linspace(180, 360, 90))]
    return [*roof, (24, 30), (-24, 30)]


@cache
def _mask(shape: str, turn: int, growth: float) -> np.ndarray:
    """Return the share of each pixel that a shape covers, 0..1: (SIZE, SIZE, 1); `growth` is in pixels."""
    cosine, sine = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    image = Image.new("L", (_FINE, _FINE), 0)
    points = [
        (4 * (48 + cosine * x - sine * y), 4 * (44 + sine * x + cosine * y)) for x, y in _outline(shape)
    ]
    draw = ImageDraw.Draw(image)
    draw.polygon(points, fill=255)
    if growth:
        draw.line([*points, *points[:2]], fill=255, width=round(8 * growth), joint="curve")
    return _shrunk(np.asarray(image, dtype=float) / 255)[..., None]


@cache
def _shadow(shape: str, turn: int) -> np.ndarray:
    """Return the soft shadow of a shape, 0..1: (SIZE, SIZE, 1)."""
    image = Image.fromarray((_mask(shape, turn, 1.0)[..., 0] * 255).astype(np.uint8))
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(3)), dtype=float) / 255
    return np.roll(soft, (3, 2), axis=(0, 1))[..., None] * 0.45


def _sign(draw: ImageDraw.ImageDraw, department: int, ink: RGB) -> None:
    """Draw a department's sign on a badge of 96 x 96 pixels: hammer, crate, bulb, thread, chair, frame."""
    if department == 0:
        draw.rectangle((24, 26, 72, 42), fill=ink)
        draw.rectangle((43, 42, 53, 76), fill=ink)
    elif department == 1:
        draw.rectangle((24, 28, 72, 38), fill=ink)
        draw.rectangle((28, 43, 68, 70), fill=ink)
    elif department == 2:
        draw.ellipse((29, 18, 67, 56), fill=ink)
        draw.rectangle((38, 52, 58, 64), fill=ink)
        draw.rectangle((41, 68, 55, 76), fill=ink)
    elif department == 3:
        for height in (28, 45, 62):
            wave = [(20 + step, height + 7 * np.sin(step / 9)) for step in range(0, 57, 2)]
            draw.line([(float(a), float(b)) for a, b in wave], fill=ink, width=8, joint="curve")
    elif department == 4:
        draw.rectangle((28, 20, 37, 76), fill=ink)
        draw.rectangle((28, 46, 68, 56), fill=ink)
        draw.rectangle((59, 50, 68, 76), fill=ink)
    else:
        draw.rectangle((24, 24, 72, 72), outline=ink, width=9)
        draw.polygon([(48, 36), (60, 48), (48, 60), (36, 48)], fill=ink)


@cache
def _kind_badge(kind: int) -> np.ndarray:
    """Return the badge of a kind of goods: (24, 24, 4), colour 0..255 and coverage 0..1."""
    department, variant = divmod(kind, KINDS_PER_DEPARTMENT)
    ink, paper = ((40, 44, 52), (255, 255, 255)) if variant == 0 else ((255, 255, 255), (40, 44, 52))
    image = Image.new("RGBA", (4 * _BADGE, 4 * _BADGE), (*paper, 0))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, 95, 95), radius=22, fill=(*paper, 255), outline=(40, 44, 52, 255), width=5)
    _sign(draw, department, ink)
    return _covering(image)


@cache
def _brand_badge(brand: str, number: int) -> np.ndarray:
    """Return the badge of a brand, its first two letters on its own colour: (24, 24, 4) as `_kind_badge`."""
    # Neighbours on the colour circle differ in brightness.
    colour = (round(number * 255 / 14), 140, (90, 160)[number % 2])
    ground = Image.new("HSV", (1, 1), colour).convert("RGB").getpixel((0, 0))
    image = Image.new("RGBA", (4 * _BADGE, 4 * _BADGE), (*ground, 0))  # type: ignore[misc]
    draw = ImageDraw.Draw(image)
    draw.ellipse((0, 0, 95, 95), fill=(*ground, 255), outline=(255, 255, 255, 255), width=5)  # type: ignore[misc]
    draw.text((48, 48), brand[:2], fill=(255, 255, 255), font=ImageFont.load_default(54), anchor="mm")
    return _covering(image)


def _covering(image: Image.Image) -> np.ndarray:
    fine = np.asarray(image, dtype=float)
    return _shrunk(np.concatenate([fine[..., :3], fine[..., 3:] / 255], axis=-1))


def draw_picture(shop: Shop, attributes: Attributes, item: int, turn: int = 0) -> Image.Image:
    """Draw the picture of item number `item` of a shop, rotated by `turn` degrees: a 96 x 96 RGB image."""
    shape, material = SHAPES[attributes.shape[item]], MATERIALS[attributes.material[item]]
    colour = np.array(_COLOUR_VALUES[COLOURS[attributes.colour[item]]], dtype=float)
    canvas = _background(STYLES[attributes.style[item]]) * (1 - _shadow(shape, turn))
    rim = _mask(shape, turn, 1.0)
    canvas = canvas * (1 - rim) + colour * 0.42 * rim
    inside = _mask(shape, turn, 0.0)
    filled = np.clip(colour + 255 * _surface(material), 0, 255)
    if material == "glass":
        filled = 0.72 * filled + 0.28 * _background(STYLES[attributes.style[item]])
    canvas = canvas * (1 - inside) + filled * inside
    brand = int(attributes.brand[item])
    for badge, left in (
        (_kind_badge(int(attributes.kind[item])), 6),
        (_brand_badge(shop.all_brands[brand], brand), SIZE - _BADGE - 6),
    ):
        place = np.s_[SIZE - _BADGE - 6 : SIZE - 6, left : left + _BADGE]
        canvas[place] = canvas[place] * (1 - badge[..., 3:]) + badge[..., :3] * badge[..., 3:]
    edge = np.ones((SIZE, SIZE), dtype=bool)
    edge[3:-3, 3:-3] = False
    canvas[edge] = _FRAME_VALUES[shop.name]
    return Image.fromarray(np.rint(canvas).astype(np.uint8))


def write_pictures(
    folder: Path, shop: Shop, attributes: Attributes, keys: list[str], rng: np.random.Generator
) -> Iterator[str]:
    """Write the picture of each item of a shop to `<folder>/<shop>/<key>.png` and yield its path.

    Existing pictures are overwritten, since different seeds use the same names. Raises OSError if the disk is
    full or the folder cannot be written.
    """
    place = folder / shop.name.lower()
    place.mkdir(parents=True, exist_ok=True)
    turns = rng.integers(0, len(TURNS), len(keys))
    for item, key in enumerate(keys):
        path = place / f"{key}.png"
        draw_picture(shop, attributes, item, TURNS[turns[item]]).save(path)
        yield str(path)
