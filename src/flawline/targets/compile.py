"""Compile an exported graph for a target; the ONNX file stays beside the result as the source of truth."""

from pathlib import Path

import openvino as ov

from flawline.errors import RecipeError

TARGETS = ("openvino", "onnxruntime")


def check_target(target: str) -> str:
    """Return `target`. Raises RecipeError for one that is not offered."""
    if target not in TARGETS:
        msg = f"unknown target '{target}'; there are: {', '.join(TARGETS)}"
        raise RecipeError(msg)
    return target


def compile_graph(folder: Path, target: str) -> list[str]:
    """Compile `folder`/model.onnx for `target` into the same folder; returns the names of all graph files."""
    if target == "openvino":
        model = ov.convert_model(folder / "model.onnx")
        ov.save_model(model, folder / "model.xml", compress_to_fp16=False)  # halved weights would move scores
        return ["model.onnx", "model.xml", "model.bin"]
    return ["model.onnx"]
