"""Resizing images so that each new pixel is the mean over the area it covers."""

import numpy as np


class AreaResize:
    """Resize uint8 images, (H, W) or (H, W, C), to the mean over each pixel's area.

    Weights and sums are whole numbers, exact in float32 below 2^24, else in float64, so
    every machine gives the same pixels. With n old pixels, m new ones and g their
    greatest common divisor, an old pixel is m/g units long, a new one n/g."""

    def __init__(self, old: tuple[int, int], new: tuple[int, int]):
        rows, columns = map(_weights, old, new)
        self._rows, self._columns = _taps(rows), _taps(columns)
        total = int(rows[0].sum()) * int(columns[0].sum())
        self._dtype = np.float32 if 255 * total < 2**24 else np.float64
        self._total = self._dtype(total)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the resized image, uint8."""
        sums = _gather(image.astype(self._dtype), self._rows)
        sums = _gather(sums.swapaxes(0, 1), self._columns).swapaxes(0, 1)
        return np.rint(sums / self._total).astype(np.uint8)


def _weights(old: int, new: int) -> np.ndarray:
    """Return the (new, old) matrix of shared units."""
    units_new, units_old = np.array([old, new]) // np.gcd(old, new)
    i, j = np.arange(new)[:, None], np.arange(old)[None, :]
    ends = np.minimum((i + 1) * units_new, (j + 1) * units_old)
    starts = np.maximum(i * units_new, j * units_old)
    return np.maximum(ends - starts, 0)


def _taps(weights: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the non-zero weights as a few (index, weight) arrays over the new pixels:
    as fast as a matrix product, without its threads beside those of the training."""
    count = int((weights > 0).sum(1).max())
    index = np.argsort(weights == 0, axis=1, kind="stable")[:, :count]
    values = np.take_along_axis(weights, index, 1).astype(np.float32)
    return [(index[:, k], values[:, k]) for k in range(count)]


def _gather(x: np.ndarray, taps: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    shape = (-1,) + (1,) * (x.ndim - 1)
    sums = 0
    for index, weight in taps:
        sums += x[index] * weight.reshape(shape)
    return sums
