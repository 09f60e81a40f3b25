"""Values that have the right type and with which no run can work all the same."""

import re

from dreamerv2.common.config import Config
from dreamerv2.common.errors import UsageError

# The least that a number may be, by the last part of its key.
AT_LEAST = {
    **dict.fromkeys("seed train_every log_every eval_every save_every".split(), 0),
    **dict.fromkeys("steps prefill pretrain time_limit layers".split(), 0),
    **dict.fromkeys("env_restarts env_timeout profile train_steps".split(), 0),
    **dict.fromkeys("discrete lr wd discount discount_lambda".split(), 0),
    **dict.fromkeys("balance momentum slow_target_fraction".split(), 0),
    "nan_patience": 1,
    **dict.fromkeys("envs eval_eps action_repeat render_size batch".split(), 1),
    **dict.fromkeys("ensemble hidden deter stoch units mlp_layers".split(), 1),
    **dict.fromkeys("cnn_depth cnn_kernels disag_models".split(), 1),
    "slow_target_update": 1,
    "length": 2,  # A report shows at least one step of a dream.
    "imag_horizon": 2,  # The actor learns from all steps of a dream but the last.
}

# The most that a number may be, by its whole key.
AT_MOST = {
    "seed": 2**63 - 1,  # What torch's generators take.
    **dict.fromkeys("discount discount_lambda slow_target_fraction".split(), 1),
    **dict.fromkeys("kl.balance reward_norm.momentum".split(), 1),
    "expl_reward_norm.momentum": 1,
}


def check_limits(config: Config) -> None:
    """Raises UsageError for values of the right type with which no run can work."""
    for key, value in config.flat.items():
        name = key.rpartition(".")[2]
        least = AT_LEAST.get(name)
        numbers = value if isinstance(value, tuple) else (value,)
        if least is not None and min(numbers) < least:
            raise UsageError(f"--{key} is {min(numbers)}; it must be {least} or more.")
        most = AT_MOST.get(key)
        if most is not None and value > most:
            raise UsageError(f"--{key} is {value}; it must be {most} or less.")
        if isinstance(value, str) and re.fullmatch(r"(log|mlp|cnn)_keys.*", name):
            try:
                re.compile(value)
            except re.error as error:
                raise UsageError(
                    f"--{key} '{value}' is no regular expression ({error}); '.*' takes "
                    "every key and '$^' none."
                ) from None
    if config.async_training and config.offline:
        raise UsageError(
            "--async_training True lets updates go on beside environments, and with "
            "--offline there are none: leave one of the two out."
        )
    if len(config.render_size) != 2:
        raise UsageError("--render_size takes two numbers, the height and the width.")
