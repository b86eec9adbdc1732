import dataclasses

import pytest
import torch

from srgan_ray.config import TrainConfig
from srgan_ray.data.feed import Feed
from srgan_ray.training.stages import build_stage, single_worker
from srgan_ray.training.state import statistics


@pytest.mark.parametrize("hold", [True, False])
def test_the_generators_statistics_are_held_where_asked(train_config: TrainConfig, hold: bool) -> None:
    """Through steps and validations; what is learned, and the discriminator's own statistics, change all the same."""
    stage = build_stage(dataclasses.replace(train_config, hold_statistics=hold), single_worker())
    generator, discriminator = stage.state.generator, stage.state.discriminator
    assert discriminator
    before = [[tensor.clone() for tensor in statistics(network)] for network in (generator, discriminator)]
    weights = [parameter.detach().clone() for parameter in generator.parameters()]
    for _, batch in Feed(train_config.data, train_config.crops).batches(1, 2):
        stage.take_step(batch)
        stage.gradient_norms(batch)
    assert _are_equal(before[0], statistics(generator)) == hold
    assert not _are_equal(before[1], statistics(discriminator))
    assert not _are_equal(weights, list(generator.parameters()))


def _are_equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(old, new) for old, new in zip(first, second))
