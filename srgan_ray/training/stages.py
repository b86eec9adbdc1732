"""The two stages put together: from a config to networks, a step to take, and a loss to validate by."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from srgan_ray.config import PretrainConfig, RunConfig, TrainConfig
from srgan_ray.data.feed import Batch, stack
from srgan_ray.errors import InputError
from srgan_ray.models.artifact import blend, find_generator, hash_generator, parse_generator, read_generator
from srgan_ray.models.discriminator import build_discriminator
from srgan_ray.models.generator import Generator, build_generator
from srgan_ray.models.perceptual import VGGFeatures, load_vgg
from srgan_ray.models.precision import BF16, Autocast, autocast, best_device, resolve_precision
from srgan_ray.training.gpu import Bf16Network, GraphedStep, TakeStep
from srgan_ray.training.losses import IMAGE_LOSSES, adversarial_loss, content_loss, pattern_loss, pixel_loss
from srgan_ray.training.state import TrainState
from srgan_ray.training.steps import Weights, adversarial_step, gradient_norm, pretrain_step

Network = TypeVar("Network", bound=nn.Module)
STAMPED = ("vgg_weights", "fidelity_generator")  # settings that name what the losses read from files


class Worker(NamedTuple):
    """One training process: its place among the others, its device, and what it does together with them."""

    rank: int
    num_workers: int
    device: torch.device
    wrap: Callable[[nn.Module], nn.Module]
    """A network, to be trained data-parallel."""
    gather: Callable[[Any], list[Any]]
    """Every rank's value, in the order of the ranks."""
    average: Callable[[list[Tensor]], None]
    """Tensors to their means over the ranks, in place."""


def single_worker() -> Worker:
    """The only one, on the GPU where there is one."""
    return Worker(0, 1, best_device(), lambda network: network, lambda value: [value], lambda _: None)


class Stage(NamedTuple):
    """What the loop needs of a stage."""

    state: TrainState
    take_step: TakeStep
    loss_val: Callable[[np.ndarray, np.ndarray], float]
    """Of an SR and an HR photograph, `uint8` (H, W, 3); the generator with the lowest mean is kept as the best."""
    gradient_norms: Callable[[Batch], dict[str, float]]
    """How strongly each loss term of a weight above 0 pulls at the SR of a batch, as `gradient_norm_…`; a smaller
    batch, as each of several workers has, gives larger ones. Changes nothing."""
    stamps: dict[str, str]
    """Of what the losses read from files, by the setting that names it: which VGG weights these are, the hash of the
    fidelity generator; empty where there is none."""


def build_stage(config: RunConfig, worker: Worker) -> Stage:
    """The stage of this config, on the worker's device, at step 0."""
    if isinstance(config, TrainConfig):
        return _build_adversarial(config, worker)
    assert isinstance(config, PretrainConfig)
    return _build_pretrain(config, worker)


def check_stage(config: RunConfig) -> None:
    """Raise InputError where the files that a stage begins from are missing or do not fit; trains nothing."""
    if isinstance(config, PretrainConfig) and config.init and (size := load_init(config).config) != config.generator:
        raise InputError(
            f"--init {config.init} has {size}; wanted {config.generator}: give --generator.num-blocks "
            f"{size.num_blocks} --generator.num-features {size.num_features}"
        )
    if isinstance(config, TrainConfig):
        if not config.init:
            raise InputError("--init names nothing; wanted a run folder, a generator file, or a released generator")
        sizes = [load_init(config).config]
        if config.fidelity_generator:
            sizes.append(_load_given("--fidelity-generator", config.fidelity_generator)[0].config)
        if sizes[0] != sizes[-1]:
            raise InputError(
                f"--fidelity-generator {config.fidelity_generator} has {sizes[-1]}; wanted that of --init, {sizes[0]}"
            )
        load_vgg(config.vgg_weights)


def load_init(config: RunConfig) -> Generator:
    """The generator to begin from. Raises InputError naming --init."""
    return _load_given("--init", config.init)[0]


def _load_given(setting: str, given: str) -> tuple[Generator, str]:
    """A generator, and its file's hash."""
    location = find_generator(given)
    content = read_generator(location, setting)
    generator, _ = parse_generator(content, location, setting)
    return generator, hash_generator(content)


def _build_pretrain(config: PretrainConfig, worker: Worker) -> Stage:
    new = load_init(config) if config.init else build_generator(config.generator, config.crops.seed)
    generator = _to(new, worker)
    state = TrainState(generator.train(), None, (config.learning_rate,), config.loop.ema_decay)
    precision = resolve_precision(config.precision, worker.device)
    cast = autocast(precision, worker.device)
    wrapped = _wrap(generator, precision, worker)

    def take_step(batch: Batch) -> dict[str, Tensor]:
        return pretrain_step(wrapped, state.generator_optimizer, batch, cast)

    def loss_val(sr: np.ndarray, hr: np.ndarray) -> float:
        return pixel_loss(stack([sr]), stack([hr])).item()

    def gradient_norms(batch: Batch) -> dict[str, float]:
        lr, hr = _move(batch, worker)
        return {"gradient_norm_pixel": gradient_norm(lambda sr: pixel_loss(sr, hr), _apply(generator, lr, cast))}

    stamps = dict.fromkeys(STAMPED, "")
    return Stage(state, _on_device(take_step, worker), loss_val, gradient_norms, stamps)


