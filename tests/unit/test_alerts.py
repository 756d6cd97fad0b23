"""deploy/prometheus-rules.yml: alerts speak of models that exist, and are raised when they should be."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from flawline.repository import names

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus-rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool here; it comes with Prometheus (Debian: prometheus)"
)


def promtool(*arguments: str) -> None:
    done = subprocess.run(
        ["promtool", *arguments], cwd=DEPLOY, check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_takes_the_rules() -> None:
    promtool("check", "rules", "prometheus-rules.yml")


@needs_promtool
def test_alerts_are_raised_and_stay_silent() -> None:
    promtool("test", "rules", "prometheus-rules.test.yml")


def test_every_alert_is_tested() -> None:
    tested = yaml.safe_load((DEPLOY / "prometheus-rules.test.yml").read_text())["tests"]
    cases = [case for test in tested for case in test.get("alert_rule_test", [])]
    raised = {case["alertname"] for case in cases if "exp_alerts" in case}
    assert raised == {alert["alert"] for alert in ALERTS}


def test_an_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for alert in ALERTS:
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert set(alert["annotations"]) == {"summary", "description"}
        assert re.fullmatch(r"\d+m", alert["for"]), "a single bad scrape wakes nobody"


def test_queues_are_those_of_the_stages_and_pictures_are_counted_once() -> None:
    """Triton's ensembles have no queue; every picture passes `preprocess`, or the fused model alone."""
    (rule,) = (rule for rule in RULES if "record" in rule)
    queues, pictures = (re.compile(pattern) for pattern in re.findall(r'model=~"([^"]+)"', rule["expr"]))
    stages = [*names.SHARED, names.discrepancy("tiles"), names.fused("tiles")]
    ensembles = ["tiles", names.pixels("tiles")]
    assert [model for model in stages + ensembles if queues.fullmatch(model)] == stages
    entrances = ["preprocess", names.fused("tiles")]
    assert [model for model in stages + ensembles if pictures.fullmatch(model)] == entrances
