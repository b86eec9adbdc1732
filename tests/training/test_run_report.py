import dataclasses
import html
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import photograph
from pages import Balance, assert_stands_alone
from srgan_ray.cli import parse
from srgan_ray.config import PretrainConfig, RunConfig, TrainConfig, to_flags
from srgan_ray.data import images
from srgan_ray.data.crops import CropConfig
from srgan_ray.evaluation.benchmark import caption_panels
from srgan_ray.evaluation.metrics import Protocol
from srgan_ray.models.artifact import Card
from srgan_ray.models.discriminator import DiscriminatorConfig
from srgan_ray.models.generator import GeneratorConfig
from srgan_ray.training import plain, report
from srgan_ray.training.folder import RunFolder
from srgan_ray.training.loop import LoopConfig
from srgan_ray.training.report import render_run_report
from srgan_ray.training.steps import Weights

PRETRAIN = PretrainConfig("shards", "run", generator=GeneratorConfig(3, 24))
TRAIN = TrainConfig(
    data="s3://my shards",
    out="run",
    init="pretrained",
    hold_statistics=True,
    crops=CropConfig(degradation="mixed", seed=7),
    loop=LoopConfig(steps=500, schedule="drop"),
    learning_rate=3e-5,
    discriminator=DiscriminatorConfig(num_units=128),
    vgg_weights="random",
)
ORIGIN = {"data_hash": "abc123", "vgg_weights": "", "versions": {"python": "3.11.7", "torch": "2.14.1"}}
PROTOCOL = dataclasses.asdict(Protocol("psnr", "y", "opencv_cubic", "abc123, 4 of val"))
CARD = Card(
    name="run-pretrain-200",
    generator={},
    degradation="opencv_cubic",
    stage="pretrain",
    step=200,
    vgg_weights="",
    metrics={
        "psnr_val": {"value": 27.604, "protocol": PROTOCOL},
        "psnr_bicubic": {"value": 27.142, "protocol": PROTOCOL},
    },
    config={},
    data_hash="abc123",
)


def row(step: int, **more: Any) -> dict[str, Any]:
    return {
        "step": step,
        "loss_train": 1 / step,
        "loss_val": 2 / step,
        "psnr_val": 27 + step / 1000,
        "psnr_bicubic": 27.142,
        "seconds_per_step": 0.25,
        "elapsed_s": 0.25 * step,
        "protocol": PROTOCOL,
        **more,
    }


def render(
    rows: list[dict[str, Any]],
    config: RunConfig = PRETRAIN,
    card: Card = CARD,
    samples: dict[str, dict[int, Path]] | None = None,
    **origin: Any,
) -> str:
    files = {name: {step: str(path) for step, path in by_step.items()} for name, by_step in (samples or {}).items()}
    return render_run_report(config, {**ORIGIN, **origin}, card, rows, files, lambda name: Path(name).read_bytes())


def write_samples(folder: Path, steps: range, height: int = 40, width: int = 60) -> dict[int, Path]:
    """Pictures whose SR panel is another grey at each step."""
    hr = photograph(0, height, width)
    for step in steps:
        sr = np.full_like(hr, step % 256)
        picture = caption_panels(hr[::4, ::4], {"bicubic": hr, "SR": sr}, hr)
        (folder / f"{step}.png").write_bytes(images.encode(picture, "png"))
    return {step: folder / f"{step}.png" for step in steps}


def charts(page: str) -> dict[str, str]:
    """The drawing of each chart by its title."""
    return dict(re.findall(r'<div class="chart"><h3>(.*?)</h3>(.*?</svg>)', page))


def test_the_page_says_what_came_out() -> None:
    texts = Balance(render([row(100), row(200), row(300)])).texts
    for text in (
        "run-pretrain-200",
        "300",
        "27.60",
        "+0.46",
        "0:01:15",
        "0.250",
        "dB PSNR on Y, best validation (step 200)",
    ):
        assert text in texts
    (protocol,) = (text for text in texts if text.startswith("psnr on y"))
    for part in ("border 4 px", "opencv_cubic", "abc123, 4 of val"):
        assert part in protocol


