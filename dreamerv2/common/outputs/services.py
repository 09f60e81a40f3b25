"""Where metrics go besides the terminal and metrics.jsonl: `--logger NAME ...`.

An output is any callable that takes a list of `(step, name, value)`; `logger.py` says
what the values are. If it has a `close`, that is called at the end. One of your own
is a short class, named by its module:

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamerv2.common.config import Config, did_you_mean
from dreamerv2.common.errors import UsageError
from dreamerv2.common.files import cannot_write
from dreamerv2.common.outputs.pictures import as_image, as_video, encode_gif, encode_png

Summary = tuple[int, str, np.ndarray]
Output = Callable[[list[Summary]], None]

# TensorBoard shows what stands before the first slash as one foldable group. The
# agent's metrics are together in `scalars`, as in the reference; these are apart.
GROUPS = {"time": r"time_.*", "replay": r"(train|eval)_loaded_.*"}


def scalar_tag(name: str) -> str:
    """A scalar's name in TensorBoard, `GROUP/NAME`: `scalars/kl_loss`."""
    for group, pattern in GROUPS.items():
        if re.fullmatch(pattern, name):
            return f"{group}/{name}"
    return f"scalars/{name}"


def make_outputs(
    names: Sequence[str], logdir: str | os.PathLike, config: Config, frames: int
) -> list[Output]:
    """Make the outputs that `--logger` names.

    names: each `tensorboard`, `wandb`, `none`, or `module:Class` for an output of your
      own, which is called with `(logdir, config)`; UsageError for others, and where a
      package is missing.
    frames: where the run starts or goes on.
    """
    outputs: list[Output] = []
    for name in dict.fromkeys(names):
        if name == "tensorboard":
            outputs.append(
                TensorBoardOutput(logdir, purge_step=frames + 1, config=config)
            )
        elif name == "wandb":
            outputs.append(WandBOutput(logdir, config))
        elif ":" in name:
            outputs.append(_load_output(name)(Path(logdir), config))
        elif name != "none":
            hint = did_you_mean(
                name, ("tensorboard", "wandb", "none"), "use one of these."
            )
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
    """Writes for TensorBoard: scalars in groups (see `scalar_tag`), histograms,
    images, videos as GIFs that play, and the config as text and as hparams.

    logdir: the folder for the event file; made if it is missing.
    fps: of the videos.
    purge_step: have TensorBoard forget what earlier files in the folder hold at this
      step (in frames) and later ones: a run that resumes gives its step + 1.
    config: shown on the tabs Text and HParams.

    UsageError if the folder cannot be written to.
    """

    def __init__(
        self,
        logdir: str | os.PathLike,
        fps: float = 20,
        purge_step: int | None = None,
        config: Config | None = None,
    ):
        # TensorBoard's own protocol buffers and nothing more: its writers import
        # TensorFlow, if there is one, which takes seconds and memory.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._proto, self._summary = event_pb2, summary_pb2
        self._fps = fps
        # TensorBoard reads a folder's files in the order of their names.
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}"
        self._path = Path(logdir) / f"{name}.{os.getpid()}"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = RecordWriter(self._path.open("xb"))
        except OSError as error:
            raise cannot_write(self._path, error) from error
        events = [event_pb2.Event(file_version="brain.Event:2")]
        if purge_step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            events.append(event_pb2.Event(step=purge_step, session_log=start))
        if config is not None:
            step = 0 if purge_step is None else purge_step - 1
            values = [_config_text(config), _config_hparams(config)]
            summary = summary_pb2.Summary(value=values)
            events.append(event_pb2.Event(step=step, summary=summary))
        self._write(events)

    def __call__(self, summaries: list[Summary]) -> None:
        events = []
        for step, name, value in summaries:
            summary = self._summary.Summary(value=[self._convert(name, value)])
            events.append(self._proto.Event(step=step, summary=summary))
        self._write(events)

    def close(self) -> None:
        """Close the event file; nothing can be written after."""
        # What a full disk did not take was already told by the write that failed.
        with contextlib.suppress(OSError):
            self._writer.close()

    def _convert(self, name: str, value: np.ndarray) -> Any:
        value = np.asarray(value)
        if value.ndim == 0:
            return self._summary.Summary.Value(
                tag=scalar_tag(name), simple_value=float(value)
            )
        if value.ndim == 1:
            return self._summary.Summary.Value(tag=name, histo=self._histogram(value))
        if value.ndim == 4:
            video = as_video(value)
            shape, data = video.shape[1:], encode_gif(video, self._fps)
        else:
            image = as_image(value)
            shape, data = image.shape, encode_png(image)
        image = self._summary.Summary.Image(
            height=shape[0],
            width=shape[1],
            colorspace=shape[2],
            encoded_image_string=data,
        )
        return self._summary.Summary.Value(tag=name, image=image)

    def _histogram(self, samples: np.ndarray) -> Any:
        """Samples (N,) in 30 bins of equal width; those not finite are left out."""
        from tensorboard.compat.proto import histogram_pb2

        samples = samples[np.isfinite(samples)].astype(np.float64)
        if not len(samples):
            return histogram_pb2.HistogramProto()
        counts, edges = np.histogram(samples, bins=30)
        return histogram_pb2.HistogramProto(
            min=samples.min(),
            max=samples.max(),
            num=len(samples),
            sum=samples.sum(),
            sum_squares=(samples**2).sum(),
            bucket_limit=[edges[0], *edges[1:]],
            bucket=[0, *counts],
        )

    def _write(self, events: list[Any]) -> None:
        try:
            for event in events:
                event.wall_time = time.time()
                self._writer.write(event.SerializeToString())
            self._writer.flush()
        except OSError as error:
            raise cannot_write(self._path, error) from error


