"""What the project's HTML pages have in common. A page is one file, with nothing from elsewhere."""

import base64
import dataclasses
import html
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from srgan_ray.data import images

CHART_WIDTH, CHART_HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 220, 48, 10, 24, 44  # margins around what is drawn
BASE = CHART_HEIGHT - BOTTOM
IMAGE_TYPES = {b"\xff\xd8": "jpeg", b"\x89P": "png", b"RI": "webp"}  # by the first two bytes
STYLE = """
:root { color-scheme: light dark; --page: #f7f7f5; --card: #fff; --ink: #1c2026; --soft: #5b636e; --line: #e2e2dd;
  --bar: #3d6fa8; --well: #ecece8; }
@media (prefers-color-scheme: dark) { :root { --page: #131519; --card: #1c1f25; --ink: #e8e8e5; --soft: #9da5b0;
  --line: #2f343c; --bar: #7aabe2; --well: #262a31; } }
* { box-sizing: border-box; } h1, h2, h3, p, figure, ul { margin: 0; padding: 0; }
body { margin: 0 auto; max-width: 76rem; padding: 2.5rem 1.25rem 5rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.75rem; line-height: 1.25; } h2 { font-size: 1.35rem; } h3 { font-size: 1rem; margin-top: 2rem; }
h2 span, h3 span { color: var(--soft); font-weight: 400; margin-left: .35rem; }
section { margin-top: 3.5rem; padding-top: 1.75rem; border-top: 1px solid var(--line); }
.soft, figcaption { color: var(--soft); } .soft { font-size: .9rem; margin-top: .25rem; }
.tiles, .gallery, .charts { display: grid; gap: 1rem; margin: 1.25rem 0 .75rem; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); }
.tile, .chart { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem; }
.tile { color: var(--soft); font-size: .9rem; }
.tile b { display: block; color: var(--ink); font-size: 1.7rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.chart h3 { margin: 0; }
figcaption { font-size: .75rem; line-height: 1.35; padding-top: .4rem; } figcaption b { color: var(--ink); }
svg { display: block; width: 100%; height: auto; margin-top: .5rem; }
text { font-size: 12px; fill: var(--soft); } line { stroke: var(--line); }
"""
FIGURES_STYLE = """
:root { --second: #c0601a; --third: #2f8258; --alarm: #a3261b; --alarm-well: #fbe9e6; }
@media (prefers-color-scheme: dark) { :root { --second: #eda063; --third: #74c79b; --alarm: #ff9c8f;
  --alarm-well: #3a1f1c; } }
.warning { background: var(--alarm-well); color: var(--alarm); border-left: .3rem solid var(--alarm);
  border-radius: .4rem; padding: .75rem 1rem; margin: 1rem 0; font-weight: 600; }
code { display: block; background: var(--well); border-radius: .4rem; padding: .75rem 1rem; margin: .5rem 0 1rem;
  font-size: .85rem; } code span { display: inline-block; max-width: 100%; }
.legend { display: flex; flex-wrap: wrap; gap: 0 1rem; font-size: .8rem; color: var(--soft); }
.gallery { grid-template-columns: repeat(auto-fill, minmax(min(15rem, 45%), 1fr)); gap: 1rem; }
img { display: block; width: 100%; height: auto; background: var(--well); border-radius: .3rem; }
table { border-collapse: collapse; margin: 1rem 0 .5rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .4rem 0 .4rem 1rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child { text-align: left; padding-left: 0; } th { font-weight: 400; color: var(--soft); }
tbody th { color: var(--ink); white-space: normal; }
"""
MAX_PICTURE_BYTES = 3_000_000  # of all of them; a third more in base64
PICTURE_SIDES_PX = (512, 384, 256, 128)  # the first at which all pictures fit is taken


def document(title: str, style: str, parts: Iterable[str]) -> str:
    """The page: `parts` are HTML, `style` is CSS beyond the common STYLE, `title` is plain text."""
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            *parts,
            "</body></html>\n",
        ]
    )


