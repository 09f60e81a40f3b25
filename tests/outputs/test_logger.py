"""Logger and its outputs."""

import errno
import io
import json
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator

from dreamerv2.common import logger as logger_module
from dreamerv2.common.errors import UsageError
from dreamerv2.common.logger import (
    JSONLOutput,
    Logger,
    TensorBoardOutput,
    TerminalOutput,
    add_episode,
    format_number,
    is_logged,
)


class Step:
    """Stands for the Counter."""

    def __init__(self, value=0):
        self.value = value

    def __int__(self):
        return self.value


@pytest.fixture
def step():
    return Step(10)


@pytest.fixture
def written():
    return []


@pytest.fixture
def logger(step, written):
    return Logger(step, [written.append], multiplier=4)


@pytest.fixture
def board(tmp_path):
    """Makes outputs for TensorBoard, and closes them."""
    made = []

    def make(**kwargs):
        made.append(TensorBoardOutput(tmp_path, **kwargs))
        return made[-1]

    yield make
    for output in made:
        output.close()


def values(summaries):
    return {name: value for _, name, value in summaries}


def read_events(folder):
    sizes = {event_accumulator.IMAGES: 0, event_accumulator.SCALARS: 0}
    events = event_accumulator.EventAccumulator(str(folder), size_guidance=sizes)
    return events.Reload()


def read_lines(path):
    def refuse(name):
        raise AssertionError(f"{name} is not valid JSON")

    lines = path.read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


# Logger


def test_steps_are_multiplied_and_several_values_averaged(logger, step, written):
    logger.scalar("return", 1.0)
    logger.scalar("return", np.float32(2.0))
    logger.scalar("return", torch.tensor(6.0))
    step.value = 12
    logger.scalar("length", 7)
    logger.write()
    assert [(s, n, float(v)) for s, n, v in written[0]] == [
        (48, "return", 3.0),
        (48, "length", 7.0),
    ]


def test_nothing_is_written_twice_nor_when_there_is_nothing(logger, written):
    logger.write()
    assert written == []
    logger.scalar("a", 1)
    logger.write()
    logger.write()
    assert len(written) == 1


def test_tensors_of_any_dtype_are_moved_in_one_go_per_dtype(
    logger, written, monkeypatch
):
    stacks = []
    stack = torch.stack
    monkeypatch.setattr(torch, "stack", lambda x: stacks.append(len(x)) or stack(x))
    for i in range(5):
        logger.scalar("loss", torch.tensor(float(i), requires_grad=True))
        logger.scalar("norm", torch.tensor(i, dtype=torch.bfloat16))
        logger.scalar("flag", torch.tensor(i % 2 == 0))
    assert stacks == []
    logger.write()
    assert sorted(stacks) == [5, 5, 5]
    result = {k: float(v) for k, v in values(written[0]).items()}
    assert result == {"loss": 2.0, "norm": 2.0, "flag": 0.6}


def test_nan_and_infinity_are_not_averaged_away(logger, written):
    for name, number in [("nan", math.nan), ("inf", math.inf), ("fine", 3.0)]:
        logger.scalar(name, 1.0)
        logger.scalar(name, torch.tensor(number))
    logger.write()
    result = values(written[0])
    assert math.isnan(result["nan"])
    assert result["inf"] == math.inf
    assert result["fine"] == 2.0


@pytest.mark.parametrize("value", [[1.0], np.zeros(1), torch.zeros(2, 2), "1", None])
def test_a_scalar_must_be_one_number_and_the_error_names_it(logger, value):
    with pytest.raises(ValueError, match="'kl_loss'"):
        logger.scalar("kl_loss", value)


def test_add_takes_each_value_for_what_it_is_and_puts_the_prefix_first(logger, written):
    image, video = np.zeros((2, 3)), np.zeros((5, 2, 3, 1))
    logger.add({"kl": 0.5, "image": image, "openl": video}, prefix="train")
    logger.write()
    shapes = {name: value.shape for name, value in values(written[0]).items()}
    assert shapes == {
        "train_kl": (),
        "train_image": (2, 3, 1),
        "train_openl": (5, 2, 3, 1),
    }
    with pytest.raises(ValueError, match="'bad'"):
        logger.add({"bad": np.zeros(3)})


