"""Many files upscaled by a pool of actors, each with a generator of its own."""

import functools
from collections.abc import Callable, Iterator

import torch

from srgan_ray.on_ray.cluster import find_pool
from srgan_ray.on_ray.parallel import NUM_TRIES, map_in_pool
from srgan_ray.serving.files import Outcome, Source, UpscaleConfig, upscale_source
from srgan_ray.serving.handler import Handler
from srgan_ray.serving.worklist import Worklist


def upscale(worklist: Worklist) -> Iterator[Outcome]:
    """The outcomes of the files on the worklist, as they come. Ray must be connected.

    A file with which NUM_TRIES actors died, say for lack of memory, has failed. Raises InputError where --out cannot
    be written to.
    """
    pool = find_pool()
    left = dict(enumerate(worklist.todo))
    for number, outcome in map_in_pool(functools.partial(_build, worklist.config, pool.num_cpus), worklist.todo, pool):
        del left[number]
        yield outcome
    for source in left.values():
        yield Outcome(source, f"{NUM_TRIES} workers died while at it; wanted a picture that fits into their memory")


def _build(config: UpscaleConfig, num_threads: int) -> Callable[[Source], Outcome]:
    """What an actor keeps."""
    torch.set_num_threads(num_threads)
    return functools.partial(upscale_source, Handler(config.model), config)
