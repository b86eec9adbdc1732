"""The settings of a search: those of the training that every trial is, and what is tried."""

import dataclasses
from typing import Any

from srgan_ray.config import TrainConfig
from srgan_ray.errors import InputError

TPE, RANDOM = SAMPLERS = ("tpe", "random")
KNEE, PSNR, PERCEPTION = CHOICES = ("knee", "psnr", "perception")
DEFAULT_SPACE = (
    "learning_rate=log:2e-5:4e-4",
    "discriminator_learning_rate=log:2e-5:4e-4",
    "adversarial_weight=log:1e-4:1e-1",
    "pixel_weight=log:1e-1:1e2",
)


@dataclasses.dataclass(frozen=True)
class TuneConfig(TrainConfig):
    """A search over the settings of `train`, whose arguments it takes as well: what they give, every trial has in
    common."""

    out: str
    """Search folder. Started again on the same folder, a search goes on where it stopped."""
    trials: int = 16
    """Trials with settings from the space, beside the baselines."""
    concurrent: int = 0
    """Trials at a time; 0: as many as there are GPUs, or CPUs where there is none, for their workers."""
    space: tuple[str, ...] = DEFAULT_SPACE
    """What is tried: PATH=log:LOW:HIGH, PATH=uniform:LOW:HIGH, PATH=choice:A,B,C, or a JSON file {PATH: "log:…"}; PATH
    is a setting's as in config.json, say crops.batch_size."""
    sampler: str = TPE
    """tpe, Optuna's for several objectives, which learns from finished trials; or random."""
    baseline_seeds: int = 2
    """The settings outside the space are trained as well, with so many seeds: what the trials are compared with, and
    how far figures differ by chance."""
    stop_early: bool = False
    """Stop trials whose loss_val is hopeless beside the others' at the same step (ASHA)."""
    population: bool = False
    """Population-based training: at each validation the trials that most others beat go on from the checkpoints of
    better ones, with learning rates and loss weights near theirs. Their first settings are drawn."""
    niqe_model: str = ""
    """NIQE's pristine model, an .npz: perception is measured by it then."""
    lpips_weights: str = ""
    """ImageNet weights for LPIPS, by which perception is measured then: cached (torchvision's AlexNet, if it is there),
    imagenet (downloads it), or a FILE of alexnet or vgg16. Without these and NIQE's model, perception is sliced
    Wasserstein distance."""
    choose: str = KNEE
    """Which trial's generator is kept: the front's knee, its best in psnr or in perception, or a trial's number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("trials", 1), ("concurrent", 0), ("baseline_seeds", 0)):
            if getattr(self, name) < least:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}; wanted {least} or more")
        if self.sampler not in SAMPLERS:
            raise InputError(f"--sampler {self.sampler}; wanted one of {', '.join(SAMPLERS)}")
        if self.niqe_model and self.lpips_weights:
            raise InputError("--niqe-model with --lpips-weights; wanted one of them: perception is one figure")
        if self.population:
            self._check_population()
        if self.choose not in CHOICES and not self.choose.isdecimal():
            raise InputError(f"--choose {self.choose}; wanted one of {', '.join(CHOICES)}, or a trial's number")
        if self.choose.isdecimal() and int(self.choose) >= self.num_trials:
            raise InputError(f"--choose {self.choose} of {self.num_trials} trials; wanted 0 to {self.num_trials - 1}")

    def _check_population(self) -> None:
        if self.stop_early:
            raise InputError("--population with --stop-early; wanted one of them: the worst are replaced or stopped")
        if self.trials < 2:
            raise InputError(f"--trials {self.trials} with --population; wanted 2 or more")
        if self.loop.evaluate_every >= self.loop.steps:
            raise InputError(
                f"--evaluate-every {self.loop.evaluate_every} of --steps {self.loop.steps} with --population, which "
                "changes settings at validations; wanted fewer steps between them"
            )

    @property
    def num_trials(self) -> int:
        """All of them, the baselines too."""
        return self.baseline_seeds + self.trials

    @property
    def own_settings(self) -> dict[str, Any]:
        """What a search has beside the settings of `train`."""
        common = vars(self.training)
        return {name: value for name, value in vars(self).items() if name not in common}

    @property
    def training(self) -> TrainConfig:
        """What all trials have in common."""
        return TrainConfig(**{field.name: getattr(self, field.name) for field in dataclasses.fields(TrainConfig)})
