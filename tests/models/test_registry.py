"""Versions, the pointer, and the way back."""

from pathlib import Path

import pytest

from fakes import write_generator
from srgan_ray.errors import InputError
from srgan_ray.evaluation.gate import RollbackConfig, roll_back
from srgan_ray.models.artifact import find_generator, load_generator
from srgan_ray.models.registry import Registry, is_registry


@pytest.fixture(params=["disk", "object storage"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "registry")
    return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


def filled(location: str, number: int, tmp_path: Path) -> Registry:
    for seed in range(number):
        content = Path(write_generator(tmp_path / f"{seed}.safetensors", seed, f"generator {seed}")).read_bytes()
        assert Registry(location, "--to").promote(content, {"source": f"run {seed}"}) == seed + 1
    return Registry(location, "--to")


def test_what_was_promoted_last_is_current(location: str, tmp_path: Path) -> None:
    assert (Registry(location, "--to").current, is_registry(location)) == (None, False)
    registry = filled(location, 2, tmp_path)
    assert (registry.current, is_registry(location)) == (2, True)
    assert load_generator(find_generator(location))[1].name == "generator 1"
    entries = [(entry["action"], entry["version"], entry["before"], entry["source"]) for entry in registry.history()]
    assert entries == [("promote", 1, None, "run 0"), ("promote", 2, 1, "run 1")]


def test_the_way_back(location: str, tmp_path: Path) -> None:
    registry = filled(location, 3, tmp_path)
    assert [registry.roll_back(None), registry.roll_back(None), registry.current] == [2, 1, 1]
    assert load_generator(find_generator(location))[1].name == "generator 0"
    with pytest.raises(InputError, match="no version before 1 to go back to; wanted --version with one of 1, 2, 3"):
        registry.roll_back(None)
    assert registry.roll_back(3) == 3
    with pytest.raises(InputError, match="no version 9 to go back to"):
        registry.roll_back(9)
    with pytest.raises(InputError, match="no version 0 to go back to"):
        registry.roll_back(0)


def test_no_way_back_to_a_file_that_is_gone(tmp_path: Path) -> None:
    registry = filled(str(tmp_path / "registry"), 2, tmp_path)
    Path(registry.location(1)).unlink()
    with pytest.raises(InputError, match=r"--to .*00001\.safetensors is gone"):
        registry.roll_back(None)
    assert registry.current == 2


@pytest.mark.parametrize("content", [b"{", b"{}", b'{"history": []}', b"[]"])
def test_a_damaged_one_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "registry.json").write_bytes(content)
    for use in (lambda: roll_back(RollbackConfig(str(tmp_path))), lambda: find_generator(str(tmp_path))):
        with pytest.raises(InputError, match=r"registry\.json is damaged"):
            use()


def test_what_was_taken_back_is_not_gone_back_to(location: str, tmp_path: Path) -> None:
    registry = filled(location, 3, tmp_path)
    registry.roll_back(None)
    assert registry.promote(Path(tmp_path / "0.safetensors").read_bytes(), {}) == 4
    assert registry.roll_back(None) == 2


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photograph.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"--to .* holds other things, and no registry; wanted a new or empty one"):
        Registry(str(tmp_path), "--to")
    for nothing in (tmp_path, tmp_path / "new"):
        with pytest.raises(InputError, match=r"REGISTRY .* is no registry; wanted one that promote has filled"):
            roll_back(RollbackConfig(str(nothing)))
    assert not (tmp_path / "new").exists()


def test_one_command_at_a_time(tmp_path: Path) -> None:
    with (
        Registry(str(tmp_path), "--to").locked(),
        pytest.raises(InputError, match=r"--to .*: another command is at work in it"),
        Registry(str(tmp_path), "--to").locked(),
    ):
        pass


def test_what_cannot_be_written_is_named_by_its_setting(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path), "--to")
    (tmp_path / "registry.json").mkdir()
    with pytest.raises(InputError, match=r"^--to .*registry\.json cannot be written"):
        registry.promote(b"content", {})
