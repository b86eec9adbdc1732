"""A Ray cluster of several nodes on this machine.

Each has its own processes and temporary files, and where the system allows it its own network namespace with its own
address, so that it can be cut off.

Every node is what `ray start --block` makes of it; jobs go to the head's job server as a user's do.
"""

import contextlib
import functools
import json
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from processes import wait_for
from srgan_ray.demo import free_port

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
MARK = "SRGAN_RAY_TEST_NODE"  # in the environment of all processes of a node
GCS_PORT, DASHBOARD_PORT = 6379, 8265
# As in the image.
PATIENCE = dict(re.findall(r"(RAY_(?:health_check|JOB_STOP)\w+)=(\d+)", (ROOT / "cluster" / "Dockerfile").read_text()))
UNDER_WAY = ("PENDING", "RUNNING")


@functools.cache
def can_have_networks() -> bool:
    """Whether this system lets us make network namespaces."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        return False
    name = f"srgan-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    if made:
        _ip("netns", "delete", name)
    return made


class Job:
    """A submitted job."""

    def __init__(self, nodes: "Nodes", id: str) -> None:
        self.id = id
        self._nodes = nodes

    def info(self) -> dict[str, Any]:
        return self._nodes.request(f"/api/jobs/{self.id}")

    def logs(self) -> str:
        return self._nodes.request(f"/api/jobs/{self.id}/logs")["logs"]

    def stop(self) -> None:
        self._nodes.request(f"/api/jobs/{self.id}/stop", "POST")
        self.ended()

    def under_way(self) -> bool:
        return self.info()["status"] in UNDER_WAY

    def ended(self, seconds: float = 240) -> dict[str, Any]:
        wait_for(lambda: not self.under_way(), seconds)
        return self.info()

    def summary(self, seconds: float = 240) -> dict[str, Any]:
        """What the last line on standard output says of a job that succeeds."""
        info = self.ended(seconds)
        assert info["status"] == "SUCCEEDED", f"{info['message']}\n{self.logs()}"
        return json.loads(self.logs().strip().splitlines()[-1])


class Node:
    """A head, or a worker that joins one."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], address: str) -> None:
        self.name, self.address = name, address
        self._process = subprocess.Popen(
            command,
            env=environment | {MARK: name},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self) -> None:
        """All of its processes at once, as when the power fails."""
        while pids := [pid for pid in self.processes() if pid != self._process.pid]:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        self._process.kill()
        self._process.wait()

    def processes(self) -> list[int]:
        mark = f"{MARK}={self.name}\0".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes() + b"\0":
                    found.append(int(path.parent.name))
        return [pid for pid in found if _lives(pid)]


