"""Checkpoints on local disk and on a local S3: whole or none, written beside the training, the right ones kept."""

import errno
import json
import threading
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from srgan_ray.data.storage import Folder
from srgan_ray.errors import InputError
from srgan_ray.training.checkpoint import Checkpoints, checkpoint_name

INFINITE = float("inf")


def state(step: int, loss_val: float = INFINITE) -> dict[str, Any]:
    return {"schema_version": 2, "step": step, "loss_val": loss_val, "weight": torch.full((1000,), float(step))}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture(params=["local", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "checkpoints")
    return f"{request.getfixturevalue('bucket')}/{tmp_path.name}/checkpoints"


@pytest.fixture
def checkpoints(tmp_path: Path, said: list[str]) -> Checkpoints:
    return Checkpoints(str(tmp_path / "checkpoints"), {}, said.append)


def save(checkpoints: Checkpoints, *states: dict[str, Any]) -> None:
    with checkpoints:
        for saved in states:
            checkpoints.save(saved)


def again(checkpoints: Checkpoints, said: list[str]) -> Checkpoints:
    return Checkpoints(str(checkpoints._folder), {}, said.append)


def test_the_newest_comes_back(location: str, said: list[str]) -> None:
    assert Checkpoints(location, {}, said.append).latest() is None
    save(Checkpoints(location, {"a": 1}, said.append), state(5), state(10, 0.5))
    found = Checkpoints(location, {}, said.append).latest()
    assert found is not None
    assert found["step"] == 10
    assert torch.equal(found["weight"], torch.full((1000,), 10.0))
    seal = json.loads(Folder(location).read("step_00000010/checkpoint.json"))
    assert (seal["step"], seal["loss_val"], seal["config"], seal["schema_version"]) == (10, 0.5, {"a": 1}, 2)
    assert said == []


@pytest.mark.parametrize("fault", ["cut", "altered", "gone", "seal"])
def test_a_broken_one_is_passed_over_with_a_message(location: str, said: list[str], fault: str) -> None:
    save(Checkpoints(location, {}, said.append), state(5), state(10))
    folder = Folder(location)
    content = folder.read("step_00000010/state.pt")
    if fault == "gone":
        folder.delete(["step_00000010/state.pt"])
    elif fault == "seal":
        folder.write("step_00000010/checkpoint.json", b'{"sha256": "')
    else:
        changed = content[: len(content) // 2] if fault == "cut" else content[:-300] + b"\0" + content[-299:]
        folder.write("step_00000010/state.pt", changed)
    found = Checkpoints(location, {}, said.append).latest()
    assert found is not None
    assert found["step"] == 5
    [line] = said
    assert "step_00000010 is not the checkpoint that was written" in line
    save(Checkpoints(location, {}, said.append), state(10), state(15))  # nor does it hinder those that follow
    assert Folder(location).has("step_00000015/checkpoint.json")


def test_without_a_seal_it_is_none(checkpoints: Checkpoints, said: list[str]) -> None:
    """As a kill between the two files leaves it."""
    save(checkpoints, state(5), state(10))
    folder = Folder(str(checkpoints._folder))
    folder.delete(["step_00000010/checkpoint.json"])
    found = again(checkpoints, said).latest()
    assert found is not None
    assert found["step"] == 5
    save(again(checkpoints, said), state(15))
    assert not folder.has("step_00000010/state.pt")


def test_where_none_is_whole_the_run_does_not_begin_anew(checkpoints: Checkpoints, said: list[str]) -> None:
    save(checkpoints, state(5))
    Folder(str(checkpoints._folder)).write("step_00000005/state.pt", b"")
    with pytest.raises(InputError, match="holds no whole checkpoint; remove it to begin the run anew"):
        again(checkpoints, said).latest()


@pytest.mark.parametrize("unreadable", ["state.pt", "checkpoint.json"])
def test_what_cannot_be_read_is_passed_over(
    checkpoints: Checkpoints, said: list[str], unreadable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(checkpoints, state(5), state(10))
    read = Folder.read

    def read_the_rest(folder: Folder, name: str) -> bytes:
        if name == f"step_00000010/{unreadable}":
            raise OSError(errno.EIO, "Input/output error")
        return read(folder, name)

    monkeypatch.setattr(Folder, "read", read_the_rest)
    found = again(checkpoints, said).latest()
    assert found is not None
    assert found["step"] == 5
    assert "step_00000010 cannot be read ([Errno 5] Input/output error): passed over" in said[0]


def test_the_last_two_and_the_best_are_kept(checkpoints: Checkpoints) -> None:
    save(checkpoints, *(state(step, loss) for step, loss in ((1, INFINITE), (2, 0.9), (3, 0.4), (4, 0.4), (5, 0.6))))
    save(checkpoints := again(checkpoints, []), state(6, 0.5))
    kept = sorted({name.split("/")[0] for name in checkpoints._folder.names()})
    assert kept == [checkpoint_name(step) for step in (3, 5, 6)]


def test_what_is_broken_pushes_nothing_out(checkpoints: Checkpoints, said: list[str]) -> None:
    """Of a fallback: the broken ones lie ahead of the run, and one of them may have been the best."""
    save(checkpoints, state(5, 0.9), state(10, 0.8), state(15, 0.1))
    folder = Folder(str(checkpoints._folder))
    folder.write("step_00000015/state.pt", b"")
    save(again(checkpoints, said), state(12, 0.7))
    assert {name.split("/")[0] for name in folder.names()} == {checkpoint_name(step) for step in (10, 12)}
    folder.write("step_00000012/state.pt", b"")
    found = again(checkpoints, said).latest()
    assert found is not None
    assert found["step"] == 10


def test_a_storage_that_deletes_nothing_does_not_end_the_run(
    checkpoints: Checkpoints, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("Access Denied")

    filesystem = SimpleNamespace(delete_file=refuse)
    delete = Folder.delete

    def delete_nothing(folder: Folder, names: Iterable[str]) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("srgan_ray.data.storage.resolve", lambda location: (filesystem, location))
            delete(folder, names)

    monkeypatch.setattr(Folder, "delete", delete_nothing)
    with pytest.raises(InputError, match="cannot be deleted: Access Denied"):  # at the end, said as the last one's
        save(checkpoints, *(state(step) for step in (5, 10, 15, 20)))
    assert "step_00000005/checkpoint.json cannot be deleted: Access Denied; the run goes on" in said[0]
    found = again(checkpoints, said).latest()
    assert found is not None
    assert found["step"] == 20


def test_a_seal_that_cannot_be_read_does_not_end_the_run(
    checkpoints: Checkpoints, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, fails = Folder.read, [True]

    def read_later(folder: Folder, name: str) -> bytes:
        if fails and fails.pop():
            raise OSError("Slow Down")
        return read(folder, name)

    monkeypatch.setattr(Folder, "read", read_later)
    save(checkpoints, state(5), state(10))
    [line] = said
    assert "checkpoints cannot be read: Slow Down; the run goes on" in line


def test_saving_does_not_wait_and_takes_the_state_of_that_moment(
    checkpoints: Checkpoints, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, write = threading.Event(), Folder.write
    monkeypatch.setattr(Folder, "write", lambda *arguments: (may_write.wait(10), write(*arguments)))
    saved = state(5)
    with checkpoints:
        checkpoints.save(saved)
        saved["weight"].zero_()
        assert checkpoints._folder.names() == []
        may_write.set()
    found = again(checkpoints, said).latest()
    assert found is not None
    assert found["weight"][0] == 5


def fill_disk(monkeypatch: pytest.MonkeyPatch, fails: list[bool]) -> None:
    def sync(file: int) -> None:
        if fails.pop(0):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", sync)


def test_a_full_disk_keeps_the_one_before_and_the_run_goes_on(
    checkpoints: Checkpoints, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch, [False, False, True, False, False])
    save(checkpoints, state(5), state(10), state(15))
    [line] = said
    assert "step_00000010/state.pt cannot be written: [Errno 28] No space left on device; the run goes on" in line
    assert [name for name in checkpoints._folder.names() if "10" in name] == []
    found = again(checkpoints, said).latest()
    assert found is not None
    assert found["step"] == 15


def test_a_last_checkpoint_that_was_not_written_is_an_error(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch, [False, False, True])
    with pytest.raises(InputError, match="No space left on device"):
        save(checkpoints, state(5), state(10))
