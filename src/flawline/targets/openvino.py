"""Target `openvino`: Intel's OpenVINO on the CPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flawline.scoring.picture import Values
from flawline.targets.target import NATIVE_ONNX, Graph, Outputs, Target, missing_package, unreadable

if TYPE_CHECKING:
    import openvino as ov
    from torch import nn

FILE = "model.xml"
"""The compiled graph; its weights lie beside it in model.bin."""


MOST_STREAMS = 8
"""Pictures computed side by side at most: those of the largest batch that a server puts together."""


class OpenVinoGraph:
    """`model.xml` on the CPU, in FP32: OpenVINO's default of BF16 on newer CPUs would flip decisions.

    One picture has all threads. Of as many pictures as there are threads each has a thread of its own: threads that
    share a picture wait for each other in every layer, which costs a quarter of their time.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        import openvino as ov

        path = folder / FILE
        precision = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        self._streams = min(threads, MOST_STREAMS)
        try:
            core = ov.Core()
            whole = core.compile_model(str(path), "CPU", {**precision, "PERFORMANCE_HINT": "LATENCY"})
            self._request = whole.create_infer_request()
            if self._streams > 1:
                several = core.compile_model(str(path), "CPU", {**precision, "NUM_STREAMS": self._streams})
                self._queue = ov.AsyncInferQueue(several, self._streams)
        except RuntimeError as error:
            raise unreadable(path, error) from error
        self._names = [port.get_any_name() for port in whole.outputs]

    def run(self, pictures: Values) -> Outputs:
        """See Graph.run."""
        if self._streams == 1 or len(pictures) < self._streams:
            results = self._request.infer({"PICTURE": pictures}, share_outputs=False)
            return dict(zip(self._names, results.to_tuple(), strict=True))
        found: list[Sequence[NDArray[np.generic]]] = [()] * len(pictures)

        def keep(request: "ov.InferRequest", number: int) -> None:
            found[number] = [np.array(tensor.data) for tensor in request.output_tensors]

        self._queue.set_callback(keep)
        for number in range(len(pictures)):
            self._queue.start_async({"PICTURE": pictures[number : number + 1]}, number)
        self._queue.wait_all()
        return {
            name: np.concatenate(parts)
            for name, parts in zip(self._names, zip(*found, strict=True), strict=True)
        }


class OpenVinoTarget:
    """See Target. The module is not needed: the graph is converted from the ONNX file."""

    name = "openvino"
    # Not Triton's OpenVINO backend, which computes in BF16 on newer CPUs and cannot be told otherwise.
    native = NATIVE_ONNX

    def missing(self) -> str | None:
        """See Target.missing."""
        return missing_package(self.name, "openvino")

    def compile(self, module: "nn.Module", onnx: Path, folder: Path) -> None:
        """See Target.compile."""
        import openvino as ov

        model = ov.convert_model(onnx)
        ov.save_model(model, folder / FILE, compress_to_fp16=False)  # halved weights would move scores

    def load(self, folder: Path, threads: int) -> Graph:
        """See Target.load."""
        return OpenVinoGraph(folder, threads)


TARGET: Target = OpenVinoTarget()
