"""What the window shows: nothing overlaps, and games have their own aspect."""

import numpy as np
import pytest

from dreamerv2.playing import canvas
from dreamerv2.playing.canvas import Canvas, Scene
from dreamerv2.playing.player import screen_aspect

WORDS = "future 1: +1000.00, a caption of many words"


class Texts:
    """ImageDraw.Draw that notes the box of every text."""

    def __init__(self, image, draw):
        self._draw, self.boxes = draw(image), []

    def __getattr__(self, name):
        return getattr(self._draw, name)

    def text(self, place, text, fill, font, anchor="la"):
        if text:
            self.boxes.append(self._draw.textbbox(place, text, font, anchor))
        self._draw.text(place, text, fill, font, anchor)


def scene(panes):
    picture = np.full((64, 64, 1), 200, np.uint8)
    rows = [(f"{WORDS}\nand a second line", picture)] * panes
    return Scene("A TITLE", (0, 90, 0), rows, [("name", WORDS)] * 8, WORDS)


@pytest.mark.parametrize("aspect", [160 / 210, 1.0, 1.5])
@pytest.mark.parametrize("panes, scale", [(1, 5), (3, 5), (5, 5), (5, 2)])
def test_no_text_overlaps_another_or_leaves_the_window(
    monkeypatch, panes, scale, aspect
):
    made, draw = [], canvas.ImageDraw.Draw
    monkeypatch.setattr(
        canvas.ImageDraw,
        "Draw",
        lambda image: made.append(Texts(image, draw)) or made[0],
    )
    shown = Canvas(3, scale, aspect)
    frame = shown.draw(scene(panes))
    height, width = shown.size
    boxes = made[0].boxes
    assert len(boxes) >= 2 + 2 * panes + 2 * 8 - 8 * (scale < 3)
    for index, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0 and top >= 0 and right <= width and bottom <= height
        for other in boxes[:index]:
            apart = right <= other[0] or other[2] <= left
            assert apart or bottom <= other[1] or other[3] <= top
    assert frame.shape == (height, width, 3)


@pytest.mark.parametrize("screen", [(210, 160, 3), (400, 600, 3), (64, 64, 1)])
def test_pictures_have_the_aspect_of_the_games_screen(screen):
    aspect = screen_aspect(np.zeros(screen, np.uint8))
    shown = Canvas(3, 5, aspect).draw(scene(1))
    rows, columns = np.nonzero((shown == 200).all(-1))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert width / height == pytest.approx(screen[1] / screen[0], rel=0.01)
    assert width == 320


def test_a_game_without_a_screen_is_square():
    assert screen_aspect(None) == 1
