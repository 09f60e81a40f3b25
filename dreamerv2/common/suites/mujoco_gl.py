"""Choose what MuJoCo renders by: EGL, else OSMesa, which needs no graphics card."""

import importlib
import os
import subprocess
import sys

from dreamerv2.common.errors import UsageError

WAYS = (
    "install Debian's libegl1 and libgl1-mesa-dri for egl, or libosmesa6 for osmesa, "
    "or learn from vectors alone, as by --configs dmc_proprio"
)


def choose_renderer() -> None:
    """Set MUJOCO_GL, unless it is or there is a screen; before dm_control is
    imported."""
    screen = "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if sys.platform != "linux" or screen or os.environ.get("MUJOCO_GL"):
        return
    os.environ["MUJOCO_GL"] = next(filter(renders, ("egl", "osmesa")), "disable")


def check_renderer() -> None:
    """Raise UsageError if what MUJOCO_GL names cannot be used."""
    try:
        backend = importlib.import_module("dm_control._render").BACKEND
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        # Of PyOpenGL, where a library is missing, and for an unknown name.
        raise cannot_render(error) from error
    if backend in (None, "off"):
        raise UsageError(
            f"Images need rendering, but there is neither EGL nor OSMesa: {WAYS}."
        )


def cannot_render(error: Exception) -> UsageError:
    """Return what to raise where rendering fails with `error`."""
    name = os.environ.get("MUJOCO_GL", "")
    text = " ".join(str(error).split()).rstrip(".")
    return UsageError(f"MuJoCo cannot render by MUJOCO_GL={name} ({text}): {WAYS}.")


def renders(backend: str) -> bool:
    """Try a backend in a process of its own, since this one can import just one."""
    command = [sys.executable, "-c", "import dm_control._render"]
    env = {**os.environ, "MUJOCO_GL": backend}
    return not subprocess.run(command, env=env, capture_output=True).returncode
