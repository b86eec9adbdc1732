"""A function applied to many items by Ray Data: in tasks, or by actors that keep something heavy."""

import functools
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning

from srgan_ray.errors import InputError
from srgan_ray.on_ray.cluster import Pool

Item = TypeVar("Item")
Result = TypeVar("Result")
NUM_TRIES = 3  # of an item whose actor dies


def map_in_tasks(
    function: Callable[[Item], Result], items: Sequence[Item], num_tasks: int
) -> Iterator[tuple[int, Result]]:
    """The number of each item and what the function gives for it, as they come. Raises InputError as it does."""
    return _stream(_dataset(dict(enumerate(items)), num_tasks).map(functools.partial(_apply, function)))


def map_in_pool(
    build: Callable[[], Callable[[Item], Result]], items: Sequence[Item], pool: Pool
) -> Iterator[tuple[int, Result]]:
    """As `map_in_tasks`, but one item at a time by actors, each of which applies the function that it has built.

    An actor that dies is replaced, and what it had in hand is tried again when all else is done: no actor waits for a
    node that has gone. Items with which NUM_TRIES actors died are left out, and so are those with which the function
    raises anything but InputError.
    """
    left = dict(enumerate(items))
    for _ in range(NUM_TRIES):
        if left:
            for number, result in _map_once(build, left, pool):
                del left[number]
                yield number, result


def _map_once(
    build: Callable[[], Callable[[Item], Result]], items: Mapping[int, Item], pool: Pool
) -> Iterator[tuple[int, Result]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)  # of max_restarts, which can be said in no other way
        dataset = _dataset(items, len(items)).map(
            _Actor,  # type: ignore[arg-type]  # a class, which the annotation leaves out
            fn_constructor_args=(build,),
            compute=ray.data.ActorPoolStrategy(
                size=min(pool.num_actors, len(items)),
                max_tasks_in_flight_per_actor=1,  # one that waits in line would share the fate of the one before it
            ),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus,
            max_restarts=-1,
            max_task_retries=0,
        )
    dataset.context.max_errored_blocks = -1
    dataset.context.max_consecutive_actor_init_deaths = NUM_TRIES * pool.num_actors  # a node that goes takes all of its
    return _stream(dataset)


class _Actor:
    def __init__(self, build: Callable[[], Callable[[Any], Any]]) -> None:
        self._function = build()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return _apply(self._function, row)


def _dataset(items: Mapping[int, Any], num_blocks: int) -> ray.data.Dataset:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.op_resource_reservation_enabled = False  # left on, half of the CPUs wait: 3.2 s instead of 1.9 s on two
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what stops a job is raised as well
    rows = [{"number": number, "item": item} for number, item in items.items()]
    return ray.data.from_items(rows, override_num_blocks=num_blocks)


def _apply(function: Callable[[Any], Any], row: dict[str, Any]) -> dict[str, Any]:
    """The function's result, or the message of its InputError, which Ray Data would wrap in its own."""
    try:
        return {"number": row["number"], "result": function(row["item"]), "error": ""}
    except InputError as error:
        return {"number": row["number"], "result": None, "error": str(error)}


def _stream(done: ray.data.Dataset) -> Iterator[tuple[int, Any]]:
    for row in done.iter_rows():
        if row["error"]:
            raise InputError(row["error"])
        yield row["number"], row["result"]
