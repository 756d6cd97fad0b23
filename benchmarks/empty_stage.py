"""A Triton Python stage that computes nothing: every output is zeros of the shape its configuration gives.

Two of them in an ensemble (empty_ensemble.py) cost what any two Python stages cost that pass as many bytes.
"""

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Whatever its configuration says."""

    def initialize(self, args: dict[str, str]) -> None:
        """Make the answer once."""
        outputs = json.loads(args["model_config"])["output"]
        self.answer = [
            (each["name"], np.zeros([1, *each["dims"]], pb_utils.triton_string_to_numpy(each["data_type"])))
            for each in outputs
        ]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Give every request that answer; none carries more than one picture."""
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in self.answer])
            for _ in requests
        ]
