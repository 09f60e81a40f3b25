"""What acts without learning carries no more than it needs; times are told apart."""

import torch
from agent_tools import make_agent, make_batch, make_obs

from dreamerv2.common.counter import Counter
from dreamerv2.common.other import Timer
from dreamerv2.running.learner import Learner


def memory(agent):
    """Numbers that an agent keeps on its device, by network or optimizer."""
    found = {}
    for behavior in (agent.wm, agent.task_behavior, agent.expl_behavior.ac):
        for name in behavior.parts:
            part = getattr(behavior, name)
            if isinstance(part, torch.nn.Module):
                tensors = [x for x in part.parameters() if x.device.type != "meta"]
            else:
                tensors = list(getattr(part, "_slots", {}).values())
            found[type(behavior).__name__, name, id(part)] = sum(
                x.numel() for x in tensors
            )
    return found


def test_a_copy_that_acts_keeps_the_networks_that_act_alone():
    agent = make_agent({"expl_behavior": "Plan2Explore"})
    copy = agent.acting_copy(Counter())
    acting = copy.acting_networks().values()
    needed = sum(x.numel() for net in acting for x in net.parameters())
    assert sum(memory(copy).values()) == needed < sum(memory(agent).values()) / 5
    predictors = copy.expl_behavior.predictors.parameters()
    assert all(x.device.type == "meta" for x in predictors)
    assert copy.policy(make_obs())[0]["action"].shape == (2, 3)
    assert copy.policy(make_obs(), None, "explore")[0]["action"].shape == (2, 3)


def test_an_agent_that_does_not_learn_has_no_optimizers():
    agent = make_agent()
    other = type(agent)(agent.config, *agent.spaces, Counter(), learns=False)
    assert (other.wm.opt, other.task_behavior.actor_opt) == (None, None)
    assert "opt" not in other.state_dict()["wm"]


def test_waiting_for_an_update_is_no_time_of_the_policy(tmp_path, monkeypatch):
    """As on a GPU, where an update is launched at once and takes its time then."""
    now = [0.0]

    def passing(seconds, result=None):
        def pass_time(*args):
            now[0] += seconds
            return result

        return pass_time

    agent, step = make_agent(), Counter()
    timer = Timer(lambda: now[0])
    learner = Learner(agent, step, timer, tmp_path)
    acted = agent.policy(make_obs())
    monkeypatch.setattr(agent, "wait", passing(6.0))
    monkeypatch.setattr(agent, "policy", passing(1.0, acted))
    learner.train(make_batch())
    learner.policy(make_obs(), None, "train")
    now[0] += 3.0
    assert timer.shares() == {"update": 0.6, "policy": 0.1}
    learner.policy(make_obs(), None, "train")  # There is nothing to wait for.
    assert timer.shares() == {"policy": 1.0}
