"""Durations as the command line writes them."""

import re

from flawline.errors import RecipeError

_UNITS = {"s": 1, "m": 60, "h": 3600}


def read_duration(text: str | None) -> float | None:
    """Seconds of `90s`, `20m` or `2h`; None of None. Raises RecipeError for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if match is None or not float(match[1]):
        msg = f"'{text}' is no duration; write for example 90s, 20m or 2h"
        raise RecipeError(msg)
    return float(match[1]) * _UNITS[match[2]]
