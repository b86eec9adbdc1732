"""Everything that changes while training, and a dictionary of it that is enough to go on exactly."""

import copy
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from srgan_ray.data.feed import Batch
from srgan_ray.errors import InputError
from srgan_ray.models.discriminator import Discriminator
from srgan_ray.models.generator import Generator

SCHEMA_VERSION = 4
COUNTERS = ("step", "elapsed_s", "loss_val", "lowest_loss_val")
_ADVICE = (
    "nothing was saved since, and the same command would come here again: wanted another --out, with a lower "
    "--learning-rate or with --precision fp32, and to go on from this run's best generator its folder as --init"
)


class TrainState:
    """The networks (bare, on the device they train on), their optimizers, the averaged generator, and the counters.

    `averaged_generator` is what is evaluated and released: the exponential moving average of the generator's weights,
    and of its BatchNorm statistics. The generator's own statistics are those of a few batches, and of other weights:
    with them a generator was 0.07 dB worse after 4,900 steps, and its colours 1.9 grey levels off instead of 0.6.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator | None,
        learning_rates: tuple[float, ...],
        ema_decay: float,
    ) -> None:
        """`learning_rates` are the highest ones of the optimizers, in their order."""
        self.generator = generator
        self.discriminator = discriminator
        self.learning_rates = learning_rates
        self.generator_optimizer = adam(generator, learning_rates[0])
        self.discriminator_optimizer = adam(discriminator, learning_rates[1]) if discriminator else None
        self.averaged_generator = copy.deepcopy(generator).eval().requires_grad_(False)
        self._averages, self._values = (
            [*network.parameters(), *statistics(network)] for network in (self.averaged_generator, generator)
        )
        self._ema_decay = ema_decay
        self.step = 0
        self.elapsed_s = 0.0
        self.loss_val = self.lowest_loss_val = float("inf")
        self.window = Window()

    def validated(self, loss_val: float) -> bool:
        """Take note of a validation; whether it is the best so far."""
        self.loss_val = loss_val
        if is_best := loss_val < self.lowest_loss_val:  # never of a NaN
            self.lowest_loss_val = loss_val
        return is_best

    def check_finite(self) -> None:
        """Raise FloatingPointError where a loss term or a weight is no longer finite."""
        self.window.check_finite()
        for name, norm in self.weight_norms().items():
            if not math.isfinite(norm):
                raise FloatingPointError(f"step {self.step}: the {name}'s weights are no longer finite; {_ADVICE}")

    def weight_norms(self) -> dict[str, float]:
        """The norm of all weights of each network."""
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        return {
            name: nn.utils.get_total_norm(network.parameters()).item() for name, network in networks.items() if network
        }

    def advance(self) -> None:
        """Count a step that was taken: update the average."""
        average_(self._ema_decay, self._averages, self._values, self.step)
        self.step += 1

    @property
    def statistics(self) -> list[Tensor]:
        """BatchNorm's running means and variances."""
        networks = (self.generator, self.averaged_generator, self.discriminator)
        return [buffer for network in networks if network for buffer in statistics(network)]

    @property
    def per_rank(self) -> list[Tensor]:
        """What each of the data-parallel workers has of its own part of the batches: to be averaged over them."""
        return [*self.statistics, *self.window.sums.values()]

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers of this stage."""
        return [optimizer for optimizer in (self.generator_optimizer, self.discriminator_optimizer) if optimizer]

    def state_dict(self) -> dict[str, Any]:
        """All of it, plus torch's RNG state; the position in the data is `step`."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        counters = {name: getattr(self, name) for name in COUNTERS}
        return {"schema_version": SCHEMA_VERSION, "rng": torch.get_rng_state(), **counters, **parts}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over everything from a `state_dict` of the same stage and sizes; InputError for another schema."""
        if saved["schema_version"] != SCHEMA_VERSION:
            raise InputError(
                f"--out holds a checkpoint of schema version {saved['schema_version']}; this version reads "
                f"{SCHEMA_VERSION}: wanted another --out, or the version that began the run"
            )
        for name, part in self._parts().items():
            part.load_state_dict(_with_own_groups(part, saved[name]) if isinstance(part, Optimizer) else saved[name])
        for name in COUNTERS:
            setattr(self, name, saved[name])
        torch.set_rng_state(saved["rng"])

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "averaged_generator": self.averaged_generator,
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
            "window": self.window,
        }
        return {name: part for name, part in parts.items() if part is not None}


class Window:
    """The loss terms since the last validation, and the time that they took. Terms stay on their device until they are
    asked for."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self._num_steps = 0
        self._seconds = self._seconds_waiting = 0.0
        self.begin()

    def begin(self) -> None:
        """Count the time from now on."""
        self._started = time.perf_counter()

    def wait_for(self, batches: Iterator[tuple[int, Batch]]) -> tuple[int, Batch] | None:
        """The next step and its batch, None after the last; the time until it is there counts as waiting."""
        started = time.perf_counter()
        found = next(batches, None)
        self._seconds_waiting += time.perf_counter() - started
        return found

    def add(self, terms: dict[str, Tensor]) -> None:
        """Count a step's loss terms."""
        self._num_steps += 1
        for name, term in terms.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(term)).to(term.device) + term

    def check_finite(self) -> None:
        """Raise FloatingPointError if a loss term was NaN or infinite."""
        for name, total in self.sums.items():
            if not math.isfinite(total.item()):
                raise FloatingPointError(f"{name} became {total.item()}; {_ADVICE}")

    def means(self) -> dict[str, float]:
        """The means as `loss_train` and the like, and the mean times of a step and of the wait for its batch in it."""
        means = {
            name.replace("loss", "loss_train"): (total / self._num_steps).item() for name, total in self.sums.items()
        }
        times = {"seconds_per_step": self._elapsed_s(), "seconds_waiting": self._seconds_waiting}
        return {**means, **{name: total / self._num_steps for name, total in times.items()}}

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {
            "sums": self.sums,
            "num_steps": self._num_steps,
            "seconds": self._elapsed_s(),
            "seconds_waiting": self._seconds_waiting,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over a `state_dict`."""
        self.sums, self._num_steps = saved["sums"], saved["num_steps"]
        self._seconds, self._seconds_waiting = saved["seconds"], saved["seconds_waiting"]

    def _elapsed_s(self) -> float:
        return self._seconds + time.perf_counter() - self._started


def statistics(network: nn.Module) -> list[Tensor]:
    """BatchNorm's running means and variances."""
    return [buffer for buffer in network.buffers() if buffer.is_floating_point()]


def adam(network: nn.Module, learning_rate: float) -> Adam:
    """Adam with beta1 = 0.9, as in the paper (§3.2).

    On a GPU its learning rate is a tensor, which a graph of the step reads where it lies (`gpu.GraphedStep`).
    """
    device = next(network.parameters()).device
    on_gpu = device.type == "cuda"
    rate = torch.tensor(learning_rate, device=device) if on_gpu else learning_rate
    return Adam(network.parameters(), lr=rate, betas=(0.9, 0.999), fused=True, capturable=on_gpu)


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Of the next step."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


def _with_own_groups(optimizer: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """What was saved, perhaps on another device, with this one's way to hold the learning rate."""
    return {**saved, "param_groups": optimizer.state_dict()["param_groups"]}


@torch.no_grad()
def average_(decay: float, averages: list[Tensor], values: list[Tensor], steps: int) -> None:
    """averages = decay * averages + (1 - decay) * values, with a smaller decay for the first steps of a run."""
    torch._foreach_lerp_(averages, values, 1 - min(decay, (1 + steps) / (10 + steps)))
