"""gloo and NCCL, torch's communication between CPUs and between GPUs, on the network that Ray's nodes know each other
by.

Left alone NCCL takes the first interface that it finds, and gloo the address that the machine's own name stands for,
which on Debian is 127.0.1.1: workers on other nodes then cannot connect.
"""

import os
import socket
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig


class TorchOnNodes(TorchConfig):
    """As TorchConfig, for workers on any node."""

    @property
    def backend_cls(self) -> Any:
        """Of Ray Train's interface for backends."""
        return _Backend


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]  # Ray Train's own, private by name
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_choose_interface)
        super().on_start(worker_group, backend_config)


def _choose_interface() -> None:
    """In a worker: the network interface is the one with the node's address, where GLOO_SOCKET_IFNAME or
    NCCL_SOCKET_IFNAME say none."""
    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if (socket.AF_INET, address) in [(found.family, found.address) for found in addresses]:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # "=": the whole name, not its beginning
