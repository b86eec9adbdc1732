"""Ray for the length of a command: an embedded one that is started and stopped here, or the cluster of RAY_ADDRESS."""

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from srgan_ray.errors import InputError

CONNECT_TIMEOUT_S = 10


@contextlib.contextmanager
def ray_session(environment: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """Connect to the cluster that RAY_ADDRESS names, and leave it as it is; without one, start Ray and stop it after.

    Its processes find `environment` in theirs. Enter it before the first import of ray in the process: ray reads parts
    of the environment then. Raises InputError where RAY_ADDRESS does not answer.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # 2 s by default: several waits at each start
    address = os.environ.get("RAY_ADDRESS", "")
    if address:
        _check_answers(address)
    else:
        set_embedded_environment()
    import ray

    with contextlib.redirect_stdout(sys.stderr):  # Ray prints its messages to standard output
        _init(address, environment)
        try:
            yield
        finally:
            ray.shutdown()


def _init(address: str, environment: Mapping[str, str]) -> None:
    import ray

    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": dict(environment)} if environment else None,
        )
    except ConnectionError as error:
        raise InputError(f"RAY_ADDRESS {address} does not answer; wanted a running cluster, or unset") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)  # ray.init puts a handler of its own there, which aborts


def _check_answers(address: str) -> None:
    """Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():  # not `auto`
        try:
            socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
        except OSError as error:
            raise InputError(f"RAY_ADDRESS {address}: {error}; wanted a running cluster, or unset") from error


def set_embedded_environment() -> None:
    """An embedded Ray asks for a token that only this process and its children know.

    Left alone, Ray 2.60 writes a token into the home folder, where it changes how a later `ray start` behaves. A
    process keeps the first token that it used.
    """
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process that waits for a cloud's notices
