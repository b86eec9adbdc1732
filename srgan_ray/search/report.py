"""What a search came to, as one HTML page to look at: no script, nothing from elsewhere."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from srgan_ray.config import to_flags, to_words
from srgan_ray.data import images
from srgan_ray.data.page import (
    FIGURES_STYLE,
    Axes,
    command,
    document,
    encode_to_fit,
    escape,
    format_number,
    img,
    table,
    tiles,
)
from srgan_ray.evaluation.benchmark import BICUBIC, split_panels
from srgan_ray.search.config import PERCEPTION, PSNR, TuneConfig
from srgan_ray.search.front import OBJECTIVES, find_front, find_knee, find_spread, gains, verdict
from srgan_ray.search.population import schedule_of
from srgan_ray.search.trials import FINISHED, Trial, format_setting

GUARDS = ("colour_drift", "checkerboard", "consistency_db")
MAX_PHOTOGRAPHS = 3
SHOWN_PX = 256
MANY = 10  # times the lowest value: a scale by powers of ten from there on
STYLE = """
circle { fill: var(--bar); } circle.baseline { fill: var(--second); } circle.front { fill: var(--third); }
circle.ill { fill: none; stroke: var(--soft); stroke-width: 1.5; } text.number { fill: var(--ink); }
polyline { fill: none; stroke: var(--third); stroke-width: 1.5; stroke-dasharray: 4 3; }
.wide svg { max-width: 46rem; overflow: visible; } .legend span::before { content: "●"; margin-right: .3rem; }
.legend .baseline::before { color: var(--second); } .legend .front::before { color: var(--third); }
.legend .ill::before { content: "○"; } .legend .other::before { color: var(--bar); } .scroll { overflow-x: auto; }
.scroll tbody th { white-space: nowrap; } .states td:last-child { white-space: normal; min-width: 22rem; }
"""


def render_search_report(
    config: TuneConfig,
    origin: Mapping[str, Any],
    trials: Sequence[Trial],
    chosen: Trial | None,
    samples: Mapping[int, Mapping[str, bytes]],
) -> str:
    """The page. `origin` is what `search.json` holds; `samples` has, by the numbers of the trials that are shown, the
    encoded pictures of their validation by photograph.

    The same input gives the same page, byte for byte.
    """
    finished = [trial for trial in trials if trial.status == FINISHED]
    parts = [
        *_headline(config, origin, trials, chosen),
        *(_front(trials, chosen) if finished else ()),
        *_pictures(trials, samples),
        *(_settings([trial for trial in finished if _can_be_drawn(trial)]) if finished else ()),
        *(_population(trials) if config.population else ()),
        *_all(trials),
    ]
    return document("Search: perception against distortion", FIGURES_STYLE + STYLE, parts)


def _headline(
    config: TuneConfig, origin: Mapping[str, Any], trials: Sequence[Trial], chosen: Trial | None
) -> Iterator[str]:
    front = find_front(trials)
    counts = {f"trials {status}": sum(trial.status == status for trial in trials) for status in _statuses(trials)}
    yield tiles({what: str(number) for what, number in counts.items()} | {"on the front": str(len(front))})
    if not front:
        yield '<p class="warning">No trial ended healthy: there is no front, and nothing to choose.</p>'
    if chosen:
        yield f'<p class="soft">Chosen by --choose {escape(config.choose)}: {chosen.name}, {_describe(chosen)}</p>'
    yield f'<p class="soft">To repeat it, with another --out:</p>{command("tune", _flags(config))}'
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    yield f'<p class="soft">Data {escape(origin["data_hash"])}; {escape(versions)}</p>'


def _statuses(trials: Sequence[Trial]) -> list[str]:
    return sorted({trial.status for trial in trials})


def _flags(config: TuneConfig) -> list[Sequence[str]]:
    """Those of the training, then the search's own."""
    defaults = TuneConfig(data="", out="", init="")
    return [
        *to_flags(config.training),
        *(
            (f"--{name.replace('_', '-')}", *to_words(value))
            for name, value in config.own_settings.items()
            if value != getattr(defaults, name)
        ),
    ]


