"""Target `openvino`: Intel's OpenVINO on the CPU."""

from pathlib import Path
from typing import TYPE_CHECKING

from flawline.scoring.picture import Values
from flawline.targets.target import NATIVE_ONNX, Graph, Outputs, Target, missing_package, unreadable

if TYPE_CHECKING:
    from torch import nn

FILE = "model.xml"
"""The compiled graph; its weights lie beside it in model.bin."""


class OpenVinoGraph:
    """`model.xml` on the CPU, in FP32: OpenVINO's default of BF16 on newer CPUs would flip decisions."""

    def __init__(self, folder: Path, threads: int) -> None:
        import openvino as ov

        try:
            self._model = ov.Core().compile_model(
                str(folder / FILE),
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": "f32",
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_NUM_THREADS": threads,
                },
            )
        except RuntimeError as error:
            raise unreadable(folder / FILE, error) from error
        self._request = self._model.create_infer_request()

    def run(self, pictures: Values) -> Outputs:
        """See Graph.run."""
        results = self._request.infer({"PICTURE": pictures}, share_outputs=False)
        return {port.get_any_name(): results[port] for port in self._model.outputs}


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
