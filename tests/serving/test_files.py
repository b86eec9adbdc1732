import json
from pathlib import Path

import numpy as np
import pytest

from fakes import photograph
from srgan_ray.data import images
from srgan_ray.errors import InputError
from srgan_ray.models.artifact import load_generator
from srgan_ray.models.upscaler import Upscaler
from srgan_ray.serving.files import UpscaleConfig, upscale_files
from srgan_ray.serving.handler import ModelConfig


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    for name, size in (("a.png", (9, 20)), ("deep/b.jpeg", (16, 16))):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.encode(photograph(1, *size), path.suffix[1:]))
    return tmp_path / "in"


def config(inputs, generator_file: str, **changes) -> UpscaleConfig:
    out = str(Path(str(inputs[0])).parent / "out")
    return UpscaleConfig(tuple(map(str, inputs)), **{"out": out, "model": ModelConfig(generator_file), **changes})


def test_files_and_folders_become_upscaled_files_and_a_manifest(inputs: Path, generator_file: str) -> None:
    summary = upscale_files(config([inputs], generator_file))
    assert summary["upscaled"] == 2
    out = Path(summary["out"])
    sr = images.decode((out / "a.png").read_bytes())
    np.testing.assert_array_equal(sr, Upscaler(load_generator(generator_file)[0])(photograph(1, 9, 20)))
    assert images.decode((out / "deep" / "b.png").read_bytes()).shape == (64, 64, 3)
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [(row["width"], row["height"], row["generator"]) for row in rows] == [(80, 36, "sharp"), (64, 64, "sharp")]
    assert all(row["consistency_db"] > 0 and row["seconds"] > 0 for row in rows)


def test_a_bad_file_does_not_stop_the_others(inputs: Path, generator_file: str) -> None:
    (inputs / "0_bad.png").write_text("no image")
    with pytest.raises(InputError, match=r"0_bad\.png: not an image.*1 of 3 failed"):
        upscale_files(config([inputs], generator_file))
    out = inputs.parent / "out"
    assert (out / "a.png").is_file()
    assert (out / "deep" / "b.png").is_file()
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert ["error" in row for row in rows] == [True, False, False]


def test_format(inputs: Path, generator_file: str) -> None:
    upscale_files(config([inputs / "a.png"], generator_file, format="webp"))
    assert images.read_header((inputs / "out" / "a.webp").read_bytes()) == ("WEBP", 80, 36)


def test_bad_settings(inputs: Path, generator_file: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="INPUT is missing"):
        UpscaleConfig((), str(tmp_path))
    with pytest.raises(InputError, match="--fidelity 2; wanted 0 to 1"):
        config([inputs], generator_file, fidelity=2)
    with pytest.raises(InputError, match="--fidelity-generator"):
        config([inputs], generator_file, fidelity=0.5)
    with pytest.raises(InputError, match="does not exist"):
        upscale_files(config([inputs / "none.png"], generator_file))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty folder"):
        upscale_files(config([tmp_path / "empty"], generator_file))
    with pytest.raises(InputError, match="overwritten"):
        upscale_files(config([inputs / "a.png"], generator_file, out=str(inputs)))
    (inputs / "a.jpeg").write_bytes(b"")
    with pytest.raises(InputError, match="would both become"):
        upscale_files(config([inputs], generator_file))
