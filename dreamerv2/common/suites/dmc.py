"""DeepMind Control: continuous control, from joint angles or from pixels."""

from typing import Any

import numpy as np
from gymnasium.spaces import Box

from dreamerv2.common.suites import mujoco_gl
from dreamerv2.common.suites.interface import Action, Obs, signal_spaces, with_signals
from dreamerv2.common.suites.packages import require
from dreamerv2.common.suites.spelling import check_task
from dreamerv2.common.suites.wrappers import Wrapper


class DMC(Wrapper):
    """A task of the DeepMind Control suite, of its manipulation or rodent tasks.

    `name` is DOMAIN_TASK, manip_TASK as in manip_reach_site, or locom_TASK as in
    locom_rodent_maze_forage. Actions are in the task's own bounds. Observations: its
    own, numbers as vectors (n,) float32, a camera's picture as (H, W, 3) uint8; with
    `image` also `image` (*size, 3) uint8, by `camera` (-1 for the task's usual one)."""

    CAMERAS = {
        **{f"quadruped_{task}": 2 for task in ("walk", "run", "escape", "fetch")},
        **{f"locom_rodent_{task}": 1 for task in ("maze_forage", "two_touch")},
    }

    def __init__(
        self,
        name: str,
        action_repeat: int,
        size: tuple[int, int],
        camera: int,
        image: bool,
        seed: int,
    ):
        mujoco_gl.choose_renderer()
        # The rodent's tasks look through its eyes before that can be turned off.
        if image or name.startswith("locom_"):
            require("dm_control", "dmc")
            mujoco_gl.check_renderer()
        super().__init__(_load_dmc(name, image, seed))
        self._repeat, self._size = action_repeat, tuple(size)
        self._camera = self.CAMERAS.get(name, 0) if camera == -1 else camera
        spec = self._env.action_spec()
        ends = [np.broadcast_to(x, spec.shape) for x in (spec.minimum, spec.maximum)]
        self.act_space = {"action": Box(*(x.astype(np.float32) for x in ends))}
        specs = self._env.observation_spec().items()
        self._spaces = {k: _dmc_space(v) for k, v in specs if v.shape != (0,)}
        self.obs_space = {**self._spaces, **signal_spaces()}
        self._with_image = image
        if image:
            self.obs_space["image"] = Box(0, 255, (*self._size, 3), np.uint8)
            try:
                self.render()
            except Exception as error:  # Each renderer has errors of its own.
                raise mujoco_gl.cannot_render(error) from error

    def reset(self) -> Obs:
        return with_signals(self._obs(self._env.reset()), is_first=True)

    def step(self, action: Action) -> Obs:
        if not np.isfinite(action["action"]).all():
            raise ValueError(f"Expected finite actions, but got {action['action']}.")
        reward = 0.0
        for _ in range(self._repeat):
            now = self._env.step(action["action"])
            reward += now.reward or 0.0
            if last := now.last():
                break
        terminal = last and now.discount == 0
        return with_signals(self._obs(now), reward, False, last, terminal)

    def render(self) -> np.ndarray:
        return self._env.physics.render(*self._size, camera_id=self._camera)

    def _obs(self, now: Any) -> dict[str, np.ndarray]:
        obs = {
            k: np.array(now.observation[k], v.dtype).reshape(v.shape)
            for k, v in self._spaces.items()
        }
        if self._with_image:
            obs["image"] = self.render()
        return obs


def _load_dmc(name: str, image: bool, seed: int | None) -> Any:
    """Make the dm_control environment; UsageError for a name that there is not."""
    suite = require("dm_control.suite", "dmc")
    domain, _, task = name.partition("_")
    if domain == "manip":
        module = require("dm_control.manipulation", "dmc")
        # The one with the task's features, without cameras of its own, if no image.
        kind = "vision" if image else "features"
        tasks = [t.removesuffix("_" + kind) for t in module.ALL if t.endswith(kind)]
        check_task("dmc", name, [f"manip_{t}" for t in tasks])
        return module.load(f"{task}_{kind}", seed=seed)
    if domain == "locom":
        module = require("dm_control.locomotion.examples.basic_rodent_2020", "dmc")
        tasks = [t for t in dir(module) if t.startswith("rodent_")]
        check_task("dmc", name, [f"locom_{t}" for t in tasks])
        env = getattr(module, task)(random_state=np.random.RandomState(seed))
        if not image:
            for key, observable in env.task.observables.items():
                observable.enabled &= not key.endswith("camera")
            env.reset()  # From here on it is not rendered.
        return env
    tasks = {f"{d}_{t}": (d, t) for d, t in suite.ALL_TASKS}
    name = f"ball_in_{name}" if domain == "cup" else name
    check_task("dmc", name, tasks)
    return suite.load(*tasks[name], task_kwargs={"random": seed})


def _dmc_space(spec: Any) -> Box:
    if spec.dtype == np.uint8 and len(spec.shape) >= 3:
        return Box(0, 255, spec.shape[-3:], np.uint8)  # Without a first axis of 1.
    # One axis, as the networks take it: some have none and some have two.
    return Box(-np.inf, np.inf, (int(np.prod(spec.shape)),), np.float32)
