"""Generators that are swapped while requests run."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from fakes import photograph, write_generator
from srgan_ray.data import images
from srgan_ray.data.storage import Folder
from srgan_ray.errors import InputError
from srgan_ray.models.artifact import load_generator
from srgan_ray.models.generator import GeneratorConfig
from srgan_ray.models.registry import Registry
from srgan_ray.models.upscaler import Upscaler
from srgan_ray.serving.handler import Handler, ModelConfig
from srgan_ray.serving.protocol import ServeConfig
from srgan_ray.serving.watch import Watch

LR = photograph(0, 20, 36)
PNG = images.encode(LR, "png")


class News(Watch):
    """What was swapped and refused."""

    def __init__(self) -> None:
        self.swaps: list[str] = []
        self.failures: list[str] = []

    def swapped(self, detail: str) -> None:
        self.swaps.append(detail)

    def failed(self, detail: str) -> None:
        self.failures.append(detail)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A run folder that holds a generator."""
    write_generator(tmp_path / "generator.safetensors", 0, "old")
    return tmp_path


def replace(place: Path, seed: int, name: str, config: GeneratorConfig | None = None) -> None:
    aside = place / "aside.safetensors"
    write_generator(aside, seed, name, *([config] if config else []))
    os.replace(aside, place / "generator.safetensors")


def fail_to_read(*_: object) -> bytes:
    raise OSError("no answer")


def sr_of(handler: Handler) -> np.ndarray:
    return images.decode(handler.upscale(PNG, "png", None).encoded)


def test_a_replaced_generator_is_served_at_the_next_look(place: Path) -> None:
    news = News()
    handler = Handler(ModelConfig(str(place)), news)
    before = sr_of(handler)
    handler.refresh()
    assert news.swaps == []
    replace(place, 1, "new")
    np.testing.assert_array_equal(sr_of(handler), before)
    handler.refresh()
    assert news.swaps == ["new, step 5"]
    assert handler.card.name == handler.upscale(PNG, "png", None).generator == "new"
    expected = Upscaler(load_generator(place / "generator.safetensors")[0])(LR)
    np.testing.assert_array_equal(sr_of(handler), expected)
    assert not np.array_equal(expected, before)


def test_a_damaged_one_is_refused_once_and_a_whole_one_taken_after(place: Path) -> None:
    news = News()
    handler = Handler(ModelConfig(str(place)), news)
    before = sr_of(handler)
    (place / "generator.safetensors").write_bytes(b"half")
    handler.refresh()
    handler.refresh()
    [failure] = news.failures
    assert "is no generator file" in failure
    assert "old is served on" in failure
    np.testing.assert_array_equal(sr_of(handler), before)
    replace(place, 1, "new")
    handler.refresh()
    assert news.swaps == ["new, step 5"]


def test_what_a_registry_makes_current_is_served(place: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry", "--to")
    file = place / "generator.safetensors"
    registry.promote(file.read_bytes(), {})
    news = News()
    handler = Handler(ServeConfig(registry=str(registry)).resolved().model, news)
    assert handler.card.name == "old"
    replace(place, 1, "new")
    registry.promote(file.read_bytes(), {})
    handler.refresh()
    registry.roll_back(None)
    handler.refresh()
    handler.refresh()
    assert news.swaps == ["new, step 5", "old, step 5"]


def test_a_file_that_the_storage_did_not_give_is_tried_again(place: Path, monkeypatch) -> None:
    news = News()
    handler = Handler(ModelConfig(str(place)), news)
    replace(place, 1, "new")
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "read", fail_to_read)
        handler.refresh()
    assert "no answer; old is served on" in news.failures[0]
    assert handler.upscale(PNG, "png", None).generator == "old"
    handler.refresh()
    assert news.swaps == ["new, step 5"]


def test_one_that_a_full_gpu_does_not_take_is_told_and_the_next_is_looked_for(place: Path, monkeypatch) -> None:
    news = News()
    handler = Handler(ModelConfig(str(place)), news)
    replace(place, 1, "big")
    with monkeypatch.context() as patch:
        patch.setattr(Upscaler, "__init__", fail_to_allocate)
        handler.refresh()
    assert news.failures == ["CUDA out of memory; old is served on"]
    replace(place, 2, "new")
    handler.refresh()
    assert news.swaps == ["new, step 5"]


def fail_to_allocate(*_: object) -> None:
    raise RuntimeError("CUDA out of memory")


