"""One vector a picture: the mean over places of a frozen picture model's features.

Shapes: N items, D dimensions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from genrec_lab.encoders import efficientnet
from genrec_lab.encoders.backbones import PictureFeatures
from genrec_lab.encoders.content import Content
from genrec_lab.encoders.frozen_features import frozen_features
from genrec_lab.encoders.pictures import PictureError, centre_square, read_picture
from genrec_lab.encoders.progress import Progress

PictureModel = Literal["efficientnet-lite0", "pixels"]


def encode_pictures(
    content: Content, model: PictureModel, cache: Path | None = None, progress: Progress = True
) -> np.ndarray:
    """Unit vectors (N, D) of the items' pictures; zeros for an item without one.

    model: "efficientnet-lite0", or "pixels", which needs no weights. cache: a folder, as of
    `frozen_features`. Raises PictureError for a picture that cannot be read, or where no item has one.
    """
    if all(picture is None for picture in content.pictures):
        raise PictureError(
            f"none of the {len(content)} items has a picture, so there is nothing to encode; set pictures "
            'to "none"'
        )
    features = PictureFeatures(model)

    def pooled(some: Content, repairs: dict[str, int]) -> dict[str, list[Tensor]]:
        rows = [torch.empty(0, features.width)] * len(some)
        squares = {
            place: centre_square(read_picture(picture, item=key, repairs=repairs), efficientnet.SIDE)
            for place, (picture, key) in enumerate(zip(some.pictures, some.keys, strict=True))
            if picture is not None
        }
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
