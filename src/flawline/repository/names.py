"""Names of a line's Triton models; docs/serving.md documents them for integrators."""

import re

from flawline.errors import RecipeError

SHARED = ("preprocess", "ratio_scoring", "memory_bank_negative", "memory_bank_positive", "postprocess")
"""Stages that all lines share."""

_SUFFIXES = ("_pixels", "_fused", "_discrepancy")


def pixels(line: str) -> str:
    """Ensemble that takes raw pixels."""
    return f"{line}_pixels"


def fused(line: str) -> str:
    """The whole line as one model."""
    return f"{line}_fused"


def discrepancy(line: str) -> str:
    """The line's compiled graph; its version folders are the artefacts."""
    return f"{line}_discrepancy"


def check_line(line: str) -> str:
    """Return `line` if it can name models. Raises RecipeError otherwise."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", line) or line in SHARED or line.endswith(_SUFFIXES):
        msg = (
            f"'{line}' cannot name a line: use lower-case letters, digits and '_', starting with a letter, "
            f"not ending in {', '.join(_SUFFIXES)}, and none of {', '.join(SHARED)}"
        )
        raise RecipeError(msg)
    return line
