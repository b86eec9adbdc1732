"""The configs of `ray up`: what Ray's launcher takes, machines that have what they promise, closed unless told."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import srgan_ray

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
CLOUDS = ["cloud/aws.yaml", "cloud/gcp.yaml"]
CONFIGS = [*CLOUDS, "on_premise/ray_up.yaml"]
# vCPUs and GPUs, from memory; to be held against https://aws.amazon.com/ec2/instance-types/{m7i,g6}, https://cloud.google.com/compute/docs/
# {general-purpose-machines,accelerator-optimized-machines}.
MACHINES = {
    "m7i.large": (2, 0),
    "m7i.2xlarge": (8, 0),
    "g6.2xlarge": (8, 1),
    "n2-standard-2": (2, 0),
    "c3-standard-8": (8, 0),
    "g2-standard-8": (8, 1),
}
# Answers as a machine does on which the container has not been started yet; keeps what it was asked.
SSH = """#!/bin/bash
echo "$*" >> "$ASKED"
case "$*" in
  *"docker run"*) touch "$ASKED.running" ;;
  *State.Running*) [ -e "$ASKED.running" ] && echo true ;;
  *Config.Env*) echo '["PATH=/usr/local/bin"]' ;;
  *"printenv HOME"*) echo /home/ray ;;
  *"command -v docker"*) echo /usr/bin/docker ;;
esac
exit 0
"""
SECRET = re.compile(
    r"AKIA\w{16}|PRIVATE KEY|"
    r"(password|token|secret_access_key)\s*[:=]\s*['\"]?\w{8}|(?<!sha256 )\b[0-9a-f]{40,}\b",
    re.I,
)


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / name).read_text())


def node_types(name: str) -> dict[str, dict[str, Any]]:
    return load(name)["available_node_types"]


def start(name: str, role: str) -> tuple[list[str], dict[str, Any]]:
    """What stands before `ray start` in the role's last command, and its parameters as Ray itself parses them."""
    from ray.scripts.scripts import start as ray_start

    words = shlex.split(load(name)[f"{role}_start_ray_commands"][-1])
    cut = words.index("start")
    return words[: cut - 1], ray_start.make_context("ray start", words[cut + 1 :]).params


