"""Flawline: from a folder of pictures of one product to an inspection line served by NVIDIA Triton."""

__version__ = "0.1.0"
