"""A step as a CUDA graph, beside the same step launched kernel by kernel. Most need a GPU; cuDNN's results differ from
run to run, and the two ways may use other algorithms: curves are compared, not bits."""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from srgan_ray.config import PretrainConfig, RunConfig, TrainConfig
from srgan_ray.data.feed import Feed
from srgan_ray.models.layers import PReLU, ShuffledConv2d
from srgan_ray.models.precision import BF16, autocast
from srgan_ray.training import gpu, plain, stages
from srgan_ray.training.gpu import WARM_UP, Bf16Network
from srgan_ray.training.loop import LoopConfig, set_learning_rates

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")

STEPS = 3 * WARM_UP
LOOP = LoopConfig(steps=STEPS, schedule="cosine")


@on_gpu
@pytest.mark.parametrize("stage", ["pretrain", "train"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_graph_learns_what_single_kernels_learn(
    stage: str,
    precision: str,
    pretrain_config: PretrainConfig,
    train_config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the learning rate changes from step to step, as it does here."""
    train_config = dataclasses.replace(train_config, fidelity_generator=train_config.init, pixel_weight=1.0)
    config = dataclasses.replace(train_config if stage == "train" else pretrain_config, precision=precision)
    graphed, moved = learn(config)
    monkeypatch.setattr(stages, "GraphedStep", lambda take_step: take_step)
    eager, moved_eager = learn(config)
    torch.testing.assert_close(graphed, eager, rtol=5e-2, atol=2e-3)
    torch.testing.assert_close(moved, moved_eager, rtol=5e-2, atol=0)


@on_gpu
def test_each_step_sees_its_own_batch(pretrain_config: PretrainConfig) -> None:
    stage = stages.build_stage(dataclasses.replace(pretrain_config, learning_rate=1e-12), stages.single_worker())
    batches = [batch for _, batch in Feed(pretrain_config.data, pretrain_config.crops).batches(1, STEPS)]
    losses = [stage.take_step(batch)["loss"].item() for batch in batches]
    assert len(set(losses)) == STEPS
    again = [stage.take_step(batch)["loss"].item() for batch in batches]
    assert again == pytest.approx(losses, rel=1e-2)


@on_gpu
def test_a_run_goes_on_from_a_checkpoint_of_the_cpu(
    pretrain_config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(stages, "best_device", lambda: torch.device("cpu"))
        plain.fit(pretrain_config, last_step=5)
    summary = plain.fit(pretrain_config)
    assert summary["step"] == 10


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_gpu)])
def test_a_bf16_network_learns_the_same_bits(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if device == "cpu":
        monkeypatch.setattr(gpu, "_Beside", NoStream)
    cast = autocast(BF16, torch.device(device))
    alone = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), PReLU(), nn.Conv2d(8, 8, 3, stride=2, bias=False)),
        *(nn.Sequential(nn.Conv2d(8, 4, 3, groups=2)), ShuffledConv2d(1, 3, 5, padding=2)),
    ).to(device)
    together = copy.deepcopy(alone)
    wrapped = Bf16Network(together)
    for _ in range(2):
        images = torch.rand(2, 3, 12, 12, device=device)
        for network in (alone, wrapped):
            with cast():
                network(images).float().square().mean().backward()
    for (name, one), (_, other) in zip(alone.named_parameters(), together.named_parameters()):
        assert one.grad is not None
        assert one.grad.abs().sum() > 0
        assert torch.equal(one.grad, other.grad), name
    assert torch.equal(alone[1].running_mean, together[1].running_mean)
    assert not wrapped._beside._held, "not waited for"


class NoStream:
    """In place of a GPU's stream: everything in its turn."""

    def __init__(self) -> None:
        self._held: list[torch.Tensor] = []

    @contextlib.contextmanager
    def computing(self, *operands: torch.Tensor) -> Iterator[None]:
        self._held += operands
        yield

    def wait(self) -> None:
        assert self._held, "no gradient was computed beside"
        self._held.clear()


def learn(config: RunConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses of STEPS steps, and how far the generator's weights moved in the last ones."""
    stage = stages.build_stage(config, stages.single_worker())
    losses = []
    for step, batch in Feed(config.data, config.crops).batches(1, STEPS):
        if step == STEPS - 1:
            before = copy.deepcopy(list(stage.state.generator.parameters()))
        set_learning_rates(stage.state, step, LOOP)
        losses.append(torch.stack(list(stage.take_step(batch).values())).cpu())
        stage.state.advance()
    moved = [(now - then).abs().mean() for now, then in zip(stage.state.generator.parameters(), before)]
    return torch.stack(losses), torch.stack(moved).mean().cpu()
