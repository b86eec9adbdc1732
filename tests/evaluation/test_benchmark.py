import json
import math
from pathlib import Path

import numpy as np
import pytest
from skimage.data import astronaut, coffee

from fakes import photograph, write_generator
from srgan_ray.data import images
from srgan_ray.data.degrade import matlab_bicubic, matlab_bicubic_up
from srgan_ray.errors import InputError
from srgan_ray.evaluation import benchmark
from srgan_ray.evaluation.benchmark import EvaluateConfig, caption_panels, compare, evaluate, load_pairs
from srgan_ray.evaluation.metrics import rgb_to_y
from srgan_ray.evaluation.niqe import load_pristine_model, measure_features
from srgan_ray.models.artifact import load_generator, save_generator


@pytest.fixture
def hr_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "hr"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.png").write_bytes(images.encode(photograph(number, 101, 83), "png"))
    return folder


@pytest.mark.parametrize(("name", "psnr_y"), [("Set5", 28.43), ("Set14", 26.09), ("BSD100", 25.96)])
def test_published_bicubic_figures(benchmarks: Path, name: str, psnr_y: float) -> None:
    pairs = load_pairs(str(benchmarks / name / "HR"), str(benchmarks / name / "LR_bicubic_x4"), "files")
    assert compare(pairs, {}, "files")["bicubic"]["psnr_y"].value == pytest.approx(psnr_y, abs=0.005)


def test_given_lr_and_made_lr_are_the_same_pairs(hr_folder: Path, tmp_path: Path) -> None:
    made = load_pairs(str(hr_folder), "", "matlab_bicubic")
    assert [pair.hr.shape for pair in made] == [(100, 80, 3)] * 2
    (tmp_path / "lr").mkdir()
    for pair in made:
        (tmp_path / "lr" / f"{pair.name}.png").write_bytes(images.encode(matlab_bicubic(pair.hr), "png"))
    for ours, given in zip(made, load_pairs(str(hr_folder), str(tmp_path / "lr"), "files")):
        np.testing.assert_array_equal(ours.lr, given.lr)


def test_a_better_upscaler_gains_and_both_rows_share_a_protocol(hr_folder: Path) -> None:
    pairs = load_pairs(str(hr_folder), "", "opencv_cubic")
    truth = {pair.lr.tobytes(): pair.hr for pair in pairs}
    table = compare(pairs, {"oracle": lambda lr: np.clip(truth[lr.tobytes()] + 1, 0, 255).astype(np.uint8)}, "x")
    assert table["oracle"]["psnr_y"].gain_over(table["bicubic"]["psnr_y"]) > 5
    assert "oracle" in benchmark.format_table(table)


def test_diagnostics_stand_beside_bicubic_and_hr(hr_folder: Path) -> None:
    pairs = load_pairs(str(hr_folder), "", "opencv_cubic")
    grid = np.where(np.indices((100, 80)).sum(axis=0) % 2, 15, -5)[..., None]

    def spoil(lr: np.ndarray) -> np.ndarray:
        return np.clip(matlab_bicubic_up(lr) + grid, 0, 255).astype(np.uint8)

    table = compare(pairs, {"spoilt": spoil}, "opencv_cubic")
    assert list(table) == ["bicubic", "spoilt", "HR"]
    assert set(table["HR"]) == {"checkerboard"}
    for metric in ("checkerboard", "colour_drift"):
        spoilt, bicubic = table["spoilt"][metric], table["bicubic"][metric]
        assert spoilt.value > bicubic.value + 3
        assert spoilt.gain_over(bicubic) < -3
        assert (spoilt.protocol.metric, spoilt.protocol.degradation) == (metric, "opencv_cubic")
        assert spoilt.protocol.border_px == 0
    assert table["spoilt"]["consistency"].gain_over(table["bicubic"]["consistency"]) < 0
    lines = benchmark.format_table(table).splitlines()
    assert [line.split()[0] for line in lines] == [
        *("psnr_y", "bicubic", "spoilt", "in", "checkerboard", "bicubic", "spoilt", "HR", "in")
    ]
    assert "border 4 px" in lines[3]
    assert "border 0 px" in lines[8]
    assert lines[8].endswith("; swd: patches of all images")


def test_consistency_is_left_out_where_lr_was_given(hr_folder: Path) -> None:
    assert "consistency" not in compare(load_pairs(str(hr_folder), "", "opencv_cubic"), {}, "files")["bicubic"]


def test_niqe_is_a_column_where_its_model_is_given(generator_file: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "hr").mkdir()
    for name, photograph_ in {"astronaut": astronaut(), "coffee": coffee()}.items():
        (tmp_path / "hr" / f"{name}.png").write_bytes(images.encode(photograph_, "png"))
    features = measure_features(rgb_to_y(astronaut()))
    model = tmp_path / "model.npz"
    np.savez(model, mu_pris_param=features.mean(axis=0), cov_pris_param=np.cov(features, rowvar=False))
    files = {"generator": generator_file, "niqe_model": str(model), "json": str(tmp_path / "f.json")}
    config = EvaluateConfig(str(tmp_path / "hr"), **files)
    figures = evaluate(config)["figures"]
    assert figures["HR"]["niqe"] < figures["bicubic"]["niqe"]
    printed = capsys.readouterr().err.splitlines()
    hr_line = next(line for line in printed if line.startswith("HR"))
    assert any(line.endswith(f"; niqe: model {load_pristine_model(str(model)).hash}") for line in printed)
    assert f"(+{figures['bicubic']['niqe'] - figures['HR']['niqe']:.2f}" in hr_line
    protocol = json.loads((tmp_path / "f.json").read_text())["figures"]["HR"]["niqe"]["protocol"]
    assert (protocol["metric"], protocol["colour"], protocol["border_px"]) == ("niqe", "y", 4)
    assert protocol["model_hash"] == load_pristine_model(str(model)).hash


