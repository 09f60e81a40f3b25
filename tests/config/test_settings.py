"""A run's settings: scales that fit the losses, and noise that fits the actions."""

import pytest
import torch
from agent_tools import Replayed, make_agent, make_batch

from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.errors import UsageError


def losses(changes):
    """The world model's loss on a fixed batch, and its parts by name."""
    agent = make_agent(changes)
    data = agent.to_device(make_batch(0))
    with torch.no_grad():
        loss, _, _, metrics = agent.wm.loss(data, None, Replayed(0))
    return float(loss), {k: float(v) for k, v in metrics.items() if "_loss" in k}


def test_every_loss_has_the_scale_of_its_name_and_the_decoders_keys_a_common_one():
    total, parts = losses({})
    assert total == pytest.approx(sum(parts.values()))
    keys = ("image", "vector", "count")
    others = ("kl", "reward", "discount")
    assert set(parts) == {f"{key}_loss" for key in (*keys, *others)}
    for name in (*keys, *others):
        scaled, _ = losses({f"loss_scales.{name}": 3.0})
        assert scaled == pytest.approx(total + 2 * parts[f"{name}_loss"]), name
    scaled, _ = losses({"loss_scales": {"decoder": 3.0, "image": 1.0}})
    more = parts["vector_loss"] + parts["count_loss"]
    assert scaled == pytest.approx(total + 2 * more)


def test_steps_with_a_reward_count_so_many_times_in_the_rewards_loss():
    data = make_batch(0)
    data["reward"] = data["reward"].copy()
    data["reward"][:, ::2] = 0
    found = {}
    for times in (1.0, 10.0):
        agent = make_agent({"rare_rewards": times})
        with torch.no_grad():
            _, _, outs, metrics = agent.wm.loss(
                agent.to_device(data), None, Replayed(0)
            )
        found[times] = float(metrics["reward_loss"]), outs["log_prob"]["reward"]
    log_prob = found[1.0][1]
    torch.testing.assert_close(found[10.0][1], log_prob)  # What explorers are told.
    some = torch.as_tensor(data["reward"] != 0)
    assert found[1.0][0] == pytest.approx(-float(log_prob.mean()))
    expected = -float((log_prob * (1 + 9 * some)).mean())
    assert found[10.0][0] == pytest.approx(expected)


def test_a_scale_without_a_loss_is_refused_with_the_names_of_the_losses():
    with pytest.raises(UsageError) as error:
        make_agent({"loss_scales.rewrad": 2.0})
    assert str(error.value).startswith(
        "loss_scales.rewrad is the scale of no loss: the losses are kl, reward, "
        "discount, image, "
    )


def test_scales_added_to_a_run_are_kept_when_it_is_loaded(tmp_path):
    defaults = Config(load_presets()["defaults"])
    config = defaults.update({"loss_scales.image": 2})
    config.save(tmp_path / "config.yaml")
    assert defaults.fitted(Config.read(tmp_path / "config.yaml")) == config
    assert type(config.loss_scales.image) is float


def test_the_scale_that_the_reference_has_for_no_loss_is_taken():
    make_agent({"loss_scales.proprio": 1.0})
    with pytest.raises(UsageError, match="^loss_scales.proprio is the scale"):
        make_agent({"loss_scales.proprio": 2.0})


@pytest.mark.parametrize("key", ["expl_noise", "eval_noise"])
def test_noise_is_a_chance_where_actions_are_discrete(key):
    with pytest.raises(UsageError, match=f"^{key} is 1.5, but with discrete actions"):
        make_agent({key: 1.5}, discrete=True)
    make_agent({key: 1.5}, discrete=False)
    make_agent({key: 1.0}, discrete=True)
