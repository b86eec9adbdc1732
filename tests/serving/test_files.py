"""One file upscaled, and which files are."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fakes import photograph
from srgan_ray.data import images, storage
from srgan_ray.data.storage import Folder
from srgan_ray.errors import InputError
from srgan_ray.models.artifact import load_generator
from srgan_ray.models.upscaler import Upscaler
from srgan_ray.serving.files import Source, UpscaleConfig, find_sources, list_inputs, upscale_source
from srgan_ray.serving.handler import Handler, ModelConfig


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def find(out: Path | str, *inputs: Path | str, format: str = "png") -> dict[str, str]:
    """The name of each result by its input."""
    config = UpscaleConfig(tuple(map(str, inputs)), str(out), format=format)
    return {source.input: source.name for source in find_sources(config, list_inputs(config))}


def upscale(generator_file: str, path: Path, out: Path, format: str = "png"):
    config = UpscaleConfig((str(path),), str(out), ModelConfig(generator_file), format=format)
    return upscale_source(Handler(config.model), config, Source(str(path), f"deep/a.{format}", 0, 0))


def test_a_file_is_upscaled(tmp_path: Path, generator_file: str) -> None:
    (tmp_path / "a.png").write_bytes(images.encode(photograph(1, 9, 20), "png"))
    outcome = upscale(generator_file, tmp_path / "a.png", tmp_path / "out")
    sr = images.decode((tmp_path / "out" / "deep" / "a.png").read_bytes())
    np.testing.assert_array_equal(sr, Upscaler(load_generator(generator_file)[0])(photograph(1, 9, 20)))
    assert outcome.error == ""
    assert (outcome.details["width"], outcome.details["height"], outcome.details["generator"]) == (80, 36, "sharp")
    assert outcome.details["seconds"] > 0
    upscale(generator_file, tmp_path / "a.png", tmp_path / "out", "webp")
    assert images.read_header((tmp_path / "out" / "deep" / "a.webp").read_bytes()) == ("WEBP", 80, 36)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (images.UnreadableImage("damaged"), "damaged"),
        (MemoryError(), "MemoryError()"),
        (KeyError("x"), "KeyError('x')"),
    ],
)
def test_whatever_fails_with_a_file_is_said(
    error: Exception, said: str, tmp_path: Path, generator_file: str, monkeypatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Handler, "upscale", fail)
    touch(tmp_path / "a.png")
    assert upscale(generator_file, tmp_path / "a.png", tmp_path / "out").error == said
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_no_utf_8(tmp_path: Path, generator_file: str) -> None:
    path = tmp_path / os.fsdecode(b"\xff.png")
    path.write_bytes(images.encode(photograph(1, 9, 20), "png"))
    assert upscale(generator_file, path, tmp_path / path.stem).error == ""
    assert (tmp_path / path.stem / "deep" / "a.png").is_file()


def test_ctrl_c_in_the_middle_of_a_picture(tmp_path: Path) -> None:
    """Threads are then inside torch."""
    picture, out = tmp_path / "large.png", tmp_path / "out"
    picture.write_bytes(images.encode(photograph(0, 1200, 1600), "png"))
    running = subprocess.Popen(
        [sys.executable, "-m", "srgan_ray", "upscale", str(picture), "--out", str(out)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # a shell in the background ignores it
    )
    while not (out / "manifest.jsonl").exists():
        assert running.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert errors.splitlines()[-1].startswith("srgan-ray upscale: stopped")


def test_a_file_that_is_gone_is_said(tmp_path: Path, generator_file: str) -> None:
    assert "No such file" in upscale(generator_file, tmp_path / "gone.png", tmp_path / "out").error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_an_out_that_cannot_be_written_to_stops_all(
    number: int, tmp_path: Path, generator_file: str, monkeypatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, "no way")

    (tmp_path / "a.png").write_bytes(images.encode(photograph(1, 9, 20), "png"))
    monkeypatch.setattr(storage, "_write_local", fail)
    with pytest.raises(InputError, match=r"--out .*deep/a\.png cannot be written: .*no way"):
        upscale(generator_file, tmp_path / "a.png", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"{'a' * 255}.png", "File name too long"),
        ("file/a.png", "File exists"),
        ("file/deep/a.png", "Not a directory"),
        ("folder", "Is a directory"),
    ],
)
def test_a_name_that_a_result_cannot_have_is_the_fault_of_one_file(
    name: str, said: str, tmp_path: Path, generator_file: str
) -> None:
    (tmp_path / "a.png").write_bytes(images.encode(photograph(1, 9, 20), "png"))
    touch(tmp_path / "out" / "file", tmp_path / "out" / "folder" / "a.png")
    config = UpscaleConfig((str(tmp_path / "a.png"),), str(tmp_path / "out"), ModelConfig(generator_file))
    outcome = upscale_source(Handler(config.model), config, Source(str(tmp_path / "a.png"), name, 0, 0))
    assert f"{name} cannot be written" in outcome.error
    assert said in outcome.error


def test_names_are_kept(tmp_path: Path, monkeypatch) -> None:
    odd = tmp_path / "in" / os.fsdecode(b"\xff ?.tar.jpg")
    touch(
        tmp_path / "in" / "b.jpeg", tmp_path / "in" / "deep" / "a", odd, tmp_path / "in" / ".hidden", tmp_path / "c.x"
    )
    (tmp_path / "link.png").symlink_to(tmp_path / "c.x")
    monkeypatch.chdir(tmp_path)
    expected = {
        tmp_path / "in" / ".hidden": ".hidden.png",
        tmp_path / "in" / "b.jpeg": "b.png",
        tmp_path / "in" / "deep" / "a": "deep/a.png",
        odd: os.fsdecode(b"\xff ?.tar.png"),
        tmp_path / "link.png": "link.png",
    }
    found = find("out", "in/", "./link.png")
    assert found == {str(path): name for path, name in expected.items()}
    assert list(found) == sorted(found)


def test_what_lies_in_out_is_no_input(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.png", tmp_path / "in" / "up" / "old.png", tmp_path / "in" / "upper.png")
    assert list(find(tmp_path / "in" / "up", tmp_path / "in").values()) == ["a.png", "upper.png"]


@pytest.mark.parametrize(
    ("inputs", "out", "format"),
    [
        (["in/a.png"], "in", "png"),
        (["in"], "in", "webp"),
        (["in"], ".", "webp"),  # in/in/b.png would become in/b.webp
        (["in", "in/up/in"], "in/up", "png"),
    ],
)
def test_results_among_inputs_are_refused(
    inputs: list[str], out: str, format: str, tmp_path: Path, monkeypatch
) -> None:
    touch(tmp_path / "in" / "a.png", tmp_path / "in" / "in" / "b.png", tmp_path / "in" / "up" / "in" / "c.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"--out .* would be overwritten or added to by .*; wanted another folder"):
        find(out, *inputs, format=format)


def test_the_folder_above_is_a_good_out(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.png")
    assert list(find(tmp_path, tmp_path / "in").values()) == ["a.png"]


def test_inputs_on_object_storage(bucket: str, tmp_path: Path) -> None:
    place = f"{bucket}/{tmp_path.name}"
    for name in ("in/a.png", "in/deep/b.jpg", "in/up/old.png"):
        Folder(place).write(name, b"x")
    expected = {f"{place}/in/a.png": "a.png", f"{place}/in/deep/b.jpg": "deep/b.png"}
    assert find(f"{place}/in/up", f"{place}/in/") == expected
    assert find(tmp_path / "out", f"{place}/in/deep/b.jpg") == {f"{place}/in/deep/b.jpg": "b.png"}
    with pytest.raises(InputError, match="would be overwritten or added to"):
        find(f"{place}/in", f"{place}/in")


def test_bad_settings(generator_file: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="INPUT is missing"):
        UpscaleConfig((), str(tmp_path))
    with pytest.raises(InputError, match="--fidelity 2; wanted 0 to 1"):
        UpscaleConfig(("a",), str(tmp_path), fidelity=2)
    with pytest.raises(InputError, match="--fidelity-generator"):
        UpscaleConfig(("a",), str(tmp_path), fidelity=0.5)
    with pytest.raises(InputError, match=r"none\.png does not exist"):
        find(tmp_path / "out", tmp_path / "none.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty folder"):
        find(tmp_path / "out", tmp_path / "empty")
    touch(tmp_path / "in" / "a.jpg", tmp_path / "in" / "a.png")
    with pytest.raises(InputError, match=r"a\.jpg and .*a\.png would both become a\.webp"):
        find(tmp_path / "out", tmp_path / "in", format="webp")
