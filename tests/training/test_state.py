import json
from pathlib import Path

import pytest
import torch

from srgan_ray.errors import InputError
from srgan_ray.models.generator import GeneratorConfig, build_generator
from srgan_ray.training.checkpoint import read_checkpoint, write_checkpoint
from srgan_ray.training.loop import LoopConfig, is_due, learning_rate_at
from srgan_ray.training.state import TrainState, average_


def new_state(ema_decay: float = 0.999) -> TrainState:
    return TrainState(build_generator(GeneratorConfig(1, 8), 0), None, 1e-3, ema_decay)


def test_the_average_is_the_right_way_round() -> None:
    """With decay .999 a jump from 0 to 1 moves the average to .001, not to .999."""
    average, value = [torch.zeros(3)], [torch.ones(3)]
    average_(0.999, average, value, torch.tensor(10**6))
    torch.testing.assert_close(average[0], torch.full((3,), 0.001))


def test_the_average_is_quicker_in_the_first_steps() -> None:
    average = [torch.zeros(1)]
    average_(0.999, average, [torch.ones(1)], torch.tensor(1))
    assert average[0].item() == pytest.approx(1 - 2 / 11)


def test_the_averaged_generator_has_the_batchnorm_statistics_of_the_generator() -> None:
    """Buffers are not left behind."""
    state = new_state()
    for _ in range(3):
        state.generator.train()(torch.rand(2, 3, 12, 12))
        with torch.no_grad():
            state.generator.tail.weight.add_(1)
        state.advance()
    assert state.step == 3
    theirs = dict(state.averaged_generator.named_buffers())
    for name, buffer in state.generator.named_buffers():
        assert torch.equal(buffer, theirs[name]), name
    assert not torch.equal(state.generator.tail.weight, state.averaged_generator.tail.weight)
    assert not state.averaged_generator.training


def test_a_checkpoint_is_whole_or_refused(tmp_path: Path) -> None:
    state = new_state()
    state.step = 7
    write_checkpoint(tmp_path / "c", state.state_dict(), {"a": 1})
    seal = json.loads((tmp_path / "c" / "checkpoint.json").read_text())
    assert (seal["step"], seal["config"], seal["schema_version"]) == (7, {"a": 1}, 1)
    other = new_state()
    other.load_state_dict(read_checkpoint(tmp_path / "c"))
    assert other.step == 7
    content = (tmp_path / "c" / "state.pt").read_bytes()
    (tmp_path / "c" / "state.pt").write_bytes(content[:-100])
    with pytest.raises(ValueError, match="not the file that was written"):
        read_checkpoint(tmp_path / "c")
    (tmp_path / "c" / "checkpoint.json").unlink()
    with pytest.raises(ValueError, match="not finished"):
        read_checkpoint(tmp_path / "c")


def test_another_schema_is_refused() -> None:
    state = new_state()
    with pytest.raises(ValueError, match="schema version 99"):
        state.load_state_dict({**state.state_dict(), "schema_version": 99})


def test_schedules() -> None:
    """Steps 1, 5, 50, 51 and 100 of 100."""

    def rates(schedule: str) -> list[float]:
        config = LoopConfig(steps=100, schedule=schedule)
        return [learning_rate_at(step, 1e-4, config) for step in (1, 5, 50, 51, 100)]

    assert rates("constant") == [1e-4] * 5
    assert rates("drop") == [1e-4, 1e-4, 1e-4, 1e-5, 1e-5]
    assert rates("cosine") == pytest.approx([2e-5, 1e-4, 0.541e-4, 0.525e-4, 0], rel=1e-2, abs=1e-12)
    with pytest.raises(InputError, match="--schedule linear; wanted one of constant, drop, cosine"):
        LoopConfig(schedule="linear")


def test_what_is_due_when() -> None:
    assert [step for step in range(1, 8) if is_due(step, 3, 7)] == [3, 6, 7]
