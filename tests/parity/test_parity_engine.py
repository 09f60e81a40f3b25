"""The comparison itself: it computes errors right and takes files as they are."""

import importlib.util
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from parity_tools import record
from recordings import Setup, compare_file, find_files
from recordings.agents import INPUTS
from recordings.files import limit, strict
from recordings.means import size_of_averaged
from recordings.recording import RecordedNoise, Recording
from recordings.rows import Rows, relative_error

from dreamerv2.agent import ActorCritic
from dreamerv2.common import dists
from dreamerv2.common.errors import UsageError
from dreamerv2.common.networks.layers import GRUCell

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def command():
    spec = importlib.util.spec_from_file_location(
        "parity_command", ROOT / "benchmarks" / "parity.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def units(tmp_path):
    """Writes a units.npz of some families of the real one, changed."""

    def write(*families, **changes):
        arrays = Recording(ROOT / "tests" / "parity" / "units.npz")
        chosen = {k: v for k, v in arrays.items() if k.split("/")[0] in families}
        changes = {name.replace("__", "/"): value for name, value in changes.items()}
        np.savez(tmp_path / "units.npz", **{**chosen, **changes})
        return tmp_path / "units.npz"

    return write


def test_the_error_is_relative_to_the_reference():
    assert relative_error([3.0, 4.3], [3.0, 4.0]) == (pytest.approx(0.06), "")
    assert relative_error(torch.tensor([3.0]), np.array([3], np.int32)) == (0.0, "")
    assert relative_error([True, False], [True, False])[0] == 0.0


def test_where_the_reference_is_zero_the_error_is_absolute():
    assert relative_error([0.0, 1e-3], [0.0, 0.0])[0] == pytest.approx(1e-3)


def test_equal_infinities_hide_no_error_beside_them():
    assert relative_error([math.inf, 2.0], [math.inf, 2.0])[0] == 0.0
    assert relative_error([math.inf, 3.0], [math.inf, 2.0])[0] == pytest.approx(0.5)


def test_what_cannot_be_compared_is_infinitely_far():
    assert relative_error(None, [1.0])[0] == math.inf
    assert relative_error([[1.0]], [1.0]) == (math.inf, "shape (1, 1) instead of (1,)")
    assert relative_error([math.nan], [1.0]) == (math.inf, "not finite")
    assert relative_error([math.inf], [-math.inf]) == (math.inf, "not finite")
    table = Rows()
    table.compare("x", "x", [math.nan], [1.0], 1e9)
    assert not table.list()[0].passed


def test_a_row_shows_the_array_that_is_furthest_from_its_limit():
    table = Rows()
    table.compare("x", "x0", [1.01], [1.0], 1e-1)
    table.compare("x", "x1", [1.001], [1.0], 1e-3)
    table.compare("x", "x2", [1.02], [1.0], 1e-1)
    (row,) = table.list()
    assert (row.array, row.limit, row.count) == ("x1", 1e-3, 3)
    assert row.error == pytest.approx(1e-3)


def test_a_mean_of_signed_values_is_judged_by_their_size():
    near = relative_error(np.float32(2e-4), np.float32(1e-4), scale=2.0)
    assert near == (pytest.approx(5e-5), "of what is averaged; 1.0e+00 of the mean")
    assert relative_error([2.2], [2.0], scale=1.0) == (pytest.approx(0.1), "")


MEANS = """
    reward_mean reward_normed_mean critic critic_slow critic_target actor_loss
""".split()
MEANS += [f"expl_{metric}" for metric in MEANS]


@pytest.fixture
def made_up(tmp_path):
    """A recording in which every mean of signed values is -0.002 of values of 0.3."""
    rng = np.random.default_rng(0)
    arrays = {f"update0/metrics/{name}": np.float32(-0.002) for name in MEANS}
    for prefix in ("", "expl_"):
        for kind in ("", "normed_"):
            name = f"update0/metrics/{prefix}reward_{kind}std"
            arrays[name] = np.float32(0.3)
    for behavior in ("task", "expl"):
        returns = 0.3 * rng.choice([-1, 1], (4, 50)).astype(np.float32)
        arrays[f"update0/{behavior}/lambda_return"] = returns
    arrays["update0/batch/action"] = rng.uniform(-1, 1, (3, 6, 2)).astype(np.float32)
    arrays["update0/post/mean"] = np.zeros((3, 6, 4), np.float32)
    for name in ("actor_ent", "expl_actor_ent", "post_ent", "prior_ent"):
        arrays[f"update0/metrics/{name}"] = np.float32(1e-3)
    arrays["update0/metrics/image_loss"] = np.float32(0.01)
    np.savez(tmp_path / "made_up.npz", **arrays)
    return Recording(tmp_path / "made_up.npz")


def judged(recording, metric, difference):
    """Whether a metric that is so much off is within its limit."""
    name = f"update0/metrics/{metric}"
    table = Rows()
    size = size_of_averaged(name, recording)
    ours = recording[name].astype(np.float64) + difference
    table.compare(metric, name, ours, recording[name], limit(name), size)
    return table.list()[0].passed


@pytest.mark.parametrize("metric", MEANS)
def test_a_mean_that_cancels_may_be_as_far_off_as_its_values(made_up, metric):
    # 1e-7 is 5e-5 of the mean and 3e-7 of the values: as good as float32 can be.
    assert judged(made_up, metric, 1e-7)
    # A true fault, of 2% of the mean, is not hidden, nor is a sign.
    assert not judged(made_up, metric, 4e-5)
    assert not judged(made_up, metric, 4e-3)


@pytest.mark.parametrize("metric", ["actor_ent", "expl_actor_ent", "post_ent"])
def test_an_entropy_of_continuous_variables_is_judged_by_a_nat_of_each(made_up, metric):
    count = 4 if metric == "post_ent" else 2
    assert judged(made_up, metric, 0.9e-5 * count)
    assert not judged(made_up, metric, 1.1e-5 * count)  # Of standard deviations.


def test_numbers_of_one_sign_are_judged_by_themselves(made_up):
    assert judged(made_up, "image_loss", 0.9e-7)
    assert not judged(made_up, "image_loss", 1.1e-7)
    assert size_of_averaged("update0/metrics/image_loss", made_up) == 0
    # One-hot actions and latents have entropies of one sign.
    recording = Recording(ROOT / "tests" / "parity" / "discrete_pixels.npz")
    for metric in ("actor_ent", "post_ent", "prior_ent"):
        assert size_of_averaged(f"update0/metrics/{metric}", recording) == 0


def test_a_real_error_in_the_values_fails_with_the_rule(monkeypatch):
    path = ROOT / "tests" / "parity" / "plan2explore.npz"
    slow = ActorCritic._slow_critic.fget

    def shifted(self):
        """Values that are 1e-4 too high."""
        critic = slow(self)
        return lambda *feat: dists.MSEDist(critic(*feat).mode() + 1e-4, 0)

    monkeypatch.setattr(ActorCritic, "_slow_critic", property(shifted))
    failed = {row.quantity for row in compare_file(path, None, 1) if not row.passed}
    for prefix in ("", "expl_"):
        assert f"metrics/{prefix}critic_slow" in failed
        assert f"metrics/{prefix}critic_target" in failed


VARIANTS = {
    "pixels with norms, an ensemble, tanh_normal": {
        "changes": {
            r".*\.norm": "layer",
            "rssm.ensemble": 3,
            "actor.dist": "tanh_normal",
            "imag_horizon": 3,
            "reward_norm.momentum": 0.5,
            "model_opt.opt": "nadam",
        },
        "discrete": False,
        "length": 7,
    },
    "several updates, vectors, ModelLoss, no slow critic": {
        "changes": {
            "expl_behavior": "ModelLoss",
            "actor.dist": "onehot",
            "encoder.cnn_keys": "$^",
            "decoder.mlp_keys": "vector",
            "slow_target": False,
            "eval_noise": 0.2,
            r"(actor|critic)_opt\.opt": "momentum",
        },
        "updates": 4,
        "batch": 5,
        "calls": 3,
    },
    "truncated normals, both gradients, Plan2Explore of the features": {
        "changes": {
            "rssm.discrete": 0,
            "actor_grad": "both",
            "expl_behavior": "Plan2Explore",
            "disag_target": "feat",
            "pred_discount": False,
            "grad_heads": ["decoder"],
            "eval_state_mean": True,
        },
        "discrete": False,
        "calls": 1,
    },
}


@pytest.mark.parametrize("path", find_files(ROOT / "tests" / "parity"))
def test_no_result_is_taken_for_an_input(path):
    inputs = [name for name in Recording(path) if INPUTS.fullmatch(name)]
    if path.stem != "units":
        kinds = {re.sub(r"\d|/noise.*|/\w+$", "", name) for name in inputs}
        kinds = {kind for kind in kinds if not kind.startswith("params/")}
        known = {"config", "update", "update/task", "update/batch", "policy"}
        known |= {"policy/obs", "report", "report/batch", "update/expl"}
        assert kinds <= known
    assert not [name for name in inputs if re.match(r"params[1-9]|.*/grads/", name)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_says_all_about_itself(tmp_path, monkeypatch, variant):
    path = tmp_path / "recorded.npz"
    arrays = record(path, monkeypatch, **VARIANTS[variant])
    rows = compare_file(path)
    assert {row.quantity: row.error for row in rows if row.error} == {}
    results = [name for name in arrays if not INPUTS.fullmatch(name)]
    assert sum(row.count for row in rows) == len(results)
    updates = VARIANTS[variant].get("updates", 1)
    assert f"params{updates}/rssm" in {row.quantity for row in rows}


def test_a_picked_ensemble_member_may_be_an_index(tmp_path, monkeypatch):
    path = tmp_path / "recorded.npz"
    arrays = record(path, monkeypatch, {"rssm.ensemble": 4})
    for name, draw in arrays.items():
        if name.endswith("_member"):
            arrays[name] = (draw * 4).astype(np.int32)
    np.savez(path, **arrays)
    assert all(row.error == 0 for row in compare_file(path))


def test_an_array_that_is_off_fails_alone(tmp_path, monkeypatch):
    path = tmp_path / "recorded.npz"
    arrays = record(path, monkeypatch, {})
    arrays["update0/grads/actor/out/out/bias"] *= 1.001
    arrays["update0/metrics/unheard_of"] = np.float32(1)
    del arrays["update0/grads/critic/out/out/bias"]
    np.savez(path, **arrays)
    failed = {row.quantity: row for row in compare_file(path) if not row.passed}
    assert set(failed) == {"grads/actor", "grads/critic", "metrics/unheard_of"}
    assert failed["grads/actor"].error == pytest.approx(1e-3, rel=1e-2)
    assert failed["metrics/unheard_of"].note == "this project has no such number"


class TestRecordedNoise:
    @pytest.fixture
    def noise(self, tmp_path):
        arrays = {
            "update0/noise/observe_post": np.ones((4, 2, 3), np.float32),
            "update0/task/noise/imagine_action": np.full((2, 5), 0.25, np.float32),
            "policy/noise1/post": np.full((2, 3), 2.0, np.float32),
        }
        np.savez(tmp_path / "noise.npz", **arrays)
        recording = Recording(tmp_path / "noise.npz")
        kinds = {"observe_post": "gumbel", "imagine_action": "uniform"}
        device = torch.device("cpu")
        return RecordedNoise(recording, kinds, 1, torch.float64, device)

    def test_draws_lie_where_the_agent_is(self, noise):
        noise.stage = "update0"
        draw = noise("observe_post", "gumbel", (4, 2, 3))
        assert torch.equal(draw, torch.ones(4, 2, 3, dtype=torch.float64))
        assert noise("task/imagine_action", "uniform", (2, 5))[0, 0] == 0.25
        noise.stage = "policy1"
        assert noise("policy/post", "gumbel", (2, 3))[0, 0] == 2.0

    @pytest.mark.parametrize(
        "name, kind, shape, message",
        [
            ("observe_post", "normal", (4, 2, 3), "as gumbel noise, but normal"),
            ("observe_post", "gumbel", (4, 3, 2), r"with one of shape \(4, 2, 3\)"),
            ("task/entropy", "normal", (9,), r"with one among \['imagine_action'\]"),
            ("expl/imagine_action", "uniform", (2, 5), r"with one among \[\]"),
        ],
    )
    def test_any_other_draw_is_an_error(self, noise, name, kind, shape, message):
        noise.stage = "update0"
        with pytest.raises(ValueError, match=message):
            noise(name, kind, shape)


class TestCommand:
    def test_all_within_limits_is_exit_code_0(self, command, units, capsys, tmp_path):
        units("lambda_return", "schedule", "schedule_steps")
        file = tmp_path / "out.json"
        assert command.main(["--dir", str(tmp_path), "--json", str(file)]) == 0
        first = capsys.readouterr().out.splitlines()[0].split()
        assert first[:2] == ["units", "lambda_return"]
        assert first[3:5] == ["1e-05", "pass"]
        table = json.loads(file.read_text())
        assert table["dtype"] == "float32" and not table["compile"]
        row = table["rows"][0]
        assert row["file"] == "units" and row["quantity"] == "lambda_return"
        assert row["count"] == 3 and row["passed"] and 0 <= row["error"] < 1e-6

    def test_one_failure_is_exit_code_1(self, command, units, capsys, monkeypatch):
        path = units("gru", "onehot")
        monkeypatch.setattr(GRUCell, "UPDATE_BIAS", 0.0)
        assert command.main(["--dir", str(path.parent), "--dtype", "float64"]) == 1
        lines = capsys.readouterr().out.splitlines()
        failed = [line.split()[1] for line in lines if "FAIL" in line]
        assert failed == ["gru/output"]

    def test_an_unknown_array_fails(self, command, units, capsys):
        path = units("gru", gru__more=np.ones(2))
        assert command.main(["--dir", str(path.parent)]) == 1
        assert "this project has no such number" in capsys.readouterr().out

    def test_16_bits_are_reported_without_a_verdict(self, command, tmp_path, capsys):
        source = ROOT / "tests" / "parity" / "gaussian_vectors.npz"
        (tmp_path / source.name).write_bytes(source.read_bytes())
        assert command.main(["--dir", str(tmp_path), "--dtype", "bfloat16"]) == 0
        out = capsys.readouterr().out
        assert "pass" not in out and "FAIL" not in out
        errors = {}
        for line in out.splitlines():
            if line.startswith("gaussian_vectors") and " arrays in " not in line:
                errors[line.split()[1]] = float(line.split()[2])
        assert 1e-5 < errors["grads/rssm"] < 0.5
        assert 1e-7 < errors["metrics/model_loss"] < 0.1

    @pytest.mark.parametrize(
        "flags, message",
        [
            (["--dir", "nowhere"], "There is no recording in nowhere"),
            (["--dtype", "int8"], "Unknown dtype 'int8'"),
            (["--device", "abacus"], "Unknown device 'abacus'"),
        ],
    )
    def test_wrong_options_are_exit_code_2(self, command, flags, message, capsys):
        assert command.main(flags) == 2
        assert message in capsys.readouterr().err


def test_float16_gradients_are_finite_once_the_scale_has_settled():
    path = ROOT / "tests" / "parity" / "discrete_pixels.npz"
    rows = {row.quantity: row for row in compare_file(path, Setup("float16"), 1)}
    assert rows["grads/encoder"].error < 0.1
    assert rows["metrics/image_loss"].error < 1e-3


def test_on_a_gpu_the_convolutions_that_are_compared_are_those_of_training():
    cudnn = torch.backends.cudnn
    before = cudnn.enabled, cudnn.allow_tf32
    with strict(Setup()):
        assert cudnn.enabled and not cudnn.allow_tf32
    assert (cudnn.enabled, cudnn.allow_tf32) == before


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "units.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(UsageError, match=r"units\.npz cannot be read"):
        compare_file(find_files(tmp_path)[0])
