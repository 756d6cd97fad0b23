"""Write the alerts of deploy/prometheus-rules.yml as the Prometheus Operator takes them."""

import re
from pathlib import Path

HERE = Path(__file__).parent
PLAIN = HERE.parent / "prometheus-rules.yml"
WRAPPED = HERE / "components" / "monitoring" / "rules.yaml"
HEAD = """\
# deploy/prometheus-rules.yml for the Prometheus Operator, which takes it in this wrapping alone. Made by:
#   python deploy/kubernetes/wrap_rules.py
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: flawline
  namespace: flawline
  labels:
    release: prometheus # as in service-monitor.yaml
spec:
"""


def wrapped() -> str:
    """The whole file: the same lines, two spaces further right."""
    groups = PLAIN.read_text().partition("\ngroups:\n")[2]
    return HEAD + "  groups:\n" + re.sub(r"^(?=.)", "  ", groups, flags=re.MULTILINE)


if __name__ == "__main__":
    WRAPPED.write_text(wrapped())
