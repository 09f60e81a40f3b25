"""The notebook runs from its first cell to its last, with fewer steps."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"
SHORT = {
    "steps": 240,
    "prefill": 200,
    "pretrain": 1,
    "train_every": 20,
    "eval_every": 120,
    "eval_eps": 1,
    "dataset.batch": 2,
}


@pytest.fixture
def cells():
    """The code of the notebook."""
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return ["".join(x["source"]) for x in cells if x["cell_type"] == "code"]


def test_the_notebook_trains_and_shows_its_curve_and_its_dream(
    cells, tmp_path, monkeypatch, capsys
):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    plt.switch_backend("agg")
    names = {}
    for cell in cells:
        exec(compile(cell, NOTEBOOK.name, "exec"), names)
        if "logdir" not in names and "config" in names:
            names["config"] = names["config"].update(SHORT, logdir=str(tmp_path))
    curve, dream = shown
    (axis,) = curve.axes
    assert {line.get_label() for line in axis.lines} == {"train_return", "eval_return"}
    assert all(len(line.get_xdata()) for line in axis.lines)
    steps = len(names["episode"]["reward"])
    for index, axis in enumerate(dream.axes):
        truth, model, _ = axis.lines
        assert len(model.get_ydata()) == min(steps, 50)
        assert (truth.get_ydata() == names["truth"][0, :, index]).all()
    assert capsys.readouterr().out.endswith(f"Return: {steps - 1}\n")
    plt.close("all")


def test_the_notebook_is_stored_with_its_pictures():
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", ()) for output in outputs) == 2
    assert not any(output["output_type"] == "error" for output in outputs)