def test_the_mean_time_of_a_step_is_without_validations() -> None:
    """The rows' own means, by the steps that each is of."""
    rows = [row(100, seconds_per_step=0.2, elapsed_s=90.0), row(400, seconds_per_step=0.4, elapsed_s=900.0)]
    assert "0.350" in Balance(render(rows)).texts


def test_the_published_figures_stand_apart() -> None:
    """In a table of their own, under a heading which says that they do not compare."""
    ours, published = render([row(100)]).split("<h3>Published figures")
    assert "27.60" in ours
    assert "not to be compared" in published
    assert "27.60" not in published
    for figure in ("28.43", "25.16", "32.05", "27.58"):
        assert figure in published
        assert figure not in ours


@pytest.mark.parametrize("config", [PRETRAIN, TRAIN])
def test_the_command_repeats_the_run(config: RunConfig) -> None:
    page = render([row(100)], config, dataclasses.replace(CARD, stage="verb"))
    (code,) = re.findall("<code>(.*)</code>", page)
    program, verb, *arguments = shlex.split(html.unescape(re.sub("<.*?>", "", code)))
    assert (program, verb) == ("srgan-ray", "verb")
    assert parse(type(config), arguments, verb) == config
    assert "--batch-size" not in {flag for flag, *_ in to_flags(config)}


def test_every_figure_is_drawn_the_unknown_ones_apart() -> None:
    terms = {"loss_train_content": 0.5, "d_hr": 0.9, "d_sr": 0.1, "colour_drift": 1.5}
    drawn = charts(render([row(100, **terms), row(200, **terms)], TRAIN))
    assert {"Loss", "PSNR on Y", "Verdicts of the discriminator", "Colour drift", "Seconds per step"} == set(drawn)
    assert drawn["Loss"].count("<polyline") == 3
    assert "step 100: 0.01<" in drawn["Loss"]
    assert "step 200: 1.5<" in drawn["Colour drift"]


def test_the_pulls_of_all_losses_are_drawn_together_each_in_a_colour() -> None:
    names = [f"gradient_norm_{name}" for name in Weights._fields]
    page = render([row(step, **dict.fromkeys(names, 0.5)) for step in (100, 200)])
    assert not [title for title in charts(page) if title.startswith("Gradient norm")]
    drawn = charts(page)["Norms of the gradients"]
    used = set(re.findall(r'<polyline class="(series-\d)', drawn))
    assert len(used) == len(Weights._fields)
    assert all(f".{name} {{ --series:" in page for name in used)


def test_bicubic_is_a_line_from_side_to_side() -> None:
    chart = charts(render([row(100), row(200)]))["PSNR on Y"]
    (points,) = re.findall(r'class="[^"]* level" points="([^"]*)"', chart)
    x, y = zip(*(map(float, point.split(",")) for point in points.split()))
    assert (min(x), max(x)) == (48, 410)
    assert len(set(y)) == 1
    assert "psnr_bicubic <b>27.142</b>" in chart


def test_figures_may_be_missing_or_not_finite() -> None:
    """They leave a gap; what is no number is no figure."""
    drawn = charts(render([row(100, consistency_db=40.0), row(200, consistency_db=float("inf")), row(300, note="x")]))
    assert drawn["Consistency with LR"].count("<circle") == 1
    assert "Note" not in drawn
    assert "Protocol" not in drawn


def test_alarms_are_listed_with_their_steps() -> None:
    texts = Balance(render([row(100, alarms=["D has won"]), row(200), row(1300, alarms=["too red", "D > G"])])).texts
    listed = texts[texts.index("Alarms") : texts.index("Curves")]
    assert [text for text in listed if text] == [
        "Alarms", "3", "step 100", "D has won", "step 1,300", "too red", "step 1,300", "D > G"
    ]  # fmt: skip
    assert "none" in Balance(render([row(100)])).texts