class WandBOutput:
    """Sends scalars, histograms, images, and videos to Weights & Biases.

    A run that is resumed goes on there, too: its id is kept in `wandb_id.txt`. The
    project is `dreamerv2` unless WANDB_PROJECT says otherwise; WANDB_MODE=offline
    keeps everything in `wandb/` in the logdir, for `wandb sync` later.

    The last three folders of the logdir are the run's name. UsageError if the package
    is missing, or if nobody is logged in.
    """

    def __init__(self, logdir: str | os.PathLike, config: Config, fps: float = 20):
        try:
            import wandb
        except ImportError as error:
            raise UsageError(
                "--logger wandb needs the package wandb: install it with "
                'pip install "dreamerv2-torch[wandb]".'
            ) from error
        self._wandb, self._fps = wandb, fps
        logdir = Path(logdir)
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "dreamerv2"),
                name="/".join(logdir.absolute().parts[-3:]),
                id=_run_id(logdir / "wandb_id.txt"),
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
        rows: dict[int, dict[str, Any]] = {}
        for step, name, value in summaries:
            rows.setdefault(step, {"step": step})[name] = self._convert(value)
        for row in rows.values():
            self._run.log(row)

    def close(self) -> None:
        """Finish the upload."""
        self._run.finish()

    def _convert(self, value: np.ndarray) -> Any:
        value = np.asarray(value)
        if value.ndim == 0:
            return float(value)
        if value.ndim == 1:
            return self._wandb.Histogram(value[np.isfinite(value)])
        if value.ndim == 4:
            gif = io.BytesIO(encode_gif(as_video(value), self._fps))
            return self._wandb.Video(gif, format="gif")
        image = as_image(value)
        return self._wandb.Image(image[..., 0] if image.shape[-1] == 1 else image)


def _run_id(path: Path) -> str:
    """The id in the file, made if there is none."""
    try:
        if not path.exists():
            path.write_text(uuid.uuid4().hex[:12] + "\n")
        return path.read_text().strip()
    except OSError as error:
        raise cannot_write(path, error) from error


def _config_text(config: Config) -> Any:
    """Make the summary for the tab Text: each key and its value, as a code block."""
    from tensorboard.compat.proto import summary_pb2, tensor_pb2, tensor_shape_pb2
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.text import metadata

    text = "\n".join(f"    {line}" for line in str(config).splitlines())
    tensor = tensor_pb2.TensorProto(
        dtype=DT_STRING,
        string_val=[text.encode(errors="replace")],  # A path may be no text.
        tensor_shape=tensor_shape_pb2.TensorShapeProto(),
    )
    about = metadata.create_summary_metadata(display_name="config", description="")
    return summary_pb2.Summary.Value(tag="config", tensor=tensor, metadata=about)


def _config_hparams(config: Config) -> Any:
    """Make the summary for the tab HParams, which compares runs."""
    from tensorboard.compat.proto import summary_pb2
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for key, value in config.flat.items():
        if isinstance(value, bool):
            start.hparams[key].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[key].number_value = value
        else:
            shown = value if isinstance(value, str) else ", ".join(map(str, value))
            start.hparams[key].string_value = shown.encode(errors="replace").decode()
    data = plugin_data_pb2.HParamsPluginData(session_start_info=start)
    return summary_pb2.Summary.Value(
        tag=metadata.SESSION_START_INFO_TAG,
        metadata=metadata.create_summary_metadata(data),
        tensor=metadata.NULL_TENSOR,
    )
