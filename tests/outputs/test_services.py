"""Outputs that --logger names: TensorBoard's groups and config, W&B, one's own."""

import io
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.hparams import metadata

from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.errors import UsageError
from dreamerv2.common.logger import Logger, TerminalOutput
from dreamerv2.common.outputs.services import (
    TensorBoardOutput,
    WandBOutput,
    make_outputs,
    scalar_tag,
)

CONFIG = Config(
    {"task": "toy_catch", "jit": True, "rssm": {"deter": 8}, "names": ["a"]}
)


@pytest.fixture
def board(tmp_path):
    output = TensorBoardOutput(tmp_path, frames=40, config=CONFIG)
    yield output
    output.close()


def read_events(folder):
    return event_accumulator.EventAccumulator(str(folder)).Reload()


# TensorBoard


@pytest.mark.parametrize(
    "name, tag",
    [
        ("eval_return", "scalars/eval_return"),
        ("kl_loss", "scalars/kl_loss"),
        ("train_total_steps", "scalars/train_total_steps"),
        ("fps", "scalars/fps"),
        ("train_loaded_steps", "replay/train_loaded_steps"),
        ("time_policy", "time/time_policy"),
        ("mine", "scalars/mine"),
    ],
)
def test_scalars_are_grouped_in_tensorboard(board, tmp_path, name, tag):
    assert scalar_tag(name) == tag
    board([(44, name, np.array(2.0))])
    (event,) = read_events(tmp_path).Scalars(tag)
    assert (event.step, event.value) == (44, 2.0)


def test_tensorboard_has_the_config_as_text(board, tmp_path):
    events = read_events(tmp_path)
    assert events.SummaryMetadata("config").plugin_data.plugin_name == "text"
    (event,) = events.Tensors("config")
    lines = event.tensor_proto.string_val[0].decode().splitlines()
    assert all(line.startswith("    ") for line in lines)  # A block of code.
    assert [line.split() for line in lines] == [
        ["task:", "toy_catch"],
        ["jit:", "True"],
        ["rssm.deter:", "8"],
        ["names:", "a"],
    ]


def test_tensorboard_has_the_config_as_hparams(board, tmp_path):
    found = read_events(tmp_path).SummaryMetadata(metadata.SESSION_START_INFO_TAG)
    assert found.plugin_data.plugin_name == "hparams"
    hparams = metadata.parse_session_start_info_plugin_data(
        found.plugin_data.content
    ).hparams
    assert set(hparams) == {"task", "jit", "rssm.deter", "names"}
    assert hparams["task"].string_value == "toy_catch"
    assert hparams["jit"].bool_value is True
    assert hparams["rssm.deter"].number_value == 8
    assert hparams["names"].string_value == "a"


def test_histograms_hold_every_finite_number(board, tmp_path):
    logger = Logger(10, [board, TerminalOutput(lambda line: None)], multiplier=4)
    value = torch.tensor([[1.0, 2.0], [np.nan, 4.0]], requires_grad=True)
    logger.histogram("actor/out/kernel", value)
    logger.histogram("empty", np.array([np.inf]))
    logger.write()
    (event,) = read_events(tmp_path).Histograms("actor/out/kernel")
    found = event.histogram_value
    assert (event.step, found.num, found.min, found.max) == (40, 3, 1, 4)
    assert (found.sum, found.sum_squares, sum(found.bucket)) == (7, 21, 3)
    assert len(found.bucket) == len(found.bucket_limit)


def test_histograms_are_off_by_default():
    defaults = Config(load_presets()["defaults"])
    assert defaults.log_histograms is False
    assert defaults.logger == ("tensorboard",)


# Which outputs


def test_none_leaves_the_terminal_and_metrics_jsonl(tmp_path):
    assert make_outputs(["none"], tmp_path, CONFIG, 0) == []
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_output_is_one_sentence(tmp_path):
    with pytest.raises(UsageError, match="'tensorbord'.*did you mean tensorboard"):
        make_outputs(["tensorbord"], tmp_path, CONFIG, 0)