def _front(trials: Sequence[Trial], chosen: Trial | None) -> Iterator[str]:
    front, spread = find_front(trials), find_spread(trials)
    finished = [trial for trial in trials if trial.status == FINISHED]
    yield "<section><h2>The front</h2>"
    yield (
        '<p class="soft">Up is better in perception, right in distortion. On the front: what no other healthy trial '
        "beats in both. Not healthy: colours, checkerboards or consistency beyond their limits.</p>"
    )
    yield '<p class="legend"><span class="front">on the front</span><span class="baseline">baseline</span>'
    yield '<span class="other">beaten</span><span class="ill">not healthy</span></p>'
    if drawn := [trial for trial in finished if _can_be_drawn(trial)]:
        yield f'<div class="wide">{_scatter(drawn, front)}</div>'
    if front:
        knee = find_knee(front)
        marks = {knee.number: "knee"} | ({chosen.number: "chosen"} if chosen else {})
        if chosen and chosen.number == knee.number:
            marks[knee.number] = "knee, chosen"
        head = ("", "psnr, dB", "gain", "", finished[0].figures[PERCEPTION].protocol.metric, "gain", "", *GUARDS, "s")
        rows = {
            " ".join(filter(None, (trial.name, marks.get(trial.number)))): [
                *(cell for objective in OBJECTIVES for cell in _cells(trial, trials, spread, objective)),
                *(format_number(round(trial.figures[guard].value, 2)) for guard in GUARDS),
                f"{trial.seconds:.0f}",
            ]
            for trial in front
        }
        yield f'<div class="scroll">{table(head, rows)}</div>'
        yield f'<div class="scroll">{table(("", *_paths(front)), {t.name: _values(t, front) for t in front})}</div>'
    yield f'<p class="soft">{escape(_noise(spread))}</p>'
    for figure in OBJECTIVES:
        yield f'<p class="soft">{escape(str(finished[0].figures[figure].protocol))}</p>'
    yield "</section>"


def _cells(trial: Trial, trials: Sequence[Trial], spread: Mapping[str, float], objective: str) -> tuple[str, str, str]:
    """An objective's value, its gain over the baselines, and whether that is more than noise."""
    value, gain = trial.figures[objective].value, gains(trial, trials).get(objective)
    if gain is None or trial.is_baseline:
        return f"{value:.3f}", "", ""
    return f"{value:.3f}", f"{gain:+.3f}", verdict(gain, spread.get(objective))


def _noise(spread: Mapping[str, float]) -> str:
    if not spread:
        return "Gains are over the baseline; with one seed alone it is not known what chance does: --baseline-seeds 2."
    apart = ", ".join(f"{objective} {value:.3f}" for objective, value in spread.items())
    return f"Gains are over the baselines' mean. Baselines, which differ in the seed alone, lie up to {apart} apart."


def _can_be_drawn(trial: Trial) -> bool:
    return all(math.isfinite(trial.figures[objective].value) for objective in OBJECTIVES)


def _scatter(finished: Sequence[Trial], front: Sequence[Trial]) -> str:
    metric = finished[0].figures[PERCEPTION].protocol.metric
    points = [(trial.figures[PSNR].value, -trial.figures[PERCEPTION].value) for trial in finished]
    axes = _axes([x for x, _ in points], [y for _, y in points], "psnr, dB", f"-{metric}")
    places = {trial.number: (axes.x(x), axes.y(y)) for trial, (x, y) in zip(finished, points)}
    line = " ".join("{:.1f},{:.1f}".format(*places[trial.number]) for trial in front)
    marks = [f'<polyline points="{line}"/>']
    for trial in finished:
        x, y = places[trial.number]
        kind = "ill" if trial.faults else "baseline" if trial.is_baseline else "front" if trial in front else ""
        marks.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3">{_title(trial)}</circle>')
        marks.append(f'<text class="number" x="{x + 5:.1f}" y="{y - 4:.1f}">{trial.number}</text>')
    return axes.draw("perception against distortion", marks)


def _settings(finished: Sequence[Trial]) -> Iterator[str]:
    """Each setting against each objective."""
    yield '<section><h2>What the settings do</h2><div class="charts">'
    for path in _paths(finished):
        found = [trial for trial in finished if isinstance(trial.settings.get(path), (int, float))]
        values = [float(trial.settings[path]) for trial in found]
        if len(set(values)) < 2:
            continue
        by_power = min(values) > 0 and max(values) > MANY * min(values)
        xs = [math.log10(value) for value in values] if by_power else values
        for objective in OBJECTIVES:
            ys = [trial.figures[objective].value for trial in found]
            axes = _axes(xs, ys, f"log10 of {path}" if by_power else path, found[0].figures[objective].protocol.metric)
            marks = [
                f'<circle class="{"ill" if trial.faults else ""}" cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="3">'
                f"{_title(trial)}</circle>"
                for trial, x, y in zip(found, xs, ys)
            ]
            yield f'<div class="chart"><h3>{escape(path)}</h3>{axes.draw(f"{objective} by {path}", marks)}</div>'
    yield "</div></section>"


