"""The Serve config file: keys that Serve has, values that the builder takes, the endpoint that comes of it."""

import copy
import importlib
import inspect
import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve._private import constants
from ray.serve.config import AutoscalingConfig, ControllerOptions
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    LoggingConfig,
    RayActorOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from fakes import write_generator
from srgan_ray.demo import free_port
from srgan_ray.errors import InputError
from srgan_ray.models.registry import Registry
from srgan_ray.on_ray.app import build
from srgan_ray.serving.protocol import Limits

CLUSTER = Path(__file__).parents[2] / "cluster"
SHARE = {"num_cpus": 1, "num_gpus": 0}


def serve_config() -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / "serve.yaml").read_text())


def unknown_keys(config: dict[str, Any]) -> list[str]:
    """Keys that Serve would pass over in silence."""
    parts = [
        (config, ServeDeploySchema),
        (config.get("http_options", {}), HTTPOptionsSchema),
        (config.get("logging_config", {}), LoggingConfig),
        (config.get("controller_options", {}), ControllerOptions),
    ]
    for application in config["applications"]:
        parts.append((application, ServeApplicationSchema))
        for deployment in application.get("deployments", []):
            parts += [
                (deployment, DeploymentSchema),
                (deployment.get("ray_actor_options", {}), RayActorOptionsSchema),
                (deployment.get("autoscaling_config", {}), AutoscalingConfig),
            ]
    return [key for part, model in parts for key in part if key not in model.model_fields]


def test_serve_knows_every_key() -> None:
    config = serve_config()
    assert not unknown_keys(config)
    ServeDeploySchema.model_validate(config)
    for key in config["controller_options"]["runtime_env"]["env_vars"]:
        assert f'"{key}"' in inspect.getsource(constants)


@pytest.mark.parametrize("path", ["", "http_options", "logging_config", "controller_options", "applications.0"])
def test_a_misspelt_key_would_be_found(path: str) -> None:
    config = serve_config()
    part: Any = config
    for name in filter(None, path.split(".")):
        part = part[int(name)] if name.isdigit() else part[name]
    part["misspelt"] = 1
    assert unknown_keys(config) == ["misspelt"]


def test_the_application_is_built_by_its_args_alone() -> None:
    [application] = serve_config()["applications"]
    module, _, name = application["import_path"].partition(":")
    assert getattr(importlib.import_module(module), name) is build
    assert "deployments" not in application  # a replica's threads would not follow what these override


def test_the_file_is_what_the_builder_takes(tmp_path: Path) -> None:
    [application] = serve_config()["applications"]
    args, scaling = application["args"], application["args"]["scaling"]
    with pytest.raises(InputError, match=r"--registry .* is no registry"):
        build(args | {"registry": str(tmp_path)})
    deployment = build(args | {"registry": fill_registry(tmp_path)})._bound_deployment
    assert deployment.ray_actor_options["num_cpus"] == scaling["num_cpus"]
    assert deployment.ray_actor_options["num_gpus"] == scaling["num_gpus"]
    autoscaling = deployment._deployment_config.autoscaling_config
    assert (autoscaling.min_replicas, autoscaling.max_replicas) == (scaling["min_replicas"], scaling["max_replicas"])


def test_the_applications_own_limits_come_first() -> None:
    config = serve_config()
    limits = Limits(**config["applications"][0]["args"]["limits"])
    assert config["http_options"]["request_timeout_s"] > limits.receive_limit_s + limits.time_limit_s


def test_more_cpus_than_the_nodes_present_have_are_no_error() -> None:
    """On a cluster that scales, the nodes come when there are replicas for them; here there is not even a Ray."""
    application = build({"scaling": {"num_cpus": 1000, "num_gpus": 8}})
    assert application._bound_deployment.ray_actor_options["num_cpus"] == 1000


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"nonsense": 1}, "args.nonsense 1"),
        ({"host": "0.0.0.0"}, "args.host '0.0.0.0'"),
        ({"port": 80}, "args.port 80"),
        ({"model": {"generatr": "psnr"}}, "args.model.generatr 'psnr'"),
        ({"limits": {"max_gb": 1}}, "args.limits.max_gb 1"),
        ({"scaling": {"num_cpu": 4}}, "args.scaling.num_cpu 4"),
        ({"scaling": {"num_cpus": "four"}}, "args.scaling.num_cpus 'four': Input should be a valid integer"),
        ({"limits": {"max_mb": -1}}, "--max-mb -1"),
        ({"scaling": {"num_cpus": 1, "num_gpus": -1}}, "--num-gpus -1"),
        ({"registry": "r", "model": {"generator": "perceptual"}}, "--registry r and --generator perceptual"),
        ({}, "args.scaling.num_cpus 0, num_gpus None; wanted both"),
        ({"scaling": {"num_gpus": 0}}, "args.scaling.num_cpus 0"),
        ({"scaling": {"num_cpus": 1}}, "num_gpus None; wanted both"),
    ],
)
def test_wrong_args_are_refused_in_one_line(args: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        build(args)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def fill_registry(folder: Path) -> str:
    generator = Path(write_generator(folder / "sharp.safetensors", 0, "sharp"))
    registry = Registry(folder / "registry", "--to")
    registry.promote(generator.read_bytes(), {})
    return str(registry)


@pytest.mark.ray
@pytest.mark.slow
def test_the_endpoint_is_deployed_as_a_config_file_is(ray_cluster: None, tmp_path: Path) -> None:
    """By the call that `serve deploy` and KubeRay make through the dashboard; wrong args leave it as it is."""
    from ray import serve
    from ray.serve.context import _get_global_client

    config = serve_config()
    args = config["applications"][0]["args"]
    args["registry"] = fill_registry(tmp_path)
    args["scaling"] |= {**SHARE, "min_replicas": 1, "max_replicas": 1}
    wrong = copy.deepcopy(config)
    wrong["applications"][0]["args"]["scaling"]["num_cpu"] = 1
    port = free_port()
    serve.start(http_options=config["http_options"] | {"host": "127.0.0.1", "port": port})
    try:
        client = _get_global_client()
        client.deploy_apps(ServeDeploySchema.model_validate(config), _blocking=True)
        assert health(port)["generator"] == "sharp"
        client.deploy_apps(ServeDeploySchema.model_validate(wrong))
        deadline = time.monotonic() + 60
        while (status := serve.status().applications["srgan-ray"]).status not in ("DEPLOY_FAILED", "UNHEALTHY"):
            assert time.monotonic() < deadline, status
            time.sleep(0.5)
        assert "args.scaling.num_cpu 1: Unexpected keyword argument" in status.message
        assert health(port)["generator"] == "sharp"
    finally:
        serve.shutdown()


def health(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as answer:
        return json.load(answer)
