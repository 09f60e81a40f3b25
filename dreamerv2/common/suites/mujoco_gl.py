"""Choose what MuJoCo renders by: EGL, else OSMesa, which needs no graphics card."""

import ctypes.util
import importlib
import os
import sys

from dreamerv2.common.errors import UsageError

_DEVICES = 16  # Graphics cards that are asked.
_PLATFORM_DEVICE = 0x313F  # EGL_PLATFORM_DEVICE_EXT

WAYS = (
    "install Debian's libegl1 and libgl1-mesa-dri for egl, or libosmesa6 for osmesa, "
    "or learn from vectors alone, as by --configs dmc_proprio"
)


def choose_renderer() -> None:
    """Set MUJOCO_GL, unless it is, or there is a screen, which MuJoCo finds itself: to
    egl where a device of it can be opened, else osmesa where its library is there, else
    to no rendering. Must come before dm_control is imported."""
    screen = "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if sys.platform != "linux" or screen or os.environ.get("MUJOCO_GL"):
        return
    found = "egl" if has_egl() else "osmesa" if has_osmesa() else "disable"
    os.environ["MUJOCO_GL"] = found


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


def has_egl() -> bool:
    """Check that a device of EGL can be opened."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    uint, pointer = ctypes.c_uint, ctypes.c_void_p
    egl.eglGetProcAddress.restype = pointer
    egl.eglGetProcAddress.argtypes = [ctypes.c_char_p]
    egl.eglInitialize.argtypes = [pointer] * 3
    query = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    display = egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    if not query or not display:
        return False
    query = ctypes.CFUNCTYPE(uint, ctypes.c_int, pointer, pointer)(query)
    display = ctypes.CFUNCTYPE(pointer, uint, pointer, pointer)(display)
    devices, count = (pointer * _DEVICES)(), ctypes.c_int()
    if not query(_DEVICES, devices, ctypes.addressof(count)):
        return False
    displays = (display(_PLATFORM_DEVICE, d, None) for d in devices[: count.value])
    # Left open: closing it would close it for all of this process.
    return any(d and egl.eglInitialize(d, None, None) for d in displays)


def has_osmesa() -> bool:
    """Check that the library of OSMesa is there."""
    return ctypes.util.find_library("OSMesa") is not None
