"""Client library for Flawline lines served by Triton: ask over gRPC whether a picture shows a defect, and where."""

from flawline_client.aio import AsyncInspectionClient
from flawline_client.client import InspectionClient
from flawline_client.inspection import (
    Decision,
    Inspection,
    InspectionError,
    LineNotFound,
    PictureRejected,
    ServerUnavailable,
    Verdict,
)

__all__ = [
    "AsyncInspectionClient",
    "Decision",
    "Inspection",
    "InspectionClient",
    "InspectionError",
    "LineNotFound",
    "PictureRejected",
    "ServerUnavailable",
    "Verdict",
]