def tiles(figures: dict[str, str]) -> str:
    """Large figures, each over its name."""
    inside = "".join(f'<div class="tile"><b>{escape(value)}</b>{escape(name)}</div>' for name, value in figures.items())
    return f'<div class="tiles">{inside}</div>'


def command(verb: str, flags: Iterable[Sequence[str]]) -> str:
    """A command line, of flags each with its values; no line break parts a flag from them."""
    words = " ".join(f"<span>{escape(shlex.join(flag))}</span>" for flag in [["srgan-ray", verb], *flags])
    return f"<code>{words}</code>"


def table(head: Iterable[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Rows by their names, in plain text, under a head that names them too."""
    heads = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in rows.items()
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def encode_to_fit(pictures: Sequence[np.ndarray]) -> list[bytes]:
    """`uint8` RGB (H, W, 3) to JPEGs as large as a page can hold."""
    for side_px in PICTURE_SIDES_PX:
        encoded = [images.shrink(picture, side_px) for picture in pictures]
        if sum(map(len, encoded)) <= MAX_PICTURE_BYTES:
            break
    return encoded


def img(encoded: bytes) -> str:
    """The `img` element that holds the bytes of a JPEG, PNG or WebP."""
    kind = IMAGE_TYPES.get(encoded[:2], "jpeg")
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(encoded).decode()}">'


def and_more(number: int, what: str) -> str:
    """The line that says how much is left out; empty where that is nothing."""
    return f'<p class="soft">and {number:,} {what}</p>' if number > 0 else ""


@dataclasses.dataclass(frozen=True)
class Axes:
    """A chart's axes: the values at its edges, the units, and the least distance between two ticks."""

    left: float
    right: float
    bottom: float
    top: float
    x_unit: str
    y_unit: str
    x_least: float = 0
    y_least: float = 0

    def x(self, value: float) -> float:
        """The place of a value from left to right, in the units of the drawing."""
        return LEFT + (CHART_WIDTH - LEFT - RIGHT) * (value - self.left) / (self.right - self.left)

    def y(self, value: float) -> float:
        """The place of a value from top to bottom, in the units of the drawing."""
        return BASE - (BASE - TOP) * (value - self.bottom) / (self.top - self.bottom)

    def draw(self, label: str, marks: Iterable[str]) -> str:
        """The chart as an SVG: the marks over the grid; `label` is for those who cannot see it."""
        drawn = "".join([*self._grid(), *marks])
        return f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img" aria-label="{escape(label)}">{drawn}</svg>'

    def _grid(self) -> Iterator[str]:
        for tick in ticks(self.bottom, self.top, 4, self.y_least):
            y = self.y(tick)
            yield f'<line x1="{LEFT}" x2="{CHART_WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{format_number(tick)}</text>'
        for tick in ticks(self.left, self.right, 6, self.x_least):
            yield f'<text x="{self.x(tick):.1f}" y="{BASE + 17}" text-anchor="middle">{format_number(tick)}</text>'
        middle = (LEFT + CHART_WIDTH - RIGHT) / 2
        yield f'<text x="{middle}" y="{BASE + 37}" text-anchor="middle">{escape(self.x_unit)}</text>'
        yield f'<text x="0" y="{TOP - 12}">{escape(self.y_unit)}</text>'


def ticks(low: float, high: float, number: int, least: float) -> np.ndarray:
    """About so many round numbers from `low` to `high`, at least `least` apart."""
    step = round_step((high - low) / number, least)
    return step * np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1)


def round_step(step: float, least: float) -> float:
    """1, 2 or 5 times a power of ten, no less than `step` and `least`."""
    power = 10.0 ** np.floor(np.log10(step))
    return float(max(least, next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)))


def format_number(value: float) -> str:
    """A number with five digits that count, and commas between thousands."""
    return f"{float(f'{value:.5g}') + 0.0:,.10g}"  # + 0.0: no minus before a zero


def escape(text: str) -> str:
    """For HTML; what cannot be printed, or written as UTF-8, becomes a question mark."""
    printable = text if text.isprintable() else "".join(char if char.isprintable() else "\ufffd" for char in text)
    return html.escape(printable)
