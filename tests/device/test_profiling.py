"""--profile traces updates and says where their time goes; timers name the parts."""

import json
from types import SimpleNamespace

import pytest
import torch
from costs import costs, format_cost
from run_tools import CATCH, metrics, ok, train_here
from torch.autograd import DeviceType

from dreamerv2.common.device.profiling import WARMUP, UpdateProfile


def test_a_trace_of_so_many_updates_is_written_and_summed_up(tmp_path):
    flags = ["--steps", 60, "--profile", 3, "--logdir", tmp_path]
    out = ok(train_here(*CATCH, *flags)).out
    assert f"Traced 3 updates to {tmp_path / 'profile'}:" in out
    table = out.partition("Traced 3 updates")[2]
    assert "aten::" in table and "Self CPU %" in table
    (path,) = (tmp_path / "profile").glob("*.pt.trace.json")
    events = json.loads(path.read_text())["traceEvents"]
    names = [event.get("name") for event in events]
    # The weights of the dream are one cumulative product in each update.
    assert names.count("aten::cumprod") == 3


def test_on_a_gpu_its_kernels_cost_and_not_once_more_what_launched_them():
    def event(key, micros, device_type, note=False):
        found = SimpleNamespace(key=key, count=2, self_device_time_total=micros)
        found.device_type, found.is_user_annotation = device_type, note
        return found

    averages = [
        event("aten::mm", 30, DeviceType.CPU),
        event("gemm" * 99, 30, DeviceType.CUDA),
        event("copy", 10, DeviceType.CUDA),
        event("a step", 40, DeviceType.CUDA, note=True),
    ]
    found = costs(averages, True, 3)
    assert [row["share"] for row in found] == [0.75, 0.25]
    assert found[0]["seconds"] == pytest.approx(30e-6)
    assert len(format_cost(found[0])) < 140


def test_a_gpu_that_is_not_used_is_not_asked(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    profile = UpdateProfile(1, tmp_path)
    for _ in range(WARMUP + 1):
        with profile:
            torch.ones(3).cumprod(0)
    assert "aten::cumprod" in capsys.readouterr().out


def test_the_parts_of_the_loop_are_timed_and_nothing_is_traced_unless_asked(tmp_path):
    flags = ["--steps", 60, "--logdir", tmp_path]
    assert "Traced" not in ok(train_here(*CATCH, *flags)).out
    assert not (tmp_path / "profile").exists()
    last = [line for line in metrics(tmp_path) if "time_update" in line][-1]
    parts = {key: last[key] for key in last if key.startswith("time_")}
    assert {"time_env", "time_policy", "time_data", "time_update"} <= parts.keys()
    assert all(0 <= share <= 1 for share in parts.values())
    assert 0 < sum(parts.values()) <= 1
