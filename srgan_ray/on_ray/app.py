"""The endpoint under Ray Serve."""

import contextlib
import logging
from collections.abc import Iterator

import torch
from fastapi import FastAPI
from ray import serve

from srgan_ray.errors import InputError
from srgan_ray.on_ray.cluster import largest_node
from srgan_ray.serving.handler import Handler
from srgan_ray.serving.protocol import ServeConfig

NAME = "srgan-ray"


@contextlib.contextmanager
def endpoint(config: ServeConfig) -> Iterator[str]:
    """The running endpoint's URL; stopped at the end. A Serve that ran before goes on, with its own host and port.

    Raises InputError where the port is taken or no node has so many CPUs.
    """
    largest = largest_node()
    num_cpus = config.num_cpus or int(largest["CPU"])
    if num_cpus > largest["CPU"]:
        raise InputError(f"--num-cpus {num_cpus}; the largest node has {int(largest['CPU'])}: wanted at most that many")
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    ran_before = bool(serve.status().proxies)
    try:
        serve.start(http_options={"host": config.host, "port": config.port})
    except RuntimeError as error:
        serve.shutdown()
        if "Failed to bind" in str(error):
            raise InputError(
                f"--host {config.host} --port {config.port} cannot be listened on; wanted a free port"
            ) from error
        raise
    try:
        serve.run(_build_application(config, num_cpus, bool(largest.get("GPU"))), name=NAME, route_prefix="/")
        yield f"http://{config.host}:{config.port}"
    finally:
        serve.delete(NAME) if ran_before else serve.shutdown()


def _build_application(config: ServeConfig, num_cpus: int, use_gpu: bool) -> serve.Application:
    def build_in_replica() -> FastAPI:
        from srgan_ray.serving.api import build_api

        torch.set_num_threads(num_cpus)
        return build_api(Handler(config.model), config.limits)

    deployment = serve.deployment(
        name="Upscaler",
        ray_actor_options={"num_cpus": num_cpus, "num_gpus": int(use_gpu)},
        # Requests queue in the API, whose refusals are problem+json; Serve's own limit lies behind it.
        max_ongoing_requests=4 * config.limits.max_waiting,
        max_queued_requests=4 * config.limits.max_waiting,
    )
    return deployment(serve.ingress(build_in_replica)()).bind()