def test_an_output_of_ones_own_is_a_short_class(tmp_path, monkeypatch):
    (tmp_path / "my_outputs.py").write_text(
        "class Returns:\n"
        "    def __init__(self, logdir, config):\n"
        "        self.seen, self.logdir, self.task = [], logdir, config.task\n"
        "    def __call__(self, summaries):\n"
        "        self.seen += [float(v) for _, n, v in summaries if n == 'return']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (mine,) = make_outputs(["my_outputs:Returns"], tmp_path, CONFIG, 0)
    logger = Logger(10, [mine])
    logger.add({"return": 3.0, "other": 4.0})
    logger.write()
    assert (mine.seen, mine.logdir, mine.task) == ([3.0], tmp_path, "toy_catch")
    for name in ("my_outputs:Other", "no_such_module:Returns"):
        with pytest.raises(UsageError, match="expected module:Class"):
            make_outputs([name], tmp_path, CONFIG, 0)


# Weights & Biases


class FakeWandB(types.ModuleType):
    """Stands for the package, which the tests do without."""

    Error = type("Error", (Exception,), {})

    def __init__(self, fails=None):
        super().__init__("wandb")
        self.fails, self.started, self.rows, self.finished = fails, [], [], False
        self.metrics = []

    def init(self, **settings):
        if self.fails:
            raise self.Error(self.fails)
        self.started.append(settings)
        return self

    def define_metric(self, name, step_metric=None):
        self.metrics.append((name, step_metric))

    def log(self, row):
        self.rows.append(row)

    def finish(self):
        self.finished = True

    def Histogram(self, samples):
        return "histogram", samples.tolist()

    def Image(self, image):
        return "image", image.shape

    def Video(self, file, format):
        return "video", format, Image.open(io.BytesIO(file.read())).n_frames


def test_wandb_gets_scalars_pictures_and_the_config(tmp_path, monkeypatch):
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    logdir = tmp_path / "toy_catch" / "ours" / "1"
    logdir.mkdir(parents=True)
    (output,) = make_outputs(["wandb"], logdir, CONFIG, 0)
    output(
        [
            (40, "eval_return", np.array(2.5)),
            (40, "openl", np.zeros((5, 4, 4, 1), np.uint8)),
            (40, "image", np.zeros((4, 6, 1), np.uint8)),
            (40, "kernel", np.array([1.0, np.nan])),
        ]
    )
    output.close()
    (settings,) = fake.started
    assert settings["project"] == "dreamerv2"
    assert settings["name"] == "toy_catch/ours/1"
    assert settings["config"] == CONFIG.to_dict()
    assert ("*", "step") in fake.metrics
    assert fake.rows == [
        {
            "step": 40,
            "eval_return": 2.5,
            "openl": ("video", "gif", 5),
            "image": ("image", (4, 6)),
            "kernel": ("histogram", [1.0]),
        }
    ]
    assert fake.finished


def test_a_resumed_run_goes_on_in_wandb_and_another_is_another(tmp_path, monkeypatch):
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path, tmp_path / "other"):
        WandBOutput(folder, CONFIG)
    first, again, other = (settings["id"] for settings in fake.started)
    assert first == again != other
    assert all(settings["resume"] == "allow" for settings in fake.started)


def test_without_the_package_wandb_is_one_sentence_with_the_command(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)  # Importing it raises.
    with pytest.raises(UsageError, match=r'pip install "dreamerv2-torch\[wandb\]"'):
        make_outputs(["wandb"], tmp_path, CONFIG, 0)


def test_without_a_login_wandb_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandB("api_key not\nconfigured"))
    with pytest.raises(UsageError, match="api_key not configured.*WANDB_MODE=offline"):
        WandBOutput(tmp_path, CONFIG)
