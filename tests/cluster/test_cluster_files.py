"""The cluster files: what Ray, Kubernetes and KubeRay accept, and what makes them safe."""

import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
LAUNCHED = ["cluster.yaml", "clusters/aws.yaml", "clusters/gcp.yaml"]
RAY = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)[1]

# KubeRay's RayCluster, v1, as its field reference (KubeRay 1.6) has it, and nothing else; the pods are checked apart.
_COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_TEMPLATE = {"type": "object", "required": ["spec"], "properties": {"spec": {}, "metadata": {"type": "object"}}}
_PARAMETERS = {"type": "object", "additionalProperties": {"type": "string"}}
_GROUP = {"rayStartParams": _PARAMETERS, "template": _TEMPLATE, "resources": _PARAMETERS, "labels": _PARAMETERS}
RAY_CLUSTER = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayCluster"},
        "metadata": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 50},
                "namespace": {"type": "string"},
            },
            "required": ["name"],
        },
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["headGroupSpec"],
            "properties": {
                "rayVersion": {"type": "string"},
                "suspend": {"type": "boolean"},
                "enableInTreeAutoscaling": {"type": "boolean"},
                "authOptions": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "mode": {"enum": ["disabled", "token"]},
                        "enableK8sTokenAuth": {"type": "boolean"},
                        "secretName": {"type": "string"},
                    },
                },
                "autoscalerOptions": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "version": {"enum": ["v1", "v2"]},
                        "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
                        "idleTimeoutSeconds": _COUNT,
                        "image": {"type": "string"},
                        "imagePullPolicy": {"type": "string"},
                        "resources": {"type": "object"},
                    },
                },
                "headGroupSpec": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["template"],
                    "properties": {
                        **_GROUP,
                        "serviceType": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
                        "enableIngress": {"type": "boolean"},
                        "headService": {"type": "object"},
                    },
                },
                "workerGroupSpecs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["groupName", "maxReplicas", "minReplicas", "template"],
                        "properties": {
                            **_GROUP,
                            "groupName": {"type": "string"},
                            "replicas": _COUNT,
                            "minReplicas": _COUNT,
                            "maxReplicas": _COUNT,
                            "numOfHosts": _COUNT,
                            "idleTimeoutSeconds": _COUNT,
                            "suspend": {"type": "boolean"},
                            "scaleStrategy": {"type": "object"},
                        },
                    },
                },
            },
        },
    },
}


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.fixture
def kuberay() -> dict[str, Any]:
    return read("clusters/kuberay.yaml")


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_accepts_it(name: str) -> None:
    config = prepare_config(read(name))
    validate_config(config)
    workers = [kind for kind in config["available_node_types"].values() if kind["max_workers"]]
    assert sum(kind["max_workers"] for kind in workers) == config["max_workers"] > 0


@pytest.mark.parametrize("name", LAUNCHED)
def test_nothing_is_open_to_those_without_the_token(name: str) -> None:
    config = read(name)
    starts = [one for kind in ("head", "worker") for one in config[f"{kind}_start_ray_commands"] if "ray start" in one]
    assert len(starts) == 2
    for command in starts:
        assert "RAY_AUTH_MODE=token ray start" in command
        assert "--disable-usage-stats" in command
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert not any("0.0.0.0" in str(value) for value in config.values())
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]
    server = next(one for one in config["head_start_ray_commands"] if "mlflow server" in one)
    assert "--host 127.0.0.1" in server
    assert config["metadata"]["frontier"]["tracking"] == "http://127.0.0.1:5000"


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_machine_gets_the_pinned_versions_and_finds_ray(name: str) -> None:
    config = read(name)
    assert config["setup_commands"][0].endswith("make --no-print-directory setup")  # installs with constraints.txt
    for remote, local in config["file_mounts"].items():
        assert remote.startswith("~/")
        assert local.startswith("~") or (ROOT / local).exists(), local
    # What `make setup` needs, and the packages.
    project = {remote.removeprefix("~/embedding-frontier/") for remote in config["file_mounts"]}
    assert project >= {"pyproject.toml", "constraints.txt", "Makefile", "quantizers", "trainables", "sweeps", "analysis"}
    path = next(one for one in config["setup_commands"] if ".bashrc" in one)
    assert "export PATH=$HOME/embedding-frontier/.venv/bin:$PATH" in path
    assert "RAY_AUTH_MODE=token" in path  # `ray job submit` and `frontier run --address auto` on the head need it too


