"""Libraries that report how they are used are told not to, before any of them is imported: in this one place.

`import flawline` does it, so it holds for builds, for benchmarks and for each Python stage of a server. Programs
that are started from here inherit the environment.
"""

import os
import sys

SILENT = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime sends events from its own C++, and keeps an id in the user's cache
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers would ask a service to convert the weights of a hub model
    "DO_NOT_TRACK": "1",
}
"""Environment of this process and of those that it starts; what the user has set stays."""
REPORTERS = ("openvino_telemetry",)
"""Packages that do nothing but report. Libraries that report by them do without where they are missing."""


def send_nothing() -> None:
    """Turn usage reports off."""
    for name, value in SILENT.items():
        os.environ.setdefault(name, value)
    for package in REPORTERS:
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # how Python marks a module as not there
