from pathlib import Path

import pytest
import safetensors.torch
import torch

from srgan_ray.errors import InputError
from srgan_ray.models.artifact import Card, find_generator, interpolate, load_generator, save_generator
from srgan_ray.models.generator import GeneratorConfig, build_generator


def card(**changes) -> Card:
    fields = {
        "name": "test", "generator": {"num_blocks": 1, "num_features": 8}, "degradation": "opencv_cubic",
        "stage": "pretrain", "step": 3, "vgg_weights": "", "metrics": {}, "config": {"x": 1}, "data_hash": "h",
    }  # fmt: skip
    return Card(**{**fields, **changes})


@pytest.fixture
def generator():
    return build_generator(GeneratorConfig(1, 8), 0)


def test_weights_and_card_come_back(generator, tmp_path: Path) -> None:
    save_generator(tmp_path / "generator.safetensors", generator.state_dict(), card())
    loaded, loaded_card = load_generator(tmp_path / "generator.safetensors")
    assert loaded_card == card()
    assert not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in generator.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["generator.safetensors"]


def test_what_is_no_generator_file_is_refused(generator, tmp_path: Path) -> None:
    path = tmp_path / "generator.safetensors"
    with pytest.raises(InputError, match="does not exist"):
        load_generator(path)
    path.write_bytes(b"garbage")
    with pytest.raises(InputError, match="no generator file"):
        load_generator(path)
    torch.save(generator.state_dict(), path)  # a pickle is not opened
    with pytest.raises(InputError, match="no generator file"):
        load_generator(path)
    path.write_bytes(safetensors.torch.save(dict(generator.state_dict())))
    with pytest.raises(InputError, match="no generator file"):
        load_generator(path)
    save_generator(path, generator.state_dict(), card(architecture="rrdb"))
    with pytest.raises(InputError, match="rrdb"):
        load_generator(path)
    save_generator(path, generator.state_dict(), card(generator={"num_blocks": 2, "num_features": 8}))
    with pytest.raises(InputError, match="no generator file"):
        load_generator(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="no generator file"):
        load_generator(path)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("some/file.safetensors", "some/file.safetensors"),
        ("s3://dogs/run", "s3://dogs/run/generator.safetensors"),
        ("s3://dogs/run?region=eu", "s3://dogs/run/generator.safetensors?region=eu"),
        ("s3://dogs/file.safetensors?region=eu", "s3://dogs/file.safetensors?region=eu"),
    ],
)
def test_a_setting_names_a_generator_file(given: str, found: str, bucket: str) -> None:
    """A folder on object storage is asked whether it is a registry."""
    assert find_generator(given) == found


def test_a_run_folder_stands_for_its_generator_file(tmp_path: Path) -> None:
    assert find_generator(str(tmp_path)) == str(tmp_path / "generator.safetensors")


def test_fidelity_blends_weights_and_ends_exactly(generator) -> None:
    faithful = build_generator(GeneratorConfig(1, 8), 1)
    at_0, at_1, half = (interpolate(generator, faithful, fidelity).state_dict() for fidelity in (0, 1, 0.5))
    for name, value in generator.state_dict().items():
        assert torch.equal(at_0[name], value)
        assert torch.equal(at_1[name], faithful.state_dict()[name])
    torch.testing.assert_close(half["tail.weight"], (generator.tail.weight + faithful.tail.weight) / 2)
    with pytest.raises(InputError, match="--fidelity-generator"):
        interpolate(generator, build_generator(GeneratorConfig(2, 8), 0), 0.5)
