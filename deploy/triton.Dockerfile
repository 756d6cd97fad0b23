# NVIDIA's Triton with what Flawline's Python stages import. Its Python stub needs Python 3.12: tags from 24.11 on.
ARG TRITON_TAG=26.07
FROM nvcr.io/nvidia/tritonserver:${TRITON_TAG}-py3

# Stages run in the system's Python, which Ubuntu marks as managed by its own packages.
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PYTHONDONTWRITEBYTECODE=1
# For the native ONNX Runtime backend; Python stages turn usage reports off by themselves.
ENV ORT_DISABLE_TELEMETRY=1
RUN --mount=type=bind,target=/src,rw python3 -m pip install --no-cache-dir "/src[stages]"

# The image's own user triton-server, by number so that Kubernetes can see that it is not root.
USER 1000:1000