def test_a_registry_that_the_storage_did_not_give_is_looked_at_again(place: Path, tmp_path: Path, monkeypatch) -> None:
    registry = Registry(tmp_path / "registry", "--to")
    registry.promote((place / "generator.safetensors").read_bytes(), {})
    news = News()
    handler = Handler(ServeConfig(registry=str(registry)).resolved().model, news)
    replace(place, 1, "new")
    registry.promote((place / "generator.safetensors").read_bytes(), {})
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "read", fail_to_read)
        handler.refresh()
    assert news.failures == ["no answer; old is served on"]
    assert handler.upscale(PNG, "png", None).generator == "old"
    handler.refresh()
    assert news.swaps == ["new, step 5"]


def test_a_link_that_is_laid_anew_is_followed_by_its_absolute_path(place: Path, tmp_path: Path, monkeypatch) -> None:
    os.replace(place / "generator.safetensors", tmp_path / "old.safetensors")
    write_generator(tmp_path / "new.safetensors", 1, "new")
    (tmp_path / "link.safetensors").symlink_to("old.safetensors")
    monkeypatch.chdir(tmp_path)
    model = ModelConfig("link.safetensors").with_absolute_paths()
    assert model.generator == str(tmp_path / "link.safetensors")
    monkeypatch.chdir("/")
    news = News()
    handler = Handler(model, news)
    (tmp_path / "link.safetensors").unlink()
    (tmp_path / "link.safetensors").symlink_to("new.safetensors")
    handler.refresh()
    assert news.swaps == ["new, step 5"]


def test_what_is_no_relative_path_stays_as_it_is() -> None:
    for places in (("perceptual", "psnr"), ("/run", ""), ("s3://runs/one?region=eu-west-1", "psnr")):
        assert ModelConfig(*places).with_absolute_paths() == ModelConfig(*places)


def test_a_registry_that_is_none_is_refused(place: Path) -> None:
    with pytest.raises(InputError, match=r"--registry .* is no registry; wanted one that promote has filled"):
        ServeConfig(registry=str(place)).resolved()
    with pytest.raises(InputError, match="--registry r and --generator perceptual; wanted one of them"):
        ServeConfig(ModelConfig("perceptual"), registry="r")


def test_one_of_another_size_than_the_faithful_one_is_refused(place: Path, other_generator_file: str) -> None:
    news = News()
    handler = Handler(ModelConfig(str(place), other_generator_file), news)
    replace(place, 1, "deep", GeneratorConfig(2, 8))
    handler.refresh()
    assert "--fidelity-generator" in news.failures[0]
    assert handler.card.name == "old"


def test_a_request_ends_with_the_generator_it_began_with(place: Path, monkeypatch) -> None:
    handler = Handler(ModelConfig(str(place)))
    expected = sr_of(handler)
    begun, gate = threading.Event(), threading.Event()
    run = Upscaler.run

    def wait(self, parts):
        begun.set()
        assert gate.wait(10)
        return run(self, parts)

    monkeypatch.setattr(Upscaler, "run", wait)
    results = []
    request = threading.Thread(target=lambda: results.append(handler.upscale(PNG, "png", None)))
    request.start()
    assert begun.wait(10)
    replace(place, 1, "new")
    handler.refresh()
    gate.set()
    request.join()
    assert results[0].generator == "old"
    np.testing.assert_array_equal(images.decode(results[0].encoded), expected)
    assert handler.upscale(PNG, "png", None).generator == "new"


def test_follow_looks_by_itself(place: Path) -> None:
    swapped = threading.Event()

    class Bell(Watch):
        def swapped(self, detail: str) -> None:
            swapped.set()

    Handler(ModelConfig(str(place)), Bell()).follow(0.02)
    replace(place, 1, "new")
    assert swapped.wait(10)


def test_follow_goes_on_after_storage_that_did_not_answer(place: Path, monkeypatch) -> None:
    failed, swapped, ending = threading.Event(), threading.Event(), threading.Event()
    version = Folder.version

    def unreachable(self: Folder, name: str) -> str:
        if not ending.is_set():
            raise InputError("it cannot be read: no answer")
        return version(self, name)

    class Bell(Watch):
        def failed(self, detail: str) -> None:
            assert "no answer" in detail
            failed.set()

        def swapped(self, detail: str) -> None:
            swapped.set()

    handler = Handler(ModelConfig(str(place)), Bell())
    monkeypatch.setattr(Folder, "version", unreachable)
    handler.follow(0.02)
    assert failed.wait(5)
    replace(place, 1, "new")
    ending.set()
    assert swapped.wait(10)


def test_fidelity_is_taken_in_steps(place: Path, other_generator_file: str) -> None:
    handler = Handler(ModelConfig(str(place), other_generator_file))
    results = [handler.upscale(PNG, "png", fidelity).encoded for fidelity in (0.501, 0.5, 0.55)]
    assert results[0] == results[1] != results[2]
