"""Everything that changes while training, and a dictionary of it that is enough to go on exactly."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from srgan_ray.models.discriminator import Discriminator
from srgan_ray.models.generator import Generator

SCHEMA_VERSION = 3
COUNTERS = ("step", "elapsed_s", "loss_val", "lowest_loss_val")
_ADVICE = "the last checkpoint is good: start again with a lower --learning-rate or with --precision fp32"


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
        self._ema_decay = ema_decay
        self.step = 0
        self.elapsed_s = 0.0
        self.loss_val = self.lowest_loss_val = float("inf")

    def validated(self, loss_val: float) -> bool:
        """Take note of a validation; whether it is the best so far."""
        self.loss_val = loss_val
        if is_best := loss_val < self.lowest_loss_val:  # never of a NaN
            self.lowest_loss_val = loss_val
        return is_best

    def check_finite(self) -> None:
        """Raise FloatingPointError where a weight is no longer finite."""
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
        averages, values = ([*net.parameters(), *statistics(net)] for net in (self.averaged_generator, self.generator))
        average_(self._ema_decay, averages, values, self.step)
        self.step += 1

    @property
    def statistics(self) -> list[Tensor]:
        """BatchNorm's running means and variances; the data-parallel workers have their own between two steps."""
        networks = (self.generator, self.averaged_generator, self.discriminator)
        return [buffer for network in networks if network for buffer in statistics(network)]

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
        """Take over everything from a `state_dict` of the same stage and sizes; ValueError for another schema."""
        if saved["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"checkpoint of schema version {saved['schema_version']}; wanted {SCHEMA_VERSION}")
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
        }
        return {name: part for name, part in parts.items() if part is not None}


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
