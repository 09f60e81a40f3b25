"""Packages that a suite needs and that may be missing."""

import importlib
from typing import Any

from dreamerv2.common.errors import UsageError


def require(module: str, extra: str) -> Any:
    """Import a module of an optional package, or say how to install it."""
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise  # The package is there, and something that it needs is not.
        raise UsageError(
            f"The package {package} is missing: install it with "
            f'pip install "dreamerv2-torch[{extra}]".'
        ) from error
    return importlib.import_module(module)
