"""Runs small enough for a test."""

import dataclasses
from pathlib import Path

import pytest

from srgan_ray.config import PretrainConfig, TrainConfig
from srgan_ray.data.crops import CropConfig
from srgan_ray.demo import free_port as find_free_port
from srgan_ray.models.discriminator import DiscriminatorConfig
from srgan_ray.models.generator import GeneratorConfig
from srgan_ray.training import plain
from srgan_ray.training.loop import LoopConfig


@pytest.fixture
def pretrain_config(shards: Path, tmp_path: Path) -> PretrainConfig:
    """10 steps of a tiny generator."""
    return PretrainConfig(
        data=str(shards),
        out=str(tmp_path / "pretrained"),
        crops=CropConfig(batch_size=4, crop_px=48),
        loop=LoopConfig(steps=10, evaluate_every=5, checkpoint_every=5),
        learning_rate=1e-3,
        generator=GeneratorConfig(1, 8),
    )


@pytest.fixture
def train_config(pretrain_config: PretrainConfig, tmp_path: Path) -> TrainConfig:
    """10 adversarial steps from a generator pretrained for one step."""
    short = dataclasses.replace(pretrain_config.loop, steps=1)
    plain.fit(dataclasses.replace(pretrain_config, loop=short, out=str(tmp_path / "init")))
    return TrainConfig(
        data=pretrain_config.data,
        out=str(tmp_path / "trained"),
        crops=pretrain_config.crops,
        loop=pretrain_config.loop,
        init=str(tmp_path / "init"),
        discriminator=DiscriminatorConfig(4, 16),
        vgg_weights="random",
    )


@pytest.fixture
def free_port() -> int:
    """A port of this machine that nothing listens on."""
    return find_free_port()
