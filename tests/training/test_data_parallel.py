"""Two processes over gloo are one machine: the same weights on both, and those of one process with the whole batch."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from srgan_ray.config import PretrainConfig, RunConfig, TrainConfig, to_dict
from srgan_ray.data.feed import Feed
from srgan_ray.training.run import RanksDiffer, _synchronise
from srgan_ray.training.stages import Stage, Worker, build_stage, single_worker

STEPS = 3


def gather(value: object) -> list:
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def wrap(network: nn.Module) -> nn.Module:
    return DistributedDataParallel(network, broadcast_buffers=False)


def take_steps(config: RunConfig, worker: Worker, frozen_statistics: bool) -> Stage:
    stage = build_stage(config, worker)
    state = stage.state
    for network in (state.generator, state.discriminator):
        for module in network.modules() if network else ():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                module.train(not frozen_statistics)
    feed = Feed(config.data, config.crops, worker.rank, worker.num_workers)
    for _, batch in feed.batches(1, STEPS):
        stage.state.window.add(stage.take_step(batch))
        state.advance()
        assert len({str(norms) for norms in worker.gather(state.weight_norms())}) == 1
    return stage


def work(rank: int, port: int, config: RunConfig, frozen_statistics: bool, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)

    def average(tensors: list[torch.Tensor]) -> None:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= 2

    worker = Worker(rank, 2, torch.device("cpu"), wrap, gather, average)
    state = take_steps(config, worker, frozen_statistics).state
    if not frozen_statistics:
        assert len({tuple(map(float, found)) for found in gather([buffer.sum() for buffer in state.statistics])}) == 2
    _synchronise(state, worker)
    torch.save(state.state_dict(), f"{out}/rank_{rank}.pt")
    dist.destroy_process_group()


def two_processes(config: RunConfig, frozen_statistics: bool, out: Path, port: int) -> list[dict]:
    multiprocessing.spawn(work, (port, config, frozen_statistics, str(out)), nprocs=2)
    return [torch.load(out / f"rank_{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(params=["pretrain", "train", "blended"])
def config(request: pytest.FixtureRequest) -> PretrainConfig | TrainConfig:
    found: PretrainConfig | TrainConfig = request.getfixturevalue(f"{request.param}_config")
    return dataclasses.replace(found, precision="fp32")


@pytest.fixture
def blended_config(train_config: TrainConfig) -> TrainConfig:
    """Whose generator goes through a step twice, the second time past the data-parallel wrapper."""
    return dataclasses.replace(
        train_config,
        fidelity_generator=train_config.init,
        pixel_weight=10.0,
        pattern_weight=1000.0,
        colour_weight=100.0,
        hold_statistics=True,
    )


def test_both_ranks_hold_the_same_weights_and_statistics(config: RunConfig, tmp_path: Path, free_port: int) -> None:
    """Weights after every step; statistics, which each rank has of its own part, once they are averaged."""
    first, second = two_processes(config, False, tmp_path, free_port)
    for network in ("generator", "discriminator", "averaged_generator"):
        for name, value in first.get(network, {}).items():
            assert torch.equal(value, second[network][name]), f"{network}.{name}"


def test_two_parts_of_a_batch_give_the_gradients_and_losses_of_the_whole(
    config: RunConfig, tmp_path: Path, free_port: int
) -> None:
    """With BatchNorm's statistics frozen, since on CPUs each rank takes them over its own part."""
    [parts, _] = two_processes(config, True, tmp_path, free_port)
    whole = take_steps(config, single_worker(), True).state.state_dict()
    for network in ("generator", "discriminator"):
        for name, value in whole.get(network, {}).items():
            torch.testing.assert_close(parts[network][name], value, rtol=1e-3, atol=2e-5, msg=f"{network}.{name}")
    torch.testing.assert_close(parts["window"]["sums"], whole["window"]["sums"], rtol=1e-3, atol=1e-5)


def test_workers_under_ray_take_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    from srgan_ray.on_ray import trainer

    monkeypatch.setattr(trainer.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(trainer.dist, "get_world_size", lambda: 4)
    monkeypatch.setattr(trainer.dist, "all_reduce", lambda tensor: tensor.add_(5.0))  # the sum of the others
    tensors = [torch.tensor([3.0]), torch.tensor([7.0, 11.0])]
    trainer._average(tensors)
    assert [tensor.tolist() for tensor in tensors] == [[2.0], [3.0, 4.0]]


def test_the_wrapper_under_ray_leaves_statistics_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """To broadcast them would change what a backward pass still needs, and drop those of all ranks but one."""
    from srgan_ray.on_ray import trainer

    given: list[dict] = []
    monkeypatch.setattr(trainer.ray.train.torch, "prepare_model", lambda network, **kwargs: given.append(kwargs))
    trainer._wrap(nn.Linear(1, 1))
    assert given[0]["parallel_strategy_kwargs"] == {"broadcast_buffers": False}


def test_ranks_that_drift_apart_are_found(pretrain_config: PretrainConfig) -> None:
    state = build_stage(pretrain_config, single_worker()).state
    apart = single_worker()._replace(gather=lambda norms: [norms, {name: norm + 1 for name, norm in norms.items()}])
    _synchronise(state, single_worker())
    with pytest.raises(RanksDiffer, match="the ranks' weights differ"):
        _synchronise(state, apart)


def test_ranks_that_drift_apart_end_the_run(pretrain_config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart would hide it."""
    from srgan_ray.on_ray import trainer

    def drift_apart(*_: object) -> None:
        raise RanksDiffer("the ranks' weights differ")

    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 2)
    monkeypatch.setattr(trainer.ray.train, "get_context", lambda: context)
    monkeypatch.setattr(trainer.ray.train.torch, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(trainer.ray, "get", lambda value: value)
    monkeypatch.setattr(trainer, "run", drift_apart)
    board = trainer.Board()
    remote = SimpleNamespace(give_up=SimpleNamespace(remote=board.give_up))
    threads = torch.get_num_threads()
    trainer._train_loop_per_worker(
        {"config": to_dict(pretrain_config), "num_threads": threads, "board": remote, "last_step": 0}
    )
    assert board.take()[2] == "the ranks' weights differ"
