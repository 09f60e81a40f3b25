"""What play.py and play_test.py show, drawn as an array: panes and a strip of text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dreamerv2.common.outputs.pictures import as_image

BACK, BAR, FAINT, TEXT = (16, 17, 22), (30, 32, 40), (136, 142, 158), (236, 238, 244)
GAP = 8


@dataclass
class Scene:
    """All that is to be seen at a moment."""

    title: str
    color: tuple[int, int, int]  # Behind the title.
    panes: Sequence[tuple[str, np.ndarray]]  # Captions, pictures (H, W, ...) uint8.
    cells: Sequence[tuple[str, str]]  # Names and values of the strip below them.
    note: str = ""
    fade: float = 0.0  # How much of the note has faded, 0 to 1.
    help: Sequence[tuple[str, str]] = ()  # Keys, meanings, if any in place of panes.


class Canvas:
    """Draws scenes, all of one size, with `panes` pictures side by side, each 64 *
    scale screen pixels wide and of this `aspect`, width / height."""

    def __init__(self, panes: int = 3, scale: int = 5, aspect: float = 1.0):
        self._aspect = aspect
        self._box = 64 * scale, round(64 * scale / aspect)
        self._font = ImageFont.load_default(max(11, 3 * scale))
        self._small = ImageFont.load_default(max(9, 13 * scale // 5))
        self._line, self._low = _height(self._font), _height(self._small)
        self._top = self._line + 2 * GAP
        self._strip = self._top + self._box[1] + 2 * self._low + 2 * GAP
        self._bottom = self._strip + self._low + self._line + 2 * GAP
        height = self._bottom + self._low + GAP
        width = panes * self._box[0] + (panes + 1) * GAP
        self.size = (height + height % 2, width + width % 2)  # Videos want even ones.

    def draw(self, scene: Scene) -> np.ndarray:
        """Return the scene as (H, W, 3) uint8, with (H, W) = self.size."""
        height, width = self.size
        image = Image.new("RGB", (width, height), BACK)
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, width, self._top - 1), fill=scene.color)
        draw.text((GAP, GAP - 1), scene.title, TEXT, self._font)
        if scene.help:
            self._draw_help(draw, scene.help)
        else:
            self._draw_panes(image, draw, scene.panes)
        self._draw_cells(draw, scene.cells)
        color = np.array(TEXT) * (1 - scene.fade) + np.array(BACK) * scene.fade
        note = _shorten(draw, scene.note, self._small, width - 2 * GAP)
        place = (width / 2, self._bottom)
        draw.text(place, note, tuple(color.astype(int)), self._small, anchor="ma")
        return np.array(image)

    def _draw_panes(self, image, draw, panes) -> None:
        width = self.size[1]
        room = min(self._box[0], (width - GAP) // max(1, len(panes)) - GAP)
        size = room, round(room / self._aspect)
        left = (width - len(panes) * (room + GAP) + GAP) // 2
        top = self._top + GAP // 2 + (self._box[1] - size[1]) // 2
        for caption, picture in panes:
            image.paste(_resize(picture, size), (left, top))
            for row, text in enumerate(caption.split("\n")):
                place = (left + room / 2, top + size[1] + 3 + row * self._low)
                text = _shorten(draw, text, self._small, room)
                draw.text(place, text, FAINT, self._small, anchor="ma")
            left += room + GAP

    def _draw_cells(self, draw, cells) -> None:
        width, top = self.size[1], self._strip
        draw.rectangle((0, top, width, self._bottom - GAP // 2), fill=BAR)
        each = (width - 2 * GAP) / max(1, len(cells))
        for index, (name, value) in enumerate(cells):
            x, value_top = GAP + index * each, top + self._low + GAP // 2
            draw.text((x, top + GAP // 2), name, FAINT, self._small)
            value = _shorten(draw, value, self._font, each - GAP)
            draw.text((x, value_top), value, TEXT, self._font)

    def _draw_help(self, draw, rows) -> None:
        half = -(-len(rows) // 2)
        line = (self._box[1] + GAP) / max(10, half)
        font = self._font if line > self._line else self._small
        for index, (keys, meaning) in enumerate(rows):
            column, row = divmod(index, half)
            x = 2 * GAP + column * self.size[1] / 2
            y = self._top + GAP + row * line
            draw.text((x, y), keys, TEXT, font)
            draw.text((x + self._box[0] * 0.25, y), meaning, FAINT, font)


def bars(values: np.ndarray, size: int = 64) -> np.ndarray:
    """Return a vector (N,) as a picture (size, size, 1) uint8 of bars x / (1 + |x|)."""
    values = np.asarray(values, np.float32).reshape(-1)[:size]
    picture = np.zeros((size, size, 1), np.uint8)
    edges = np.linspace(0, size, len(values) + 1).astype(int)
    middle = size // 2
    for value, left, right in zip(values, edges[:-1], edges[1:], strict=True):
        end = middle - round(float(value / (1 + abs(value))) * (middle - 1))
        low, high = min(end, middle), max(end, middle) + 1
        picture[low:high, left : max(left + 1, right - (right - left > 2))] = 255
    picture[middle] = np.maximum(picture[middle], 96)
    return picture


def _resize(picture: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Resize to (width, height); small pictures keep their sharp pixels."""
    picture = as_image(picture)
    image = Image.fromarray(picture.repeat(3 // picture.shape[-1], -1))
    if max(image.size) > 100:
        return image.resize(size, Image.Resampling.BILINEAR)
    times = -(-max(size) // min(image.size))
    image = ImageOps.scale(image, times, Image.Resampling.NEAREST)
    return image.resize(size, Image.Resampling.BOX)


def _shorten(draw, text: str, font, room: float) -> str:
    if draw.textlength(text, font) <= room:
        return text
    while text and draw.textlength(f"{text}...", font) > room:
        text = text[:-1]
    return f"{text}..." if text else ""


def _height(font) -> int:
    return round(sum(font.getmetrics()))