def test_a_random_vgg19_is_said_loudly() -> None:
    assert 'class="warning"' in render([row(100)], TRAIN, vgg_weights="random, seed 0")
    page = render([row(100)], TRAIN, vgg_weights="vgg19.pth, sha256 dcbb9e9d…")
    assert 'class="warning"' not in page
    assert "sha256 dcbb9e9d…" in page
    assert "VGG19" not in render([row(100)])


def test_samples_are_spread_over_the_run(tmp_path: Path) -> None:
    """The first and the last step always; what lies after the last row is of a run that was killed."""
    files = write_samples(tmp_path, range(10, 130, 10))
    samples = {"dog": files, "only of the killed": {120: files[120]}}
    page = render([row(step) for step in range(10, 120, 10)], samples=samples)
    captions = re.findall("<figcaption>(.*?)</figcaption>", page)
    assert captions[:3] == ["LR", "bicubic", "SR, step 10"]
    assert captions[-2:] == ["SR, step 110", "HR"]
    assert len(captions) == 3 + report.MAX_SAMPLE_STEPS


def test_a_sample_is_the_sr_of_its_step(tmp_path: Path) -> None:
    samples = write_samples(tmp_path, range(50, 250, 100))
    panels = report._panels({step: path.read_bytes() for step, path in samples.items()})
    assert [caption for caption, _ in panels] == ["LR", "bicubic", "SR, step 50", "SR, step 150", "HR"]
    assert [image.mean() for _, image in panels[2:4]] == [50, 150]
    np.testing.assert_array_equal(panels[-1][1], photograph(0, 40, 60))


def test_a_single_row_is_enough(tmp_path: Path) -> None:
    page = render([row(1)], samples={"dog": write_samples(tmp_path, range(1, 2))})
    assert Balance(page).open == []
    assert page.count("<img") == 4
    assert charts(page)["Loss"].count("<circle") == 2


def test_the_page_stands_alone_and_is_always_the_same(tmp_path: Path) -> None:
    rows = [row(step, alarms=["a"]) for step in range(10, 60, 10)]
    samples = {"dog": write_samples(tmp_path, range(10, 60, 10))}
    page = render(rows, samples=samples)
    assert_stands_alone(page)
    assert Balance(page).open == []
    assert page == render(rows, samples=samples)


def test_names_can_do_no_harm(tmp_path: Path) -> None:
    name = "\"><script>alert('1')</script>\udcff"
    card = dataclasses.replace(CARD, name=name)
    config = dataclasses.replace(PRETRAIN, out=name)
    samples = {name: write_samples(tmp_path, range(1, 2))}
    page = render([row(1, alarms=[name], **{name: 1.0})], config, card, samples, vgg_weights=f"random{name}")
    assert "<script" not in page
    assert Balance(page).open == []
    page.encode()


def test_a_long_run_of_large_noise_stays_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 4 * 700, 3), np.uint8)
    (tmp_path / "noise.png").write_bytes(images.encode(noise, "png"))
    rows = [row(step, alarms=["advice " * 20], more=1.0 * step) for step in range(1, 5001)]
    samples = {name: dict.fromkeys(range(1, 5001), tmp_path / "noise.png") for name in ("a", "b", "c")}
    page = render(rows, samples=samples)
    assert len(page.encode()) < 5_000_000
    assert page.count("<img") == 3 * 8
    assert "and 4,900 more in metrics.jsonl" in page
    assert "step 1: 1<" in page
    assert "step 5,000: 5,000<" in page


def test_a_run_folder_gets_its_page(pretrain_config: PretrainConfig) -> None:
    plain.fit(pretrain_config)
    folder = RunFolder(pretrain_config.out)
    folder.write_report()
    out = Path(pretrain_config.out)
    written = (out / "report.html").read_bytes()
    page = written.decode()
    assert_stands_alone(page)
    assert page.count("<img") == 3 * 5
    assert json.loads((out / "config.json").read_text())["data_hash"] in page
    assert "pretrained-pretrain-" in page
    folder.write_report()
    assert (out / "report.html").read_bytes() == written
