"""Flawline: from a folder of pictures of one product to an inspection line served by NVIDIA Triton."""

from flawline.privacy import send_nothing

__version__ = "0.1.0"

send_nothing()