def _population(trials: Sequence[Trial]) -> Iterator[str]:
    """Who went on from whom, and what the weights of each trial at its end went through."""
    yield "<section><h2>The population</h2>"
    yield (
        '<p class="soft">At each validation the quarter that most others beat went on from the checkpoint of one that '
        "no other beat, with settings near that one's.</p>"
    )
    head = ("", *(f"{objective} of {whose}" for whose in ("its own", "the other") for objective in OBJECTIVES))
    exchanges = {
        f"step {leg.step}: trial {trial.number} from trial {leg.went_on_from}": [
            f"{figures[objective]:.3f}"
            for figures in (leg.figures, trials[leg.went_on_from].legs[index].figures)
            for objective in OBJECTIVES
        ]
        for trial in trials
        for index, leg in enumerate(trial.legs)
        if leg.went_on_from is not None
    }
    yield f'<div class="scroll">{table(head, exchanges)}</div>' if exchanges else "<p>None did.</p>"
    yield '<p class="soft">The settings of each, from a step on, and the trial that had them:</p>'
    schedules = {
        f"trial {trial.number} from step {stretch.from_step}": [
            f"trial {stretch.trial}",
            *(format_setting(stretch.settings[path]) for path in _paths(trials)),
        ]
        for trial in trials
        if not trial.is_baseline
        for stretch in schedule_of(trial, trials)
    }
    yield f'<div class="scroll">{table(("", "", *_paths(trials)), schedules)}</div></section>'


def _axes(xs: Sequence[float], ys: Sequence[float], x_unit: str, y_unit: str) -> Axes:
    (left, right), (bottom, top) = (_widened(values) for values in (xs, ys))
    return Axes(left, right, bottom, top, x_unit, y_unit)


def _widened(values: Sequence[float]) -> tuple[float, float]:
    margin = (max(values) - min(values) or abs(max(values)) or 1) / 12
    return min(values) - margin, max(values) + margin


def _pictures(trials: Sequence[Trial], samples: Mapping[int, Mapping[str, bytes]]) -> Iterator[str]:
    if not samples:
        return
    yield "<section><h2>Side by side</h2>"
    yield '<p class="soft">The middles of validation photographs; they are whole in the trials\' samples/.</p>'
    photographs = list(next(iter(samples.values())))[:MAX_PHOTOGRAPHS]
    panels = {photograph: _panels(trials, samples, photograph) for photograph in photographs}
    encoded = iter(encode_to_fit([picture for captioned in panels.values() for _, picture in captioned]))
    for photograph, captioned in panels.items():
        figures = "".join(
            f"<figure>{img(next(encoded))}<figcaption>{escape(caption)}</figcaption></figure>"
            for caption, _ in captioned
        )
        yield f'<h3>{escape(photograph)}</h3><div class="gallery">{figures}</div>'
    yield "</section>"


def _panels(
    trials: Sequence[Trial], samples: Mapping[int, Mapping[str, bytes]], photograph: str
) -> list[tuple[str, np.ndarray]]:
    """LR, bicubic, what each trial makes of it, HR, with captions."""
    pictures = {
        number: [_middle(panel) for panel in split_panels(images.decode(of[photograph]), 4)]
        for number, of in samples.items()
    }
    lr, bicubic, _, hr = next(iter(pictures.values()))
    outputs = [(f"{trials[number].name}: {_describe(trials[number])}", sr) for number, (*_, sr, _) in pictures.items()]
    return [("LR", lr), (BICUBIC, bicubic), *outputs, ("HR", hr)]


def _middle(picture: np.ndarray) -> np.ndarray:
    """So much of it as is shown in its own pixels."""
    top, left = (max(0, side - SHOWN_PX) // 2 for side in picture.shape[:2])
    return picture[top : top + SHOWN_PX, left : left + SHOWN_PX]


def _all(trials: Sequence[Trial]) -> Iterator[str]:
    yield "<section><h2>All trials</h2>"
    head = ("", *_paths(trials), "psnr, dB", "perception", *GUARDS, "s", "")
    rows = {
        trial.name: [
            *_values(trial, trials),
            *(f"{trial.figures[name].value:.3f}" if trial.figures else "" for name in (*OBJECTIVES, *GUARDS)),
            f"{trial.seconds:.0f}",
            _state(trial),
        ]
        for trial in trials
    }
    yield f'<div class="scroll states">{table(head, rows)}</div></section>'


def _state(trial: Trial) -> str:
    if trial.status != FINISHED:
        return " ".join(filter(None, (f"{trial.status} at step {trial.step}", trial.error)))
    return "; ".join(trial.faults) or "healthy"


def _paths(trials: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(path for trial in trials if not trial.is_baseline for path in trial.settings))


def _values(trial: Trial, trials: Sequence[Trial]) -> list[str]:
    return [format_setting(trial.settings.get(path, "")) for path in _paths(trials)]


def _title(trial: Trial) -> str:
    return f"<title>{escape(f'{trial.name}: {_describe(trial)}')}</title>"


def _describe(trial: Trial) -> str:
    perception = trial.figures[PERCEPTION]
    return f"{trial.figures[PSNR].value:.2f} dB, {perception.protocol.metric} {perception.value:.2f}"
