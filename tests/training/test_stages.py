import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fakes import photograph
from srgan_ray.config import PretrainConfig, TrainConfig
from srgan_ray.data.feed import Feed, stack
from srgan_ray.errors import InputError
from srgan_ray.models.artifact import interpolate, load_generator
from srgan_ray.models.generator import GeneratorConfig
from srgan_ray.models.perceptual import load_vgg
from srgan_ray.training import plain
from srgan_ray.training.losses import content_loss, pixel_loss
from srgan_ray.training.stages import Stage, build_stage, check_stage, single_worker
from srgan_ray.training.state import statistics


@pytest.mark.parametrize("hold", [True, False])
def test_the_generators_statistics_are_held_where_asked(train_config: TrainConfig, hold: bool) -> None:
    """Through steps and validations; what is learned, and the discriminator's own statistics, change all the same."""
    stage = build_stage(dataclasses.replace(train_config, hold_statistics=hold), single_worker())
    generator, discriminator = stage.state.generator, stage.state.discriminator
    assert discriminator
    before = [flat(statistics(network)) for network in (generator, discriminator)]
    weights = flat(generator.parameters())
    take_steps(stage, train_config, 2)
    assert torch.equal(before[0], flat(statistics(generator))) == hold
    assert not torch.equal(before[1], flat(statistics(discriminator)))
    assert not torch.equal(weights, flat(generator.parameters()))


def test_each_network_has_an_optimizer_of_its_own(train_config: TrainConfig) -> None:
    """Adam with the paper's beta1, and the learning rates of the config."""
    config = dataclasses.replace(train_config, learning_rate=1e-4, discriminator_learning_rate=4e-4)
    state = build_stage(config, single_worker()).state
    assert state.learning_rates == (1e-4, 4e-4)
    assert state.discriminator
    for network, optimizer in zip((state.generator, state.discriminator), state.optimizers, strict=True):
        [group] = optimizer.param_groups
        assert list(map(id, group["params"])) == list(map(id, network.parameters()))
        assert group["betas"] == (0.9, 0.999)
    same = dataclasses.replace(config, discriminator_learning_rate=None)
    assert build_stage(same, single_worker()).state.learning_rates == (1e-4, 1e-4)


def test_each_stage_is_validated_by_its_own_loss(pretrain_config: PretrainConfig, train_config: TrainConfig) -> None:
    """The second by the content loss: by pixels its earliest generator, the blurriest, would be the best."""
    sr, hr, vgg = photograph(0), photograph(1), load_vgg("random")
    by_pixels, by_content = (
        build_stage(dataclasses.replace(config, precision="fp32"), single_worker()).loss_val(sr, hr)
        for config in (pretrain_config, train_config)
    )
    assert by_pixels == pytest.approx(np.mean((sr / 255 - hr / 255) ** 2))
    with torch.inference_mode():
        assert by_content == pytest.approx(content_loss(vgg(stack([sr])), vgg(stack([hr]))).item(), rel=1e-3)


@pytest.mark.parametrize("name", ["pretrain_config", "train_config"])
def test_to_measure_gradients_changes_nothing(name: str, request: pytest.FixtureRequest) -> None:
    """Neither weights nor BatchNorm's statistics: how often a run is validated makes no difference to it."""
    config = request.getfixturevalue(name)
    stage = build_stage(config, single_worker())
    _, batch = next(iter(Feed(config.data, config.crops).batches(1, 1)))
    stage.take_step(batch)
    networks = [network for network in (stage.state.generator, stage.state.discriminator) if network]
    before = copy.deepcopy([network.state_dict() for network in networks])
    stage.gradient_norms(batch)
    for network, tensors in zip(networks, before):
        assert network.training
        assert all(torch.equal(tensor, tensors[key]) for key, tensor in network.state_dict().items())


def test_gradients_are_those_of_the_weighted_terms(train_config: TrainConfig) -> None:
    names = ("content", "adversarial", "pixel", "pattern", "colour")
    _, batch = next(iter(Feed(train_config.data, train_config.crops).batches(1, 1)))

    def norms(weight: float) -> dict[str, float]:
        weights: dict[str, Any] = {f"{name}_weight": weight for name in names}
        config = dataclasses.replace(train_config, precision="fp32", **weights)
        return build_stage(config, single_worker()).gradient_norms(batch)

    once, thrice = norms(1.0), norms(3.0)
    assert thrice == pytest.approx({name: 3 * norm for name, norm in once.items()}, rel=1e-3)


def test_pretraining_takes_the_statistics_of_each_batch_whatever_it_goes_on_from(
    pretrain_config: PretrainConfig, train_config: TrainConfig
) -> None:
    for init in ("", train_config.init):
        stage = build_stage(dataclasses.replace(pretrain_config, init=init), single_worker())
        before = flat(statistics(stage.state.generator))
        _, batch = next(iter(Feed(pretrain_config.data, pretrain_config.crops).batches(1, 1)))
        stage.take_step(batch)
        assert not torch.equal(before, flat(statistics(stage.state.generator)))


@pytest.mark.parametrize("name", ["pretrain_config", "train_config"])
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_average_forgets_as_the_config_says(name: str, decay: float, request: pytest.FixtureRequest) -> None:
    config = request.getfixturevalue(name)
    loop = dataclasses.replace(config.loop, ema_decay=decay)
    state = build_stage(dataclasses.replace(config, loop=loop), single_worker()).state
    state.step = 1000  # long after the first steps, in which it forgets sooner
    with torch.no_grad():
        state.generator.tail.weight.add_(1)
    state.advance()
    behind = (state.generator.tail.weight - state.averaged_generator.tail.weight).mean().item()
    assert behind == pytest.approx(decay, abs=1e-5)


