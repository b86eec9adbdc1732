"""The two stages' settings, composed of the parts' own, and the named recipes.

A command line, `config.json` in a run, a checkpoint and a search all use the same fields under the same dotted paths.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_type_hints

import tyro

from srgan_ray.data.crops import CropConfig
from srgan_ray.data.degrade import SCALE
from srgan_ray.errors import InputError
from srgan_ray.models.discriminator import SHRINKS_BY, DiscriminatorConfig
from srgan_ray.models.generator import GeneratorConfig
from srgan_ray.models.perceptual import CACHED, MIN_SIDE_PX, NUM_BLOCKS
from srgan_ray.models.precision import check_precision
from srgan_ray.training.loop import DROP, LoopConfig

FILES = ("init", "fidelity_generator", "vgg_weights")  # settings that may name a file
Flat = tyro.conf.arg(name="")  # the part's flags stand without its name before them


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What both stages have in common."""

    data: str
    """Shard set: the folder that `prepare` wrote."""
    out: str
    """Run folder. Started again on the same folder, a run goes on where it stopped."""
    crops: Annotated[CropConfig, Flat] = CropConfig()
    loop: Annotated[LoopConfig, Flat] = LoopConfig()
    num_workers: int = 1
    """Training processes; each takes an equal part of every batch."""
    min_workers: int = 0
    """Go on with so few where nodes have gone, and with up to num_workers when they come; 0: always num_workers."""
    learning_rate: float = 1e-4
    """Adam's."""
    precision: str = "auto"
    """bf16, fp32, or auto: bf16 where the hardware multiplies it natively."""
    init: str = ""
    """A generator to go on from: a run folder, a generator file, or a released one; nothing: new weights, by --seed."""
    one_pixel_px: ClassVar[int] = SCALE  # the side of a crop that some BatchNorm sees as one pixel

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise InputError(f"--num-workers {self.num_workers}; wanted 1 or more")
        if not 0 <= self.min_workers <= self.num_workers:
            raise InputError(f"--min-workers {self.min_workers}; wanted 0 to --num-workers {self.num_workers}")
        crops = self.crops
        if crops.crop_px <= self.one_pixel_px and crops.batch_size // self.num_workers < 2:
            raise InputError(
                f"--crop-px {crops.crop_px} --batch-size {crops.batch_size} --num-workers {self.num_workers}; "
                f"BatchNorm would see one value a channel: wanted crops of more than {self.one_pixel_px} pixels, or "
                "two for each worker"
            )
        if not self.learning_rate > 0:
            raise InputError(f"--learning-rate {self.learning_rate}; wanted more than 0")
        check_precision(self.precision)

    @property
    def worker_counts(self) -> range:
        """With how many workers the run may find itself."""
        return range(self.min_workers or self.num_workers, self.num_workers + 1)


@dataclasses.dataclass(frozen=True)
class PretrainConfig(RunConfig):
    """SRResNet: the generator alone, mean squared error."""

    generator: GeneratorConfig = GeneratorConfig()


