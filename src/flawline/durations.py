"""Durations as the command line writes them."""

import re

from flawline.errors import RecipeError

MOST_SECONDS = 10_000 * 3600
"""More than a year; whoever asks for more has mistyped."""
_UNITS = {"s": 1, "m": 60, "h": 3600}


def read_duration(text: str | None) -> float | None:
    """Seconds of `90s`, `20m` or `2h`; None of None. Raises RecipeError for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if match is None or not 0 < (seconds := float(match[1]) * _UNITS[match[2]]) <= MOST_SECONDS:
        msg = f"'{text}' is no duration; write for example 90s, 20m or 2h, up to {MOST_SECONDS // 3600}h"
        raise RecipeError(msg)
    return seconds
