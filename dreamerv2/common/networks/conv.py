"""Kernels of the convolutions that fit images of a size."""

from __future__ import annotations

from collections.abc import Sequence

_KERNELS = range(3, 9)  # Those that are tried for the decoder.
_MOST_LAYERS = 7


def made_by(kernels: Sequence[int]) -> int:
    """Pixels per side that the decoder's kernels make, from one: 2 * (size - 1) + k."""
    size = 1
    for kernel in kernels:
        size = 2 * (size - 1) + kernel
    return size


def encoder_kernels(size: int) -> list[int]:
    """Kernels for images whose smaller side is `size`: as many 4 as lead to 2 or more.

    For 64 these are [4, 4, 4, 4], for smaller ones than 6 a single one.
    """
    kernels = []
    while (smaller := (size - 4) // 2 + 1) >= 2:
        kernels.append(4)
        size = smaller
    return kernels or [min(size, 4)]


def decoder_kernels(size: int) -> list[int] | None:
    """Kernels that make images of size x size, the nearest to 5 and 6 that there are.

    For 64 these are [5, 5, 6, 6]. None for sizes that none of 3 to 8 lead to.
    """
    found = [k for count in range(1, _MOST_LAYERS + 1) for k in _leading(size, count)]
    return min(found, key=_oddness, default=None)


def _leading(size: int, count: int) -> list[list[int]]:
    """All lists of `count` kernels that lead from 1 to size."""
    if count == 1:
        return [[size]] if size in _KERNELS else []
    low, high = made_by([_KERNELS[0]] * count), made_by([_KERNELS[-1]] * count)
    if not low <= size <= high:
        return []
    return [
        [*before, kernel]
        for kernel in _KERNELS
        if (size - kernel) % 2 == 0
        for before in _leading((size - kernel) // 2 + 1, count - 1)
    ]


def _oddness(kernels: list[int]) -> tuple[float, list[int]]:
    """How far they are from 5 and 6 on average; of equals, small ones come first."""
    return sum((2 * k - 11) ** 2 for k in kernels) / len(kernels), kernels