@pytest.mark.parametrize("name", CONFIGS)
def test_the_launcher_takes_it(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(load(name))
    validate_config(prepared)
    assert set(prepared["file_mounts"]) >= {"/home/ray/.ray/auth_token"}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("role", ["head", "worker"])
def test_nodes_ask_for_the_token_and_have_one_metrics_port(name: str, role: str) -> None:
    environment, parameters = start(name, role)
    assert environment == ["RAY_AUTH_MODE=token"]
    assert parameters["metrics_export_port"] == 8080
    assert load(name)["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("name", CONFIGS)
def test_the_dashboard_is_on_loopback_and_workers_find_the_head(name: str) -> None:
    (_, head), (_, worker) = start(name, "head"), start(name, "worker")
    assert head["head"]
    assert head["dashboard_host"] == "127.0.0.1"
    assert "--dashboard-host" in load(name)["head_start_ray_commands"][-1]  # said, not left to Ray's default
    assert head["autoscaling_config"] == "~/ray_bootstrap_config.yaml"
    assert worker["address"] == f"$RAY_HEAD_IP:{head['port']}"
    assert worker["object_manager_port"] == head["object_manager_port"]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_image_is_this_version(name: str) -> None:
    assert load(name)["docker"]["image"] == f"REGISTRY/srgan-ray:{srgan_ray.__version__}"


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_copied_to_the_nodes_is_there(name: str) -> None:
    config = load(name)
    for local in config["file_mounts"].values():
        assert local.startswith("~/.ray/") or (ROOT / local).is_file(), local
    installed = re.findall(r"--requirement (\S+)", " ".join(config.get("head_setup_commands", [])))
    assert set(installed) == set(config["file_mounts"]) - {"/home/ray/.ray/auth_token"}


@pytest.mark.parametrize("name", CLOUDS)
def test_promised_resources_are_in_the_machines(name: str) -> None:
    for kind, node_type in node_types(name).items():
        machine = node_type["node_config"].get("InstanceType") or node_type["node_config"]["machineType"]
        num_cpus, num_gpus = MACHINES[machine]
        assert node_type["resources"].get("GPU", 0) == num_gpus, kind
        assert node_type["resources"]["CPU"] in ((0,) if kind == "head" else range(1, num_cpus + 1)), kind
        assert bool(num_gpus) == ("--gpus all" in node_type.get("docker", {}).get("worker_run_options", [])), kind


@pytest.mark.parametrize("name", CLOUDS)
def test_workers_come_and_go_on_spot_and_the_head_stays(name: str) -> None:
    config, types = load(name), node_types(name)
    head, *workers = types.pop("head"), *types.values()
    assert config["head_node_type"] == "head"
    assert not is_spot(head["node_config"])
    assert start(name, "head")[1]["num_cpus"] == 0
    assert 0 < config["idle_timeout_minutes"] <= 10
    assert not config["provider"]["cache_stopped_nodes"]
    assert len({worker["resources"]["CPU"] for worker in workers}) == 1  # on_ray.cluster.share_for's equal shares
    for worker in workers:
        assert is_spot(worker["node_config"])
        assert worker["min_workers"] == 0
        assert 0 < worker["max_workers"] <= config["max_workers"]


def is_spot(node_config: dict[str, Any]) -> bool:
    market = node_config.get("InstanceMarketOptions", {}).get("MarketType")
    return market == "spot" or node_config.get("scheduling", {}).get("provisioningModel") == "SPOT"


@pytest.mark.parametrize("name", CLOUDS)
def test_storage_is_reached_by_the_machines_own_identity(name: str) -> None:
    for kind, node_type in node_types(name).items():
        config = node_type["node_config"]
        if name == "cloud/gcp.yaml" and kind == "head":
            continue  # Ray's launcher gives it an account of its own making
        assert config.get("IamInstanceProfile") or config.get("serviceAccounts"), kind
    assert not re.search(r"AWS_|GOOGLE_APPLICATION_CREDENTIALS|gcp_credentials", (CLUSTER / name).read_text())


@pytest.mark.parametrize(
    "path", [path for path in sorted(CLUSTER.rglob("*")) if path.suffix in {".yaml", ".yml", ".json", ".md"}], ids=str
)
def test_no_secret_in_any_file(path: Path) -> None:
    assert not SECRET.search(path.read_text())


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_the_launchers_locks_have_hashes_and_the_images_versions(name: str) -> None:
    own, image = versions(CLUSTER / "cloud" / f"{name}.lock"), versions(CLUSTER / "requirements.lock")
    assert {"aws": "boto3", "gcp": "google-api-python-client"}[name] in own
    differing = {package for package in own if image.get(package, own[package]) != own[package]}
    assert differing <= ({"python-dateutil"} if name == "aws" else set())


def versions(lock: Path) -> dict[str, str]:
    """The packages of a lock; each has a hash."""
    entries = re.findall(r"^([a-z0-9-]+)==(\S+)(.*(?:\n    .*)*)", lock.read_text(), re.M)
    assert entries
    assert all("--hash=sha256:" in rest for _, _, rest in entries)
    return {package: version for package, version, _ in entries}


def test_ray_up_and_down_on_machines_of_ones_own(tmp_path: Path) -> None:
    """The launcher itself, with stand-ins for ssh and rsync: what it would do on the machines."""
    asked = tmp_path / "asked"
    for name, text in (("ssh", SSH), ("rsync", '#!/bin/bash\necho "rsync $*" >> "$ASKED"\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    for secret in (".ray/auth_token", ".ssh/id_ed25519"):
        (tmp_path / secret).parent.mkdir()
        (tmp_path / secret).touch(0o600)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": path, "ASKED": str(asked), "RAY_TMPDIR": str(tmp_path)}

    def ray(*arguments: str) -> str:
        """What the machines were asked."""
        command = ["ray", *arguments, "cluster/on_premise/ray_up.yaml"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=120)
        lines = asked.read_text()
        asked.write_text("")
        return lines

    up = ray("up", "--yes", "--no-config-cache")
    steps = [
        "auth_token ubuntu@192.0.2.10:",
        "mkdir -p /tmp/ray)",
        "docker run",
        "rsync -e",
        "ray stop",
        "ray start --head",
    ]
    places = [up.index(step) for step in steps]
    assert places == sorted(places)
    [run] = [line for line in up.splitlines() if "docker run" in line]
    assert re.search(r"-v \S+/home/ray/.ray/auth_token:/home/ray/.ray/auth_token ", run)
    assert "--volume /storage:/storage" in run
    assert "--autoscaling-config /home/ray/ray_bootstrap_config.yaml" in up
    assert "-L 8265:localhost:8265" in ray("dashboard")
    down = ray("down", "--yes")
    for address in ("192.0.2.10", "192.0.2.11", "192.0.2.12"):
        assert re.search(rf"@{address} .*docker stop srgan-ray", down), address