def test_niqe_wants_images_of_two_blocks(hr_folder: Path) -> None:
    with pytest.raises(InputError, match="0 has 80x100 pixels; wanted 2 blocks of 96x96"):
        evaluate(EvaluateConfig(str(hr_folder), niqe_model="model.npz"))


def test_figures_and_pictures_are_written(hr_folder: Path, generator_file: str, tmp_path: Path) -> None:
    files = {"generator": generator_file, "json": str(tmp_path / "o/f.json"), "pictures": str(tmp_path / "p")}
    config = EvaluateConfig(str(hr_folder), degradation="opencv_cubic", **files)
    summary = evaluate(config)
    assert summary["num_images"] == 2
    written = json.loads((tmp_path / "o" / "f.json").read_text())["figures"]["bicubic"]["psnr_y"]
    assert written["protocol"]["colour"] == "y"
    assert written["protocol"]["border_px"] == 4
    assert written["value"] == pytest.approx(summary["figures"]["bicubic"]["psnr_y"], abs=1e-4)
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["0.png", "1.png"]


def test_papers_degradation_is_taken_where_nothing_is_given(hr_folder: Path, generator_file: str, capsys) -> None:
    summary = evaluate(EvaluateConfig(str(hr_folder), generator=generator_file))
    assert (summary["degradation"], summary["trained_on"]) == ("matlab_bicubic", "opencv_cubic")
    assert "note: trained on LR by opencv_cubic" in capsys.readouterr().err


def test_pictures_show_lr_outputs_and_hr_in_this_order() -> None:
    lr, hr = np.full((4, 8, 3), 10, np.uint8), np.full((16, 32, 3), 200, np.uint8)
    picture = caption_panels(lr, {"SR": np.full((16, 32, 3), 90, np.uint8)}, hr)
    assert picture.shape == (36, 96, 3)
    assert [picture[-1, column, 0] for column in (0, 40, 80)] == [10, 90, 200]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": "x", "degradation": "opencv_cubic"}, "wanted one of them"),
        ({"degradation": "area"}, "--degradation area"),
        ({"lr": "nowhere"}, "--lr nowhere"),
    ],
)
def test_bad_settings(hr_folder: Path, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(EvaluateConfig(str(hr_folder), **settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"json": "hr"}, r"--json .*hr: Is a directory; wanted a file to write to"),
        ({"json": "hr/0.png/f.json"}, r"--json .*: File exists; wanted a file"),
        ({"pictures": "hr/0.png"}, r"--pictures .*0\.png: File exists; wanted a folder to write to"),
        ({"pictures": "hr/0.png/deep"}, r"--pictures .*deep: Not a directory; wanted a folder"),
    ],
)
def test_places_that_cannot_be_written_to_are_told_before_measuring(
    hr_folder: Path, generator_file: str, settings: dict, message: str, monkeypatch
) -> None:
    monkeypatch.setattr(benchmark, "compare", None)
    places = {name: str(hr_folder.parent / value) for name, value in settings.items()}
    with pytest.raises(InputError, match=message):
        evaluate(EvaluateConfig(str(hr_folder), generator=generator_file, **places))


def test_a_generator_that_is_not_finite_is_named(hr_folder: Path, tmp_path: Path) -> None:
    weights, card = load_generator(write_generator(tmp_path / "g.safetensors", 0, "damaged"))
    damaged = {name: tensor * math.nan for name, tensor in weights.state_dict().items()}
    save_generator(tmp_path / "g.safetensors", damaged, card)
    with pytest.raises(InputError, match=r"--generator .*g\.safetensors: .* values that are not finite"):
        evaluate(EvaluateConfig(str(hr_folder), generator=str(tmp_path / "g.safetensors")))


def test_an_image_of_one_colour_is_named(hr_folder: Path, generator_file: str) -> None:
    """Also where it has a frame as wide as the border that is not measured."""
    framed = np.pad(np.full((40, 40, 3), 100, np.uint8), ((4, 4), (4, 4), (0, 0)))
    (hr_folder / "3.png").write_bytes(images.encode(framed, "png"))
    with pytest.raises(InputError, match=r"--hr .*3\.png: one colour inside the border of 4 px; wanted"):
        evaluate(EvaluateConfig(str(hr_folder), generator=generator_file))


def test_bad_files(hr_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lr").mkdir()
    for number in range(2):
        (tmp_path / "lr" / f"{number}.png").write_bytes(images.encode(photograph(0, 25, 21), "png"))
    with pytest.raises(InputError, match="21x25 pixels; wanted 1/4 of HR, 20x25"):
        load_pairs(str(hr_folder), str(tmp_path / "lr"), "files")
    (hr_folder / "2.png").write_text("no image")
    with pytest.raises(InputError, match="not an image"):
        load_pairs(str(hr_folder), "", "opencv_cubic")
    with pytest.raises(InputError, match="no folder"):
        load_pairs(str(tmp_path / "none"), "", "opencv_cubic")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is empty"):
        load_pairs(str(tmp_path / "empty"), "", "opencv_cubic")