def test_fps_counts_frames_since_the_last_write(logger, step, written, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(logger_module.time, "monotonic", lambda: now[0])
    logger.restart_clock()
    for steps, seconds, fps in [(50, 2.0, 100.0), (10, 4.0, 10.0), (0, 1.0, 0.0)]:
        step.value += steps
        now[0] += seconds
        logger.write(fps=True)
        assert float(values(written[-1])["fps"]) == fps
    step.value = 10**6  # a checkpoint is loaded
    logger.restart_clock()
    step.value += 10
    now[0] += 1.0
    logger.write(fps=True)
    assert float(values(written[-1])["fps"]) == 40.0


@pytest.mark.parametrize("shape", [(4,), (1, 1, 4, 5, 3), (0, 4)])
def test_images_of_other_shapes_are_refused_by_name(logger, shape):
    with pytest.raises(ValueError, match="'picture'"):
        logger.image("picture", np.zeros(shape))


@pytest.mark.parametrize("shape", [(4,), (4, 0, 5, 3), (4, 5)])
def test_videos_of_other_shapes_are_refused_by_name(logger, shape):
    with pytest.raises(ValueError, match="'clip'"):
        logger.video("clip", np.zeros(shape))


# Terminal


def test_terminal_line_is_sorted_and_its_columns_stay_in_place():
    lines = []
    output = TerminalOutput(lines.append)
    picture = np.zeros((2, 2, 1), np.uint8)
    output([(400, "b", np.array(0.5)), (400, "a", np.array(2.0)), (400, "c", picture)])
    output([(12000, "b", np.array(np.nan)), (12000, "a", np.array(123456.0))])
    assert lines[0] == "[      400] a 2        / b 0.5"
    assert lines[1] == "[    12000] a 123456   / b nan"
    output([(12000, "c", picture)])
    assert len(lines) == 2


@pytest.mark.parametrize(
    "value, text",
    [
        (0.0, "0"),
        (-3.0, "-3"),
        (3.14159, "3.142"),
        (-0.012345, "-0.01235"),
        (1.234e-5, "1.2e-05"),
        (9999.6, "10000"),
        (-5e7, "-5.0e+07"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_numbers_are_short(value, text):
    assert format_number(value) == text
    assert len(text) <= 8


# metrics.jsonl


def test_json_lines_are_valid_whatever_the_values(tmp_path, logger, step):
    logger._outputs.append(JSONLOutput(tmp_path / "new"))
    logger.add({"a": 1.5, "bad": math.nan, "worse": -math.inf, "image": np.eye(2)})
    logger.write()
    logger.image("image", np.eye(2))
    logger.write()
    step.value = 11
    logger.add({"größe \n": 2})
    logger.write()
    assert read_lines(tmp_path / "new" / "metrics.jsonl") == [
        {"step": 40, "a": 1.5, "bad": None, "worse": None},
        {"step": 44, "größe \n": 2.0},
    ]


@pytest.mark.parametrize(
    "tail, kept, said", [('{"step": 3, "a', 2, 1), ("", 2, 0), ("\0\0\0", 2, 1)]
)
def test_a_line_cut_by_a_kill_is_repaired_on_opening(tmp_path, tail, kept, said):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n' + tail)
    warnings = []
    output = JSONLOutput(tmp_path, warnings.append)
    output([(4, "a", np.array(1.0))])
    assert [line["step"] for line in read_lines(path)] == [1, 2, 4]
    assert len(warnings) == said


def test_lines_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    warnings = []
    output = JSONLOutput(tmp_path, warnings.append)
    for step in (10, 20, 30, 40):
        output([(step, "a", np.array(0.0))])
    assert output.truncate_after(40) == 0
    assert output.truncate_after(20) == 2
    output([(30, "a", np.array(1.0))])
    assert [line["step"] for line in read_lines(path)] == [10, 20, 30]
    path.write_bytes(b"\xff\0garbage\n" + path.read_bytes())
    assert warnings == []
    assert output.truncate_after(30) == 1
    assert len(warnings) == 1
    assert [line["step"] for line in read_lines(path)] == [10, 20, 30]


def test_a_full_disk_is_one_sentence_and_leaves_no_half_line(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    output = JSONLOutput(tmp_path, warn=lambda line: None)
    output([(1, "a", np.array(0.0))])

    real_open = type(path).open

    def full(self, mode="r", *args, **kwargs):
        file = real_open(self, mode, *args, **kwargs)
        if mode == "ab":
            with file:
                file.write(b'{"step": 2, "a')
            raise OSError(errno.ENOSPC, "No space left on device")
        return file

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "open", full)
        with pytest.raises(UsageError, match="No space left on device.*free some"):
            output([(2, "a", np.array(0.0))])
    output([(3, "a", np.array(0.0))])
    assert [line["step"] for line in read_lines(path)] == [1, 3]


@pytest.mark.parametrize("output", [JSONLOutput, TensorBoardOutput])
def test_a_logdir_that_cannot_be_made_is_one_sentence(tmp_path, output):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="Cannot write .*--logdir"):
        output(tmp_path / "file" / "logdir")


# TensorBoard


def test_tensorboard_reads_back_scalars_images_and_gifs(board, tmp_path, step):
    logger = Logger(step, [board()], multiplier=4)
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 256, (16, 8), np.uint8)
    color = rng.integers(0, 256, (8, 16, 3), np.uint8)
    video = rng.integers(0, 256, (2, 5, 8, 9, 1), np.uint8)
    logger.add({"kl": 0.25, "gray": gray, "color": color})
    logger.video("openl", video)
    logger.write()
    step.value = 20
    logger.scalar("kl", 0.5)
    logger.write()

    events = read_events(tmp_path)
    assert events.Tags()["scalars"] == ["scalars/kl"]
    kls = [(event.step, event.value) for event in events.Scalars("scalars/kl")]
    assert kls == [(40, 0.25), (80, 0.5)]
    for name, truth in [("gray", gray), ("color", color)]:
        (event,) = events.Images(name)
        assert (event.height, event.width) == truth.shape[:2]
        image = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
        np.testing.assert_array_equal(image, truth)
    (event,) = events.Images("openl")
    assert (event.height, event.width, event.step) == (8, 18, 40)
    assert event.encoded_image_string.startswith(b"GIF89a")
    gif = Image.open(io.BytesIO(event.encoded_image_string))
    assert (gif.n_frames, gif.info["duration"]) == (5, 50)
    for t in range(5):
        gif.seek(t)
        truth = np.concatenate(video[:, t], 1)
        np.testing.assert_array_equal(np.asarray(gif.convert("L")), truth[..., 0])


def test_tensorboard_forgets_what_came_after_the_checkpoint(board, tmp_path):
    first = board()
    for step in (10, 20, 30):
        first([(step, "a", np.array(float(step)))])
    second = board(frames=20)
    second([(25, "a", np.array(-1.0))])
    assert len(list(tmp_path.iterdir())) == 2
    events = read_events(tmp_path).Scalars("scalars/a")
    assert [(event.step, event.value) for event in events] == [
        (10, 10.0),
        (20, 20.0),
        (25, -1.0),
    ]


def test_outputs_take_what_was_not_prepared_by_the_logger(board, tmp_path):
    output = board()
    output([(1, "two", np.eye(3)), (1, "clip", np.zeros((2, 3, 4, 4)))])
    assert sorted(read_events(tmp_path).Tags()["images"]) == ["clip", "two"]


def test_tensorflow_is_not_imported(board, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # importing it would raise
    board()([(1, "a", np.array(1.0))])
    assert sys.modules["tensorflow"] is None


def test_a_full_disk_while_writing_events_is_one_sentence(board, monkeypatch):
    output = board()

    def full(data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(output._writer, "write", full)
    with pytest.raises(UsageError, match="No space left on device"):
        output([(1, "a", np.array(1.0))])


@pytest.mark.parametrize("video", [False, True])
def test_of_an_episode_only_what_is_shown_has_to_be_kept(video):
    config = {
        "log_keys_sum": "^log_reward$",
        "log_keys_mean": "^$",
        "log_keys_max": "^log_achievement_.*",
        "log_keys_video": ["image"],
    }
    keys = ["image", "reward", "action", "log_reward", "log_achievement_eat", "ram"]
    kept = [key for key in keys if is_logged(key, config, video)]
    wanted = ["image"] if video else []
    assert kept == [*wanted, "reward", "log_reward", "log_achievement_eat"]
    episode = {key: np.ones((4, 2, 2, 3)) for key in keys}
    episode = {k: v if k == "image" else v[:, 0, 0, 0] for k, v in episode.items()}
    whole, parts = Record(), Record()
    for record, given in ((whole, keys), (parts, kept)):
        logger = Logger(7, [record])
        add_episode(logger, {k: episode[k] for k in given}, "train", config, video)
        logger.write()
    assert whole.told == parts.told != []


class Record:
    def __init__(self):
        self.told = []

    def __call__(self, summaries):
        self.told += [
            (name, np.asarray(value).tolist()) for _, name, value in summaries
        ]
