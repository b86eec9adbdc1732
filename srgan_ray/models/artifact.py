"""The generator file: one `.safetensors` with the weights and, in its header, what is needed to use and trust them."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from srgan_ray.data.degrade import SCALE
from srgan_ray.errors import InputError
from srgan_ray.models.generator import Generator, GeneratorConfig

ARCHITECTURE = "srresnet"
FILE_NAME = "generator.safetensors"
RELEASED = Path(__file__).parent.parent / "weights" / FILE_NAME


@dataclasses.dataclass(frozen=True)
class Card:
    """The header of a generator file."""

    name: str
    """Names the generator in the answers of the endpoint."""
    generator: dict[str, int]
    """The GeneratorConfig."""
    degradation: str
    """What LR it was trained on: opencv_cubic, matlab_bicubic or mixed."""
    stage: str
    """pretrain or train."""
    step: int
    vgg_weights: str
    """Which VGG weights the content loss used; empty after pretraining."""
    metrics: dict[str, Any]
    """Figures of this step, each with its protocol."""
    config: dict[str, Any]
    """The whole configuration of the run."""
    data_hash: str
    """Of the shard set."""
    architecture: str = ARCHITECTURE
    scale: int = SCALE
    value_range: str = "RGB in [0, 1]"


def save_generator(path: str | Path, weights: dict[str, torch.Tensor], card: Card) -> None:
    """Write a generator file aside and rename it into place."""
    header = {key: json.dumps(value) for key, value in dataclasses.asdict(card).items()}
    aside = Path(path).with_suffix(".writing")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    aside.write_bytes(safetensors.torch.save(tensors, metadata=header))
    os.replace(aside, path)


def read_card(path: str | Path) -> Card:
    """The card of a generator file, without its weights. Raises InputError as `load_generator` does."""
    with _naming(path):
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        card = Card(**{key: json.loads(value) for key, value in header.items()})
    if (card.architecture, card.scale) != (ARCHITECTURE, SCALE):
        raise InputError(
            f"--generator {path} is a {card.architecture} for scale {card.scale}; wanted {ARCHITECTURE} for {SCALE}"
        )
    return card


def load_generator(path: str | Path) -> tuple[Generator, Card]:
    """The generator in eval mode on the CPU, and its card. Never unpickles.

    Raises InputError for a file that is missing, damaged, or of another architecture or scale.
    """
    card = read_card(path)
    with _naming(path):
        generator = Generator(GeneratorConfig(**card.generator))
        generator.load_state_dict(safetensors.torch.load_file(path))
    return generator.eval(), card


def find_generator(given: str) -> Path:
    """The generator file that a command is to use: the given file, or a run's; without one the released generator.

    Raises InputError where nothing is given while no generator is released yet.
    """
    if given:
        return Path(given) / FILE_NAME if Path(given).is_dir() else Path(given)
    if not RELEASED.is_file():
        raise InputError(
            "--generator not given, and no generator is released with this version yet; "
            f"wanted a {FILE_NAME} made by `srgan-ray pretrain` or `srgan-ray train`"
        )
    return RELEASED


def interpolate(perceptual: Generator, faithful: Generator, fidelity: float) -> Generator:
    """A generator with weights (1 - fidelity) * perceptual + fidelity * faithful (Wang et al. 2018, §3.4).

    0 and 1 give the two generators' weights exactly. Raises InputError for generators of unlike size.
    """
    if perceptual.config != faithful.config:
        raise InputError(f"--fidelity-generator has {faithful.config}; wanted that of --generator, {perceptual.config}")
    blend = Generator(perceptual.config)
    theirs = faithful.state_dict()
    blend.load_state_dict(
        {
            name: torch.lerp(tensor.cpu(), theirs[name].cpu(), fidelity) if tensor.is_floating_point() else tensor
            for name, tensor in perceptual.state_dict().items()
        }
    )
    return blend.eval()


@contextlib.contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """What reading a generator file may raise becomes an InputError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"--generator {path} does not exist; wanted a {FILE_NAME} of a run") from error
    except (safetensors.SafetensorError, OSError, TypeError, KeyError, json.JSONDecodeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--generator {path} is no generator file of this project: {reason}") from error
