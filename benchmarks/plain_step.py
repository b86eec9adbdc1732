"""A training step beside the same step of plain PyTorch layers, in speed and in what is learned.

Plain: nn.PReLU, pixel shuffles where the paper has them, activations apart from convolutions, the discriminator on one
batch at a time and all of it under autocast, VGG19's weights in fp32, glibc's own way with memory; in bf16 (autocast,
channels_last), and in fp32 as PyTorch lays it out. Ours: the networks and the process as a run has them.
All begin with the same weights and take the same batches of the paper's size. Each side runs in a process of its own;
the sides alternate.

    srgan-ray prepare SOURCE --out SHARDS --limit 200
    python benchmarks/plain_step.py --data SHARDS

prints, for each stage, the median seconds of a step, ours over plain as a ratio of speeds, and how far the losses of
each side lie from those of plain fp32 (the mean over the steps of the relative difference).
"""

import copy
import dataclasses
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from typing import Any

import torch
import tyro
from torch import nn

from srgan_ray.config import PretrainConfig, RunConfig, TrainConfig, from_dict, to_dict
from srgan_ray.data.feed import Feed
from srgan_ray.models.discriminator import Discriminator
from srgan_ray.models.generator import Generator, build_generator
from srgan_ray.models.layers import ConvLeakyReLU, PReLU
from srgan_ray.models.memory import keep_freed_memory
from srgan_ray.models.perceptual import RANDOM
from srgan_ray.training import plain, stages
from srgan_ray.training.loop import LoopConfig

OURS, PLAIN_BF16, PLAIN_FP32 = SIDES = ("ours", "plain_bf16", "plain_fp32")
WARM_UP = 2  # steps


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """A step beside that of plain PyTorch."""

    data: str
    """Shard set."""
    rounds: int = 3
    """Alternations of the sides."""
    pretrain_steps: int = 25
    """Steps in a round of the first stage."""
    train_steps: int = 8
    """Steps in a round of the second stage."""


def main(config: BenchmarkConfig) -> None:
    """Measure both stages and print one JSON object."""
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        init = PretrainConfig(config.data, f"{scratch}/init", loop=LoopConfig(steps=1, max_val_photographs=1))
        plain.fit(init)
        train = TrainConfig(config.data, "", init=init.out, vgg_weights=RANDOM)
        for name, stage, steps in (("pretrain", init, config.pretrain_steps), ("train", train, config.train_steps)):
            rounds = [{side: _run_apart(side, stage, steps) for side in SIDES} for _ in range(config.rounds)]
            results[name] = _summarize(rounds)
            print(f"{name}: " + ", ".join(f"{k} {v:.3f}" for k, v in results[name].items()), file=sys.stderr)
    print(json.dumps({"threads": torch.get_num_threads(), **results}))


def _run_apart(side: str, config: RunConfig, steps: int) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_run, (side, to_dict(config), steps))


def _summarize(rounds: list[dict[str, Any]]) -> dict[str, float]:
    seconds = {side: statistics.median(found[side]["seconds"] for found in rounds) for side in SIDES}
    losses = {side: rounds[0][side]["losses"] for side in SIDES}
    return {
        **{f"{side}_s": seconds[side] for side in SIDES},
        **{
            f"speed_over_{side}": statistics.median(f[side]["seconds"] / f[OURS]["seconds"] for f in rounds)
            for side in (PLAIN_BF16, PLAIN_FP32)
        },
        **{
            f"loss_of_{side}_off_fp32": statistics.mean(
                abs(loss - exact) / exact for loss, exact in zip(losses[side], losses[PLAIN_FP32])
            )
            for side in (OURS, PLAIN_BF16)
        },
    }


def _run(side: str, values: dict[str, Any], steps: int) -> dict[str, Any]:
    """The median seconds of a step, and the losses of all steps."""
    config = dataclasses.replace(from_dict(values), precision="fp32" if side == PLAIN_FP32 else "bf16")
    if side == OURS:
        keep_freed_memory()
    else:
        _make_plain(side)
    stage = stages.build_stage(config, stages.single_worker())
    seconds, losses = [], []
    for _, batch in list(Feed(config.data, config.crops).batches(1, WARM_UP + steps)):
        started = time.perf_counter()
        losses.append(stage.take_step(batch)["loss"].item())
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds[WARM_UP:]), "losses": losses}


def _make_plain(side: str) -> None:
    """Let the stages of this process build plain networks."""
    load, build = stages.load_init, build_generator
    load_vgg, build_discriminator = stages.load_vgg, stages.build_discriminator
    stages.load_init = lambda config: _to_plain(load(config))
    stages.build_generator = lambda *arguments: _to_plain(build(*arguments))
    stages.load_vgg = lambda *arguments: _take_apart(load_vgg(*arguments))
    stages.build_discriminator = lambda *arguments: _one_batch_at_a_time(_take_apart(build_discriminator(*arguments)))
    stages.BF16 = "left in fp32"  # VGG19's weights
    if side == PLAIN_FP32:
        stages._to = lambda network, worker: network.to(worker.device)
        stages._move = lambda batch, worker: batch


def _to_plain(generator: Generator) -> Generator:
    """The same generator of PyTorch's own layers, in the paper's order."""
    plain_one = copy.deepcopy(generator)
    for module in list(plain_one.modules()):
        for name, child in module.named_children():
            if isinstance(child, PReLU):
                setattr(module, name, _with_state(nn.PReLU(), child))
    width = generator.config.num_features
    first, first_slope, _, second, second_slope = plain_one.upsample
    shuffles = (nn.PixelShuffle(2), nn.PixelShuffle(2))
    plain_one.upsample = nn.Sequential(first, shuffles[0], first_slope, second, shuffles[1], second_slope)
    plain_one.tail = _with_state(nn.Conv2d(width, 3, 9, padding=4), generator.tail)
    return plain_one


def _take_apart(network: stages.Network) -> stages.Network:
    """The same network with PyTorch's own layers for each convolution and its activation."""
    for name, child in list(network.named_modules()):
        if isinstance(child, ConvLeakyReLU):
            parent, _, last = name.rpartition(".")
            activation = nn.LeakyReLU(child.slope) if child.slope else nn.ReLU(inplace=True)  # as torchvision's VGG
            setattr(network.get_submodule(parent), last, nn.Sequential(child.convolution, activation))
    return network


def _one_batch_at_a_time(discriminator: Discriminator) -> Discriminator:
    def forward(*batches: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(discriminator.verdict(discriminator.features(2 * crops - 1)) for crops in batches)

    discriminator.forward = forward  # type: ignore[method-assign]
    return discriminator


def _with_state(module: nn.Module, other: nn.Module) -> Any:
    module.load_state_dict(other.state_dict())
    return module


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
