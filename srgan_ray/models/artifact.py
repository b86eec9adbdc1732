"""The generator file: one `.safetensors` with the weights and, in its header, what is needed to use and trust them."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from srgan_ray.data.degrade import SCALE
from srgan_ray.data.storage import below, is_uri, split
from srgan_ray.errors import InputError
from srgan_ray.models.generator import Generator, GeneratorConfig
from srgan_ray.models.registry import Registry, is_registry

ARCHITECTURE = "srresnet"
FILE_NAME = "generator.safetensors"
PSNR = "psnr"
RELEASED = {name: Path(__file__).parent.parent / "weights" / f"{name}.safetensors" for name in (PSNR, "perceptual")}


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
    """The settings of the run, without places on its machine."""
    data_hash: str
    """Of the shard set."""
    architecture: str = ARCHITECTURE
    scale: int = SCALE
    value_range: str = "RGB in [0, 1]"


def save_generator(location: str | Path, weights: dict[str, torch.Tensor], card: Card) -> None:
    """Write a generator file (path or URI), which appears whole. Raises InputError where it cannot be written."""
    header = {key: json.dumps(value) for key, value in dataclasses.asdict(card).items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    folder, name = split(location)
    folder.write(name, safetensors.torch.save(tensors, metadata=header))


def load_generator(location: str | Path, setting: str = "--generator") -> tuple[Generator, Card]:
    """The generator in eval mode on the CPU, and its card, from a path or URI. Never unpickles.

    Raises InputError, with the setting that named the file, for one that is missing, damaged, or of another
    architecture or scale.
    """
    return parse_generator(read_generator(location, setting), location, setting)


def read_generator(location: str | Path, setting: str = "--generator") -> bytes:
    """A generator file's bytes, for who needs them and the generator of the very same file. InputError as above."""
    folder, name = split(location)
    with _naming(location, setting):
        return folder.read(name)


def parse_generator(content: bytes, location: str | Path, setting: str = "--generator") -> tuple[Generator, Card]:
    """As `load_generator`, from the bytes that were read at `location`."""
    with _naming(location, setting):
        header, weights = _parse(content)
        card = Card(**{key: json.loads(value) for key, value in header.items()})
    if (card.architecture, card.scale) != (ARCHITECTURE, SCALE):
        raise InputError(
            f"{setting} {location} is a {card.architecture} for scale {card.scale}; wanted {ARCHITECTURE} for {SCALE}"
        )
    with _naming(location, setting):
        generator = Generator(GeneratorConfig(**card.generator))
        generator.load_state_dict(weights)
    return generator.eval(), card


def find_generator(given: str) -> str:
    """The generator file that a setting names: a released generator, the one in a run folder, the current one of a
    registry, or the file itself."""
    if given in RELEASED:
        return str(RELEASED[given])
    is_file = given.partition("?")[0].endswith(".safetensors") if is_uri(given) else not Path(given).is_dir()
    if is_file:
        return given
    if is_registry(given):
        return Registry(given, "registry").current_location
    return below(given, FILE_NAME)


def hash_generator(content: bytes) -> str:
    """Of a generator file's bytes."""
    return hashlib.sha256(content).hexdigest()[:16]


def interpolate(perceptual: Generator, faithful: Generator, fidelity: float) -> Generator:
    """A generator, on the CPU, with weights (1 - fidelity) * perceptual + fidelity * faithful (Wang et al. 2018, §3.4).

    0 and 1 give the two generators' weights exactly. Raises InputError for generators of unlike size.
    """
    if perceptual.config != faithful.config:
        raise InputError(f"--fidelity-generator has {faithful.config}; wanted that of --generator, {perceptual.config}")
    generator = Generator(perceptual.config)
    generator.load_state_dict(blend(perceptual.state_dict(), faithful.state_dict(), fidelity))
    return generator.eval()


def blend(
    perceptual: dict[str, torch.Tensor], faithful: dict[str, torch.Tensor], fidelity: float
) -> dict[str, torch.Tensor]:
    """As `interpolate`, from tensors by name; counters are the first one's."""
    return {
        name: torch.lerp(tensor, faithful[name], fidelity) if tensor.is_floating_point() else tensor
        for name, tensor in perceptual.items()
    }


def _parse(content: bytes) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """A safetensors file's metadata and tensors."""
    tensors = safetensors.torch.load(content)  # which checks the header
    header_size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + header_size]).get("__metadata__", {}), tensors


@contextlib.contextmanager
def _naming(path: str | Path, setting: str) -> Iterator[None]:
    """What reading a generator file may raise becomes an InputError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(
            f"{setting} {path} does not exist; wanted a run folder, a generator file, a registry, or a released "
            f"generator ({', '.join(RELEASED)})"
        ) from error
    except (safetensors.SafetensorError, OSError, TypeError, KeyError, json.JSONDecodeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{setting} {path} is no generator file of this project: {reason}") from error