def _build_adversarial(config: TrainConfig, worker: Worker) -> Stage:
    generator = _to(load_init(config), worker)
    discriminator = _to(build_discriminator(config.discriminator, config.crops.crop_px, config.crops.seed), worker)
    precision = resolve_precision(config.precision, worker.device)
    vgg = _to(load_vgg(config.vgg_weights, config.content_blocks), worker)
    if precision == BF16:
        vgg.layers.to(torch.bfloat16)  # once, since these weights never change; autocast would do it in each pass
    learning_rates = (config.learning_rate, config.discriminator_learning_rate or config.learning_rate)
    generator.train(not config.hold_statistics)  # no other layer of it knows of the mode
    state = TrainState(generator, discriminator.train(), learning_rates, config.loop.ema_decay)
    cast = autocast(precision, worker.device)
    weights = Weights(
        config.content_weight,
        config.adversarial_weight,
        config.pixel_weight,
        config.pattern_weight,
        config.colour_weight,
    )
    image_losses = IMAGE_LOSSES | {
        "pattern": functools.partial(pattern_loss, over_ranks=functools.partial(_mean_over_ranks, worker))
    }
    halfway, faithful_hash = None, ""
    if config.fidelity_generator:
        faithful, faithful_hash = _load_given("--fidelity-generator", config.fidelity_generator)
        halfway = functools.partial(_apply_halfway, generator, _to(faithful, worker).requires_grad_(False))
    wrapped_generator, wrapped_discriminator = _wrap(generator, precision, worker), worker.wrap(discriminator)
    discriminator_optimizer = state.discriminator_optimizer
    assert discriminator_optimizer

    def take_step(batch: Batch) -> dict[str, Tensor]:
        return adversarial_step(
            wrapped_generator,
            wrapped_discriminator,
            vgg,
            state.generator_optimizer,
            discriminator_optimizer,
            weights,
            image_losses,
            halfway,
            batch,
            cast,
        )

    def loss_val(sr: np.ndarray, hr: np.ndarray) -> float:
        with torch.inference_mode(), cast():
            return content_loss(_features(vgg, sr, worker), _features(vgg, hr, worker)).item()

    def gradient_norms(batch: Batch) -> dict[str, float]:
        lr, hr = _move(batch, worker)

        def content(sr: Tensor) -> Tensor:
            with cast():
                return weights.content * content_loss(vgg(sr), vgg(hr))

        def adversarial(sr: Tensor) -> Tensor:
            with cast():
                return weights.adversarial * adversarial_loss(*discriminator(sr))

        def of_images(name: str, sr: Tensor) -> Tensor:
            return getattr(weights, name) * IMAGE_LOSSES[name](sr, hr)

        sr = _apply(generator, lr, cast)
        terms: dict[str, Callable[[Tensor], Tensor]] = {"content": content, "adversarial": adversarial}
        terms |= {name: functools.partial(of_images, name) for name in IMAGE_LOSSES}
        with _evaluating(discriminator):
            return {
                f"gradient_norm_{name}": gradient_norm(term, sr)
                for name, term in terms.items()
                if getattr(weights, name)
            }

    stamps = dict(zip(STAMPED, (vgg.stamp, faithful_hash)))
    return Stage(state, _on_device(take_step, worker), loss_val, gradient_norms, stamps)


def _mean_over_ranks(worker: Worker, local: Tensor) -> Tensor:
    """With a gradient for this rank's part alone, as if it were all of it: that the mean of the ranks' gradients, which
    data-parallel training takes, makes the gradient of the mean."""
    mean = local.detach().clone()
    worker.average([mean])
    return mean + (local - local.detach())


@contextlib.contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """In eval mode, which leaves BatchNorm's running statistics alone."""
    was_training = network.training
    network.eval()
    yield
    network.train(was_training)


def _apply_halfway(generator: Generator, faithful: Generator, lr: Tensor) -> Tensor:
    """LR to the SR of `artifact.interpolate(generator, faithful, 0.5)`, with gradients for the generator's weights."""
    tensors = blend(_tensors(generator), _tensors(faithful), 0.5)
    with _evaluating(generator):
        sr: Tensor = torch.func.functional_call(generator, tensors, (lr,))
    return sr


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _apply(generator: Generator, lr: Tensor, cast: Autocast) -> Tensor:
    with _evaluating(generator), torch.no_grad(), cast():
        return generator(lr)


def _features(vgg: VGGFeatures, image: np.ndarray, worker: Worker) -> list[Tensor]:
    features: list[Tensor] = vgg(stack([image]).to(worker.device, memory_format=torch.channels_last))
    return features


def _to(network: Network, worker: Worker) -> Network:
    return network.to(worker.device).to(memory_format=torch.channels_last)


def _wrap(generator: Generator, precision: str, worker: Worker) -> nn.Module:
    wrapped = worker.wrap(generator)
    return Bf16Network(wrapped) if precision == BF16 and _is_lone_gpu(worker) else wrapped


def _is_lone_gpu(worker: Worker) -> bool:
    return worker.device.type == "cuda" and worker.num_workers == 1


def _on_device(take_step: TakeStep, worker: Worker) -> TakeStep:
    """The same step for batches on the CPU. A graph cannot hold what workers do together."""
    step = GraphedStep(take_step) if _is_lone_gpu(worker) else take_step
    return lambda batch: step(_move(batch, worker))


def _move(batch: Batch, worker: Worker) -> Batch:
    if worker.device.type == "cuda":
        batch = Batch(*(images.pin_memory() for images in batch))  # from elsewhere the copy waits for the step before
    return Batch(*(images.to(worker.device, memory_format=torch.channels_last, non_blocking=True) for images in batch))
