"""The search's page, and the files beside it, from rows that tests make up."""

import dataclasses
import html
import json
import math
import re
import shlex
from pathlib import Path

import pytest

from fakes import finished_trial, photograph, write_generator
from pages import Balance, assert_stands_alone
from srgan_ray.cli import parse
from srgan_ray.data import images
from srgan_ray.errors import InputError
from srgan_ray.evaluation.benchmark import caption_panels
from srgan_ray.search.config import TuneConfig
from srgan_ray.search.folder import SearchFolder
from srgan_ray.search.report import render_search_report
from srgan_ray.search.trials import FAILED, SEED, STOPPED, Leg, Trial

SETTINGS = [{"learning_rate": rate, "pixel_weight": 1.5} for rate in (1e-5, 1e-4, 1e-3)]
TRIALS = [
    finished_trial(0, 26.0, 8.0, {SEED: 0}),
    finished_trial(1, 26.1, 8.2, {SEED: 1}),
    finished_trial(2, 26.05, 7.0, SETTINGS[0]),
    finished_trial(3, 27.5, 7.5, SETTINGS[1]),
    finished_trial(4, 29.0, 5.0, SETTINGS[2], checkerboard=0.9),
    Trial(5, SETTINGS[0], STOPPED, 50, 9.0),
    Trial(6, SETTINGS[1], FAILED, 0, 0.0, error="loss became <nan>"),
]
CONFIG = TuneConfig(
    data="my shards",
    out="search",
    init="psnr",
    trials=5,
    learning_rate=3e-5,
    space=("learning_rate=log:1e-5:1e-3", "pixel_weight=choice:0,1.5"),
)
ORIGIN = {"data_hash": "abc", "versions": {"torch": "2.14.1"}}


def render(trials=TRIALS, chosen: Trial | None = TRIALS[3]) -> str:
    hr = photograph(0, 64, 64)
    picture = images.encode(caption_panels(hr[::4, ::4], {"bicubic": hr, "SR": hr}, hr), "png")
    samples = {number: {"dog": picture} for number in (0, 2, 3)}
    return render_search_report(CONFIG, ORIGIN, trials, chosen, samples)


def test_the_page_stands_alone_and_is_the_same_each_time() -> None:
    page = render()
    assert_stands_alone(page)
    assert Balance(page).open == []
    assert page == render()


def test_gains_beside_the_noise_of_the_seeds() -> None:
    """Trial 2: psnr 26.05 is the baselines' mean; perception 7.0 is 1.1 better, their spread is 0.2."""
    texts = Balance(render()).texts
    start = texts.index("trial 2 knee")
    assert texts[start + 1 : start + 7] == ["26.050", "+0.000", "within noise", "7.000", "+1.100", "better"]
    assert "trial 3 chosen" in texts
    assert any("psnr 0.100, perception 0.200 apart" in text for text in texts)


def test_side_by_side_are_lr_bicubic_what_is_shown_and_hr() -> None:
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", render())
    assert captions == [
        *("LR", "bicubic", "baseline 0: 26.00 dB, swd 8.00"),
        *("trial 2: 26.05 dB, swd 7.00", "trial 3: 27.50 dB, swd 7.50", "HR"),
    ]


def test_every_trial_is_told_of() -> None:
    texts = Balance(render()).texts
    assert {f"{kind} {number}" for number, kind in enumerate(["baseline"] * 2 + ["trial"] * 5)} <= {*texts, "trial 3"}
    assert "checkerboard = 0.90 levels, healthy up to 0.25" in texts
    assert {"stopped at step 50", "failed at step 0 loss became <nan>"} <= set(texts)
    assert render().count("<circle") == 5 + 2 * 3  # all in the front's drawing, trials by learning rate in two others


@pytest.mark.parametrize("config", [CONFIG, dataclasses.replace(CONFIG, population=True)])
def test_the_command_gives_the_same_search(config: TuneConfig) -> None:
    [code] = re.findall(r"<code>(.*?)</code>", render_search_report(config, ORIGIN, TRIALS, None, {}))
    _, verb, *arguments = shlex.split(html.unescape(re.sub("<.*?>", "", code)))
    assert parse(TuneConfig, arguments, verb) == config


