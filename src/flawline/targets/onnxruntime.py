"""Target `onnxruntime`: the exported graph as it is, by ONNX Runtime on the CPU."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from flawline.scoring.picture import Values
from flawline.targets.target import NATIVE_ONNX, Graph, Outputs, Target, missing_package, unreadable

if TYPE_CHECKING:
    from torch import nn

FILE = "model.onnx"


class OnnxRuntimeGraph:
    """`model.onnx` on the CPU."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        path = folder / FILE
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exception classes share no base but Exception
            raise unreadable(path, error) from error
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, pictures: Values) -> Outputs:
        """See Graph.run."""
        return dict(zip(self._names, self._session.run(None, {"PICTURE": pictures}), strict=True))


class OnnxRuntimeTarget:
    """See Target. Nothing is compiled before the graph is loaded."""

    name = "onnxruntime"
    native = NATIVE_ONNX

    def missing(self) -> str | None:
        """See Target.missing."""
        return missing_package(self.name, "onnxruntime")

    def compile(self, module: "nn.Module", onnx: Path, folder: Path) -> None:
        """See Target.compile."""
        if onnx.resolve() != (folder / FILE).resolve():
            shutil.copyfile(onnx, folder / FILE)

    def load(self, folder: Path, threads: int) -> Graph:
        """See Target.load."""
        return OnnxRuntimeGraph(folder, threads)


TARGET: Target = OnnxRuntimeTarget()
