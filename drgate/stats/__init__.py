"""Pure functions on counts and arrays: no I/O, no drgate nouns, no torch."""

from importlib import import_module
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """A module of this package: `from drgate import stats` is free, and `stats.confusion` loads NumPy."""
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as missing:
        if missing.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from missing
