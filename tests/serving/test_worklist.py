"""The manifest, what is not done again, and the end; in this process."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes import photograph, write_generator
from srgan_ray.data import images
from srgan_ray.data.storage import Folder, below, list_files
from srgan_ray.errors import InputError
from srgan_ray.models.registry import Registry
from srgan_ray.serving import worklist
from srgan_ray.serving.files import Outcome, UpscaleConfig
from srgan_ray.serving.handler import Handler, ModelConfig
from srgan_ray.serving.worklist import Worklist, carry_out, open_worklist, upscale_here


@pytest.fixture
def config(tmp_path: Path, generator_file: str) -> UpscaleConfig:
    """Of a folder with three photographs."""
    for number, name in enumerate(("c.png", "a.png", "deep/b.jpeg")):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.encode(photograph(number, 8, 8), path.suffix[1:]))
    return UpscaleConfig((str(tmp_path / "in"),), str(tmp_path / "out"), ModelConfig(generator_file))


def run(config: UpscaleConfig) -> dict:
    with open_worklist(config) as made:
        return carry_out(made, upscale_here(made))


def rows(config: UpscaleConfig) -> list[dict]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    lines = Folder(config.out).read("manifest.jsonl").splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def look(config: UpscaleConfig) -> Worklist:
    with open_worklist(config) as made:
        return made


def todo(config: UpscaleConfig) -> list[str]:
    return [source.name for source in look(config).todo]


def test_all_files_become_results_and_rows(config: UpscaleConfig) -> None:
    assert run(config) == {
        "out": config.out,
        "upscaled": 3,
        "skipped": 0,
        "manifest": f"{config.out}/manifest.jsonl",
        "generator": "sharp",
    }
    found = rows(config)
    assert [row["input"] for row in found] == [
        below(config.input[0], name) for name in ("a.png", "c.png", "deep/b.jpeg")
    ]
    assert [row["output"] for row in found] == [below(config.out, name) for name in ("a.png", "c.png", "deep/b.png")]
    assert all((row["status"], row["width"], row["generator"]) == ("upscaled", 32, "sharp") for row in found)
    assert all(row["consistency_db"] > 0 and row["seconds"] > 0 and "error" not in row for row in found)
    assert all(images.read_header(Path(row["output"]).read_bytes()).width == 32 for row in found)


def test_bad_files_have_rows_and_the_first_is_named_at_the_end(config: UpscaleConfig) -> None:
    Path(config.input[0], "b.png").write_text("no image")
    Path(config.input[0], "d.png").write_text("neither")
    with pytest.raises(InputError, match=r"INPUT .*b\.png: not an image.* \(2 of 5 failed, the others are in .*out\)"):
        run(config)
    found = rows(config)
    assert [row["status"] for row in found] == ["upscaled", "failed", "upscaled", "failed", "upscaled"]
    assert "not an image" in found[1]["error"]
    assert todo(config) == ["b.png", "d.png"]


def test_a_bad_file_is_tried_again_though_an_older_result_is_there(config: UpscaleConfig) -> None:
    run(config)
    Path(config.input[0], "a.png").write_text("no image any more")
    for _ in range(2):
        with pytest.raises(InputError, match=r"a\.png: not an image.*1 of 3 failed"):
            run(config)
        assert todo(config) == ["a.png"]


def test_an_infinite_consistency_is_null(config: UpscaleConfig, monkeypatch) -> None:
    monkeypatch.setattr("srgan_ray.serving.handler.consistency_db", lambda *_: math.inf)
    run(config)
    assert {row["consistency_db"] for row in rows(config)} == {None}
    assert todo(config) == []


def test_rows_of_other_inputs_stay_while_their_results_are_there(config: UpscaleConfig) -> None:
    run(config)
    before = rows(config)
    more = Path(config.input[0]).parent / "more"
    more.mkdir()
    (more / "d.png").write_text("no image")
    (more / "e.png").write_bytes(images.encode(photograph(9, 8, 8), "png"))
    other = dataclasses.replace(config, input=(str(more),))
    with pytest.raises(InputError, match="1 of 2 failed"):
        run(other)
    (more / "d.png").unlink()
    assert run(other)["skipped"] == 1
    assert [row for row in rows(config) if row in before] == before
    assert len(rows(config)) == 4
    assert todo(config) == []
    Path(config.out, "a.png").unlink()
    run(other)
    assert len(rows(config)) == 3
    assert todo(config) == ["a.png"]


def test_the_result_of_another_input_is_not_overwritten(config: UpscaleConfig) -> None:
    run(config)
    before = Path(config.out, "a.png").read_bytes()
    more = Path(config.input[0]).parent / "more"
    more.mkdir()
    (more / "a.jpeg").write_bytes(images.encode(photograph(9, 8, 8), "jpeg"))
    other = dataclasses.replace(config, input=(str(more),))
    message = rf"INPUT {more}/a\.jpeg: --out {config.out} has a\.png of {config.input[0]}/a\.png; wanted another folder"
    with pytest.raises(InputError, match=message):
        run(other)
    assert Path(config.out, "a.png").read_bytes() == before
    assert todo(config) == []


def test_what_is_done_is_not_done_again(config: UpscaleConfig) -> None:
    run(config)
    files = {entry.name: entry.modified_ns for entry in list_files(config.out) if entry.name.endswith(".png")}
    before = rows(config)
    summary = run(config)
    assert (summary["upscaled"], summary["skipped"]) == (0, 3)
    assert rows(config) == before
    assert files.items() <= {entry.name: entry.modified_ns for entry in list_files(config.out)}.items()


def test_what_does_not_hold_is_done_again(config: UpscaleConfig, tmp_path: Path) -> None:
    run(config)
    source, result = Path(config.input[0], "a.png"), Path(config.out, "c.png")
    os.utime(source, ns=(0, 5))
    assert todo(config) == ["a.png"]
    result.unlink()
    assert todo(config) == ["a.png", "c.png"]
    run(config)
    assert todo(config) == []
    assert [row["output"] for row in rows(config)] == sorted(row["output"] for row in rows(config))
    modified_ns = source.stat().st_mtime_ns
    source.write_bytes(source.read_bytes() + b"more")
    os.utime(source, ns=(modified_ns, modified_ns))
    assert todo(config) == ["a.png"]


def test_other_settings_do_all_again(config: UpscaleConfig, other_generator_file: str) -> None:
    blended = ModelConfig(config.model.generator, other_generator_file)
    run(config)
    for change in (
        {"format": "webp"},
        {"model": ModelConfig(other_generator_file)},
        {"model": ModelConfig(config.model.generator, precision="fp32")},
        {"model": blended, "fidelity": 0.5},
    ):
        assert len(todo(dataclasses.replace(config, **change))) == 3, change
    run(dataclasses.replace(config, model=blended, fidelity=0.5))
    assert len(todo(dataclasses.replace(config, model=blended, fidelity=0.25))) == 3


def test_other_weights_under_the_same_name_do_all_again(config: UpscaleConfig, tmp_path: Path) -> None:
    changing = dataclasses.replace(config, model=ModelConfig(write_generator(tmp_path / "g.safetensors", 0, "same")))
    run(changing)
    assert todo(changing) == []
    write_generator(tmp_path / "g.safetensors", 1, "same")
    assert len(todo(changing)) == 3


def observe(made: Worklist, config: UpscaleConfig, num_rows: list[int]) -> Iterator[Outcome]:
    """Outcomes, and how many rows of finished ones the file has whenever the next one is asked for."""
    for outcome in upscale_here(made):
        num_rows.append(sum(row["status"] != "begun" for row in rows(config)))
        yield outcome


def test_a_registry_that_moves_on_changes_nothing_under_way(
    config: UpscaleConfig, generator_file: str, other_generator_file: str, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "registry", "--to")
    registry.promote(Path(generator_file).read_bytes(), {})
    config = dataclasses.replace(config, model=ModelConfig(str(tmp_path / "registry")))
    with open_worklist(config) as made:
        registry.promote(Path(other_generator_file).read_bytes(), {})
        assert Handler(made.config.model).card.name == made.handler.card.name == "sharp"
    assert look(config).handler.card.name == "faithful"


@pytest.mark.parametrize(
    ("every_s", "share", "expected"), [(0, math.inf, [0, 1, 2]), (60, 1, [0, 0, 0]), (0, 1e-9, [0, 0, 0])]
)
def test_rows_are_written_in_between(
    every_s: float, share: float, expected: list[int], config: UpscaleConfig, monkeypatch
) -> None:
    monkeypatch.setattr(worklist, "WRITE_EVERY_S", every_s)
    monkeypatch.setattr(worklist, "MAX_WRITING_SHARE", share)
    num_rows: list[int] = []
    with open_worklist(config) as made:
        carry_out(made, observe(made, config, num_rows))
    assert num_rows == expected


def test_rows_that_do_not_hold_go_before_their_results_are_replaced(config: UpscaleConfig, generator_file: str) -> None:
    """Else a kill would leave rows that name results of other settings."""
    run(config)
    changed = dataclasses.replace(config, model=ModelConfig(generator_file, precision="fp32"))
    num_rows: list[int] = []
    with open_worklist(changed) as made:
        carry_out(made, observe(made, changed, num_rows))
    assert num_rows[0] == 0


def test_an_interruption_keeps_the_rows(config: UpscaleConfig) -> None:
    def stop(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
        yield next(outcomes)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_worklist(config) as made:
        carry_out(made, stop(upscale_here(made)))
    assert [row["status"] for row in rows(config)] == ["upscaled", "begun", "begun"]
    summary = run(config)
    assert (summary["upscaled"], summary["skipped"]) == (2, 1)


def test_a_result_of_a_killed_command_is_its_own(config: UpscaleConfig) -> None:
    with open_worklist(config) as made:
        outcomes = upscale_here(made)
        with pytest.raises(MemoryError):
            carry_out(made, (kill_after(outcome) for outcome in outcomes))
    assert {row["status"] for row in rows(config)} == {"begun"}
    assert (Path(config.out) / "a.png").exists()
    assert run(config)["upscaled"] == 3


def kill_after(_: Outcome) -> Outcome:
    raise MemoryError


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_file_that_is_no_result_is_not_replaced(config: UpscaleConfig, is_folder: bool) -> None:
    there = Path(config.out) / "a.png"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"a drawing")
    given = config if is_folder else dataclasses.replace(config, input=(below(config.input[0], "a.png"),))
    with pytest.raises(InputError, match=r"a\.png: --out .* has a\.png of unknown origin; wanted another folder"):
        run(given)
    assert there.read_bytes() == b"a drawing"


def test_ray_is_for_folders_with_something_left(config: UpscaleConfig) -> None:
    files = dataclasses.replace(config, input=(below(config.input[0], "a.png"), below(config.input[0], "c.png")))
    assert not look(files).needs_ray
    assert look(dataclasses.replace(config, input=(*files.input, *config.input))).needs_ray
    run(config)
    assert not look(config).needs_ray


def test_paths_are_those_of_any_working_directory(config: UpscaleConfig, tmp_path: Path, monkeypatch) -> None:
    run(config)
    monkeypatch.chdir(tmp_path)
    generator = os.path.relpath(config.model.generator)
    made = look(UpscaleConfig(("in",), "out", ModelConfig(generator)))
    assert (made.todo, made.config.out, made.config.model) == ([], config.out, config.model)


def test_a_manifest_of_something_else_is_refused(config: UpscaleConfig) -> None:
    for content in (b'{"photographs": 3}\n', b"[1]\n", b"no JSON"):
        Folder(config.out).write("manifest.jsonl", content)
        with pytest.raises(InputError, match=r"its manifest\.jsonl is not one of upscale; wanted another folder"):
            look(config)


def test_two_commands_do_not_work_on_one_folder(config: UpscaleConfig) -> None:
    command = [sys.executable, "-m", "srgan_ray", "upscale", *config.input, "--out", config.out]
    with open_worklist(config) as made:
        other = subprocess.run([*command, "--generator", config.model.generator], capture_output=True, text=True)
        assert other.returncode == 2
        [line] = other.stderr.splitlines()
        assert line.endswith(f"--out {config.out}: another command is at work in it; wait for it")
        assert not Folder(config.out).has("manifest.jsonl")
        assert carry_out(made, upscale_here(made))["upscaled"] == 3
    assert run(config)["skipped"] == 3


def test_what_cannot_be_used_leaves_no_folder_behind(config: UpscaleConfig) -> None:
    with pytest.raises(InputError, match="INPUT nowhere"):
        look(dataclasses.replace(config, input=("nowhere",)))
    assert not Path(config.out).exists()
    Path(config.out).write_text("a file")
    with pytest.raises(InputError, match=rf"--out {config.out} cannot be written to"):
        look(config)


def test_from_and_to_object_storage(config: UpscaleConfig, bucket: str, tmp_path: Path) -> None:
    place = f"{bucket}/{tmp_path.name}"
    for name in ("a.png", "deep/b.jpeg", "bad.png"):
        Folder(f"{place}/in").write(name, b"bad" if name == "bad.png" else Path(config.input[0], name).read_bytes())
    remote = dataclasses.replace(config, input=(f"{place}/in",), out=f"{place}/out")
    with pytest.raises(InputError, match=f"INPUT {place}/in/bad.png: not an image.*1 of 3"):
        run(remote)
    run(config)
    for name in ("a.png", "deep/b.png"):
        assert Folder(remote.out).read(name) == Path(config.out, name).read_bytes()
    assert [row["status"] for row in rows(remote)] == ["upscaled", "failed", "upscaled"]
    assert todo(remote) == ["bad.png"]
