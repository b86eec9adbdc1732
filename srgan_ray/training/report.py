"""What a run came to, as one HTML page to look at: no script, nothing from elsewhere."""

import datetime
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from srgan_ray.config import RunConfig, to_flags
from srgan_ray.data import images
from srgan_ray.data.page import (
    FIGURES_STYLE,
    Axes,
    and_more,
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
from srgan_ray.evaluation.metrics import Measurement, Protocol
from srgan_ray.models.artifact import Card
from srgan_ray.models.perceptual import RANDOM
from srgan_ray.training.steps import Weights

T = TypeVar("T")
Points = list[tuple[int, float]]  # (step, value)


class Chart(NamedTuple):
    """Figures of the rows that are drawn together."""

    title: str
    unit: str
    names: tuple[str, ...]


CHARTS = (  # a figure that is in none of them gets a chart of its own
    Chart("Loss", "", ("loss_train", "loss_train_content", "loss_val")),
    Chart("PSNR on Y", "dB", ("psnr_val", "psnr_bicubic")),
    Chart("Adversarial losses", "", ("loss_train_adversarial", "loss_train_discriminator")),
    Chart("Verdicts of the discriminator", "probability of HR", ("d_hr", "d_sr")),
    Chart("Norms of the gradients", "", tuple(f"gradient_norm_{name}" for name in Weights._fields)),
    Chart("Consistency with LR", "dB", ("consistency_db",)),
    Chart("Seconds per step", "", ("seconds_per_step", "seconds_waiting")),
)
NOT_DRAWN = {"step", "elapsed_s"}
MAX_POINTS, MAX_ALARMS, MAX_SAMPLE_STEPS = 200, 100, 5
PUBLISHED = {  # Ledig et al. 2017, table 2: PSNR in dB
    "bicubic": (28.43, 25.99, 25.94),
    "SRResNet": (32.05, 28.49, 27.58),
    "SRGAN": (29.40, 26.02, 25.16),
}
PUBLISHED_ON = ("Set5", "Set14", "BSD100")
STYLE = """
:root { --fourth: #7a4fb0; --fifth: #b0316f; }
@media (prefers-color-scheme: dark) { :root { --fourth: #b69ae6; --fifth: #f08fbb; } }
.chart { display: flex; flex-direction: column; }
.legend b { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
.legend span::before { content: ""; display: inline-block; width: 1rem; margin-right: .35rem; vertical-align: .25em;
  border-top: 2.5px solid var(--series); }
.legend .level::before { border-top-style: dashed; }
.series-0 { --series: var(--bar); } .series-1 { --series: var(--second); } .series-2 { --series: var(--third); }
.series-3 { --series: var(--fourth); } .series-4 { --series: var(--fifth); }
svg { overflow: visible; margin-top: auto; padding-top: .5rem; }
polyline { fill: none; stroke: var(--series); stroke-width: 2; stroke-linejoin: round; }
polyline.level { stroke-dasharray: 5 4; }
circle { fill: var(--series); } circle:hover { stroke: var(--series); stroke-width: 4; }
.alarms { list-style: none; } .alarms li { padding: .4rem 0; border-bottom: 1px solid var(--line); }
.alarms b { color: var(--alarm); margin-right: .5rem; }
"""


def render_run_report(
    config: RunConfig,
    origin: Mapping[str, Any],
    card: Card,
    rows: Sequence[Mapping[str, Any]],
    samples: Mapping[str, Mapping[int, str]],
    read: Callable[[str], bytes],
) -> str:
    """The page. `origin` is what `config.json` holds beside the config, `card` the best generator's, `rows` are the
    recorded validations, `samples` gives for each photograph the file of its picture by step, which `read` reads.

    The same input gives the same page, byte for byte.
    """
    series = _series(rows)
    parts = [
        *_headline(config, origin, card, series),
        *_alarms(rows),
        *_curves(series, len(rows)),
        *_samples([row["step"] for row in rows], samples, read),
        *_final_figures(card),
    ]
    return document(card.name, FIGURES_STYLE + STYLE, parts)


def _series(rows: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    """Every finite figure of the rows by its name, with the steps at which it was recorded."""
    series: dict[str, Points] = {}
    for row in rows:
        for name, value in row.items():
            if type(value) in (int, float) and math.isfinite(value):
                series.setdefault(name, []).append((row["step"], float(value)))
    return series


def _headline(config: RunConfig, origin: Mapping[str, Any], card: Card, series: Mapping[str, Points]) -> Iterator[str]:
    yield f'<p class="soft">Stage {escape(card.stage)}. {escape(type(config).__doc__ or "")}</p>'
    yield _vgg_weights(origin["vgg_weights"])
    yield tiles(_figures(card, series))
    yield f'<p class="soft">To repeat it, with another --out:</p>{command(card.stage, to_flags(config))}'
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    yield f'<p class="soft">Data {escape(origin["data_hash"])}; {escape(versions)}</p>'


def _vgg_weights(stamp: str) -> str:
    if stamp.startswith(RANDOM):
        return (
            f'<p class="warning">The content loss used a VGG19 of random weights ({escape(stamp)}): '
            "this run shows that training works, not what SRGAN is worth.</p>"
        )
    return f'<p class="soft">Weights of the content loss: {escape(stamp)}</p>' if stamp else ""


def _figures(card: Card, series: Mapping[str, Points]) -> dict[str, str]:
    bicubic, best = _measurements(card)
    steps = [step for step, _ in series["step"]]
    figures = {
        "steps": f"{steps[-1]:,}",
        f"dB PSNR on Y, best validation (step {card.step:,})": f"{best.value:.2f}",
        "dB over bicubic": f"{best.gain_over(bicubic):+.2f}",
    }
    if points := series.get("elapsed_s"):
        figures["training time, validations included"] = str(datetime.timedelta(seconds=round(points[-1][1])))
    if points := series.get("seconds_per_step"):
        mean = np.average([seconds for _, seconds in points], weights=np.diff([0, *(step for step, _ in points)]))
        figures["seconds per step, mean"] = f"{mean:.3f}"
    return figures


def _alarms(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    alarms = [(row["step"], alarm) for row in rows for alarm in row.get("alarms", [])]
    yield f"<section><h2>Alarms <span>{len(alarms):,}</span></h2>"
    if not alarms:
        yield '<p class="soft">none</p>'
    items = "".join(f"<li><b>step {step:,}</b>{escape(alarm)}</li>" for step, alarm in alarms[:MAX_ALARMS])
    yield f'<ul class="alarms">{items}</ul>'
    yield and_more(len(alarms) - MAX_ALARMS, "more in metrics.jsonl")
    yield "</section>"


def _curves(series: Mapping[str, Points], num_rows: int) -> Iterator[str]:
    yield "<section><h2>Curves</h2>"
    thinned = f", {MAX_POINTS} of them drawn" if num_rows > MAX_POINTS else ""
    yield f'<p class="soft">Validations: {num_rows:,}{thinned}. Beside the names: the last values.</p>'
    yield '<div class="charts">'
    known = {name for chart in CHARTS for name in chart.names} | NOT_DRAWN
    others = (Chart(name.replace("_", " ").capitalize(), "", (name,)) for name in series if name not in known)
    for chart in (*CHARTS, *others):
        if drawn := {name: series[name] for name in chart.names if name in series}:
            yield _draw(chart, drawn)
    yield "</div></section>"


def _draw(chart: Chart, series: Mapping[str, Points]) -> str:
    steps, values = zip(*(point for points in series.values() for point in points))
    margin = (max(values) - min(values) or abs(max(values)) or 1) / 20
    axes = Axes(0, max(steps), min(values) - margin, max(values) + margin, "steps", chart.unit, x_least=1)
    legend: list[str] = []
    marks: list[str] = []
    for index, (name, points) in enumerate(series.items()):
        kind = f"series-{index}{' level' if _is_level(name) else ''}"
        legend.append(f'<span class="{kind}">{escape(name)} <b>{format_number(points[-1][1])}</b></span>')
        marks += _level(kind, points, axes) if _is_level(name) else _curve(kind, points, axes)
    drawing = axes.draw(f"{chart.title}, by step", marks)
    return f'<div class="chart"><h3>{escape(chart.title)}</h3><p class="legend">{"".join(legend)}</p>{drawing}</div>'


def _is_level(name: str) -> bool:
    """Whether a figure does not depend on the training, and is there to be compared with."""
    return name.endswith(f"_{BICUBIC}")


def _level(kind: str, points: Points, axes: Axes) -> Iterator[str]:
    """A line that begins at the axis."""
    yield _line(kind, [(0, points[0][1]), *_spread(points, MAX_POINTS)], axes)


def _curve(kind: str, points: Points, axes: Axes) -> Iterator[str]:
    """A line with a dot for each value, which tells it."""
    shown = _spread(points, MAX_POINTS)
    yield _line(kind, shown, axes)
    for step, value in shown:
        told = f"<title>step {step:,}: {format_number(value)}</title>"
        yield f'<circle class="{kind}" cx="{axes.x(step):.1f}" cy="{axes.y(value):.1f}" r="2.5">{told}</circle>'


def _line(kind: str, points: Points, axes: Axes) -> str:
    places = " ".join(f"{axes.x(step):.1f},{axes.y(value):.1f}" for step, value in points)
    return f'<polyline class="{kind}" points="{places}"/>'


def _samples(
    steps: Sequence[int], samples: Mapping[str, Mapping[int, str]], read: Callable[[str], bytes]
) -> Iterator[str]:
    yield "<section><h2>Samples</h2>"
    yield '<p class="soft">Photographs that were not trained on; every picture is in samples/ at its full size.</p>'
    panels = {
        name: _panels({step: read(files[step]) for step in _spread(shown, MAX_SAMPLE_STEPS)})
        for name, files in samples.items()
        if (shown := [step for step in steps if step in files])
    }
    encoded = iter(encode_to_fit([image for captioned in panels.values() for _, image in captioned]))
    for name, captioned in panels.items():
        figures = "".join(
            f"<figure>{img(next(encoded))}<figcaption>{caption}</figcaption></figure>" for caption, _ in captioned
        )
        yield f'<h3>{escape(name)}</h3><div class="gallery">{figures}</div>'
    yield "</section>"


def _panels(files: Mapping[int, bytes]) -> list[tuple[str, np.ndarray]]:
    """A photograph's panels with their captions, from its pictures by step: LR, bicubic, SR at each step, HR."""
    pictures = {step: split_panels(images.decode(encoded), 4) for step, encoded in files.items()}
    outputs = [(f"SR, step {step:,}", sr) for step, (_, _, sr, _) in pictures.items()]
    lr, bicubic, _, hr = pictures[max(pictures)]
    return [("LR", lr), (BICUBIC, bicubic), *outputs, ("HR", hr)]


def _final_figures(card: Card) -> Iterator[str]:
    bicubic, best = _measurements(card)
    yield "<section><h2>Final figures</h2>"
    yield table(
        ("", "PSNR on Y, dB", "gain"),
        {
            BICUBIC: (f"{bicubic.value:.2f}", ""),
            f"{card.name}, the lowest loss_val": (f"{best.value:.2f}", f"{best.gain_over(bicubic):+.2f}"),
        },
    )
    yield f'<p class="soft">{escape(str(best.protocol))}</p>'
    yield "<h3>Published figures: another protocol, other data, not to be compared with those above</h3>"
    yield table(("PSNR on Y, dB", *PUBLISHED_ON), {name: [f"{v:.2f}" for v in row] for name, row in PUBLISHED.items()})
    yield (
        '<p class="soft">Ledig et al. 2017, Table 2: LR by MATLAB\'s bicubic, border 4 px, trained on ImageNet. '
        "On such images srgan-ray evaluate measures a generator.</p></section>"
    )


def _measurements(card: Card) -> tuple[Measurement, Measurement]:
    """PSNR on the validation photographs: bicubic's and the generator's."""
    bicubic, best = (
        Measurement(card.metrics[name]["value"], Protocol(**card.metrics[name]["protocol"]))
        for name in ("psnr_bicubic", "psnr_val")
    )
    return bicubic, best


def _spread(items: Sequence[T], number: int) -> list[T]:
    """At most so many of the items, evenly spread, the first and the last always among them."""
    return [items[index] for index in np.linspace(0, len(items) - 1, min(number, len(items))).round().astype(int)]
