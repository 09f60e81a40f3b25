"""What play.py and play_test.py show, drawn as an array: panes and a strip of text."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dreamerv2.common.outputs.pictures import as_image

BACK, BAR, FAINT, TEXT = (16, 17, 22), (30, 32, 40), (136, 142, 158), (236, 238, 244)
GAP = 8


@dataclass
class Scene:
    """All that is to be seen at a moment.

    title: the line at the top; color: (r, g, b) behind it.
    panes: (caption, picture) side by side; pictures (H, W), (H, W, 1 or 3) uint8.
    cells: (name, value) of the strip below them, in words.
    note: one line at the bottom.
    help: (keys, meaning) in place of the panes; none if empty.
    """

    title: str
    color: tuple[int, int, int]
    panes: Sequence[tuple[str, np.ndarray]]
    cells: Sequence[tuple[str, str]]
    note: str = ""
    help: Sequence[tuple[str, str]] = field(default_factory=tuple)


class Canvas:
    """Draws scenes, all of one size.

    Args:
      panes: this many 64x64 pictures fit side by side at full scale.
      scale: screen pixels for each of their pixels.
    """

    def __init__(self, panes: int = 3, scale: int = 5):
        self._box = 64 * scale
        width = panes * self._box + (panes + 1) * GAP
        self._font = ImageFont.load_default(max(11, 3 * scale))
        self._small = ImageFont.load_default(max(9, 13 * scale // 5))
        line, small = _height(self._font), _height(self._small)
        self._top = line + 2 * GAP
        self._caption = small + GAP
        strip = self._top + self._box + GAP + self._caption
        self._strip = strip
        self._bottom = strip + small + line + 2 * GAP
        height = self._bottom + small + GAP
        self.size = (height + height % 2, width + width % 2)  # Videos want even ones.

    def draw(self, scene: Scene) -> np.ndarray:
        """The scene as (H, W, 3) uint8, with (H, W) = self.size."""
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
        draw.text((GAP, self._bottom), scene.note, FAINT, self._small)
        return np.array(image)

    def _draw_panes(self, image, draw, panes) -> None:
        width = self.size[1]
        room = (width - GAP) // max(1, len(panes)) - GAP
        side = min(self._box, room - room % 32 if room >= 32 else room)
        left = (width - len(panes) * (side + GAP) + GAP) // 2
        top = self._top + GAP // 2 + (self._box - side) // 2
        for caption, picture in panes:
            picture = _fit(picture, side)
            x = left + (side - picture.width) // 2
            y = top + (side - picture.height) // 2
            image.paste(picture, (x, y))
            place = (left + side / 2, top + side + 3)
            draw.text(place, caption, FAINT, self._small, anchor="ma")
            left += side + GAP

    def _draw_cells(self, draw, cells) -> None:
        height, width = self.size
        top = self._strip
        bottom = self._bottom - GAP // 2
        draw.rectangle((0, top, width, bottom), fill=BAR)
        each = (width - 2 * GAP) / max(1, len(cells))
        value_top = top + _height(self._small) + GAP
        for index, (name, value) in enumerate(cells):
            x = GAP + index * each
            draw.text((x, top + GAP // 2), name, FAINT, self._small)
            draw.text((x, value_top - GAP // 2), value, TEXT, self._font)

    def _draw_help(self, draw, rows) -> None:
        """Two columns of keys and their meanings."""
        half = -(-len(rows) // 2)
        line = (self._box + GAP) / max(10, half)
        font = self._font if line > _height(self._font) else self._small
        for index, (keys, meaning) in enumerate(rows):
            column, row = divmod(index, half)
            x = 2 * GAP + column * self.size[1] / 2
            y = self._top + GAP + row * line
            draw.text((x, y), keys, TEXT, font)
            draw.text((x + self._box * 0.25, y), meaning, FAINT, font)


def bars(values: np.ndarray, size: int = 64) -> np.ndarray:
    """A vector (N,) as a picture (size, size, 1) uint8 of bars from the middle line.

    The scale bends, so that both 0.1 and 10 can be seen; the ends are plus and minus
    infinity.
    """
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


def _fit(picture: np.ndarray, side: int) -> Image.Image:
    """As large as fits into a square; small pictures keep their sharp pixels."""
    picture = as_image(picture)
    height, width = picture.shape[:2]
    image = Image.fromarray(
        np.ascontiguousarray(np.broadcast_to(picture, (height, width, 3)))
    )
    ratio = side / max(height, width)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    small = max(height, width) <= 100
    kind = Image.Resampling.NEAREST if small else Image.Resampling.BILINEAR
    return image.resize(size, kind)


def _height(font) -> int:
    return round(sum(font.getmetrics()))
