"""Checks of arguments that many constructors need."""

from __future__ import annotations


def at_least(least: int, **values: float | None) -> None:
    """Refuse numbers below ``least``, by name; None stands for a default.

    Raises:
        ValueError: For the first one below.
    """
    for name, value in values.items():
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
