"""--async_training: acting goes on beside the updates, and nothing depends on time."""

import random
import signal
import threading
import time

import pytest
import torch
from agent_tools import make_agent, make_batch, make_obs
from run_tools import (
    CATCH,
    TINY,
    Running,
    checkpoint,
    episodes,
    goes_on,
    metrics,
    ok,
    one_sentence,
    repeated,
    same,
    step_of,
    train_here,
    untimed,
)

from dreamerv2.common.counter import Counter
from dreamerv2.common.other import Timer
from dreamerv2.running.checkpoint import Checkpoint
from dreamerv2.running.learner import LAST, BackgroundLearner, Learner

ASYNC = ["--async_training", "True"]
SYNC = ["--async_training", "False"]
SELDOM = ["--eval_every", "1000", "--log_every", "10"]
# Several environments, an exploration with an actor of its own, two updates a round.
MANY = [*TINY, "--task", "toy_catch", "--envs", "2", *ASYNC, *SELDOM]
MANY += ["--expl_behavior", "Plan2Explore", "--train_every", "3", "--train_steps", "2"]
# A schedule, so that it shows at which step an update believes to be.
MANY += ["--actor_ent", "linear(1,0,100)"]


def differences(one, two):
    """What two runs left that is not equal to the last bit, but for times."""
    left, right = checkpoint(one), checkpoint(two)
    # Replays name files by the time; the metrics' size depends on times in them.
    found = [n for n in left if n not in ("train", "eval", "jsonl")]
    found = [n for n in found if not same(left[n], right[n])]
    for mode in ("train", "eval"):
        for part in ("envs", "driver"):
            if not same(left[mode][part], right[mode][part]):
                found.append(f"{mode} {part}")
    assert left.keys() == right.keys()
    for mode in ("train", "eval"):
        if not same(*(episodes(x / f"{mode}_episodes") for x in (one, two))):
            found.append(f"{mode}_episodes")
    return found + ["metrics"] * (untimed(one) != untimed(two))


def slow_down(monkeypatch, most):
    """Updates of this process begin and end up to so many seconds later, by chance."""
    learn, rng = Learner.learn, random.Random(0)

    def slow(self, batch):
        time.sleep(rng.uniform(0, most))
        learn(self, batch)
        time.sleep(rng.uniform(0, most))

    monkeypatch.setattr(Learner, "learn", slow)


