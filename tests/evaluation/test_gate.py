"""What passes the gate, and what does not."""

import dataclasses
from pathlib import Path

import pytest
import torch

from fakes import SMALL, write_generator
from srgan_ray.errors import InputError
from srgan_ray.evaluation.gate import PromoteConfig, promote
from srgan_ray.evaluation.judge import Figures, Judge
from srgan_ray.models.artifact import find_generator, load_generator, save_generator
from srgan_ray.models.generator import Generator
from srgan_ray.models.registry import Registry


@pytest.fixture
def config(real_shards: Path, tmp_path: Path) -> PromoteConfig:
    return PromoteConfig("psnr", str(tmp_path / "registry"), str(real_shards), max_val_photographs=2)


def sabotaged(path: Path, noise: float) -> str:
    generator, card = load_generator(find_generator("psnr"))
    weights = generator.state_dict()
    torch.manual_seed(0)
    for tensor in weights.values():
        if tensor.is_floating_point() and tensor.dim() > 1:
            tensor += noise * tensor.std() * torch.randn_like(tensor)
    save_generator(path, weights, card)
    return str(path)


def test_a_good_generator_is_taken_in_with_its_figures(config: PromoteConfig) -> None:
    summary = promote(config)
    registry = Registry(config.to, "--to")
    [entry] = registry.history()
    assert (summary["version"], registry.current, entry["slowdown"]) == (1, 1, None)
    assert entry["figures"]["psnr"]["protocol"]["degradation"] == "mixed"  # as the card has it
    assert entry["figures"]["psnr"]["value"] == pytest.approx(summary["psnr"], abs=1e-4)
    assert Path(registry.location(1)).read_bytes() == Path(find_generator("psnr")).read_bytes()
    assert promote(config)["version"] == 2
    assert registry.history()[1]["slowdown"] < config.max_slowdown


@pytest.mark.parametrize(
    ("noise", "reason"),
    [
        (0.1, r"colour_drift = .* levels, healthy up to 1\.0"),
        (1, "dB over bicubic, wanted at least .0.00"),
        (1e30, "finite"),
    ],
)
def test_a_sabotaged_generator_is_refused(config: PromoteConfig, tmp_path: Path, noise: float, reason: str) -> None:
    promote(config)
    before = Registry(config.to, "--to").history()
    bad = dataclasses.replace(config, candidate=sabotaged(tmp_path / "bad.safetensors", noise))
    with pytest.raises(InputError, match=f"is refused: .*{reason}.*; {config.to} is as it was"):
        promote(bad)
    assert Registry(config.to, "--to").history() == before
    assert [path.name for path in (Path(config.to) / "versions").iterdir()] == ["00001.safetensors"]


def test_a_slower_generator_is_refused(config: PromoteConfig, tmp_path: Path) -> None:
    Registry(config.to, "--to").promote(
        Path(write_generator(tmp_path / "fast.safetensors", 0, "fast", SMALL)).read_bytes(), {}
    )
    with pytest.raises(InputError, match=r"takes .* times as long as version 1, wanted 1\.5"):
        promote(config)


def test_a_generator_is_measured_on_the_lr_that_it_was_trained_for(config: PromoteConfig, tmp_path: Path) -> None:
    generator, card = load_generator(find_generator("psnr"))
    one = tmp_path / "one.safetensors"
    save_generator(one, generator.state_dict(), dataclasses.replace(card, degradation="opencv_cubic"))
    for given, wanted in (("", "opencv_cubic"), ("matlab_bicubic", "matlab_bicubic")):
        promote(dataclasses.replace(config, candidate=str(one), degradation=given))
        figures = Registry(config.to, "--to").history()[-1]["figures"]
        assert figures["psnr"]["protocol"]["degradation"] == wanted


def test_what_is_promoted_is_what_was_measured(config: PromoteConfig, tmp_path: Path, monkeypatch) -> None:
    """A run goes on, and replaces its generator while it is measured."""
    file = tmp_path / "run" / "generator.safetensors"
    file.parent.mkdir()
    measured = Path(find_generator("psnr")).read_bytes()
    file.write_bytes(measured)
    judge = Judge.__call__

    def replace_meanwhile(self: Judge, generator: Generator) -> Figures:
        file.write_bytes(b"another")
        return judge(self, generator)

    monkeypatch.setattr(Judge, "__call__", replace_meanwhile)
    promote(dataclasses.replace(config, candidate=str(file.parent)))
    assert Path(Registry(config.to, "--to").location(1)).read_bytes() == measured


def test_too_small_a_gain_is_refused(config: PromoteConfig) -> None:
    with pytest.raises(InputError, match=r"dB over bicubic, wanted at least \+9.00 \(--min-gain-db\)"):
        promote(dataclasses.replace(config, min_gain_db=9))
    assert Registry(config.to, "--to").current is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidate": "nowhere"}, "RUN_OR_TRIAL nowhere.* does not exist"),
        ({"data": "nowhere"}, "nowhere"),
    ],
)
def test_missing_things_change_nothing(config: PromoteConfig, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        promote(dataclasses.replace(config, **change))
    assert not Path(config.to).exists()


def test_settings_that_cannot_be_are_refused() -> None:
    for change in ({"degradation": "blur"}, {"max_val_photographs": 0}, {"max_slowdown": 0}):
        with pytest.raises(InputError, match=f"--{next(iter(change)).replace('_', '-')}"):
            PromoteConfig("psnr", "registry", "shards", **change)
