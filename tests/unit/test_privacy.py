"""Nothing is sent unasked, and no id is kept: counted in a process of its own, which really could send."""

import os
import subprocess
import sys
from pathlib import Path

from outgoing import outgoing

from flawline.privacy import SILENT

GRAPH = """
import numpy as np, onnx
from onnx import TensorProto, helper

tensors = [helper.make_tensor_value_info(name, TensorProto.UINT8, [1, 2, 2, 3]) for name in ("PICTURE", "SAME")]
graph = helper.make_graph([helper.make_node("Identity", ["PICTURE"], ["SAME"])], "g", tensors[:1], tensors[1:])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "model.onnx")
"""
OURS = f"""
from pathlib import Path
import flawline.targets
{GRAPH}
for name in ("onnxruntime", "openvino"):
    target = flawline.targets.get_target(name)
    target.compile(None, Path("model.onnx"), Path())
    target.load(Path(), 1).run(np.zeros((1, 2, 2, 3), np.uint8))
import transformers, huggingface_hub.constants
"""
WITHOUT = f"""
{GRAPH}
import onnxruntime, openvino
onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
openvino.convert_model("model.onnx")
"""


def run(code: str, folder: Path) -> tuple[list[str], list[str]]:
    """Requests that a process made, and files that it left in its home."""
    environment = {name: value for name, value in os.environ.items() if name not in SILENT}
    with outgoing(folder) as counted:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            env=environment | counted.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return counted.requests, counted.kept()


def test_compiling_and_loading_a_graph_sends_nothing_and_keeps_no_id(tmp_path: Path) -> None:
    assert run(OURS, tmp_path) == ([], [])


def test_the_same_without_flawline_would_be_noticed(tmp_path: Path) -> None:
    requests, kept = run(WITHOUT, tmp_path)
    assert any("google-analytics" in request for request in requests)
    assert any("intel" in name for name in kept), "OpenVINO's"
    assert any("onnxruntime" in name for name in kept), "ONNX Runtime's"


def test_what_the_user_has_set_stays() -> None:
    code = "import os, flawline; print(*(os.environ[name] for name in flawline.privacy.SILENT))"
    for value, said in ((None, ["1"] * len(SILENT)), ("0", ["0"] * len(SILENT))):
        environment = {name: text for name, text in os.environ.items() if name not in SILENT}
        environment |= {} if value is None else dict.fromkeys(SILENT, value)
        done = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
        assert done.split() == said
