"""The manifests of examples/kubernetes fit each other, the image, and the rules for restricted
pods.

No cluster runs here. kubernetes-validate has checked their fields against the schemas of 1.37.
"""

from typing import Any

import pytest
import yaml

from app.settings import ROOT, Settings
from tests.support.proxies import EXAMPLES

MANIFESTS = EXAMPLES / "kubernetes"


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((MANIFESTS / f"{name}.yaml").read_text())
    return found


KUSTOMIZATION = read("kustomization")
DEPLOYMENT = read("deployment")
POD = DEPLOYMENT["spec"]["template"]["spec"]
LABELS = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
[MIGRATION] = POD["initContainers"]
[SERVICE] = POD["containers"]


def test_every_manifest_is_applied() -> None:
    names = {path.name for path in MANIFESTS.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(KUSTOMIZATION["resources"]) == names


def test_all_select_the_same_pods() -> None:
    for selector in (
        DEPLOYMENT["spec"]["selector"]["matchLabels"],
        read("service")["spec"]["selector"],
        read("disruption_budget")["spec"]["selector"]["matchLabels"],
        read("network_policy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector == LABELS


@pytest.mark.parametrize("container", [MIGRATION, SERVICE], ids=lambda one: one["name"])
def test_containers_are_restricted(container: dict[str, Any]) -> None:
    """As the Pod Security Standard says, and with a read-only file system."""
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    assert POD["automountServiceAccountToken"] is False


def test_the_pods_run_as_the_user_of_the_image() -> None:
    user = POD["securityContext"]["runAsUser"]
    assert (
        f"\nUSER {user}:{POD['securityContext']['runAsGroup']}\n"
        in (ROOT / "Dockerfile").read_text()
    )


@pytest.mark.parametrize("container", [MIGRATION, SERVICE], ids=lambda one: one["name"])
def test_secrets_are_files_that_are_mounted(container: dict[str, Any]) -> None:
    [generated] = KUSTOMIZATION["secretGenerator"]
    files = {file.rpartition("/")[2] for file in generated["files"]}
    [mounted] = [it["mountPath"] for it in container["volumeMounts"] if it["name"] == "secrets"]
    assert {f"{mounted}/{file}" for file in files} == {it["value"] for it in container["env"]}
    assert {it["name"] for it in container["env"]} == {f"{file.upper()}_FILE" for file in files}
    assert files <= Settings.model_fields.keys()
    [volume] = [it for it in POD["volumes"] if it["name"] == "secrets"]
    assert volume["secret"]["secretName"] == generated["name"]


def test_the_settings_are_valid_in_production() -> None:
    [generated] = KUSTOMIZATION["configMapGenerator"]
    values = dict(line.split("=", 1) for line in generated["literals"])
    settings = Settings.model_validate(
        {
            **{name.lower(): value for name, value in values.items()},
            "database_url": "postgresql://hourpass:x@192.0.2.10/hourpass",
            "secret_key": "9f2c61d7a04be8355c1d90b7e6f8a24310c5d2e7b96f4a18",
        }
    )
    assert settings.environment == "production"
    assert SERVICE["envFrom"] == [{"configMapRef": {"name": generated["name"]}}]


def test_probes_ask_what_they_are_for() -> None:
    paths = {name: SERVICE[name]["httpGet"]["path"] for name in SERVICE if name.endswith("Probe")}
    assert paths == {
        "livenessProbe": "/healthz",  # an outage of the database must not restart the pods
        "startupProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    [port] = SERVICE["ports"]
    assert f'"--port", "{port["containerPort"]}"' in (ROOT / "Dockerfile").read_text()
    [service_port] = read("service")["spec"]["ports"]
    assert service_port["targetPort"] == port["name"]


def test_a_pod_that_stops_has_time_for_its_requests() -> None:
    pause = int(SERVICE["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert POD["terminationGracePeriodSeconds"] >= pause + 30 + 2


def test_a_rollout_and_a_drained_node_leave_a_pod_that_serves() -> None:
    assert DEPLOYMENT["spec"]["replicas"] >= 2
    assert DEPLOYMENT["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert read("disruption_budget")["spec"]["minAvailable"] == 1