@dataclasses.dataclass(frozen=True)
class TrainConfig(RunConfig):
    """SRGAN: generator and discriminator in turn, from a pretrained generator."""

    one_pixel_px: ClassVar[int] = SHRINKS_BY
    init: str = tyro.MISSING
    """The pretrained generator: a run folder, a generator file, or a released one (psnr or perceptual)."""
    fidelity_generator: str = ""
    """A PSNR-oriented generator, mostly that of --init, which blends are to be served with (`serve
    --fidelity-generator`): the blend half-way to it is trained too, by a pixel loss of weight --pixel-weight. Nothing:
    it is not, as in the paper; its colours may then stray."""
    loop: Annotated[LoopConfig, Flat] = LoopConfig(steps=5000, schedule=DROP)
    hold_statistics: bool = False
    """Leave the generator's BatchNorm at the statistics of --init, so that it is trained as it is used, and losses see
    what is seen then. The paper trains with the statistics of each batch."""
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    discriminator_learning_rate: float | None = None
    """Adam's for the discriminator; None: that of the generator, as in the paper."""
    content_weight: float = 1.0
    """Weight of the content loss (equation 3)."""
    content_blocks: int = 1
    """How many of VGG's five blocks the content loss looks at, from the last, after each one's last ReLU. 1: the
    paper's; 5: down to edges and fine texture too."""
    adversarial_weight: float = 1e-3
    """Weight of the adversarial loss beside the content loss (equation 3)."""
    vgg_weights: str = CACHED
    """Weights of the content loss's VGG19: cached (torchvision's download, if it is there), imagenet (downloads it),
    a FILE of vgg19 or vgg16, or random."""
    pixel_weight: float = 0.0
    """Weight of the pixel loss beside the content loss; 0, the paper's, leaves it out."""
    pattern_weight: float = 0.0
    """Weight of the loss on checkerboards, patterns that are everywhere alike; 0, the paper's, leaves it out."""
    colour_weight: float = 0.0
    """Weight of the loss on each crop's mean colour; 0, the paper's, leaves it out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.discriminator_learning_rate is not None and not self.discriminator_learning_rate > 0:
            raise InputError(
                f"--discriminator-learning-rate {self.discriminator_learning_rate}; wanted more than 0, or None"
            )
        if not 1 <= self.content_blocks <= NUM_BLOCKS:
            raise InputError(f"--content-blocks {self.content_blocks}; wanted 1 to {NUM_BLOCKS}")
        if self.crops.crop_px < MIN_SIDE_PX:
            raise InputError(f"--crop-px {self.crops.crop_px}; wanted {MIN_SIDE_PX} or more, for VGG's four poolings")
        weights = ("content_weight", "adversarial_weight", "pixel_weight", "pattern_weight", "colour_weight")
        for name in weights:
            if not getattr(self, name) >= 0:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}; wanted 0 or more")
        if not any(getattr(self, name) for name in weights):
            raise InputError("--content-weight 0.0, and all other weights of losses too; wanted one above 0")
        if self.fidelity_generator and not self.pixel_weight:
            raise InputError(
                f"--fidelity-generator {self.fidelity_generator} --pixel-weight 0.0; wanted a weight above 0, which is "
                "that of the blend's pixel loss too"
            )


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain values, for JSON; the stage is told by its own key."""
    return {"stage": STAGE_NAMES[type(config)], **dataclasses.asdict(config)}


def to_settings(config: RunConfig) -> dict[str, Any]:
    """As `to_dict`, for a file that leaves the machine: without the places of data and run, other files by name."""
    settings = {key: value for key, value in to_dict(config).items() if key not in ("data", "out")}
    return settings | {key: Path(settings[key]).name for key in FILES if key in settings}


def to_flags(config: RunConfig) -> list[Sequence[str]]:
    """The flags, each with its values, that give this config on the command line: what differs from the defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    return [(flag, *to_words(value)) for flag, value in _differences(config, defaults, "--")]


def to_words(value: Any) -> Sequence[str]:
    """What stands after a flag: nothing where the flag alone says it."""
    if value is True:
        return ()
    return value if isinstance(value, tuple) else (str(value),)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """What `to_dict` gave, by dotted paths."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def with_settings(config: RunConfig, settings: dict[str, Any]) -> RunConfig:
    """The config with other values at these dotted paths. Raises InputError for an unknown path or a bad value."""
    values = to_dict(config)
    for path, value in settings.items():
        if path not in flatten(values):
            raise InputError(f"unknown setting {path}; wanted one of {', '.join(flatten(values))}")
        *parts, name = path.split(".")
        functools.reduce(dict.__getitem__, parts, values)[name] = value
    return from_dict(values)


def from_dict(values: dict[str, Any]) -> RunConfig:
    """The config that `to_dict` gave. Raises InputError for an unknown key."""
    stage = {name: config_type for config_type, name in STAGE_NAMES.items()}[values["stage"]]
    config: RunConfig = _build(stage, {key: value for key, value in values.items() if key != "stage"})
    return config


def _differences(config: Any, defaults: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(type(config), include_extras=True)
    for name, default in defaults.items():
        value, flag = getattr(config, name), prefix + name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            is_flat = Flat in getattr(hints[name], "__metadata__", ())
            yield from _differences(value, vars(default), prefix if is_flat else f"{flag}.")
        elif value != default:
            yield flag, value


def _build(config_type: Any, values: dict[str, Any]) -> Any:
    fields = {field.name: field for field in dataclasses.fields(config_type)}
    if unknown := set(values) - set(fields):
        raise InputError(f"unknown setting {min(unknown)}; wanted one of {', '.join(fields)}")
    parts = {name: type(field.default) for name, field in fields.items() if dataclasses.is_dataclass(field.default)}
    return config_type(**{k: _build(parts[k], v) if k in parts else v for k, v in values.items()})


STAGE_NAMES: dict[type[RunConfig], str] = {PretrainConfig: "pretrain", TrainConfig: "train"}
