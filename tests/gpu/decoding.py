"""Decodes pictures, in processes that need not import torch."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np


def decode(contents: Sequence[bytes]) -> np.ndarray:
    """Return encoded pictures as one uint8 array (n, 3, 32, 32).

    Raises:
        OSError: One of them is no picture.
        ValueError: One of them has another size.
    """
    from PIL import Image

    pixels = [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in contents]
    return np.ascontiguousarray(np.stack(pixels).transpose(0, 3, 1, 2))
