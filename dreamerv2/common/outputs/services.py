"""Where metrics go besides the terminal and metrics.jsonl: `--logger NAME ...`. An
output takes what `logger.py` says; if it has a `close`, that is called at the end. One
of your own is a short class, named by its module:

    class PrintReturns:  # in my_outputs.py, for --logger my_outputs:PrintReturns
        def __init__(self, logdir, config): ...
        def __call__(self, summaries):
            print([(s, float(x)) for s, name, x in summaries if name == "eval_return"])
"""

import contextlib
import importlib
import io
import os
import re
import socket
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamerv2.common.config import Config, did_you_mean
from dreamerv2.common.errors import UsageError
from dreamerv2.common.files import writing
from dreamerv2.common.outputs.pictures import as_image, as_video, encode_gif, encode_png
from dreamerv2.common.suites.packages import require

Summary = tuple[int, str, np.ndarray]
Output = Callable[[list[Summary]], None]

# TensorBoard shows what stands before the first slash as one foldable group. The
# agent's metrics are together in `scalars`, as in the reference; these are apart.
GROUPS = {"time": r"time_.*", "replay": r"(train|eval)_loaded_.*"}


def scalar_tag(name: str) -> str:
    """A scalar's name in TensorBoard, `GROUP/NAME`: `scalars/kl_loss`."""
    found = (group for group, regex in GROUPS.items() if re.fullmatch(regex, name))
    return f"{next(found, 'scalars')}/{name}"


def make_outputs(
    names: Sequence[str], logdir: str | os.PathLike, config: Config, frames: int
) -> list[Output]:
    """Make the outputs that `--logger` names, for a run that goes on at `frames`: each
    `tensorboard`, `wandb`, `none`, or `module:Class` for one of your own, called with
    `(logdir, config)`; UsageError for others, and for a missing package."""
    outputs: list[Output] = []
    for name in dict.fromkeys(names):
        if name == "tensorboard":
            outputs.append(TensorBoardOutput(logdir, frames, config))
        elif name == "wandb":
            outputs.append(WandBOutput(logdir, config))
        elif ":" in name:
            outputs.append(_load_output(name)(Path(logdir), config))
        elif name != "none":
            known = ("tensorboard", "wandb", "none")
            hint = did_you_mean(name, known, "use one of these.")
            raise UsageError(
                f"Unknown logger '{name}': expected tensorboard, wandb, none, or "
                f"module:Class for an output of your own; {hint}"
            )
    return outputs


def _load_output(name: str) -> Callable[[Path, Config], Output]:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"Cannot load the logger '{name}' ({error}): expected module:Class, where "
            "Python can import the module, as with PYTHONPATH=FOLDER."
        ) from error