def background(agent, folder):
    """A learner beside which a copy acts."""
    return BackgroundLearner(agent, Counter(), Counter(), Timer(), folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The logdir of a run of MANY that nothing disturbed."""
    logdir = tmp_path_factory.mktemp("whole") / "run"
    ok(train_here(*MANY, "--steps", "90", "--logdir", logdir))
    return logdir


# What is computed


def test_there_are_as_many_updates_as_without(whole, tmp_path):
    ok(train_here(*MANY, *SYNC, "--steps", "90", "--logdir", tmp_path))
    runs = [checkpoint(x) for x in (whole, tmp_path)]
    counts = [run["agent"]["task_behavior"]["updates"] for run in runs]
    assert counts[0] == counts[1] == 1 + 2 * 17
    assert ["acting" in run["agent"] for run in runs] == [True, False]
    for name in ("step", "when_train", "when_log", "when_eval"):
        assert runs[0][name] == runs[1][name]
    logged = [[line["step"] for line in metrics(x)] for x in (whole, tmp_path)]
    assert logged[0] == logged[1]
    scales = [
        [line["actor_ent_scale"] for line in metrics(x) if "actor_loss" in line]
        for x in (whole, tmp_path)
    ]
    assert scales[0] == scales[1] and len(set(scales[0])) == len(scales[0])


def test_neither_slow_updates_nor_saves_nor_logs_change_anything(
    whole, tmp_path, monkeypatch
):
    slow_down(monkeypatch, 0.05)
    flags = ["--save_every", "0", "--steps", "90"]  # A checkpoint after each step.
    ok(train_here(*MANY, *flags, "--logdir", tmp_path))
    assert differences(whole, tmp_path) == []


def test_the_policy_acts_by_the_weights_before_the_updates_under_way(
    tmp_path, monkeypatch
):
    begun, known, acted = [0], {}, []
    learn = Learner.learn
    train, policy = BackgroundLearner.train, BackgroundLearner.policy

    def weights(agent):
        networks = agent.acting_networks().values()
        return torch.cat([p.detach().ravel() for n in networks for p in n.parameters()])

    def learning(self, batch):
        known.setdefault(0, weights(self.agent))
        learn(self, batch)
        known[len(known)] = weights(self.agent)

    def submitting(self, batch):
        begun[0] += 1
        train(self, batch)

    def acting(self, obs, state, mode):
        result = policy(self, obs, state, mode)
        acted.append((begun[0], weights(self._copy)))
        return result

    monkeypatch.setattr(Learner, "learn", learning)
    monkeypatch.setattr(BackgroundLearner, "train", submitting)
    monkeypatch.setattr(BackgroundLearner, "policy", acting)
    ok(train_here(*MANY, "--steps", "70", "--logdir", tmp_path))
    assert len(acted) == 15 and len(known) == 1 + begun[0]
    lag = []
    for count, own in acted:
        (number,) = (n for n, x in known.items() if torch.equal(x, own))
        lag.append(count - number)
    # After the pretraining there is none; then it is what became due at once.
    assert lag[0] == 0 and set(lag[1:]) == {2}


def test_environments_are_stepped_while_an_update_is_under_way(tmp_path, monkeypatch):
    stepped, waited = threading.Event(), []
    learn = Learner.learn
    submit, policy = BackgroundLearner._submit, BackgroundLearner.policy

    def learning(self, batch):
        waited.append(stepped.wait(60))
        learn(self, batch)

    def submitting(self, batch):
        stepped.clear()
        submit(self, batch)

    def acting(self, obs, state, mode):
        stepped.set()
        return policy(self, obs, state, mode)

    monkeypatch.setattr(Learner, "learn", learning)
    monkeypatch.setattr(BackgroundLearner, "_submit", submitting)
    monkeypatch.setattr(BackgroundLearner, "policy", acting)
    # Updates are due at the steps 21, 23, .., 29. Writing metrics would wait for them.
    flags = ["--pretrain", "0", "--log_every", "0", "--eval_every", "1000"]
    ok(train_here(*CATCH, *ASYNC, *flags, "--steps", "30", "--logdir", tmp_path))
    assert waited == [True] * 5


@pytest.mark.parametrize("mode", ["train", "explore"])
def test_the_copy_acts_as_the_agent_would_with_its_weights(mode, one_thread, tmp_path):
    config = {"expl_behavior": "Plan2Explore", "expl_noise": 0.2}
    # Continuous actions show every difference between two actors.
    agent = make_agent(config, discrete=False)
    learner = background(agent, tmp_path)
    learner.train(make_batch(0, discrete=False))
    learner.join()
    latent = own = None
    for seed in range(3):
        obs = make_obs(seed, first=seed == 0)
        agent.noise.load_state_dict(learner._copy.noise.state_dict())
        acted, latent = learner.policy(obs, latent, mode)
        wanted, own = agent.policy(obs, own, mode)
        assert same(acted, wanted) and same(latent, own)
    learner.close()


def test_16_bit_updates_do_not_depend_on_when_the_twin_acts(one_thread):
    changes = {"async_training": True, "precision": "bfloat16", "actor_grad": "both"}
    agent, plain = make_agent(changes), make_agent(changes)
    noise = agent.noise

    def act():
        with agent.precision.context():
            pass

    def meanwhile(*args):  # It is drawn between two uses of a weight, among others.
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()
        return noise(*args)

    agent.noise = meanwhile
    found = []
    for each in (agent, plain):
        metrics = each.train(make_batch(0))
        actor = dict(each.task_behavior.actor.state_dict())
        found.append({**each.carried, **metrics, **actor})
    assert same(*found)


def test_updates_that_are_due_at_once_do_not_wait_for_each_other(
    one_thread, tmp_path, monkeypatch
):
    go, done = threading.Event(), []

    def learn(self, batch):
        assert go.wait(60)
        done.append(batch["number"])

    monkeypatch.setattr(Learner, "learn", learn)
    learner = background(make_agent(), tmp_path)
    learner.policy(make_obs(), None, "train")
    for number in range(3):  # As of three environments that made a step.
        learner.train({"number": number})
    assert done == []
    learner.policy(make_obs(), None, "train")
    go.set()
    learner.train({"number": 3})
    assert done[:3] == [0, 1, 2]
    learner.close()


# Going on


def test_a_run_that_was_killed_and_goes_on_ends_as_if_it_never_was(tmp_path):
    logdir = tmp_path / "run"
    often = ["--save_every", "0"]  # A checkpoint after each step.
    with Running(tmp_path, *MANY, *often, "--logdir", logdir) as run:
        run.wait_until((logdir / "variables.pt").exists)
        run.wait_until(lambda: step_of(logdir) > 45)
        run.send(signal.SIGKILL)
        assert run.result().code == -signal.SIGKILL
    early = step_of(logdir)
    flags = [*MANY, "--steps", early + 30]
    result = ok(train_here(*flags, *often, "--logdir", logdir))
    assert f"Resumed at step {early}.\n" in result.out
    ok(train_here(*flags, "--logdir", tmp_path / "whole"))
    assert differences(tmp_path / "whole", logdir) == []


@pytest.mark.parametrize("when", [62, 64, 66])
def test_a_run_that_was_stopped_and_goes_on_ends_as_if_it_never_was(
    whole, tmp_path, monkeypatch, when
):
    whole_step = Checkpoint.whole

    def stopping(self):
        whole_step(self)
        if self._step == when:  # With updates under way, or just before some.
            signal.raise_signal(signal.SIGTERM)

    slow_down(monkeypatch, 0.03)
    flags = [*MANY, "--steps", "90", "--logdir", tmp_path]
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "whole", stopping)
        assert train_here(*flags).code == 143
    assert step_of(tmp_path) == when
    ok(train_here(*flags))
    assert differences(whole, tmp_path) == []


def test_a_run_may_change_between_both_ways_of_training(tmp_path):
    ok(train_here(*CATCH, "--steps", "31", "--logdir", tmp_path))
    goes_on(tmp_path, *ASYNC)
    assert "acting" in checkpoint(tmp_path)["agent"]
    goes_on(tmp_path)
    assert "acting" not in checkpoint(tmp_path)["agent"]


# Errors and signals


def test_an_error_in_an_update_ends_the_run_with_the_checkpoint_before(
    tmp_path, monkeypatch
):
    def broken(self):
        raise ZeroDivisionError("in the learner")

    flags = [*CATCH, *ASYNC, "--pretrain", "0", "--logdir", tmp_path]
    threads = threading.active_count()
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError) as error:
        patch.setattr("dreamerv2.agent.ActorCritic.update_slow_target", broken)
        train_here(*flags, "--steps", "60")
    names = [entry.name for entry in error.traceback]
    assert {"run", "learn", "broken"} <= set(names)
    assert threading.active_count() == threads
    assert step_of(tmp_path) == 20
    goes_on(tmp_path, *ASYNC)


def test_an_error_while_acting_lets_the_update_end_and_saves_it(tmp_path, monkeypatch):
    class Broken(Exception):
        pass

    def policy(self, obs, state, mode):
        if self._step == 33:
            raise Broken
        self._acted = True
        return self._copy.policy(obs, state, mode)

    slow_down(monkeypatch, 0.2)
    with monkeypatch.context() as patch, pytest.raises(Broken):
        patch.setattr(BackgroundLearner, "policy", policy)
        train_here(*CATCH, *ASYNC, "--logdir", tmp_path, "--steps", "60")
    saved = checkpoint(tmp_path)
    assert saved["step"] == {"value": 33}
    assert saved["agent"]["task_behavior"]["updates"] == 1 + 7
    goes_on(tmp_path, *ASYNC)


def test_a_second_ctrl_c_stops_in_the_middle_of_an_update(tmp_path):
    logdir = tmp_path / "run"
    slow = ["--imag_horizon", "100000", "--pretrain", "0", "--log_every", "0"]
    with Running(tmp_path, *CATCH, *ASYNC, *slow, "--logdir", logdir) as run:
        # Past its first evaluation, the main thread waits for a dream of minutes.
        run.wait_until((logdir / "variables.prev.pt").exists)
        run.send(signal.SIGINT)
        run.wait_until(lambda: "Press Ctrl-C again" in run.out)
        run.send(signal.SIGINT)
        begin = time.monotonic()
        result = run.result()
    assert (result.code, result.err) == (130, "")
    assert time.monotonic() - begin < LAST / 2  # It was not waited for.
    assert step_of(logdir) == 20


def test_there_is_nothing_to_overlap_offline(tmp_path):
    flags = ["--offline", tmp_path, "--logdir", tmp_path / "run"]
    assert one_sentence(train_here(*CATCH, *ASYNC, *flags)) == (
        "--async_training True lets updates go on beside environments, and with "
        "--offline there are none: leave one of the two out."
    )
    assert not (tmp_path / "run").exists()


# What is told


def test_profiles_and_shares_of_time_are_as_without(tmp_path, monkeypatch):
    slow_down(monkeypatch, 0.1)
    flags = ["--steps", 48, "--profile", 3, "--logdir", tmp_path]
    out = ok(train_here(*CATCH, *ASYNC, *flags)).out
    assert f"Traced 3 updates to {tmp_path / 'profile'}:" in out
    (path,) = (tmp_path / "profile").glob("*.pt.trace.json")
    assert path.read_text().count('"aten::cumprod"') == 3
    for line in metrics(tmp_path):
        parts = [line[key] for key in line if key.startswith("time_")]
        assert sum(parts) <= 1
    assert repeated(tmp_path) == ([], False)
    updates = [line["time_update"] for line in metrics(tmp_path) if "fps" in line]
    assert max(updates) > 0.05  # What slow updates make the loop wait.
