"""Shared stage: the negative memory banks of all lines."""

from flawline.serving.bank_model import BankModel as TritonPythonModel  # noqa: F401 - the name Triton looks for
