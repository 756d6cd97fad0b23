"""Run a line's exported graph with the runtime of its target."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flawline.errors import ArtefactError
from flawline.scoring.picture import Pixels

Outputs = dict[str, NDArray[np.generic]]


class Graph(Protocol):
    """A compiled graph: UINT8 [B, S, S, 3] in, named arrays with the same leading B out."""

    def run(self, pictures: Pixels) -> Outputs:
        """Run one batch."""
        ...


class OpenVinoGraph:
    """`model.xml` by OpenVINO on the CPU, in FP32: its default of BF16 on newer CPUs would flip decisions."""

    def __init__(self, folder: Path, threads: int) -> None:
        """Compile once; raises ArtefactError naming the file."""
        import openvino as ov

        try:
            self._model = ov.Core().compile_model(
                str(folder / "model.xml"),
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": "f32",
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_NUM_THREADS": threads,
                },
            )
        except RuntimeError as error:
            raise ArtefactError(_unreadable(folder / "model.xml", error)) from error
        self._request = self._model.create_infer_request()

    def run(self, pictures: Pixels) -> Outputs:
        """See Graph.run."""
        results = self._request.infer({"PICTURE": pictures}, share_outputs=False)
        return {port.get_any_name(): results[port] for port in self._model.outputs}


class OnnxRuntimeGraph:
    """`model.onnx` by ONNX Runtime on the CPU."""

    def __init__(self, folder: Path, threads: int) -> None:
        """Load once; raises ArtefactError naming the file."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        path = folder / "model.onnx"
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exception classes share no base but Exception
            raise ArtefactError(_unreadable(path, error)) from error
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, pictures: Pixels) -> Outputs:
        """See Graph.run."""
        return dict(zip(self._names, self._session.run(None, {"PICTURE": pictures}), strict=True))


RUNTIMES: dict[str, type[OpenVinoGraph] | type[OnnxRuntimeGraph]] = {
    "openvino": OpenVinoGraph,
    "onnxruntime": OnnxRuntimeGraph,
}


def load_graph(folder: Path, target: str, *, threads: int) -> Graph:
    """Load the graph of an artefact for `target`, one of RUNTIMES, with `threads` CPU threads."""
    return RUNTIMES[target](folder, threads)


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path}: the graph cannot be loaded ({error}); build the line again or roll back"
