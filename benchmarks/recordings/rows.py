"""Relative errors, gathered into one row per quantity."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

FORWARD = 1e-5
GRADIENT = 1e-4
PARAMETER = 1e-5
VIDEO = 1e-3  # The videos are stored in float16.


@dataclass(frozen=True)
class Row:
    """The worst array of one quantity.

    error is relative, ||a - b|| / ||b|| with b the reference's; infinite where the
    shapes differ, a value is not finite or there is nothing to compare.
    """

    quantity: str
    error: float
    limit: float
    array: str  # The name of the array with that error.
    count: int  # Arrays that were compared.
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.error <= self.limit  # False for NaN.


class Rows:
    """Collects comparisons of arrays into rows."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    def compare(
        self,
        quantity: str,
        name: str,
        ours: Any,
        reference: Any,
        limit: float,
        scale: float = 0.0,
    ) -> None:
        """Compares one array that belongs to a quantity.

        Args:
          quantity: the row to count it under.
          name: of the array.
          ours: array or tensor, or None where this project has no such number.
          reference: array or tensor.
          limit: the error that it may have.
          scale: see relative_error.
        """
        error, note = relative_error(ours, reference, scale)
        old = self._rows.get(quantity)
        count = 1 + (old.count if old else 0)
        # Of several arrays the one that is furthest from its own limit counts.
        if old is None or not error / limit <= old.error / old.limit:
            self._rows[quantity] = Row(quantity, error, limit, name, count, note)
        else:
            self._rows[quantity] = Row(
                quantity, old.error, old.limit, old.array, count, old.note
            )

    def list(self) -> list[Row]:
        return list(self._rows.values())


def relative_error(ours: Any, reference: Any, scale: float = 0.0) -> tuple[float, str]:
    """||a - b|| / ||b|| in float64, or ||a - b|| where b is zero; and a remark.

    Infinite, never NaN, where the two cannot be compared. With ``scale`` the error is
    relative to that where it is more than ||b||; see means.py.
    """
    if ours is None:
        return math.inf, "this project has no such number"
    a, b = to_numpy(ours), to_numpy(reference)
    if a.shape != b.shape:
        return math.inf, f"shape {a.shape} instead of {b.shape}"
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    differ = a != b
    difference = a[differ] - b[differ]
    if not np.isfinite(difference).all():
        return math.inf, "not finite"
    distance = float(np.linalg.norm(difference))
    size = float(np.linalg.norm(b[np.isfinite(b)]))
    if scale > size:
        plain = distance / (size or 1.0)
        return distance / scale, f"of what is averaged; {plain:.1e} of the mean"
    return distance / (size or 1.0), ""


def to_numpy(x: Any) -> np.ndarray:
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        return (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    return np.asarray(x)