class Nodes:
    """A head that computes nothing, and workers."""

    def __init__(
        self,
        network: "Network | None" = None,
        hidden: Path | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """In a `network`, nodes have namespaces of their own. In place of `hidden` each sees an empty folder."""
        self.token = secrets.token_hex(32)
        self.workers: list[Node] = []
        self.jobs: list[Job] = []
        self._network, self._hidden, self._environment = network, hidden, dict(environment)
        self._number = 0
        self._folders: list[Path] = []
        self._id = f"srgan{os.getpid()}{secrets.token_hex(2)}"
        ports = {"port": GCS_PORT, "dashboard-port": DASHBOARD_PORT, "ray-client-server-port": 10001}
        if not network:
            ports = {name: free_port() for name in ports}
        self._gcs_port, self._dashboard_port = ports["port"], ports["dashboard-port"]
        flags = [f"--{name}={port}" for name, port in ports.items()]
        # The dashboard listens where the tests' process reaches it: on the head's address inside the tests' network.
        self.head = self._start(["--head", "--num-cpus=0", *flags, "--dashboard-host={address}"])
        wait_for(self._answers, 60)

    @property
    def url(self) -> str:
        return f"http://{self.head.address}:{self._dashboard_port}"

    def add(self, num_cpus: int = 1) -> Node:
        known = set(self.alive())
        node = self._start([f"--address={self.head.address}:{self._gcs_port}", f"--num-cpus={num_cpus}"])
        self.workers.append(node)
        wait_for(lambda: set(self.alive()) - known, 60)
        return node

    def kill(self, node: Node) -> None:
        self.workers.remove(node)
        node.kill()

    def cut(self, node: Node) -> None:
        """From now on nothing that is sent to it arrives, nor what it sends."""
        assert self._network
        self._network.set(node.name, "down")

    def mend(self, node: Node) -> None:
        assert self._network
        self._network.set(node.name, "up")

    def restore(self, num_workers: int) -> None:
        """As many workers as that again, whatever was done to them."""
        for node in list(self.workers):
            if self._network:
                self._network.set(node.name, "up")
            if node.address not in self.alive().values():
                self.kill(node)
        while len(self.workers) < num_workers:
            self.add()

    def stop_jobs(self) -> None:
        while self.jobs:
            job = self.jobs.pop()
            if job.under_way():
                job.stop()

    def alive(self) -> dict[str, str]:
        """The addresses of the nodes that the head counts as alive, its own too, by their id."""
        summary = self.request("/nodes?view=summary")["data"]["summary"]
        raylets = [node["raylet"] for node in summary]
        return {raylet["nodeId"]: raylet["nodeManagerAddress"] for raylet in raylets if raylet.get("state") == "ALIVE"}

    def submit(self, *arguments: str) -> Job:
        """`ray job submit --working-dir . -- python …`, not waited for."""
        id = f"job-{secrets.token_hex(4)}"
        command = self.submitting("python", *arguments, flags=("--no-wait", f"--submission-id={id}"))
        wait_for(lambda: subprocess.run(command, **self.as_user(), capture_output=True).returncode == 0)
        self.jobs.append(Job(self, id))
        return self.jobs[-1]

    def submitting(self, *entrypoint: str, flags: tuple[str, ...] = ()) -> list[str]:
        """The command that submits a job."""
        return [
            str(BIN / "ray"),
            "job",
            "submit",
            f"--address={self.url}",
            "--working-dir=.",
            *flags,
            "--",
            *entrypoint,
        ]

    def as_user(self) -> dict[str, Any]:
        """Where and with which environment a user runs commands, for subprocess.run."""
        return {"cwd": ROOT, "env": self._node_environment()}

    def request(self, path: str, method: str = "GET") -> Any:
        headers = {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(self.url + path, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def stop(self) -> None:
        for node in [*self.workers, self.head]:
            node.kill()
        if self._network:
            self._network.remove()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.alive())
        return False

    def _start(self, flags: list[str]) -> Node:
        name = f"{self._id}n{self._number}"
        self._number += 1
        folder = Path(tempfile.mkdtemp(prefix="ray"))  # short: Ray's sockets lie in it
        self._folders.append(folder)
        address = self._network.add(name) if self._network else "127.0.0.1"
        command = [
            *(self._network.enter(name, self._hidden) if self._network else []),
            str(BIN / "ray"), "start", "--block", f"--temp-dir={folder}", f"--node-ip-address={address}",
            "--object-store-memory=100000000", *([] if self._network else _own_ports()),
            *(flag.format(address=address) for flag in flags),
        ]  # fmt: skip
        return Node(name, command, self._node_environment() | {"HOME": str(folder)}, address)

    def _node_environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "SRGAN_RAY_"))}
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        tokens = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_USAGE_STATS_ENABLED": "0"}
        return kept | tokens | {"PATH": path} | PATIENCE | self._environment


def _own_ports() -> list[str]:
    """For nodes that share an address."""
    names = ("dashboard-agent-listen-port", "metrics-export-port")
    return [*(f"--{name}={free_port()}" for name in names), "--min-worker-port=0", "--max-worker-port=0"]


class Network:
    """A bridge, and a namespace for each node on it: 198.18.x.1, and 198.18.x.2 and up (RFC 2544's addresses)."""

    def __init__(self) -> None:
        self._links: dict[str, str] = {}
        for _ in range(20):
            self._third = random.randrange(256)
            self._bridge = f"srgan{self._third}"
            if subprocess.run(["ip", "link", "add", self._bridge, "type", "bridge"], capture_output=True).returncode:
                continue  # another one's
            _ip("addr", "add", f"{self.gateway}/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            return
        raise RuntimeError("no free bridge name")

    @property
    def gateway(self) -> str:
        """This machine's address on the bridge."""
        return f"198.18.{self._third}.1"

    def add(self, name: str) -> str:
        """A namespace of this name; returns its address."""
        number = len(self._links) + 2
        link, address = f"{self._bridge}-{number}", f"198.18.{self._third}.{number}"
        _ip("netns", "add", name)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", link, "master", self._bridge, "up")
        for command in (f"addr add {address}/24 dev eth0", "link set eth0 up", "link set lo up"):
            _ip("-netns", name, *command.split())
        self._links[name] = link
        return address

    def enter(self, name: str, hidden: Path | None) -> list[str]:
        """What runs a command in the namespace, with process numbers of its own, and ends all of it with the tests."""
        hide = f"mount -t tmpfs none {hidden} && " if hidden else ""
        return [
            "setpriv", "--pdeathsig=KILL", "ip", "netns", "exec", name,
            "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", f'{hide}exec "$@"', "sh",
        ]  # fmt: skip

    def set(self, name: str, state: str) -> None:
        _ip("link", "set", self._links[name], state)

    def remove(self) -> None:
        for name in self._links:
            _ip("netns", "delete", name)
        _ip("link", "delete", self._bridge)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@contextlib.contextmanager
def started(num_workers: int, nodes: Nodes) -> Iterator[Nodes]:
    """A cluster with so many workers, for the length of a block."""
    try:
        for _ in range(num_workers):
            nodes.add()
        yield nodes
    finally:
        nodes.stop()
