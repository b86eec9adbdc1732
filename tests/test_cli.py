import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fakes import make_shards
from srgan_ray.cli import main
from srgan_ray.data import images, sources
from srgan_ray.data.manifest import Request
from srgan_ray.data.storage import Folder
from srgan_ray.on_ray import ingest, session


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "srgan_ray", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def fails_in_one_line(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    lines = output.err.splitlines()
    assert len(lines) == 1, output.err
    assert lines[0].startswith(f"srgan-ray {arguments[0]}: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ("unknown", "no verb unknown; wanted one of prepare,"),
        ("prepare", "--out"),
        ("prepare nowhere --out x", "SOURCE nowhere does not exist"),
        ("prepare samples --out x --limit many", "--limit"),
        ("prepare samples --out x --limit -1", "--limit -1; wanted 0 or more"),
        ("prepare samples --out x --degradations area", "wanted one or more of opencv_cubic"),
        ("prepare samples --out x --degradations matlab_bicubic matlab_bicubic", "wanted each of them once"),
        ("prepare samples --out x --min-side-px 15", "--min-side-px 15; wanted 16 or more"),
        ("prepare samples --out x --bogus 1", "--bogus"),
        ("prepare stanford-dogs --out x --cache y --mirror ftp://z", "--mirror ftp://z; wanted"),
        ("prepare samples --out {shards}/manifest.json", "manifest.json"),
        ("prepare samples --out {shards}", "--overwrite"),
        ("prepare {photographs} --out {photographs}", "holds photo"),
        ("pretrain --out x", "--data"),
        ("pretrain --data nowhere --out x", "manifest.json"),
        ("pretrain --data {shards} --out x --steps 0", "--steps 0; wanted 1 or more"),
        ("pretrain --data {shards} --out x --crop-px 48 --batch-size 3 --num-workers 2", "--num-workers 2"),
        ("pretrain --data {shards} --out x --precision int8", "--precision int8"),
        ("pretrain --data {shards} --out x", "--crop-px 96"),
        ("pretrain --data {shards} --out x --generator.num-blocks 0", "--generator.num-blocks 0"),
        ("train --data {shards} --out x --crop-px 48", "--init"),
        ("train --data {shards} --out x --crop-px 48 --init nowhere", "nowhere does not exist; wanted a run folder"),
        ("train --data {shards} --out x --crop-px 48 --init=", "--init names nothing; wanted a run folder"),
        ("evaluate --hr nowhere --degradation matlab_bicubic", "--hr nowhere"),
        ("evaluate --hr {shards} --degradation area", "--degradation area; wanted one of"),
        ("upscale {shards}/manifest.json --out x --generator nowhere", "--generator nowhere does not exist"),
        ("upscale {shards}/manifest.json --out x --generator {shards}/manifest.json", "no generator file"),
        ("upscale a.png --out x --format gif", "--format"),
        ("upscale {shards}/manifest.json --out x --generator {generator} --precision int8", "--precision int8; wanted"),
        ("evaluate --hr {photographs} --generator {generator} --precision int8", "--precision int8; wanted one of"),
        ("serve --generator {generator} --precision int8", "--precision int8; wanted one of"),
        ("serve --generator nowhere", "--generator nowhere does not exist"),
        ("serve --port 70000", "--port 70000; wanted 1 to 65535"),
        ("serve --max-mb 0", "--max-mb 0.0; wanted more than 0"),
        ("serve --max-megapixels-at-once inf", "--max-megapixels-at-once inf; wanted more than 0, and a limit"),
        ("demo", "--out"),
    ],
)
def test_bad_arguments_end_in_one_line_and_2(
    arguments: str,
    wanted: str,
    capsys,
    shards: Path,
    photographs: Path,
    generator_file: str,
    tmp_path: Path,
    monkeypatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = next(photographs.iterdir())
    filled = arguments.format(shards=shards, photographs=folder, generator=generator_file)
    assert wanted in fails_in_one_line(capsys, *filled.split())
    assert not (folder / "lock").exists()
    assert not list(tmp_path.iterdir())


def test_a_second_prepare_waits_for_the_first(capsys, photographs: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "shards")
    with folder.locked():
        said = fails_in_one_line(capsys, "prepare", str(photographs), "--out", str(folder))
        assert f"--out {folder}: another command is at work in it" in said
        assert folder.names() == ["lock"]


def test_what_another_prepare_finishes_meanwhile_is_not_made_again(
    capsys, photographs: Path, tmp_path: Path, monkeypatch
) -> None:
    request, listing = Request(str(photographs), min_side_px=48), sources.list_photographs

    def list_slowly(*given: str) -> list[sources.Photograph]:
        monkeypatch.undo()
        make_shards(tmp_path, request)
        return listing(*given)

    monkeypatch.setattr(sources, "list_photographs", list_slowly)
    main(["prepare", str(photographs), "--out", str(tmp_path), "--min-side-px", "48"])
    assert "nothing to do" in capsys.readouterr().err


def test_overwrite_mends_a_set_that_nothing_else_mends(
    capsys, photographs: Path, shards: Path, tmp_path: Path, monkeypatch
) -> None:
    begun = []
    monkeypatch.setattr(session, "ray_session", contextlib.nullcontext)
    monkeypatch.setattr(ingest, "prepare", lambda photographs, request, folder: begun.append(folder) or {})
    set_ = shutil.copytree(shards, tmp_path / "set")
    (set_ / "train" / "00000.parquet").unlink()
    command = f"prepare {photographs} --out {set_} --val-fraction 0.5 --min-side-px 48".split()
    main(command)
    assert "nothing to do" in capsys.readouterr().err
    assert not begun
    main([*command, "--overwrite"])
    assert len(begun) == 1


def test_a_finished_set_is_neither_locked_nor_written_to(capsys, photographs: Path, shards: Path) -> None:
    main(f"prepare {photographs} --out {shards} --val-fraction 0.5 --min-side-px 48".split())
    assert "nothing to do" in capsys.readouterr().err
    assert "lock" not in Folder(shards).names()


def test_help_lists_the_verbs_and_each_verb_its_arguments() -> None:
    overview = run("--help")
    assert overview.returncode == 0
    verbs = ["prepare", "pretrain", "train", "evaluate", "upscale", "serve", "demo"]
    assert all(f"  {verb} " in overview.stdout for verb in verbs)
    helped = run("pretrain", "--help")
    assert helped.returncode == 0
    for flag in ("--data", "--out", "--steps", "--evaluate-every", "--batch-size", "--num-workers", "--degradation"):
        assert flag in helped.stdout
    assert "default: 20000" in helped.stdout


def test_the_last_line_on_standard_output_is_json(photographs: Path, tmp_path: Path) -> None:
    done = run("evaluate", "--hr", str(next(photographs.iterdir())), "--degradation", "matlab_bicubic")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["num_images"] == 4
    assert "bicubic" in done.stderr


def test_numbers_that_are_not_finite_are_null(capsys, generator_file: str, tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    (tmp_path / "hr").mkdir()
    grey = np.full((48, 48, 3), 100, np.uint8)
    grey[24, 24] += 1  # which no LR shows
    (tmp_path / "hr" / "grey.png").write_bytes(images.encode(grey, "png"))
    main(f"evaluate --hr {tmp_path / 'hr'} --generator {generator_file} --json {tmp_path / 'f.json'}".split())
    summary = json.loads(capsys.readouterr().out.splitlines()[-1], parse_constant=refuse)
    written = json.loads((tmp_path / "f.json").read_text(), parse_constant=refuse)
    assert summary["figures"]["bicubic"]["consistency"] is written["figures"]["bicubic"]["consistency"]["value"] is None
    assert summary["figures"]["bicubic"]["colour_drift"] < 0.01


def test_a_job_takes_the_same_arguments(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    job = [sys.executable, str(root / "jobs" / "prepare.py"), "nowhere", "--out", "x"]
    done = subprocess.run(job, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    assert done.returncode == 2
    assert "SOURCE nowhere does not exist" in done.stderr
