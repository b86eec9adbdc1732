"""The endpoint under Ray Serve: for the length of a command, and as the application of a Serve config file."""

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from fastapi import FastAPI
from pydantic import TypeAdapter, ValidationError
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException

from srgan_ray.errors import InputError
from srgan_ray.on_ray.cluster import largest_node, places_for, total_cpus
from srgan_ray.serving.handler import Handler
from srgan_ray.serving.protocol import EndpointConfig, Scaling, ServeConfig

NAME = "srgan-ray"
FOLLOW_EVERY_S = 5
# A replica with so many requests has its generator busy while the others decode, encode or wait for their turn.
REQUESTS_PER_REPLICA = 4
# Threads that share one arena leave fewer gaps in it. oneDNN makes its kernels for each size of a tile and each layer
# with an activation, and keeps 512 here, as many for each layer as 256 were with 16 blocks, half the layers: with those
# its own 1024 took 0.2 GB more and was no faster, and 64 took a tenth longer for pictures of up to 500 pixels a side.
REPLICA_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "512"}
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}  # Ray 2.60 leaves all of a node's to an actor that asked for none
STOPPING_S = 5  # beside the time limits of the requests that a stopping replica still answers


@contextlib.contextmanager
def endpoint(config: ServeConfig) -> Iterator[str]:
    """The running endpoint's URL; at the end it answers the requests it has, and stops. A Serve that ran before goes
    on, with its own host and port.

    Raises InputError where the port is taken, the nodes have no room for the replicas, or this application is there.
    """
    application = build_application(dataclasses.replace(config, scaling=_with_shares(config.scaling)))
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    before = serve.status()
    if NAME in before.applications:
        raise InputError(
            f"the cluster's Serve has an application {NAME} already; wanted none: stop the command that serves it, "
            "or `serve shutdown` where it was killed, or set RAY_ADDRESS to another cluster"
        )
    ran_before = bool(before.proxies)
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
        _deploy(application)
        client = _get_global_client()
        assert client
        yield client.root_url  # that of a Serve that ran before is its own
    finally:
        serve.delete(NAME)
        if not ran_before and not serve.status().applications:  # others' may have come meanwhile
            serve.shutdown()


def _deploy(application: serve.Application) -> None:
    try:
        serve.run(application, name=NAME, route_prefix="/")
    except RayServeException as error:
        raise InputError(f"the cluster's Serve refuses the endpoint: {_last_line(str(error))}") from error
    except RuntimeError as error:
        deployed = serve.status().applications[NAME].deployments.values()
        told = _last_line("\n".join(deployment.message for deployment in deployed))
        raise InputError(f"the endpoint did not start: {told or error}") from error


def _last_line(text: str) -> str:
    """Of a traceback, what was raised."""
    return text.strip().rpartition("\n")[2]


def build(args: dict[str, Any]) -> serve.Application:
    """The application of a Serve config file, whose `args` are the fields of EndpointConfig. The nodes that its
    replicas will run on need not be there yet.

    Raises InputError for what is no field or no value of one, and where scaling leaves a replica's share to the nodes.
    """
    config = _read(args).resolved()
    scaling = config.scaling
    if not scaling.num_cpus or scaling.num_gpus is None:
        raise InputError(
            f"args.scaling.num_cpus {scaling.num_cpus}, num_gpus {scaling.num_gpus}; wanted both, num_cpus 1 or more: "
            "the nodes may not be there yet when the application is built"
        )
    return build_application(config)


def build_application(config: EndpointConfig) -> serve.Application:
    """The endpoint, whose scaling says how many CPUs and GPUs a replica gets."""
    num_cpus, limits = config.scaling.num_cpus, config.limits
    model = config.model.with_absolute_paths()

    def build_in_replica() -> FastAPI:
        from srgan_ray.on_ray.serve_watch import ServeWatch
        from srgan_ray.serving.api import build_api

        torch.set_num_threads(num_cpus)
        handler = Handler(model, ServeWatch())
        handler.follow(FOLLOW_EVERY_S)
        return build_api(handler, limits)

    deployment = serve.deployment(
        name="Upscaler",
        ray_actor_options={
            "num_cpus": num_cpus,
            "num_gpus": config.scaling.num_gpus,
            "runtime_env": {"env_vars": {**REPLICA_ENVIRONMENT, **({} if config.scaling.num_gpus else NO_GPU)}},
        },
        # Requests queue in the API, whose refusals are problem+json; Serve's own limit lies behind it.
        max_ongoing_requests=4 * limits.max_waiting,
        max_queued_requests=4 * limits.max_waiting,
        autoscaling_config=_autoscaling(config.scaling),
        graceful_shutdown_timeout_s=limits.receive_limit_s + limits.time_limit_s + STOPPING_S,
        graceful_shutdown_wait_loop_s=0.2,
        logging_config={"encoding": "JSON", "enable_access_log": False},  # the API writes a line for each request
    )
    return deployment(serve.ingress(build_in_replica)()).bind()


def _with_shares(scaling: Scaling) -> Scaling:
    """With the CPUs and GPUs that the nodes present have for a replica, where it does not say how many."""
    largest = int(largest_node()["CPU"])
    num_cpus = scaling.num_cpus or min(largest, max(1, total_cpus() // scaling.max_replicas))
    if num_cpus > largest:
        raise InputError(f"--num-cpus {num_cpus}; the largest node has {largest}: wanted at most that many")
    most_gpus = int(largest_node("GPU").get("GPU", 0))
    num_gpus = int(bool(largest_node().get("GPU"))) if scaling.num_gpus is None else scaling.num_gpus
    if num_gpus > most_gpus:
        raise InputError(f"--num-gpus {num_gpus}; no node has more than {most_gpus}: wanted at most that many")
    least, there = max(1, scaling.min_replicas), places_for(num_cpus, num_gpus)
    if there < least:  # Serve would wait for ever
        raise InputError(
            f"--min-replicas {scaling.min_replicas} of --num-cpus {num_cpus} and --num-gpus {num_gpus} each; the nodes "
            f"have room for {there}: wanted {least} at least"
        )
    return dataclasses.replace(scaling, num_cpus=num_cpus, num_gpus=num_gpus)


def _read(args: dict[str, Any]) -> EndpointConfig:
    try:
        return TypeAdapter(EndpointConfig).validate_python(args)
    except ValidationError as error:
        raise InputError("; ".join(map(_describe, error.errors()))) from None


def _describe(found: Any) -> str:
    return f"{'.'.join(['args', *map(str, found['loc'])])} {found['input']!r}: {found['msg']}"


def _autoscaling(scaling: Scaling) -> serve.config.AutoscalingConfig:
    with warnings.catch_warnings():
        # Deprecated, but what Ray 2.60 names in its place is not read: without it nothing happens for 10 s.
        warnings.simplefilter("ignore", DeprecationWarning)
        return serve.config.AutoscalingConfig(
            min_replicas=scaling.min_replicas,
            max_replicas=scaling.max_replicas,
            target_ongoing_requests=REQUESTS_PER_REPLICA,
            upscale_delay_s=scaling.scale_up_after_s,
            downscale_delay_s=scaling.scale_down_after_s,
            look_back_period_s=2,
            metrics_interval_s=0.5,
        )
