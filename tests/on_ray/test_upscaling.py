"""Folders through Ray Data: the same results as without it, and what kills cost."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fakes import photograph
from processes import processes_of, wait_for
from srgan_ray.data import images
from srgan_ray.data.storage import Folder
from srgan_ray.errors import InputError
from srgan_ray.serving.files import UpscaleConfig
from srgan_ray.serving.handler import ModelConfig
from srgan_ray.serving.worklist import carry_out, open_worklist, upscale_here

pytestmark = pytest.mark.ray
NUM_FILES = 40
TIMING = {"seconds": 0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nested photographs, one of them with a name that is no UTF-8."""
    for number in range(6):
        path = tmp_path / "in" / f"deep_{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.encode(photograph(number, 12, 16), "png"))
    path.rename(path.with_name(os.fsdecode(b"\xff.png")))
    return tmp_path / "in"


def upscale(config: UpscaleConfig) -> dict:
    from srgan_ray.on_ray import upscaling

    with open_worklist(config) as worklist:
        return carry_out(worklist, upscaling.upscale(worklist))


def rows(out: Path | str) -> list[dict]:
    """Of files that are finished."""
    found = map(json.loads, Folder(out).read("manifest.jsonl").splitlines())
    return [row for row in found if row["status"] != "begun"]


def results(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.png")}


def test_a_folder_under_ray_is_as_without_it(
    folder: Path, generator_file: str, ray_cluster: None, tmp_path: Path
) -> None:
    (folder / "bad.png").write_text("no image")
    config = UpscaleConfig((str(folder),), str(tmp_path / "ray"), ModelConfig(generator_file, precision="fp32"))
    plain = dataclasses.replace(config, out=str(tmp_path / "plain"))
    with pytest.raises(InputError, match=r"bad\.png: not an image.*1 of 7 failed"):
        upscale(config)
    with pytest.raises(InputError, match=r"bad\.png: not an image.*1 of 7 failed"), open_worklist(plain) as worklist:
        carry_out(worklist, upscale_here(worklist))
    assert results(tmp_path / "ray") == results(tmp_path / "plain")
    assert len(results(tmp_path / "ray")) == 6
    ours, theirs = rows(config.out), rows(plain.out)
    assert len(ours) == 7
    for row in theirs:
        row["output"] = row["output"].replace(plain.out, config.out)
    assert [row | TIMING for row in ours] == [row | TIMING for row in theirs]
    (folder / "bad.png").write_bytes(images.encode(photograph(9, 12, 16), "png"))
    assert upscale(config).items() >= {"upscaled": 1, "skipped": 6}.items()


def test_a_picture_that_kills_its_workers_is_a_bad_file(
    folder: Path, generator_file: str, ray_cluster: None, tmp_path: Path, monkeypatch
) -> None:
    from srgan_ray.on_ray import upscaling

    def build(config: UpscaleConfig, num_threads: int):
        def upscale_or_die(source):
            if source.name.endswith("2.png"):
                os.kill(os.getpid(), signal.SIGKILL)
            return original(config, num_threads)(source)

        return upscale_or_die

    original = upscaling._build
    monkeypatch.setattr(upscaling, "_build", build)
    config = UpscaleConfig((str(folder),), str(tmp_path / "out"), ModelConfig(generator_file))
    with pytest.raises(InputError, match=r"/2\.png: 3 workers died while at it; .*1 of 6 failed"):
        upscale(config)
    assert [row["status"] for row in rows(config.out)].count("upscaled") == 5


def test_an_out_that_cannot_be_written_to_is_said_in_one_line(
    folder: Path, generator_file: str, ray_cluster: None, tmp_path: Path
) -> None:
    (tmp_path / "out" / "deep_0").mkdir(parents=True)
    for number in range(6):
        (tmp_path / "out" / "deep_0" / f"{number}.png.writing").symlink_to("/dev/full")
    config = UpscaleConfig((str(folder),), str(tmp_path / "out"), ModelConfig(generator_file))
    with pytest.raises(InputError, match=r"^--out .*: deep_0/\d\.png cannot be written: .*No space left"):
        upscale(config)


def start(folder: Path | str, out: Path | str) -> subprocess.Popen:
    command = [sys.executable, "-m", "srgan_ray", "upscale", str(folder), "--out", str(out)]
    variables = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.Popen(
        command,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def workers(session: int) -> list[int]:
    return [pid for pid, command in processes_of(session).items() if command.startswith("ray::MapWorker")]


def num_rows(out: Path) -> int:
    return len(rows(out)) if (out / "manifest.jsonl").exists() else 0


def num_results(out: Path) -> int:
    return len(list(out.glob("*.png")))


def times(out: Path) -> dict[str, int]:
    """When each result that the manifest knows was written."""
    return {row["output"]: Path(row["output"]).stat().st_mtime_ns for row in rows(out)}


@pytest.mark.slow
def test_kills_cost_little(tmp_path: Path) -> None:
    """The command killed; started again and stopped as `ray job stop` does it; started again, and a worker killed."""
    folder, out = tmp_path / "in", tmp_path / "out"
    for number in range(NUM_FILES):
        Folder(folder).write(f"{number:02d}.png", images.encode(photograph(number), "png"))
    killed = start(folder, out)
    wait_for(lambda: num_rows(out))
    killed.kill()
    killed.communicate(timeout=60)
    wait_for(lambda: not workers(killed.pid))
    after_kill = times(out)
    assert 0 < len(after_kill) < NUM_FILES

    already = num_results(out)
    stopped = start(folder, out)
    wait_for(lambda: num_results(out) > already)
    stopped.send_signal(signal.SIGTERM)
    _, errors = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, errors
    assert errors.splitlines()[-1].startswith("srgan-ray upscale: stopped; the same command goes on")
    assert "Traceback" not in errors
    wait_for(lambda: not processes_of(stopped.pid))
    after_stop = times(out)
    assert len(after_kill) < len(after_stop) < NUM_FILES

    already = num_results(out)
    last = start(folder, out)
    wait_for(lambda: num_results(out) > already)
    os.kill(workers(last.pid)[0], signal.SIGKILL)
    output, errors = last.communicate(timeout=200)
    assert last.returncode == 0, errors
    summary = json.loads(output.splitlines()[-1])
    assert (summary["upscaled"], summary["skipped"]) == (NUM_FILES - len(after_stop), len(after_stop))
    assert summary["generator"] == "psnr"
    assert after_kill.items() <= after_stop.items() <= times(out).items()
    assert num_rows(out) == num_results(out) == NUM_FILES


@pytest.mark.slow
def test_a_folder_on_object_storage(folder: Path, bucket: str, tmp_path: Path) -> None:
    place = f"{bucket}/{tmp_path.name}"
    for path in folder.glob("deep_0/*"):
        Folder(f"{place}/in").write(f"deep/{path.name}", path.read_bytes())
    Folder(f"{place}/in").write("bad.png", b"no image")
    process = start(f"{place}/in", f"{place}/in/out")
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 2, errors
    assert output == ""
    assert f"srgan-ray upscale: INPUT {place}/in/bad.png: not an image" in errors.splitlines()[-1]
    assert errors.splitlines()[-1].endswith(f"(1 of 4 failed, the others are in {place}/in/out)")
    for path in folder.glob("deep_0/*"):
        assert images.read_header(Folder(f"{place}/in/out").read(f"deep/{path.name}")) == ("PNG", 64, 48)
