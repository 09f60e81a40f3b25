"""--profile traces updates and says where their time goes; timers name the parts."""

import json

from run_tools import CATCH, metrics, ok, train_here


def test_a_trace_of_so_many_updates_is_written_and_summed_up(tmp_path):
    flags = ["--steps", 60, "--profile", 3, "--logdir", tmp_path]
    out = ok(train_here(*CATCH, *flags)).out
    assert f"Traced 3 updates to {tmp_path / 'profile'}:" in out
    table = out.partition("Traced 3 updates")[2]
    assert " x  aten::" in table and "%" in table
    (path,) = (tmp_path / "profile").glob("*.pt.trace.json")
    events = json.loads(path.read_text())["traceEvents"]
    names = [event.get("name") for event in events]
    # The weights of the dream are one cumulative product in each update.
    assert names.count("aten::cumprod") == 3


def test_nothing_is_traced_unless_asked(tmp_path):
    flags = ["--steps", 60, "--logdir", tmp_path]
    assert "Traced" not in ok(train_here(*CATCH, *flags)).out
    assert not (tmp_path / "profile").exists()


def test_the_parts_of_the_loop_are_timed(tmp_path):
    ok(train_here(*CATCH, "--steps", 60, "--logdir", tmp_path))
    last = [line for line in metrics(tmp_path) if "time_update" in line][-1]
    parts = {key: last[key] for key in last if key.startswith("time_")}
    assert {"time_env", "time_policy", "time_data", "time_update"} <= parts.keys()
    assert all(0 <= share <= 1 for share in parts.values())
    assert 0 < sum(parts.values()) <= 1
