import pytest
import torch

from srgan_ray.data.feed import Batch
from srgan_ray.errors import InputError
from srgan_ray.models.discriminator import DiscriminatorConfig, build_discriminator
from srgan_ray.models.generator import GeneratorConfig, build_generator
from srgan_ray.training.loop import LoopConfig, is_due, learning_rate_at, set_learning_rates, train
from srgan_ray.training.plain import PlainReport
from srgan_ray.training.state import TrainState, average_


def new_state(ema_decay: float = 0.999) -> TrainState:
    return TrainState(build_generator(GeneratorConfig(1, 8), 0), None, (1e-3,), ema_decay)


def test_the_average_is_the_right_way_round() -> None:
    """With decay .999 a jump from 0 to 1 moves the average to .001, not to .999."""
    average, value = [torch.zeros(3)], [torch.ones(3)]
    average_(0.999, average, value, 10**6)
    torch.testing.assert_close(average[0], torch.full((3,), 0.001))


def test_the_average_is_quicker_in_the_first_steps() -> None:
    average = [torch.zeros(1)]
    average_(0.999, average, [torch.ones(1)], 1)
    assert average[0].item() == pytest.approx(1 - 2 / 11)


def test_weights_and_batchnorm_statistics_are_averaged_alike() -> None:
    """Buffers are not left behind."""
    state = new_state(0.5)
    state.step = 100
    before = {name: value.clone() for name, value in state.averaged_generator.state_dict().items()}
    with torch.no_grad():
        state.generator.tail.weight.add_(1)
        state.generator.train()(torch.rand(2, 3, 12, 12))
    state.advance()
    assert state.step == 101
    values, averages = state.generator.state_dict(), state.averaged_generator.state_dict()
    for name, value in values.items():
        if value.is_floating_point():
            torch.testing.assert_close(averages[name], (before[name] + value) / 2, msg=name)
    assert not torch.equal(values["trunk.0.body.1.running_mean"], before["trunk.0.body.1.running_mean"])
    assert not state.averaged_generator.training


def test_another_schema_is_refused() -> None:
    state = new_state()
    with pytest.raises(InputError, match=r"--out .*schema version 99; this version reads 4"):
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


def test_each_network_has_its_own_learning_rate() -> None:
    discriminator = build_discriminator(DiscriminatorConfig(4, 16), 48, 0)
    state = TrainState(build_generator(GeneratorConfig(1, 8), 0), discriminator, (1e-3, 4e-3), 0.9)
    set_learning_rates(state, 51, LoopConfig(steps=100, schedule="drop"))
    rates = [group["lr"] for optimizer in state.optimizers for group in optimizer.param_groups]
    assert rates == pytest.approx([1e-4, 4e-4])


def test_a_checkpoint_of_a_gpu_leaves_the_learning_rate_a_number() -> None:
    """There it is a tensor, for a graph; of Adam only the moments are taken over."""
    state, saved = new_state(), new_state().state_dict()
    for group in saved["generator_optimizer"]["param_groups"]:
        group |= {"lr": torch.tensor(0.5), "capturable": True}
    state.load_state_dict(saved)
    [group] = state.generator_optimizer.param_groups
    assert (group["lr"], group["capturable"]) == (1e-3, False)


def test_what_is_due_when() -> None:
    assert [step for step in range(1, 8) if is_due(step, 3, 7)] == [3, 6, 7]


def go_through(config: LoopConfig, losses: list[float], events: list[tuple[str, float]]) -> None:
    """A loop over steps that have these losses. `events` takes each step with its learning rate, each validation with
    its mean loss, and each checkpoint with its step."""
    state, batch = new_state(), Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, 3, 4, 4))

    def take_step(_: Batch) -> dict[str, torch.Tensor]:
        events.append(("step", state.generator_optimizer.param_groups[0]["lr"]))
        return {"loss": torch.tensor(losses[state.step])}

    train(
        state,
        take_step,
        [(step + 1, batch) for step in range(len(losses))],
        lambda: events.append(("synchronise", 0)),
        lambda means, _: events.append(("validate", means["loss_train"])),
        lambda saved: events.append(("save", saved["step"])),
        PlainReport(0),
        config,
        len(losses),
    )


def of_kind(kind: str, events: list[tuple[str, float]]) -> list[float]:
    return [value for name, value in events if name == kind]


@pytest.mark.parametrize("schedule", ["drop", "cosine"])
def test_a_step_is_taken_with_the_learning_rate_of_its_number(schedule: str) -> None:
    config, events = LoopConfig(steps=4, schedule=schedule), list[tuple[str, float]]()
    go_through(config, [1.0] * 4, events)
    assert of_kind("step", events) == [learning_rate_at(step, 1e-3, config) for step in (1, 2, 3, 4)]


def test_a_validation_is_told_the_mean_loss_since_the_one_before() -> None:
    events = list[tuple[str, float]]()
    go_through(LoopConfig(steps=5, evaluate_every=2), [1.0, 2.0, 3.0, 5.0, 7.0], events)
    assert of_kind("validate", events) == [1.5, 4.0, 7.0]


def test_ranks_are_made_equal_before_one_validates_or_saves() -> None:
    events = list[tuple[str, float]]()
    go_through(LoopConfig(steps=4, evaluate_every=2, checkpoint_every=3), [1.0] * 4, events)
    names = [name for name, _ in events if name != "step"]
    assert names == ["synchronise", "validate", "synchronise", "save", "synchronise", "validate", "save"]


def test_a_loss_that_is_not_finite_is_found_before_the_next_checkpoint() -> None:
    """Also where no validation is due."""
    events = list[tuple[str, float]]()
    with pytest.raises(FloatingPointError, match="loss became nan"):
        go_through(LoopConfig(steps=9, evaluate_every=9, checkpoint_every=1), [1.0, float("nan"), 1.0], events)
    assert of_kind("save", events) == [1]


def test_the_best_validation_is_remembered() -> None:
    state = new_state()
    assert [state.validated(loss) for loss in (0.5, 0.6, 0.4, float("nan"), 0.4)] == [True, False, True, False, False]
    assert (state.loss_val, state.lowest_loss_val) == (0.4, 0.4)


@pytest.mark.parametrize("network", ["generator", "discriminator"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_found(bad: float, network: str) -> None:
    discriminator = build_discriminator(DiscriminatorConfig(4, 16), 48, 0)
    state = TrainState(build_generator(GeneratorConfig(1, 8), 0), discriminator, (1e-3, 1e-3), 0.9)
    state.check_finite()
    with torch.no_grad():
        next(getattr(state, network).parameters()).flatten()[0] = bad
    with pytest.raises(FloatingPointError, match=f"the {network}'s weights are no longer finite; nothing was saved"):
        state.check_finite()
