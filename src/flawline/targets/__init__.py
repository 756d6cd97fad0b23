"""What runs a line's graph: one module a target, each found by its name."""

from flawline.errors import RecipeError
from flawline.registry import Registry
from flawline.targets.target import Target

TARGETS: Registry[Target] = Registry(
    "flawline.targets",
    "target",
    {
        "openvino": "flawline.targets.openvino:TARGET",
        "onnxruntime": "flawline.targets.onnxruntime:TARGET",
    },
)
"""All targets; other packages add theirs by an entry point that names a Target."""


def get_target(name: str) -> Target:
    """Return a target that this machine can compile for and run.

    Raises:
        RecipeError: there is none of that name, or this machine lacks something that it needs.

    """
    target = TARGETS.get(name)
    if lack := target.missing():
        raise RecipeError(lack)
    return target
