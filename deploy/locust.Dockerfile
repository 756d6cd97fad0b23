# The load generator of benchmarks/locustfile.py; the file itself is mounted.
FROM python:3.12-slim
ENV PYTHONDONTWRITEBYTECODE=1
RUN --mount=type=bind,target=/src,rw python3 -m pip install --no-cache-dir /src "locust>=2.32"
USER 1000:1000
EXPOSE 8089
ENTRYPOINT ["locust"]
