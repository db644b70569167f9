"""deploy/kubernetes/ without a cluster: its objects are valid, and fit the service."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry

from service.api.routes import ROUTES
from service.lifecycle.registry import Registry
from service.lifecycle.repository import Repository
from service.metrics.definitions import Metrics, scrape_page
from service.settings import Settings, variable

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kubernetes"
OVERLAYS = ["base", *(f"overlays/{path.name}" for path in sorted((FOLDER / "overlays").iterdir()))]
COMPONENTS = [path.name for path in sorted((FOLDER / "components").iterdir())]
# The oldest that the manifests are for (a sleep as preStop), and the newest whose schema is at hand.
KUBERNETES = ["1.30", kubernetes_validate.latest_version()]
RESTRICTED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
RUNTIME = yaml.safe_load((FOLDER / "kserve/cluster-serving-runtime.yaml").read_text())
(RUNTIME_CONTAINER,) = RUNTIME["spec"]["containers"]
RUNTIME_ENVIRONMENT = {one["name"]: one["value"] for one in RUNTIME_CONTAINER["env"]}
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
NAMES_OF_SETTINGS = {variable(spec) for spec in fields(Settings)}


@cache
def rendered(path: str) -> list[Any]:
    if not shutil.which("kubectl"):
        pytest.skip("no `kubectl` command on this machine")
    done = subprocess.run(["kubectl", "kustomize", path], capture_output=True, text=True, cwd=FOLDER)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower(), done.stderr
    return list(yaml.safe_load_all(done.stdout))


@cache
def with_component(name: str) -> list[Any]:
    """The base with a component, and with those that this one builds on."""
    components = ["autoscale-cpu", name] if name == "autoscale-queue" else [name]
    with tempfile.TemporaryDirectory() as folder:
        kustomization = {
            "resources": [os.path.relpath(FOLDER / "base", folder)],
            "components": [os.path.relpath(FOLDER / "components" / one, folder) for one in components],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return rendered(folder)


def only(kind: str, objects: list[Any]) -> Any:
    (found,) = [one for one in objects if one["kind"] == kind]
    return found


def base(kind: str) -> Any:
    return only(kind, rendered("base"))


def pod_of(objects: list[Any]) -> Any:
    return only("Deployment", objects)["spec"]["template"]["spec"]


def container(objects: list[Any]) -> Any:
    (found,) = pod_of(objects)["containers"]
    return found


def settings_of(objects: list[Any]) -> dict[str, str]:
    """By environment, as the container gets them."""
    names = [source["configMapRef"]["name"] for source in container(objects)["envFrom"]]
    maps = {one["metadata"]["name"]: one["data"] for one in objects if one["kind"] == "ConfigMap"}
    return {key: value for name in names for key, value in maps[name].items()}


@cache
def check(text: str) -> None:
    """Cached, for most objects are the same everywhere, and each takes a tenth of a second."""
    for version in KUBERNETES:
        kubernetes_validate.validate(json.loads(text), version, strict=True)


@pytest.mark.parametrize("name", [*OVERLAYS, *COMPONENTS])
def test_objects_are_valid(name: str) -> None:
    """All but those of a kind that Kubernetes itself does not have."""
    for one in rendered(name) if name in OVERLAYS else with_component(name):
        if (one["kind"], name) != ("ServiceMonitor", "service-monitor"):
            check(json.dumps(one))


def test_ports_are_the_settings() -> None:
    ports = {port["name"]: port["containerPort"] for port in container(rendered("base"))["ports"]}
    of_image = {name: int(port) for name, port in re.findall(r"SERVING_(GRPC_PORT|PORT)=(\d+)", DOCKERFILE)}
    operations = int(settings_of(rendered("base"))["SERVING_OPERATIONS_PORT"])
    assert ports == {"grpc": of_image["GRPC_PORT"], "http": of_image["PORT"], "operations": operations}
    of_service = base("Service")["spec"]["ports"]
    assert {port["targetPort"]: port["port"] for port in of_service} == ports
    protocols = {port["name"]: port["appProtocol"] for port in of_service if "appProtocol" in port}
    assert protocols == {"grpc": "kubernetes.io/h2c"}


def test_probes_use_the_health_routes() -> None:
    deployment = yaml.safe_load((FOLDER / "base/deployment.yaml").read_text())
    runtime_port = int(RUNTIME_ENVIRONMENT["SERVING_PORT"])
    for one, port in ((container([deployment]), "operations"), (RUNTIME_CONTAINER, runtime_port)):
        for name in {"startupProbe", "readinessProbe", "livenessProbe"} & one.keys():
            path = "/v2/health/ready" if name == "readinessProbe" else "/v2/health/live"
            assert one[name]["httpGet"] == {"path": path, "port": port}
            assert path in {route.path for route in ROUTES}


@pytest.mark.parametrize("path", OVERLAYS)
def test_pods_are_restricted_and_their_settings_exist(path: str) -> None:
    objects = rendered(path)
    pod = pod_of(objects)
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    (user,) = re.findall(r"^USER (\d+):\1$", DOCKERFILE, re.MULTILINE)
    of_pod = {"runAsNonRoot": True, "runAsUser": int(user), "runAsGroup": int(user)}
    assert pod["securityContext"] == {**of_pod, "seccompProfile": {"type": "RuntimeDefault"}}
    for one in [*pod["containers"], *pod.get("initContainers", [])]:
        assert one["securityContext"] == RESTRICTED
        assert set(one["resources"]) == {"requests", "limits"}
    assert set(settings_of(objects)) <= NAMES_OF_SETTINGS
    pause = container(objects)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pause + Settings().shutdown_seconds


def test_selectors_match_the_pods() -> None:
    deployment = base("Deployment")["spec"]
    (first, second) = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert [
        deployment["selector"]["matchLabels"],
        base("Service")["spec"]["selector"],
        base("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        base("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        first["labelSelector"]["matchLabels"],
        second["labelSelector"]["matchLabels"],
    ] == [deployment["template"]["metadata"]["labels"]] * 6


def test_network_policy_lets_requests_in_and_nothing_out() -> None:
    policy = base("NetworkPolicy")["spec"]
    assert (set(policy["policyTypes"]), policy.get("egress") or []) == ({"Ingress", "Egress"}, [])
    predictions, operations = policy["ingress"]
    assert predictions == {"ports": [{"port": "http"}, {"port": "grpc"}]}
    assert operations["ports"] == [{"port": "operations"}]
    assert operations["from"]


@pytest.mark.parametrize("path", [path for path in OVERLAYS if path.endswith("-autoscale")])
def test_autoscaler_scales_the_deployment_by_metrics_that_there_are(path: str) -> None:
    objects = rendered(path)
    deployment, scaler = only("Deployment", objects), only("HorizontalPodAutoscaler", objects)["spec"]
    target = scaler["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert "replicas" not in deployment["spec"]
    assert container(objects)["resources"]["requests"]["cpu"]
    exported = {family.name for family in scrape_page(Metrics(CollectorRegistry()), Registry()).collect()}
    (rule,) = yaml.safe_load((FOLDER / "components/autoscale-queue/prometheus-adapter.yaml").read_text())["rules"]
    for name in [metric["pods"]["metric"]["name"] for metric in scaler["metrics"] if metric["type"] == "Pods"]:
        assert name in exported
        assert rule["seriesQuery"].startswith(f"{name}{{")
        assert rule["name"]["matches"] == name


def test_service_monitor_scrapes_the_job_of_the_alerts() -> None:
    objects = with_component("service-monitor")
    monitor, service = only("ServiceMonitor", objects), only("Service", objects)
    labels, spec = service["metadata"]["labels"], monitor["spec"]
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(spec) == {"jobLabel", "selector", "endpoints"}
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert f'job="{labels[spec["jobLabel"]]}"' in (ROOT / "monitoring/alerts.yml").read_text()
    (endpoint,) = spec["endpoints"]
    assert set(endpoint) == {"port", "path", "interval", "scrapeTimeout"}
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


@pytest.mark.parametrize("name", ["model-volume", "model-fetch"])
def test_models_are_mounted_read_only(name: str) -> None:
    objects = with_component(name)
    (mount,) = [mount for mount in container(objects)["volumeMounts"] if mount["name"] == "models"]
    assert mount["readOnly"] is True
    assert f"MODEL_BASE_PATH={mount['mountPath']}\n" in DOCKERFILE
    # What fetches models reaches the store alone.
    for fetch in pod_of(objects).get("initContainers", []):
        ports = {port["port"] for rule in only("NetworkPolicy", objects)["spec"]["egress"] for port in rule["ports"]}
        assert ports == {53, 443}
        assert [mount["mountPath"] for mount in fetch["volumeMounts"]] == [fetch["args"][-1]]
        assert fetch["securityContext"] == RESTRICTED


def test_api_keys_come_from_a_secret() -> None:
    objects = with_component("api-keys")
    keys = Path(settings_of(objects)["SERVING_API_KEYS_FILE"])
    assert settings_of(objects).items() >= settings_of(rendered("base")).items()
    (mount,) = [one for one in container(objects)["volumeMounts"] if one["mountPath"] == str(keys.parent)]
    (volume,) = [one for one in pod_of(objects)["volumes"] if one["name"] == mount["name"]]
    assert volume["secret"]["secretName"] == "fitting-room-api-keys"


def test_documented_command_makes_a_prometheus_rule() -> None:
    page = (ROOT / "docs/operations/deploying.md").read_text()
    (command,) = re.findall(r"^(\{ printf .*?\}) \| kubectl", page, re.DOTALL | re.MULTILINE)
    rule = yaml.safe_load(subprocess.run(["sh", "-c", command], capture_output=True, check=True, cwd=ROOT).stdout)
    assert (rule["apiVersion"], rule["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((ROOT / "monitoring/alerts.yml").read_text())


def test_images_have_the_projects_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    (of_kserve,) = only("ClusterServingRuntime", rendered("kserve"))["spec"]["containers"]
    assert container(rendered("base"))["image"] == of_kserve["image"] == f"fitting-room:{version}"


def test_documented_overlay_names_the_registry_and_adds_a_component(tmp_path: Path) -> None:
    page = (ROOT / "docs/operations/deploying.md").read_text()
    (text,) = re.findall(r"^```yaml\n(# deploy/kubernetes/overlays/.*?)^```", page, re.DOTALL | re.MULTILINE)
    moved = re.sub(r"\.\./[\w./-]+", lambda path: os.path.relpath(FOLDER / "overlays/mine" / path[0], tmp_path), text)
    (tmp_path / "kustomization.yaml").write_text(moved)
    objects = rendered(str(tmp_path))
    assert container(objects)["image"].startswith("registry.example/fitting-room:")
    assert only("ServiceMonitor", objects)["metadata"]["namespace"] == "fitting-room"


def test_kserve_runtime_is_a_valid_pod_and_fits_the_service() -> None:
    spec = RUNTIME["spec"]
    metadata = {"name": "x", "annotations": spec["annotations"]}
    pod = {"containers": spec["containers"], "volumes": spec["volumes"]}
    check(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod}))
    # The names are those of KServe's own definitions, which no package carries.
    assert RUNTIME["apiVersion"] == "serving.kserve.io/v1alpha1"
    assert set(spec) == {"annotations", "supportedModelFormats", "protocolVersions", "containers", "volumes"}
    assert RUNTIME_CONTAINER["name"] == "kserve-container"
    assert set(RUNTIME_ENVIRONMENT) <= NAMES_OF_SETTINGS
    port = RUNTIME_ENVIRONMENT["SERVING_PORT"]
    assert [str(each["containerPort"]) for each in RUNTIME_CONTAINER["ports"]] == [port]
    assert spec["annotations"] == {"prometheus.kserve.io/port": port, "prometheus.kserve.io/path": "/metrics"}


def test_kserve_example_uses_the_runtime() -> None:
    example = yaml.safe_load((FOLDER / "kserve/inference-service.yaml").read_text())
    model, spec = example["spec"]["predictor"]["model"], RUNTIME["spec"]
    assert example["apiVersion"] == "serving.kserve.io/v1beta1"
    assert model["runtime"] == RUNTIME["metadata"]["name"]
    assert model["modelFormat"] in spec["supportedModelFormats"]
    assert model["protocolVersion"] in spec["protocolVersions"] == ["v1", "v2", "grpc-v1", "grpc-v2"]


def test_kserve_model_has_the_name_of_its_inference_service(tmp_path: Path) -> None:
    """The runtime's own command, with folders of this machine and without the service at its end."""
    mount = tmp_path / "mnt/models"
    shutil.copytree(ROOT / "models/regression/1", mount / "1")
    command = RUNTIME_CONTAINER["args"][0].replace("/mnt/models", str(mount))
    done, end = command.replace("/tmp/models", str(tmp_path / "models")).rsplit(" && ", 1)
    assert (RUNTIME_CONTAINER["command"], end) == (["sh", "-c"], "exec python -m service")
    assert RUNTIME_ENVIRONMENT["SERVING_MODELS"] == "/tmp/models"
    for _ in range(2):  # the container may be started again in the same pod
        subprocess.run(["sh", "-c", done], check=True, env={**os.environ, "SERVING_MODEL_NAME": "half-plus-two"})
    assert list(Repository(tmp_path / "models", "half-plus-two").versions()) == [("half-plus-two", 1)]
