"""Pictures for the logger: arrays to uint8 images and videos, to PNGs and GIFs.

A GIF keeps every frame, for as long as every other. (Pillow's own writer of whole files
merges frames that look alike, so they are put together here.)"""

import io
from typing import Any

import numpy as np
import torch
from PIL import GifImagePlugin, Image

_COLORS = 256
_SAMPLES = 4096
GIF_END = b";"


def check_picture(name: str, value: Any, kind: str) -> None:
    """Raise ValueError unless the value is an "image" or a "video" as shown below."""
    shape, dtype = tuple(np.shape(value)), str(getattr(value, "dtype", "float"))
    ndims = (2, 3, 4) if kind == "image" else (3, 4, 5)
    if len(shape) not in ndims or 0 in shape:
        raise ValueError(f"{name!r} of shape {shape} is no {kind}.")
    if not any(known in dtype for known in ("float", "int", "bool")):
        raise ValueError(f"The {kind} {name!r} of dtype {dtype} cannot be shown.")


def as_image(value: Any) -> np.ndarray:
    """(H, W), (H, W, C) or a batch (B, H, W, C), put side by side -> (H, W, C) uint8, C
    1 or 3, of the first channels. Values are uint8; floats of which [0, 1] is shown and
    NaN is black; or other integers, shown from the least to the greatest."""
    return _side_by_side(_as_uint8(value), ndim=3)


def as_video(value: Any) -> np.ndarray:
    """(T, H, W), (T, H, W, C), (B, T, H, W, C) -> (T, H, W, C) uint8; see as_image."""
    return _side_by_side(_as_uint8(value), ndim=4)


def encode_png(image: np.ndarray) -> bytes:
    """Encode an image (H, W, C) uint8, C 1 or 3, as a PNG file."""
    data = io.BytesIO()
    _image(image[..., 0] if image.shape[-1] == 1 else image).save(data, "PNG")
    return data.getvalue()


def encode_gif(frames: np.ndarray, fps: float = 20) -> bytes:
    """Encode a video (T, H, W, C) uint8, C 1 or 3, as a GIF that loops for ever. Gray
    videos, and frames of up to 256 colors, are exact. GIF counts in 1/100 s, at least
    2, so 50 is the most for `fps`. ValueError for another array."""
    shape, dtype = np.shape(frames), frames.dtype
    if len(shape) != 4 or shape[-1] not in (1, 3) or dtype != np.uint8 or not shape[0]:
        raise ValueError(
            "A GIF is made of uint8 frames (T, H, W, C) with C 1 or 3, "
            f"not {dtype} {shape}."
        )
    head = gif_head(*shape[1:3])
    return b"".join([head, *(gif_frame(frame, fps) for frame in frames), GIF_END])


def gif_head(height: int, width: int) -> bytes:
    """Return what a GIF begins with, for who writes one by frames; see encode_gif."""
    if not (0 < height < 2**16 and 0 < width < 2**16):
        raise ValueError(f"A GIF cannot have frames of {height}x{width}.")
    gray = Image.new("L", (width, height))
    return b"".join(GifImagePlugin.getheader(gray, info={"loop": 0})[0])


def gif_frame(frame: np.ndarray, fps: float) -> bytes:
    """Return one frame (H, W, C) uint8 of a GIF that began with gif_head."""
    if not 0 < fps <= 100:
        raise ValueError(f"A GIF plays at most 100 frames per second, not {fps}.")
    gray = bool((frame == frame[..., :1]).all())
    data = GifImagePlugin.getdata(
        _image(frame[..., 0]) if gray else _quantize(frame),
        duration=10 * max(2, round(100 / fps)),
        disposal=1,  # Leave in place: the next frame covers it all.
        include_color_table=not gray,
    )
    return b"".join(data)


def _image(array: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(array))


def _as_uint8(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.float() if value.is_floating_point() else value
        value = value.detach().cpu().numpy()
    value = np.asarray(value)
    if value.dtype == np.uint8:
        return value
    whole, value = value.dtype.kind in "iu", value.astype(np.float32)
    if whole:
        value = (value - value.min()) / max(np.ptp(value), 1)
    return (np.nan_to_num(value).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _side_by_side(value: np.ndarray, ndim: int) -> np.ndarray:
    """Bring pictures to `ndim` dimensions: add channels, or tile a batch in width."""
    if value.ndim == ndim - 1:
        value = value[..., None]
    if value.ndim == ndim + 1:  # (B, ..., H, W, C) -> (..., H, B, W, C)
        value = np.moveaxis(value, 0, -3)
        value = value.reshape(*value.shape[:-3], -1, value.shape[-1])
    return value[..., : 3 if value.shape[-1] > 2 else 1]


def _quantize(frame: np.ndarray) -> Image.Image:
    image = _image(frame)
    if image.getcolors(_COLORS):
        codes = frame.astype(np.uint32) @ np.uint32([1 << 16, 1 << 8, 1])
        colors, pixels = np.unique(codes, return_inverse=True)
        exact = _image(pixels.reshape(codes.shape).astype(np.uint8))
        exact.putpalette((colors[:, None] >> [16, 8, 0] & 255).astype(np.uint8))
        return exact
    # Colors found among some of the pixels are nearly as good and ten times as fast.
    picks = np.random.default_rng(0).integers(0, frame[..., 0].size, _SAMPLES)
    sample = _image(frame.reshape(-1, 3)[picks].reshape(-1, 64, 3))
    palette = sample.quantize(_COLORS, Image.Quantize.MEDIANCUT, kmeans=1)
    return image.quantize(palette=palette, dither=Image.Dither.NONE)
