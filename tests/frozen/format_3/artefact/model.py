"""The graph of a line."""

from flawline.serving.graph_model import GraphModel as TritonPythonModel  # noqa: F401
