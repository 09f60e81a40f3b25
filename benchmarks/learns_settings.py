"""What learns.py trains: per suite and task the flags of train.py and the goal."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Task:
    """How a task is trained, and what is good enough.

    Args:
      flags: of train.py, beside --task and --seed.
      goal: the mean return of an evaluation that passes. None is the share of the way
        from random to best that the command names.
      steps: 0 ends a run at the first evaluation that passes. Otherwise it takes so
        many environment steps, and what passes is the mean return of its last ten
        training episodes, if it is no less than the reference's at the same step.
      divisor: of the rewards, where the task of the flags divides them.
    """

    flags: tuple[str, ...]
    goal: float | None = None
    steps: int = 0
    divisor: float = 1


def _task(*flags: str, **how: float) -> Task:
    return Task(tuple(" ".join(flags).split()), **how)


def _networks(units: int) -> str:
    return f"""
    --precision 32 --jit False --clip_rewards identity
    --rssm.hidden {units} --rssm.deter {units}
    --(reward_head|discount_head|actor|critic).layers 2
    --(reward_head|discount_head|actor|critic).units {units}
    """


def _vectors(units: int) -> str:
    return (
        "--(encoder|decoder).cnn_keys $^ "
        f"--(encoder|decoder).mlp_layers {units} {units}"
    )


# Episodes end by the clock alone.
ENDLESS = (
    "--pred_discount False --grad_heads decoder reward --replay.prioritize_ends False"
)

# Fast: small batches, high learning rates, and a critic that is copied often.
FAST = """
--envs 4 --prefill 1000 --pretrain 100 --steps 100000
--discount 0.95 --slow_target_update 50
--model_opt.lr 1e-3 --actor_opt.lr 3e-4 --critic_opt.lr 1e-3
"""

TOY = f"{_networks(128)} {FAST} --eval_eps 32 --eval_every 1000 --log_every 2000"

# Pixels, discrete actions, gradients by reinforce. Images of 32x32 take a quarter of
# the time of 64x64. Random steps cost little and show catches in all columns. With less
# entropy the actor gives up columns in which it did not catch early, and then never
# sees what it misses.
CATCH = """
--render_size 32 32
--encoder.cnn_kernels 4 5 --decoder.cnn_kernels 14 6
--(encoder|rssm).norm layer --model_opt.clip 1 --model_opt.eps 1e-7
--(encoder|decoder).mlp_keys $^ --(encoder|decoder).cnn_keys image
--(encoder|decoder).cnn_depth 8 --rssm.stoch 8 --rssm.discrete 8
--dataset.batch 48 --dataset.length 16 --replay.minlen 10 --replay.maxlen 16
--imag_horizon 8 --train_every 4 --loss_scales.kl 0.3
--actor_ent 5e-2 --actor_opt.lr 5e-4 --prefill 5000 --pretrain 200
"""

# Vectors, continuous actions, gradients through the dynamics.
REACH = f"""
{_vectors(128)} {ENDLESS}
--rssm.stoch 16 --rssm.discrete 16
--dataset.batch 16 --dataset.length 16 --replay.minlen 16 --replay.maxlen 16
--imag_horizon 10 --train_every 2 --actor_ent 1e-4
--loss_scales.kl 0.003 --loss_scales.reward 10
"""

# Environments that are not ours: 20 episodes in each evaluation. Vectors, and still
# smaller networks, so that there are more updates in the same time.
GYM = f"""
{_networks(64)} {_vectors(64)} {FAST}
--eval_eps 20 --logger none --log_every 2000
--dataset.batch 16 --dataset.length 16 --replay.maxlen 16
--loss_scales.kl 0.1
"""

# Falling ends the episode, so what is learned is the discount. A lower one than 0.99
# teaches to balance while the cart drifts to the edge. The KL weighs little, as the
# angles that count are small numbers. Episodes are worth learning from before they end.
CARTPOLE = """
--rssm.stoch 16 --rssm.discrete 0 --eval_every 1000
--replay.minlen 5 --replay.ongoing True --discount 0.99
--imag_horizon 15 --train_every 4 --actor_ent 3e-3 --reward_norm.scale 0.1
--loss_scales.kl 0.0005 --loss_scales.discount 5 --model_opt.eps 1e-7
"""

# Rewards of -16 to 0 in each of 200 steps. Dreams are of a second: the upright pendulum
# is unstable, so gradients grow with their length.
PENDULUM = f"""
{ENDLESS} --action_repeat 2 --eval_every 500
--rssm.stoch 16 --rssm.discrete 0 --discount 0.97 --replay.minlen 16
--imag_horizon 10 --train_every 2 --actor_ent 1e-2 --reward_norm.scale 0.1
"""

# One reward, at the goal. The best way takes five steps of the hundred.
EMPTY = """
--encoder.mlp_keys grid|direction --decoder.mlp_keys grid|direction
--rssm.stoch 8 --rssm.discrete 8 --eval_every 500
--replay.minlen 4 --imag_horizon 10 --train_every 4 --actor_ent linear(3e-2,1e-3,8000)
--loss_scales.reward 10 --loss_scales.discount 5
"""

# The settings of scores/reference_small_tasks.csv. As there, the environments' rewards
# are divided.
REFERENCE = f"""
{_networks(128)} {_vectors(128)}
--logger none --eval_eps 1 --eval_every 10000 --log_every 2000
--rssm.stoch 8 --rssm.discrete 8 --prefill 1000 --pretrain 100 --train_every 4
--dataset.batch 16 --dataset.length 32 --replay.maxlen 32 --imag_horizon 15
--discount 0.99 --slow_target_update 100
--model_opt.lr 6e-4 --actor_opt.lr 1e-4 --critic_opt.lr 3e-4
"""
REFERENCE_CARTPOLE = """
--task gym_divided_rewards:CartPole10-v1
--actor_ent 1e-2 --kl.free 0 --replay.minlen 5
"""
REFERENCE_PENDULUM = """
--pred_discount False --grad_heads decoder reward
--task gym_divided_rewards:Pendulum8-v1
--actor_ent 3e-3 --kl.free 1 --replay.minlen 32
"""

SUITES = {
    "toy": {"toy_catch": _task(TOY, CATCH), "toy_reach": _task(TOY, REACH)},
    "gym": {
        "gym_CartPole-v1": _task(GYM, CARTPOLE, goal=400),
        "gym_Pendulum-v1": _task(GYM, PENDULUM, goal=-300),
        "minigrid_Empty-5x5": _task(GYM, EMPTY, goal=0.9),
    },
    "reference": {
        "gym_CartPole-v1": _task(
            REFERENCE, REFERENCE_CARTPOLE, steps=20000, divisor=10
        ),
        "gym_Pendulum-v1": _task(REFERENCE, REFERENCE_PENDULUM, steps=16000, divisor=8),
    },
}
