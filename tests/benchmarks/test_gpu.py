"""`make gpu` tries and measures everything that needs a GPU; here, what stands in."""

import json
import sys
import time
from pathlib import Path

import pytest
from run_tools import load_script, run_script

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
STEPS = """
    tests parity_float32 parity_bfloat16 parity_float16 waiting captured nodes
    update_eager update_compiled update_captured loop
""".split()


@pytest.fixture(scope="module")
def gpu():
    return load_script(SCRIPT)


def test_a_stand_in_takes_every_step_and_writes_what_it_found(tmp_path):
    path = tmp_path / "gpu.json"
    done = run_script(SCRIPT, "--stand-in", "--json", path)
    assert done.code == 0, done.out
    report = json.loads(path.read_text())
    steps = report["steps"]
    assert list(steps) == STEPS
    assert all(
        step["ok"] and step["seconds"] < step["limit"] for step in steps.values()
    )
    assert report["versions"]["torch"] and report["hardware"] and report["stand_in"]
    found = {name: step["found"] for name, step in steps.items()}
    assert found["tests"]["passed"] > 0 == found["tests"]["failed"]
    assert all(row["passed"] for row in found["parity_float32"]["rows"])
    assert found["parity_bfloat16"]["dtype"] == "bfloat16"
    assert found["waiting"]["updates"] == 3 and not found["waiting"]["watched"]
    # Two agents of one seed, which a CPU does not tell apart.
    captured = found["captured"]
    assert (captured["updates"], captured["captured"]) == (20, False)
    assert captured["model_loss_error_max"] == captured["actor_loss_error_max"] == 0
    assert found["nodes"] == {"graphs": 0, "nodes": None}
    for how in ("eager", "compiled", "captured"):
        (times,) = found[f"update_{how}"].values()
        assert 0 < times["seconds_min"] <= times["seconds_median"]
        assert times["flops"] > 0 and times["peak_memory_bytes"] > 1e7
    runs = found["loop"]["runs"]
    assert [(run["envs"], run["mode"]) for run in runs] == [(2, "sync"), (2, "async")]
    assert all(run["frames_per_second_median"] > 0 for run in runs)
    rate = f"{runs[0]['frames_per_second_median']:.0f} frames/s"
    assert f"| loop, 2 environments, sync | {rate} |" in done.out
    assert "these figures mean nothing" in done.out


def test_a_step_that_crashes_or_hangs_leaves_the_others(gpu, tmp_path, monkeypatch):
    path = tmp_path / "gpu.json"
    write = "open(sys.argv[1], 'w').write"
    programs = {
        "tests": "import os; os.abort()",
        "loop": f"import sys, time; {write}('{{\"runs\": []}}'); time.sleep(600)",
        "waiting": "import sys; sys.exit('No more memory.')",
        "nodes": f"import sys; {write}('{{\"nodes\": 7}}')",
    }
    steps = [
        gpu.Step(name, 5 if name == "loop" else 60, ["-c", program, "JSON"])
        for name, program in programs.items()
    ]
    monkeypatch.setattr(gpu, "make_steps", lambda args: steps)
    seen = []

    def run_step(*args):
        seen.append(json.loads(path.read_text())["steps"] if path.exists() else {})
        return real(*args)

    real = gpu.run_step
    monkeypatch.setattr(gpu, "run_step", run_step)
    assert gpu.main(["--stand-in", "--json", str(path)]) == 1
    found = json.loads(path.read_text())["steps"]
    assert [step["ok"] for step in found.values()] == [False, False, False, True]
    assert found["tests"]["error"] == "exit code -6: no output"
    assert found["loop"]["error"] == "it took more than 5 s"
    assert found["loop"]["found"] == {"runs": []}  # What was there by then.
    assert found["waiting"]["error"] == "exit code 1: No more memory."
    assert found["nodes"]["found"] == {"nodes": 7}
    # The file was written after each step.
    assert [list(steps) for steps in seen] == [list(programs)[:i] for i in range(4)]


def test_without_a_gpu_there_is_a_sentence(gpu, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "gpu_name", lambda: None)
    assert gpu.main([]) == 2
    said = capsys.readouterr().err
    assert said.startswith("gpu.py: PyTorch sees no CUDA GPU") and said.count("\n") == 1


def test_what_comes_after_the_time_for_all_is_left_out(gpu, monkeypatch):
    step = gpu.Step("nodes", 60, ["-c", "raise SystemExit(0)"])
    monkeypatch.setattr(gpu, "make_steps", lambda args: [step])
    args = gpu.parse(["--stand-in", "--minutes", "0"])
    found = gpu.run_all([step], args)["steps"]["nodes"]
    assert found == {"ok": False, "error": "there was no time left"}


def test_a_process_that_is_ended_takes_its_own_along(gpu, tmp_path):
    program = (
        "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c',"
        " 'import time; time.sleep(600)']); open(sys.argv[1], 'w')"
        ".write(str(child.pid)); time.sleep(600)"
    )
    path = tmp_path / "pid"
    command = [sys.executable, "-c", program, str(path)]
    assert gpu.run_limited(command, 5, tmp_path / "out.txt") == "it took more than 5 s"
    status, due = Path(f"/proc/{path.read_text()}/stat"), time.monotonic() + 30
    while status.exists() and status.read_text().split()[2] != "Z":
        assert time.monotonic() < due, "it still runs"  # To end takes it a moment.
        time.sleep(0.05)


def test_the_nodes_of_a_graph_are_counted(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    steps = load_script(SCRIPT.parent / "gpu_steps.py")

    class Graph:
        def debug_dump(self, path):
            lines = (f'"graph_1_node_{i}"[style="bold"];' for i in range(12))
            edge = '"graph_1_node_0" -> "graph_1_node_1";'
            Path(path).write_text("\n".join(["digraph dot {", *lines, edge, "}"]))

    assert steps.nodes_of(Graph()) == 12