def test_on_premise_avoids_the_autoscaler_that_starts_too_few() -> None:
    config = read("cluster.yaml")
    assert "RAY_enable_autoscaler_v2=0 RAY_AUTH_MODE=token ray start --head" in config["head_start_ray_commands"][1]
    kind = prepare_config(config)["available_node_types"]["local.cluster.node"]
    assert kind["min_workers"] == kind["max_workers"] == len(config["provider"]["worker_ips"])


@pytest.mark.parametrize("name", ["clusters/aws.yaml", "clusters/gcp.yaml"])
def test_clouds_have_gpu_workers_on_spot_that_come_and_go(name: str) -> None:
    config = read(name)
    gpu = config["available_node_types"]["gpu"]
    assert gpu["resources"]["GPU"] == 1
    assert gpu["min_workers"] == 1 and gpu["max_workers"] == config["max_workers"]
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}
    node = gpu["node_config"]
    spot = node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    assert spot or {"provisioningModel": "SPOT"} in node["scheduling"]
    assert "spot" not in str(config["available_node_types"]["head"]).lower()  # the head must stay


def test_aws_lets_in_ssh_only_and_starts_what_boto_accepts() -> None:
    import botocore.session
    from botocore.validate import ParamValidator

    config = read("clusters/aws.yaml")
    ec2 = botocore.session.get_session().get_service_model("ec2")
    for kind in config["available_node_types"].values():
        request = ec2.operation_model("RunInstances").input_shape
        report = ParamValidator().validate({**kind["node_config"], "MinCount": 1, "MaxCount": 1}, request)
        assert not report.has_errors(), report.generate_report()
    rules = config["provider"]["security_group"]["IpPermissions"]
    report = ParamValidator().validate(
        {"IpPermissions": rules}, ec2.operation_model("AuthorizeSecurityGroupIngress").input_shape
    )
    assert not report.has_errors(), report.generate_report()
    assert [(rule["FromPort"], rule["ToPort"]) for rule in rules] == [(22, 22)]


def test_kuberay_fits_the_custom_resource(kuberay: dict[str, Any]) -> None:
    jsonschema.validate(kuberay, RAY_CLUSTER)
    spec = kuberay["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_kubernetes_accepts_the_pods(kuberay: dict[str, Any]) -> None:
    for group in (kuberay["spec"]["headGroupSpec"], *kuberay["spec"]["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, "1.33", strict=True)
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", ())}
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes


def test_rays_autoscaler_reads_the_kubernetes_cluster(kuberay: dict[str, Any]) -> None:
    kinds = _derive_autoscaling_config_from_ray_cr(kuberay)["available_node_types"]
    assert kinds["headgroup"]["resources"]["CPU"] == 0
    assert kinds["gpu"]["resources"]["GPU"] == 1
    assert (kinds["gpu"]["min_workers"], kinds["gpu"]["max_workers"]) == (1, 16)


def test_kubernetes_runs_the_pinned_ray(kuberay: dict[str, Any]) -> None:
    assert kuberay["spec"]["rayVersion"] == RAY
    image = (ROOT / "clusters" / "Dockerfile").read_text(encoding="utf-8")
    assert f"FROM rayproject/ray:{RAY}-py311-gpu" in image
    sources = re.findall(r"^COPY --chown=ray (.+) \S+$", image, flags=re.MULTILINE)
    assert all((ROOT / source).exists() for line in sources for source in line.split())
    assert "--constraint /home/ray/embedding-frontier/constraints.txt" in image
