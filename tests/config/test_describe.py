"""What a run says at its start about what it will do."""

from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.settings.describe import describe

PRESETS = load_presets()
CONFIG = Config(PRESETS["defaults"]).update(logdir="/run", device="cpu")


def test_a_new_run_says_what_it_will_do_in_steps_and_frames():
    assert describe(CONFIG.update(PRESETS["atari"])).splitlines() == [
        "New run: atari_pong, on cpu, to the end at 50,000,000 steps (200,000,000 "
        "frames).",
        "Begins with random actions: 50,000 steps (200,000 frames).",
        "Logs every 10,000 steps (40,000 frames), evaluates every 250,000 steps "
        "(1,000,000 frames), saves every 600 seconds, and at the end.",
        "Writes to /run.",
    ]


def test_a_run_that_goes_on_says_from_where():
    config = CONFIG.update(PRESETS["atari"]).update(envs=4, eval_every=0)
    lines = describe(config, step=1500).splitlines()
    assert lines[0].startswith(
        "Goes on at 1,500 steps (6,000 frames): atari_pong in 4 environments, on cpu, "
    )
    assert lines[1] == (
        "Logs every 10,000 steps (40,000 frames), saves every 600 seconds, and at the "
        "end."
    )


def test_updates_on_recordings_are_no_steps_of_an_environment():
    config = CONFIG.update(PRESETS["atari"]).update(offline="/recordings", steps=100)
    lines = describe(config).splitlines()
    assert lines[0] == (
        "New run: the episodes in /recordings, on cpu, to the end at 100 updates."
    )
    assert not any("frames" in line or "random" in line for line in lines)