class TensorBoardOutput:
    """Writes for TensorBoard: scalars in groups (see `scalar_tag`), histograms, images,
    videos as GIFs that play, and the config as text and as hparams. It is to forget
    what earlier files in the folder hold after `frames`, where a run goes on."""

    def __init__(
        self, logdir: str | os.PathLike, frames: int = 0, config: Config | None = None
    ):
        # TensorBoard's own protocol buffers and nothing more: its writers import
        # TensorFlow, if there is one, which takes seconds and memory.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._proto, self._summary = event_pb2, summary_pb2.Summary
        # TensorBoard reads a folder's files in the order of their names.
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}"
        self._path = Path(logdir) / f"{name}.{os.getpid()}"
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = RecordWriter(self._path.open("xb"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        events = [
            event_pb2.Event(file_version="brain.Event:2"),
            event_pb2.Event(step=frames + 1, session_log=start),
        ]
        for summary in _config_summaries(config) if config else ():
            events.append(event_pb2.Event(step=frames, summary=summary))
        self._write(events)

    def __call__(self, summaries: list[Summary]) -> None:
        events = []
        for step, name, value in summaries:
            summary = self._summary(value=[self._convert(name, np.asarray(value))])
            events.append(self._proto.Event(step=step, summary=summary))
        self._write(events)

    def close(self) -> None:
        # What a full disk did not take was already told by the write that failed.
        with contextlib.suppress(OSError):
            self._writer.close()

    def _convert(self, name: str, value: np.ndarray) -> Any:
        make = self._summary.Value
        if value.ndim == 0:
            return make(tag=scalar_tag(name), simple_value=float(value))
        if value.ndim == 1:
            return make(tag=name, histo=self._histogram(value))
        is_video = value.ndim == 4
        shown = as_video(value) if is_video else as_image(value)
        encoded = encode_gif(shown) if is_video else encode_png(shown)
        height, width, channels = shown.shape[-3:]
        size = {"height": height, "width": width, "colorspace": channels}
        image = self._summary.Image(encoded_image_string=encoded, **size)
        return make(tag=name, image=image)

    def _histogram(self, samples: np.ndarray) -> Any:
        """Samples (N,) in 30 bins of equal width; those not finite are left out."""
        from tensorboard.compat.proto.histogram_pb2 import HistogramProto

        samples = samples[np.isfinite(samples)].astype(np.float64)
        if not len(samples):
            return HistogramProto()
        counts, edges = np.histogram(samples, bins=30)
        return HistogramProto(
            min=samples.min(),
            max=samples.max(),
            num=len(samples),
            sum=samples.sum(),
            sum_squares=(samples**2).sum(),
            bucket_limit=edges,
            bucket=[0, *counts],
        )

    def _write(self, events: list[Any]) -> None:
        with writing(self._path):
            for event in events:
                event.wall_time = time.time()
                self._writer.write(event.SerializeToString())
            self._writer.flush()


class WandBOutput:
    """Sends scalars, histograms, images, and videos to Weights & Biases, in a run of
    the name of the last three folders of the logdir; resumed, it goes on there, by the
    id in `wandb_id.txt`. The project is `dreamerv2` unless WANDB_PROJECT is set;
    WANDB_MODE=offline keeps all in the logdir. UsageError without the package or a
    login."""

    def __init__(self, logdir: str | os.PathLike, config: Config):
        self._wandb = wandb = require("wandb", "wandb")
        logdir = Path(logdir)
        with writing(path := logdir / "wandb_id.txt"):
            if not path.exists():
                path.write_text(uuid.uuid4().hex[:12] + "\n")
            run_id = path.read_text().strip()
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "dreamerv2"),
                name="/".join(logdir.absolute().parts[-3:]),
                id=run_id,
                resume="allow",
                dir=str(logdir),
                config=config.to_dict(),
            )
        except wandb.Error as error:
            raise UsageError(
                f"Weights & Biases did not start ({' '.join(str(error).split())}): log "
                "in with `wandb login`, or set WANDB_MODE=offline."
            ) from error
        # Its own count of steps may never go back, and that of a resumed run does.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def __call__(self, summaries: list[Summary]) -> None:
        rows: dict[int, dict[str, Any]] = defaultdict(dict)
        for step, name, value in summaries:
            rows[step][name] = self._convert(np.asarray(value))
        for step, row in rows.items():
            self._run.log({"step": step, **row})

    def close(self) -> None:
        self._run.finish()

    def _convert(self, value: np.ndarray) -> Any:
        if value.ndim == 0:
            return float(value)
        if value.ndim == 1:
            return self._wandb.Histogram(value[np.isfinite(value)])
        if value.ndim == 4:
            gif = io.BytesIO(encode_gif(as_video(value)))
            return self._wandb.Video(gif, format="gif")
        image = as_image(value)
        return self._wandb.Image(image[..., 0] if image.shape[-1] == 1 else image)


def _config_summaries(config: Config) -> list[Any]:
    """Return those for the tabs Text, a block of code, and HParams, to compare runs."""
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb
    from tensorboard.plugins.text.summary_v2 import text_pb

    text = "\n".join(f"    {line}" for line in str(config).splitlines())
    values = {}
    for key, value in config.flat.items():
        value = ", ".join(map(str, value)) if isinstance(value, tuple) else value
        values[key] = _printable(value) if isinstance(value, str) else value
    return [text_pb("config", _printable(text)), hparams_pb(values)]


def _printable(text: str) -> str:
    return text.encode(errors="replace").decode()  # A path may be no text.