def test_a_population_tells_who_went_on_from_whom() -> None:
    figures = [
        {name: value for name, value in zip(("psnr", "perception"), pair)} for pair in ((26.0, 9.0), (27.0, 8.0))
    ]
    legs = [Leg(50, SETTINGS[0], figures[0], 3), Leg(50, SETTINGS[1], figures[1], None)]
    went_on = dataclasses.replace(TRIALS[2], settings=SETTINGS[2], legs=(legs[0],))
    trials = [*TRIALS[:2], went_on, dataclasses.replace(TRIALS[3], legs=(legs[1],))]
    page = render_search_report(dataclasses.replace(CONFIG, population=True), ORIGIN, trials, None, {})
    texts = Balance(page).texts
    start = texts.index("step 50: trial 2 from trial 3")
    assert texts[start + 1 : start + 5] == ["26.000", "9.000", "27.000", "8.000"]
    start = texts.index("trial 2 from step 0")
    assert texts[start : start + 4] == ["trial 2 from step 0", "trial 3", "0.0001", "1.5"]
    assert texts[start + 4 : start + 8] == ["trial 2 from step 50", "trial 2", "0.001", "1.5"]
    assert Balance(page).open == []
    assert "The population" not in render()


@pytest.mark.parametrize("trials", [TRIALS[4:], TRIALS[5:]])
def test_a_search_without_a_front_says_so(trials: list[Trial]) -> None:
    page = render_search_report(CONFIG, ORIGIN, trials, None, {})
    assert "No trial ended healthy" in page
    assert Balance(page).open == []


@pytest.mark.parametrize("others", [TRIALS[:4], []])
def test_a_trial_whose_perception_is_infinite_is_not_drawn(others: list[Trial]) -> None:
    """As NIQE's is of pictures without texture, which a generator that has collapsed makes."""
    collapsed = finished_trial(7, 30.0, math.inf, {"learning_rate": 1e-2, "pixel_weight": 1.5})
    assert collapsed.faults == ["perception = inf, wanted a finite one"]
    page = render_search_report(CONFIG, ORIGIN, [*others, collapsed], others[3] if others else None, {})
    assert Balance(page).open == []
    assert "perception = inf, wanted a finite one" in page
    assert ("<polyline" in page) == bool(others), "the chart is there where there is something to draw"


@pytest.mark.parametrize("setting", ["init", "fidelity_generator", "niqe_model"])
def test_a_search_does_not_go_on_with_another_file_under_the_same_name(
    setting: str, shards: Path, tmp_path: Path
) -> None:
    path = tmp_path / "given.safetensors"
    write_generator(path, 0, "one")
    config = dataclasses.replace(CONFIG, data=str(shards), out=str(tmp_path / "search"), pixel_weight=1.0)
    config = dataclasses.replace(config, **{setting: str(path)})
    folder = SearchFolder(config.out)
    folder.begin(config)
    folder.check(config)
    write_generator(path, 1, "another")
    name = setting.replace("_", "-")
    with pytest.raises(
        InputError, match=f"--{name}: --out .* holds a search with the file .*, now .*; wanted the same"
    ):
        folder.check(config)


def test_the_folder_holds_what_is_found(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(CONFIG, data=str(shards), out=str(tmp_path / "search"))
    folder = SearchFolder(config.out)
    monkeypatch.setattr("srgan_ray.search.folder.RunFolder.best_samples", lambda run: {})
    write_generator(tmp_path / "search" / "trials" / "00003" / "generator.safetensors", 0, "best")
    folder.begin(config)
    folder.write_trials(TRIALS)
    assert SearchFolder(config.out).trials() == TRIALS
    folder.finish(config, TRIALS, TRIALS[3])
    front = json.loads((tmp_path / "search" / "front.json").read_text())
    assert ([row["number"] for row in front["front"]], front["chosen"]) == ([2, 3], 3)
    assert front["front"][0]["schedule"] == [{"from_step": 0, "trial": 2, "settings": SETTINGS[0]}]
    assert front["spread_of_baselines"] == pytest.approx({"psnr": 0.1, "perception": 0.2})
    chosen = tmp_path / "search" / "generator.safetensors"
    assert chosen.read_bytes() == (tmp_path / "search" / "trials" / "00003" / "generator.safetensors").read_bytes()

    folder.check(dataclasses.replace(config, trials=50, choose="psnr"))
    with pytest.raises(InputError, match=r"holds a search with learning_rate = 3e-05, now 0\.1; wanted the same"):
        folder.check(dataclasses.replace(config, learning_rate=0.1))
    folder.begin(dataclasses.replace(config, population=True))
    with pytest.raises(InputError, match=r"holds a search with trials = 5, now 50; wanted the same"):
        folder.check(dataclasses.replace(config, population=True, trials=50))
    folder.begin(config)
    for damage in ("{", "[]"):
        (tmp_path / "search" / "search.json").write_text(damage)
        with pytest.raises(InputError, match=r"search\.json is damaged, or of another version; wanted another --out"):
            folder.check(config)
    with pytest.raises(InputError, match="is not empty and holds no search"):
        SearchFolder(str(shards)).check(config)
