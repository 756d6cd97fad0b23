"""deploy/kubernetes keeps its promises: as it is written, and as kubectl renders it. No cluster is needed."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from flawline import __version__
from flawline.cli import app

ROOT = Path(__file__).parents[2]
HERE = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("overlays/cpu", "overlays/gpu", "overlays/plant", "models-writer")
SERVERS = OVERLAYS[:3]
OLDEST, NEWEST = "1.30", "1.37"
"""Releases of Kubernetes whose schemas must take everything; docs/kubernetes.md names the oldest."""
POD = {"app.kubernetes.io/name": "flawline", "app.kubernetes.io/component": "triton"}
"""Labels of a server's pod."""
CRD_FIELDS = {
    "ServiceMonitor": {"jobLabel", "selector", "endpoints"},
    "PrometheusRule": {"groups"},
}
"""Fields of `spec` that the Prometheus Operator publishes and that are used here."""

Document = dict[str, Any]

if shutil.which("kubectl"):
    RENDER = ["kubectl", "kustomize"]
elif shutil.which("kustomize"):
    RENDER = ["kustomize", "build"]
else:
    RENDER = []
needs_renderer = pytest.mark.skipif(not RENDER, reason="neither kubectl nor kustomize here")


@cache
def rendered(overlay: str) -> list[Document]:
    done = subprocess.run(
        [*RENDER, str(HERE / overlay)], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, f"the renderer warns: {done.stderr}"
    return list(yaml.safe_load_all(done.stdout))


def written() -> list[Document]:
    """The base, whose files are whole objects; what overlays change is not in it."""
    return [
        document
        for folder in ("storage", "base")
        for path in sorted((HERE / folder).glob("*.yaml"))
        if path.name != "kustomization.yaml"
        for document in yaml.safe_load_all(path.read_text())
    ]


def documents(place: str) -> list[Document]:
    if place == "base":
        return written()
    if not RENDER:
        pytest.skip("neither kubectl nor kustomize here")
    return rendered(place)


def the(place: str, kind: str, name: str = "flawline") -> Document:
    (found,) = (
        document
        for document in documents(place)
        if (document["kind"], document["metadata"]["name"]) == (kind, name)
    )
    return found


def of_kind(place: str, kind: str) -> list[Document]:
    return [document for document in documents(place) if document["kind"] == kind]


def pod_of(place: str) -> Document:
    """The pod's spec."""
    if place == "models-writer":
        return dict(the(place, "Pod", "models-writer")["spec"])
    return dict(the(place, "Deployment")["spec"]["template"]["spec"])


def triton_of(place: str) -> Document:
    (container,) = pod_of(place)["containers"]
    assert container["name"] == "triton"
    return dict(container)


def containers(place: str) -> list[Document]:
    pod = pod_of(place)
    return [*pod.get("initContainers", []), *pod["containers"]]


def flag(place: str, name: str) -> str:
    """Value of an option of tritonserver."""
    (value,) = (each.partition("=")[2] for each in triton_of(place)["args"] if each.startswith(f"--{name}="))
    return str(value)


def validate(version: str, objects: list[Document]) -> None:
    """Compare with the schemas of a release, which the package of this name carries."""
    kubernetes = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for each in objects:
        kubernetes.validate(each, version, strict=True)


def kustomizations() -> Iterator[tuple[Path, Document]]:
    for path in sorted(HERE.rglob("kustomization.yaml")):
        yield path.parent, yaml.safe_load(path.read_text())


def test_every_file_is_used_and_every_used_file_is_there() -> None:
    used = {HERE / "prometheus-adapter.yaml", HERE / "wrap_rules.py"}
    for folder, content in kustomizations():
        used.add(folder / "kustomization.yaml")
        named = [*content.get("resources", []), *content.get("components", [])]
        named += [patch["path"] for patch in content.get("patches", [])]
        named += [file for made in content.get("configMapGenerator", []) for file in made.get("files", [])]
        for name in named:
            path = (folder / name).resolve()
            assert path.exists(), f"{folder} names {name}"
            used.add(path)
    files = {path for path in HERE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert files - used == set()


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("place", ["base", *OVERLAYS])
def test_kubernetes_takes_it(place: str, version: str) -> None:
    validate(version, [each for each in documents(place) if each["kind"] not in CRD_FIELDS])


@pytest.mark.parametrize("place", SERVERS)
def test_the_prometheus_operator_takes_it(place: str) -> None:
    for kind, fields in CRD_FIELDS.items():
        (document,) = of_kind(place, kind)
        assert document["apiVersion"] == "monitoring.coreos.com/v1"
        assert set(document["spec"]) <= fields
    (endpoint,) = of_kind(place, "ServiceMonitor")[0]["spec"]["endpoints"]
    assert set(endpoint) == {"port", "path", "interval"}
    for group in of_kind(place, "PrometheusRule")[0]["spec"]["groups"]:
        assert set(group) == {"name", "interval", "rules"}
        for rule in group["rules"]:
            assert set(rule) <= {"record", "alert", "expr", "for", "labels", "annotations"}


@pytest.mark.parametrize("place", ["base", *OVERLAYS])
def test_a_pod_may_do_nothing_but_its_work(place: str) -> None:
    pod = pod_of(place)
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert f"USER {security['runAsUser']}:{security['runAsGroup']}" in (
        (ROOT / "deploy" / "triton.Dockerfile").read_text().splitlines()
    )
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(place):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"emptyDir", "persistentVolumeClaim", "configMap", "secret"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)


@pytest.mark.parametrize("place", ["base", *SERVERS])
def test_the_cluster_refuses_any_other_pod_there(place: str) -> None:
    labels = the(place, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("place", ["base", *SERVERS])
def test_a_leaving_pod_finishes_its_work(place: str) -> None:
    name, seconds = triton_of(place)["lifecycle"]["preStop"]["exec"]["command"]
    assert name == "sleep"
    patience = pod_of(place)["terminationGracePeriodSeconds"]
    assert patience >= int(seconds) + int(flag(place, "exit-timeout-secs")) + 5
    assert int(seconds) >= 10, "nodes need some seconds to learn that a pod is leaving"


@pytest.mark.parametrize("place", ["base", *SERVERS])
def test_probes_really_infer(place: str) -> None:
    triton = triton_of(place)
    known = {
        option
        for parameter in get_command(app).commands["probe"].params  # type: ignore[attr-defined]
        for option in parameter.opts
    }
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = triton[kind]
        program, command, *options = probe["exec"]["command"]
        assert (program, command) == ("flawline", "probe")
        given = dict(option.partition("=")[::2] for option in options)
        assert set(given) <= known
        assert given["--repository"] == flag(place, "model-repository")
        assert int(given["--timeout"]) < probe["timeoutSeconds"], "a probe that is killed says nothing"
        assert ("--one" in given) == (kind == "readinessProbe")
    startup, readiness, liveness = (
        triton[kind]["periodSeconds"] * triton[kind]["failureThreshold"]
        for kind in ("startupProbe", "readinessProbe", "livenessProbe")
    )
    assert startup >= 300, "docker-compose.yml gives many lines five minutes to load"
    assert the(place, "Deployment")["spec"]["progressDeadlineSeconds"] > startup
    assert readiness < liveness, "a pod gets no more pictures before it is started anew"


@pytest.mark.parametrize("place", ["base", *SERVERS])
def test_triton_is_started_as_docker_compose_starts_it(place: str) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["triton"]["command"]
    assert triton_of(place)["args"][: len(compose)] == compose


@pytest.mark.parametrize("place", ["base", *SERVERS])
def test_options_name_variables_that_are_set(place: str) -> None:
    triton = triton_of(place)
    named = set(re.findall(r"\$\((\w+)\)", " ".join(triton["args"])))
    assert named <= {variable["name"] for variable in triton["env"]}


@pytest.mark.parametrize("place", ["base", *SERVERS])
def test_what_is_served_cannot_be_changed_and_the_rest_is_memory_or_scratch(place: str) -> None:
    mounts = {mount["mountPath"]: mount for mount in triton_of(place)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_of(place)["volumes"]}
    assert mounts["/models"]["readOnly"] is True
    assert mounts["/models"]["subPath"], "a release is a folder, and never changes"
    models = volumes[mounts["/models"]["name"]]
    assert "emptyDir" in models or models["persistentVolumeClaim"]["readOnly"] is True
    shm = volumes[mounts["/dev/shm"]["name"]]["emptyDir"]  # noqa: S108  Triton chose it
    assert shm == {"medium": "Memory", "sizeLimit": "1Gi"}
    writable = {path for path, mount in mounts.items() if not mount.get("readOnly")}
    assert writable == {"/dev/shm", "/tmp"}  # noqa: S108


@pytest.mark.parametrize("place", OVERLAYS)
def test_every_container_says_what_it_takes(place: str) -> None:
    for container in containers(place):
        resources = container["resources"]
        assert {"cpu", "memory"} <= set(resources["requests"])
        assert {"cpu", "memory"} <= set(resources["limits"])
        if place in SERVERS:
            assert resources["requests"] == resources["limits"]
            assert resources["limits"]["cpu"].isdecimal(), "whole CPUs, as threads are"
    gpus = [container["resources"]["limits"].get("nvidia.com/gpu") for container in containers(place)]
    assert gpus == (["1"] if place == "overlays/gpu" else [None] * len(gpus))


@pytest.mark.parametrize("place", ["base", *SERVERS])
def test_everything_means_the_same_pods(place: str) -> None:
    deployment = the(place, "Deployment")["spec"]
    assert deployment["template"]["metadata"]["labels"] == POD
    assert "replicas" not in deployment, "the autoscaler sets them"
    selectors = [deployment["selector"]["matchLabels"]]
    selectors += [service["spec"]["selector"] for service in of_kind(place, "Service")]
    selectors += [policy["spec"]["podSelector"]["matchLabels"] for policy in of_kind(place, "NetworkPolicy")]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in of_kind(place, "PodDisruptionBudget")]
    assert all(selector == POD for selector in selectors)
    ports = {port["name"] for port in triton_of(place)["ports"]}
    services = of_kind(place, "Service")
    assert {port["targetPort"] for service in services for port in service["spec"]["ports"]} == ports
    opened = {
        port["port"]
        for policy in of_kind(place, "NetworkPolicy")
        for rule in policy["spec"].get("ingress", [])
        for port in rule["ports"]
    }
    assert opened == ports - ({"metrics"} if place == "base" else set())


@pytest.mark.parametrize("place", ["base", *SERVERS])
def test_clients_find_each_pod_by_name(place: str) -> None:
    service = the(place, "Service", "flawline-pods")
    assert service["spec"]["clusterIP"] == "None"
    assert {"name": "grpc", "port": 8001, "targetPort": "grpc"} in service["spec"]["ports"]
    assert 0 < int(flag(place, "grpc-max-connection-age")) <= 120_000, "or they never learn of new pods"


@pytest.mark.parametrize("place", ["base", *SERVERS])
def test_nobody_asks_without_the_label_and_the_pods_ask_nobody(place: str) -> None:
    policy = the(place, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy.get("egress", []) == []
    (rule,) = policy["ingress"]
    labels = [next(iter(source.values()))["matchLabels"] for source in rule["from"]]
    assert labels == [{"flawline-client": "true"}] * 2
    egress = [each for each in of_kind(place, "NetworkPolicy") if each["spec"].get("egress")]
    names = {each["metadata"]["name"] for each in egress}
    assert names == ({"flawline-object-storage"} if place == "overlays/plant" else set())


@pytest.mark.parametrize("place", ["base", *SERVERS])
def test_a_node_can_be_drained(place: str) -> None:
    assert the(place, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_the_autoscaler_asks_for_what_the_adapter_reads_and_prometheus_records() -> None:
    autoscaler = yaml.safe_load((HERE / "components/autoscaling/autoscaler.yaml").read_text())
    assert autoscaler["apiVersion"] == "autoscaling/v2"
    validate(NEWEST, [autoscaler])
    (metric,) = autoscaler["spec"]["metrics"]
    (rule,) = yaml.safe_load((HERE / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    series = rule["seriesQuery"].partition("{")[0]
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus-rules.yml").read_text())["groups"]
    assert series in {each.get("record") for group in groups for each in group["rules"]}
    assert set(rule["resources"]["overrides"]) == {"namespace", "pod"}
    assert autoscaler["spec"]["minReplicas"] >= 2
    target = the("base", "Deployment")
    assert autoscaler["spec"]["scaleTargetRef"] == {
        "apiVersion": target["apiVersion"],
        "kind": target["kind"],
        "name": target["metadata"]["name"],
    }


def test_the_operators_alerts_are_those_of_docker_compose() -> None:
    spec = importlib.util.spec_from_file_location("wrap_rules", HERE / "wrap_rules.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    wrapped = (HERE / "components/monitoring/rules.yaml").read_text()
    assert wrapped == module.wrapped(), "run python deploy/kubernetes/wrap_rules.py"
    plain = yaml.safe_load((ROOT / "deploy" / "prometheus-rules.yml").read_text())
    assert yaml.safe_load(wrapped)["spec"] == plain


@pytest.mark.parametrize("place", SERVERS)
def test_prometheus_finds_each_pod_once(place: str) -> None:
    (monitor,) = of_kind(place, "ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    services = [each for each in of_kind(place, "Service") if wanted <= each["metadata"]["labels"].items()]
    ports = [port["name"] for service in services for port in service["spec"]["ports"]]
    assert ports.count(monitor["spec"]["endpoints"][0]["port"]) == 1
    job = {service["metadata"]["labels"][monitor["spec"]["jobLabel"]] for service in services}
    assert job == {"triton"}, "alerts ask for up{job='triton'}"


def test_images_are_pinned_in_one_place() -> None:
    (images,) = (content["images"] for _, content in kustomizations() if "images" in content)
    tags = {image["name"]: image["newTag"] for image in images}
    triton = re.search(
        r"^ARG TRITON_TAG=(.+)$", (ROOT / "deploy/triton.Dockerfile").read_text(), re.MULTILINE
    )
    assert triton is not None
    assert tags["flawline-triton"] == f"{__version__}-{triton[1]}"
    assert f"TRITON_TAG:-{triton[1]}}}" in (ROOT / "docker-compose.yml").read_text()
    named = re.findall(
        r"^\s+image: (\S+)", "".join(path.read_text() for path in HERE.rglob("*.yaml")), re.MULTILINE
    )
    assert set(named) == set(tags), "and nowhere else is a tag"


@pytest.mark.parametrize("place", OVERLAYS)
def test_no_image_goes_by_whatever_is_newest(place: str) -> None:
    for container in containers(place):
        assert re.fullmatch(r".+:\d[\w.-]+", container["image"]), container["image"]


def test_no_secret_is_written_down() -> None:
    for path in HERE.rglob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            assert not isinstance(document, dict) or document.get("kind") != "Secret", path


def test_a_plant_fetches_its_release_and_speaks_tls_alone() -> None:
    place = "overlays/plant"
    assert of_kind(place, "PersistentVolumeClaim") == []
    (fetch,) = pod_of(place)["initContainers"]
    assert {"secretRef": {"name": "flawline-object-storage"}} in fetch["envFrom"]
    (release,) = (each for each in of_kind(place, "ConfigMap") if "ARCHIVE" in each["data"])
    assert {"configMapRef": {"name": release["metadata"]["name"]}} in fetch["envFrom"]
    assert release["metadata"]["name"] != "flawline-release", "its hash makes a new release replace the pods"
    assert flag(place, "grpc-use-ssl-mutual") == "true"
    assert flag(place, "http-address") == "127.0.0.1"
    assert flag(place, "metrics-address") == "0.0.0.0"  # noqa: S104  Prometheus asks from another pod
    assert {port["name"] for port in triton_of(place)["ports"]} == {"grpc", "metrics"}
    mounts = {mount["name"]: mount for mount in triton_of(place)["volumeMounts"]}
    for option in ("grpc-server-cert", "grpc-server-key", "grpc-root-cert"):
        assert Path(flag(place, option)).parent == Path(mounts["tls"]["mountPath"])
    (secret,) = (volume["secret"] for volume in pod_of(place)["volumes"] if volume["name"] == "tls")
    assert secret["defaultMode"] == 0o440, "readable by fsGroup, and by nobody else"


class Storage:
    """A folder in which a small `rclone` finds what the init container fetches, and the script itself."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.models = folder, folder / "models"
        self.models.mkdir()
        program = folder / "bin" / "rclone"
        program.parent.mkdir()
        stored = shlex.quote(str(folder / "stored.tar"))
        program.write_text(
            f'#!/bin/sh\n[ "$1 $2" = "copyto store:lines/release-7.tar" ] && cp {stored} "$3"\n'
        )
        program.chmod(0o755)

    def store(self, *paths: str) -> str:
        """Put an archive there of empty files, and folders where a path ends in a slash. Returns its SHA-256."""
        for path in paths:
            target = self.folder / "release" / path
            (target if path.endswith("/") else target.parent).mkdir(parents=True, exist_ok=True)
            if not path.endswith("/"):
                target.touch()
        with tarfile.open(self.folder / "stored.tar", "w") as archive:
            archive.add(self.folder / "release", arcname=".")
        return sha256((self.folder / "stored.tar").read_bytes()).hexdigest()

    def fetch(self, digest: str) -> int:
        environment = {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "MODELS": str(self.models),
            "ARCHIVE": "lines/release-7.tar",
            "SHA256": digest,
        }
        script = HERE / "components/object-storage/fetch.sh"
        return subprocess.run(["sh", script], env=environment, check=False, capture_output=True).returncode

    def found(self) -> list[str]:
        return sorted(str(path.relative_to(self.models)) for path in self.models.rglob("*"))


def test_a_release_is_fetched_with_its_empty_folders(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    digest = storage.store("tiles/1/", "tiles/config.pbtxt")
    assert storage.fetch(digest) == 0
    whole = ["release", "release/tiles", "release/tiles/1", "release/tiles/config.pbtxt"]
    assert storage.found() == whole
    assert storage.fetch(digest) == 0, "a pod may start its init container again"
    assert storage.found() == whole


def test_another_archive_than_was_meant_is_not_served(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    digest = storage.store("tiles/1/")
    storage.store("tiles/config.pbtxt")
    assert storage.fetch(digest) != 0
    assert "release" not in storage.found()


def test_the_document_names_what_is_there() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    folders = set(re.findall(r"deploy/kubernetes/[\w./-]*\w", text))
    assert {f"deploy/kubernetes/{place}" for place in OVERLAYS} <= folders
    assert [folder for folder in sorted(folders) if not (ROOT / folder).exists()] == []
    assert f"Kubernetes {OLDEST}" in text