@pytest.mark.parametrize(("name", "network"), [("pretrain_config", "generator"), ("train_config", "discriminator")])
def test_the_seed_decides_the_initial_weights(name: str, network: str, request: pytest.FixtureRequest) -> None:
    config = request.getfixturevalue(name)

    def weights(seed: int) -> torch.Tensor:
        crops = dataclasses.replace(config.crops, seed=seed)
        stage = build_stage(dataclasses.replace(config, crops=crops), single_worker())
        return flat(getattr(stage.state, network).parameters())

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_the_configs_terms_make_the_loss(train_config: TrainConfig) -> None:
    weights = {"content": 2.0, "adversarial": 3.0, "pixel": 4.0, "pattern": 5.0, "colour": 6.0}
    config = dataclasses.replace(train_config, **{f"{name}_weight": weight for name, weight in weights.items()})
    _, batch = next(iter(Feed(config.data, config.crops).batches(1, 1)))
    stage = build_stage(config, single_worker())
    norms, terms = stage.gradient_norms(batch), stage.take_step(batch)
    assert norms.keys() == {f"gradient_norm_{name}" for name in weights}
    assert all(norm > 0 for norm in norms.values())
    expected = sum(weight * terms[f"loss_{name}"].item() for name, weight in weights.items())
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-5)
    of_all_blocks = build_stage(dataclasses.replace(config, content_blocks=5), single_worker()).take_step(batch)
    assert of_all_blocks["loss_content"] > 1.5 * terms["loss_content"]
    with pytest.raises(InputError, match=r"--content-blocks 6; wanted 1 to 5"):
        dataclasses.replace(config, content_blocks=6)


def test_the_blend_half_way_is_trained(train_config: TrainConfig, faithful: str) -> None:
    """By the pixel loss of the blend that is served: its gradient is added, and nothing else."""
    config = dataclasses.replace(train_config, pixel_weight=10.0, hold_statistics=True, precision="fp32")
    _, batch = next(iter(Feed(config.data, config.crops).batches(1, 1)))
    gradients, losses = [], []
    for given in ("", faithful):
        stage = build_stage(dataclasses.replace(config, fidelity_generator=given), single_worker())
        blend = interpolate(stage.state.generator, load_generator(f"{faithful}/generator.safetensors")[0], 0.5)
        losses.append(stage.take_step(batch).get("loss_halfway"))
        gradients.append(flat(parameter.grad for parameter in stage.state.generator.parameters()))
    loss = pixel_loss(blend(batch.lr), batch.hr)
    loss.backward()
    expected = 10.0 * 0.5 * flat(parameter.grad for parameter in blend.parameters())
    assert losses == [None, pytest.approx(loss.item(), rel=1e-5)]
    torch.testing.assert_close(
        gradients[1] - gradients[0], expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item()
    )


def test_the_blend_is_trained_with_the_statistics_that_it_is_served_with(
    train_config: TrainConfig, faithful: str
) -> None:
    """Also where the generator itself is trained with those of each batch."""
    changes: dict[str, Any] = {"pixel_weight": 10.0, "precision": "fp32", "learning_rate": 1e-12}
    config = dataclasses.replace(train_config, fidelity_generator=faithful, **changes)
    _, batch = next(iter(Feed(config.data, config.crops).batches(1, 1)))
    stage = build_stage(config, single_worker())
    for module in stage.state.generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # the last of a block is nearly 0 still
    terms = stage.take_step(batch)
    blend = interpolate(stage.state.generator, load_generator(f"{faithful}/generator.safetensors")[0], 0.5)
    assert terms["loss_halfway"].item() == pytest.approx(pixel_loss(blend(batch.lr), batch.hr).item(), rel=1e-4)


def test_a_generator_that_cannot_be_blended_with_is_refused(
    train_config: TrainConfig, pretrain_config: PretrainConfig
) -> None:
    config = dataclasses.replace(train_config, pixel_weight=1.0, fidelity_generator="nowhere.safetensors")
    with pytest.raises(InputError, match=r"--fidelity-generator .*nowhere.safetensors does not exist"):
        check_stage(config)
    other = dataclasses.replace(pretrain_config, generator=GeneratorConfig(2, 8), out=f"{pretrain_config.out}_other")
    plain.fit(dataclasses.replace(other, loop=dataclasses.replace(other.loop, steps=1)))
    with pytest.raises(InputError, match=r"num_blocks=2.*wanted that of --init.*num_blocks=1"):
        check_stage(dataclasses.replace(config, fidelity_generator=other.out))
    with pytest.raises(InputError, match=r"--pixel-weight 0.0; wanted a weight above 0"):
        dataclasses.replace(config, pixel_weight=0.0)


@pytest.fixture
def faithful(pretrain_config: PretrainConfig) -> str:
    """A generator that went another way than the one to begin from."""
    config = dataclasses.replace(pretrain_config, crops=dataclasses.replace(pretrain_config.crops, seed=1))
    plain.fit(config)
    return config.out


def take_steps(stage: Stage, config: TrainConfig, number: int) -> None:
    for _, batch in Feed(config.data, config.crops).batches(1, number):
        stage.take_step(batch)
        stage.gradient_norms(batch)


def flat(tensors: Iterable[Any]) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])
