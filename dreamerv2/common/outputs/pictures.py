"""Pictures for the logger: arrays to uint8 images and videos, to PNGs and GIFs.

GIFs are encoded in this process. Every frame is kept, for as long as every other.
(Pillow's own writer merges frames that look alike, which changes the length of a video
in which nothing moves.) So Pillow only compresses the pixels here, and the file around
them is written by hand.
"""

import io
import struct
from typing import Any

import numpy as np
import torch
from PIL import Image

_COLORS = 256
_SAMPLES = 4096
_GRAYS = np.repeat(np.arange(_COLORS, dtype=np.uint8)[:, None], 3, 1)


def check_picture(name: str, value: Any, kind: str) -> None:
    """Raise ValueError, which names it, unless the value is an "image" or a "video".

    An array or tensor as for `as_image` or `as_video`, which stays on its device.
    """
    shape, dtype = tuple(np.shape(value)), str(getattr(value, "dtype", "float"))
    ndims = (2, 3, 4) if kind == "image" else (3, 4, 5)
    if len(shape) not in ndims or 0 in shape:
        raise ValueError(f"{name!r} of shape {shape} is no {kind}.")
    if not any(known in dtype for known in ("float", "int", "bool")):
        raise ValueError(f"The {kind} {name!r} of dtype {dtype} cannot be shown.")


def as_image(value: Any) -> np.ndarray:
    """(H, W), (H, W, C) or a batch (B, H, W, C) -> (H, W, C) uint8, C 1 or 3.

    Values are uint8; floats of which [0, 1] is shown and NaN is black; or other
    integers, shown from the least to the greatest. A batch is put side by side. Of 3 or
    more channels the first three are shown, of 2 the first.
    """
    return _side_by_side(_as_uint8(value), ndim=3)


def as_video(value: Any) -> np.ndarray:
    """(T, H, W), (T, H, W, C) or (B, T, H, W, C) -> (T, H, W, C) uint8, C 1 or 3.

    As `as_image`.
    """
    return _side_by_side(_as_uint8(value), ndim=4)


def encode_png(image: np.ndarray) -> bytes:
    """Encode an image (H, W, C) uint8, C 1 or 3, as a PNG file."""
    image = image[..., 0] if image.shape[-1] == 1 else image
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(data, "PNG")
    return data.getvalue()


def encode_gif(frames: np.ndarray, fps: float = 20) -> bytes:
    """Encode a video (T, H, W, C) uint8, C 1 or 3, as a GIF that loops for ever.

    Gray videos, and frames of at most 256 colors, are exact; others get the 256 colors
    that suit each frame best. GIF counts in 1/100 s and viewers want at least 2 of
    them, so 50 is the most for `fps`. ValueError for another array, an empty one, or
    one too large for a GIF.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] not in (1, 3) or frames.dtype != np.uint8:
        raise ValueError(
            "A GIF is made of uint8 frames (T, H, W, C) with C 1 or 3, "
            f"not {frames.dtype} {frames.shape}."
        )
    length, height, width, _ = frames.shape
    if not length:
        raise ValueError(f"A GIF cannot have frames {frames.shape}.")
    head = gif_head(height, width)
    return b"".join([head, *(gif_frame(frame, fps) for frame in frames), GIF_END])


GIF_END = b";"


def gif_head(height: int, width: int) -> bytes:
    """What a GIF begins with, for who writes one frame by frame; see encode_gif."""
    if not (0 < height < 2**16 and 0 < width < 2**16):
        raise ValueError(f"A GIF cannot have frames of {height}x{width}.")
    return b"".join(
        [
            # Signature, size, flags (a table of 256 colors), background, aspect.
            b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, 0, 0),
            _GRAYS.tobytes(),
            b"!\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<HB", 0, 0),  # for ever
        ]
    )


def gif_frame(frame: np.ndarray, fps: float) -> bytes:
    """One frame (H, W, C) uint8 of a GIF that began with gif_head."""
    if not 0 < fps <= 100:
        raise ValueError(f"A GIF plays at most 100 frames per second, not {fps}.")
    height, width, _ = frame.shape
    gray = bool((frame == frame[..., :1]).all())
    pixels, palette = (frame[..., 0], None) if gray else _quantize(frame)
    flags = 0 if palette is None else 0x87  # a table of 256 colors of its own
    return b"".join(
        [
            # Disposal 1, leave in place: the next frame covers it all.
            b"!\xf9\x04" + struct.pack("<BHBB", 1 << 2, _delay(fps), 0, 0),
            b"," + struct.pack("<HHHHB", 0, 0, width, height, flags),
            b"" if palette is None else palette.tobytes(),
            _compress(pixels),
        ]
    )


def _delay(fps: float) -> int:
    """Between frames, in 1/100 s."""
    return max(2, round(100 / fps))


def _as_uint8(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
        value = value.numpy()
    value = np.asarray(value)
    if value.dtype == np.uint8:
        return value
    whole, value = value.dtype.kind in "iu", value.astype(np.float32)
    if whole:
        value = (value - value.min()) / max(np.ptp(value), 1)
    value = np.nan_to_num(value, nan=0.0)
    return (value.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _side_by_side(value: np.ndarray, ndim: int) -> np.ndarray:
    """Bring pictures to `ndim` dimensions: add channels, or tile a batch in width."""
    if value.ndim == ndim - 1:
        value = value[..., None]
    if value.ndim == ndim + 1:  # (B, ..., H, W, C) -> (..., H, B, W, C)
        value = np.moveaxis(value, 0, -3)
        value = value.reshape(*value.shape[:-3], -1, value.shape[-1])
    return value[..., : 3 if value.shape[-1] > 2 else 1]


def _compress(pixels: np.ndarray) -> bytes:
    """LZW code of (H, W) uint8 color numbers, out of a GIF that Pillow writes."""
    file = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.save(file, "GIF", optimize=False, interlace=0)
    data = file.getvalue()
    place = 13 + 3 * 2 ** ((data[10] & 7) + 1)  # Behind the head and its colors.
    while data[place] == ord("!"):  # An extension: blocks, each after its length.
        place += 2
        while data[place]:
            place += data[place] + 1
        place += 1
    return data[place + 10 : -1]  # Without the frame's descriptor and the end.


def _quantize(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) colors -> (H, W) color numbers and a (256, 3) palette."""
    height, width, _ = frame.shape
    palette = np.zeros((_COLORS, 3), np.uint8)
    known = Image.fromarray(np.ascontiguousarray(frame)).getcolors(_COLORS)
    if known is not None:
        red, green, blue = np.moveaxis(frame.astype(np.uint32), -1, 0)
        colors = np.array(sorted(r << 16 | g << 8 | b for _, (r, g, b) in known))
        channels = (colors >> 16, colors >> 8 & 255, colors & 255)
        palette[: len(colors)] = np.stack(channels, -1)
        pixels = np.searchsorted(colors, red << 16 | green << 8 | blue)
        return pixels.astype(np.uint8), palette
    # Colors found among some of the pixels are nearly as good and ten times as fast.
    picks = np.random.default_rng(0).integers(0, height * width, _SAMPLES)
    sample = Image.fromarray(frame.reshape(-1, 3)[picks].reshape(-1, 64, 3))
    image = sample.quantize(_COLORS, Image.Quantize.MEDIANCUT, kmeans=1)
    found = np.frombuffer(bytes(image.getpalette("RGB")), np.uint8).reshape(-1, 3)
    palette[: len(found)] = found[:_COLORS]
    image = Image.fromarray(np.ascontiguousarray(frame)).quantize(
        palette=image, dither=Image.Dither.NONE
    )
    return np.asarray(image), palette
