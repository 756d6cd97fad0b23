"""docker-compose.yml and what it mounts keep their promises. No engine is needed."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from flawline.cli import app
from flawline.repository import names
from flawline.serving.tritonserver import ONE_POOL

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
TRITONS = ["triton", "triton-gpu"]


ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("COMPOSE_", "FLAWLINE_")) and name not in {"LINE", "PICTURES", "REPOSITORY"}
}
"""Without what a user may have set for a compose run of their own."""


def compose(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", "compose", *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def exit_timeout(service: dict[str, Any]) -> int:
    return int(next(flag for flag in service["command"] if "exit-timeout" in flag).rpartition("=")[2])


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_this_machines_alone(name: str) -> None:
    assert SERVICES[name]["ports"]
    assert all(port.startswith("${FLAWLINE_BIND:-127.0.0.1}:") for port in SERVICES[name]["ports"])


@pytest.mark.parametrize("name", TRITONS)
def test_stages_have_the_threads_that_serve_gives_them(name: str) -> None:
    assert ONE_POOL.items() <= SERVICES[name]["environment"].items()


@pytest.mark.parametrize("name", TRITONS)
def test_triton_cannot_change_what_it_serves(name: str) -> None:
    (mount,) = SERVICES[name]["volumes"]
    assert mount["target"] == "/models"
    assert mount["read_only"] is True
    assert mount["bind"]["create_host_path"] is False, "a wrong path would be made, and owned by root"
    assert "--model-repository=/models" in SERVICES[name]["command"]
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]
    assert "USER 1000:1000" in (ROOT / SERVICES[name]["build"]["dockerfile"]).read_text().splitlines()


@pytest.mark.parametrize("name", TRITONS)
def test_triton_is_watched_and_stopped_with_patience(name: str) -> None:
    service = SERVICES[name]
    how, *command = service["healthcheck"]["test"]
    assert (how, command[:2]) == ("CMD", ["flawline", "probe"]), (
        "health that Triton tells is no answer of a line"
    )
    assert CliRunner().invoke(app, [*command[1:], "--help"]).exit_code == 0, "all options exist"
    assert service["restart"] == "unless-stopped"
    assert int(service["stop_grace_period"].removesuffix("s")) > exit_timeout(service)
    assert service["shm_size"] == "1gb"


@pytest.mark.parametrize("name", TRITONS)
def test_compiled_graphs_run_on_native_backends(name: str) -> None:
    assert "--model-config-name=native" in SERVICES[name]["command"]


def test_profiles_take_each_others_place() -> None:
    cpu, gpu = (SERVICES[name] for name in TRITONS)
    assert (cpu["profiles"], gpu["profiles"]) == (["cpu"], ["gpu"])
    assert gpu["networks"]["default"]["aliases"] == ["triton"], "Prometheus and Locust ask for this name"
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "deploy" not in cpu
    assert "COMPOSE_PROFILES=cpu" in (ROOT / ".env").read_text().splitlines()


def test_what_is_mounted_exists() -> None:
    mounts = [
        mount for service in SERVICES.values() for mount in service["volumes"] if isinstance(mount, str)
    ]
    sources = [mount.partition(":")[0] for mount in mounts if mount.startswith("./")]
    assert len(sources) == 5
    assert all((ROOT / source).exists() for source in sources)
    assert all(mount.endswith(":ro") for mount in mounts if mount.startswith("./"))


def test_monitoring_is_wired() -> None:
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())
    assert prometheus["scrape_configs"][0]["static_configs"] == [{"targets": ["triton:8002"]}]
    assert prometheus["scrape_configs"][0]["job_name"] == "triton", "alerts ask for this name"
    (rules,) = prometheus["rule_files"]
    assert f"./deploy/prometheus-rules.yml:/etc/prometheus/{rules}:ro" in SERVICES["prometheus"]["volumes"]
    provisioning = ROOT / "deploy/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards/flawline.yml").read_text())["providers"]
    assert any(mount.split(":")[1] == provider["options"]["path"] for mount in SERVICES["grafana"]["volumes"])
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/flawline.json").read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places) > 3


def test_images_take_the_package_and_no_lines() -> None:
    """The wheel packs all of model_repository, so the build must see the shared stages there and nothing else."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    stages = {match[1] for line in lines if (match := re.fullmatch(r"!model_repository/(\w+)", line))}
    assert stages == set(names.SHARED)
    assert "!model_repository" not in lines


@pytest.mark.skipif(
    shutil.which("docker") is None or compose("version").returncode != 0, reason="no docker compose here"
)
@pytest.mark.parametrize(
    ("profiles", "running"),
    [
        ((), {"triton", "prometheus", "grafana"}),
        (("cpu",), {"triton", "prometheus", "grafana"}),
        (("gpu",), {"triton-gpu", "prometheus", "grafana"}),
        (("gpu", "load"), {"triton-gpu", "prometheus", "grafana", "locust"}),
    ],
)
def test_docker_compose_accepts_every_profile(profiles: tuple[str, ...], running: set[str]) -> None:
    ended = compose(*(f"--profile={profile}" for profile in profiles), "config", "--format=json")
    assert ended.returncode == 0, ended.stderr
    services = json.loads(ended.stdout)["services"]
    assert set(services) == running
    assert {port["host_ip"] for service in services.values() for port in service["ports"]} == {"127.0.0.1"}
