"""What `prepare` found, as one HTML page to look at: no script, nothing from elsewhere."""

import base64
import functools
import html
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from srgan_ray.data.forensics import Finding
from srgan_ray.data.manifest import REJECTED, Request

Thumbnail = Callable[[Finding], bytes | None]
MAX_REJECTED, MAX_GROUPS, MAX_IN_GROUP, MAX_WORST, MAX_NOTED = 48, 40, 6, 12, 24  # pictures
MAX_PICTURE_BYTES = 3_000_000  # of all of them; a third more in base64, so that the page stays below 6 MB
MAX_OPEN_BREEDS = 30
NUM_BINS = 32
CHART_WIDTH, CHART_HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 220, 48, 10, 24, 44  # margins around the bars
IMAGE_TYPES = {b"\xff\xd8": "jpeg", b"\x89P": "png", b"RI": "webp"}  # by the first two bytes
PARTICULARS = re.compile(r"^\d+x\d+ pixels[,;] |[:;].*|(?<=the same pixels) as .*", re.DOTALL)
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
summary { color: var(--bar); cursor: pointer; font-size: .9rem; padding: .75rem 0; }
.tiles, .gallery, .groups, .charts { display: grid; gap: 1rem; margin: 1.25rem 0 .75rem; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); }
.gallery, .group { grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 1.5rem 1rem; }
.groups, .charts { grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); grid-auto-flow: dense; }
.tile, .group, .chart { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem; }
.tile { color: var(--soft); font-size: .9rem; } .group { display: grid; } .large { grid-column: 1 / -1; }
.tile b { display: block; color: var(--ink); font-size: 1.7rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.chart h3 { margin: 0; } .group p { align-self: center; }
img, .none { display: grid; width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--well);
  border-radius: .4rem; place-items: center; font-size: .8rem; color: var(--soft); }
figcaption { font-size: .75rem; line-height: 1.35; padding-top: .4rem; } figcaption b { color: var(--ink); }
figcaption > * { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 4; overflow: hidden; }
svg { display: block; width: 100%; height: auto; margin-top: .5rem; }
rect { fill: var(--bar); } rect:hover { opacity: .7; } text { font-size: 12px; fill: var(--soft); }
line { stroke: var(--line); } .median { stroke: var(--ink); stroke-dasharray: 3 3; }
.bars, .names { list-style: none; font-size: .85rem; line-height: 1.35; margin-top: 1rem; }
.bars li { display: grid; grid-template-columns: min(14rem, 40%) 1fr 3rem; gap: .75rem; align-items: center;
  padding: .15rem 0; }
.bars i { background: var(--bar); height: .7rem; border-radius: .2rem; min-width: 2px; }
.bars b { text-align: right; font-weight: 400; font-variant-numeric: tabular-nums; }
.names { columns: 26rem; column-gap: 2rem; } .names span { display: block; color: var(--soft); }
.names li { padding: .4rem 0; border-top: 1px solid var(--line); break-inside: avoid; }
.plain { white-space: pre-wrap; font-size: .8rem; color: var(--soft); columns: 20rem; }
"""


def render_report(
    request: Request,
    counts: dict[str, int],
    findings: Sequence[Finding],
    near_duplicates: Sequence[Sequence[Finding]],
    thumbnail: Thumbnail,
) -> str:
    """The page. `near_duplicates` are groups that look alike; `thumbnail` gives a small JPEG, PNG or WebP, or None.

    The same input gives the same page, byte for byte.
    """
    kept = [finding for finding in findings if not finding.reason]
    pictures = _Pictures(thumbnail)
    title = f"Photographs of {_escape(request.source)}"
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{STYLE}</style></head><body>",
            f"<h1>{title}</h1>",
            *_headline(request, counts),
            *_rejected([finding for finding in findings if finding.reason], pictures),
            *_near_duplicates(near_duplicates, pictures),
            *_worst(kept, pictures),
            *_noted(findings, pictures),
            *_distributions(kept),
            "</body></html>\n",
        ]
    )


class _Pictures:
    """Figures with a thumbnail inside, until the page holds as many bytes of them as it may."""

    def __init__(self, thumbnail: Thumbnail) -> None:
        self._thumbnail = functools.cache(thumbnail)
        self._room = MAX_PICTURE_BYTES

    def image(self, finding: Finding) -> str:
        """The `img` element; empty where the photograph cannot be decoded or the page is full."""
        encoded = self._thumbnail(finding) if self._room > 0 else None
        if not encoded:
            return ""
        self._room -= len(encoded)
        kind = IMAGE_TYPES.get(encoded[:2], "jpeg")
        return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(encoded).decode()}">'

    def figure(self, finding: Finding, caption: str) -> str:
        image = self.image(finding) or '<div class="none">no picture</div>'
        return f"<figure>{image}{_caption(finding, caption)}</figure>"

    def gallery(self, findings: Sequence[Finding], caption: Callable[[Finding], str]) -> str:
        figures = "".join(self.figure(finding, caption(finding)) for finding in findings)
        return f'<div class="gallery">{figures}</div>' if figures else '<p class="soft">none</p>'


def _headline(request: Request, counts: dict[str, int]) -> Iterable[str]:
    settings = f"seed {request.seed}, limit {request.limit or 'none'}, smaller side from {request.min_side_px} px"
    yield f'<p class="soft">{settings}; LR by {_escape(", ".join(request.degradations))}</p><div class="tiles">'
    for name, count in counts.items():
        label = _escape(name.replace("_", " ").replace("near duplicate", "near-duplicate"))
        yield f'<div class="tile"><b>{count:,}</b>{label}</div>'
    yield "</div>"


def _rejected(rejected: Sequence[Finding], pictures: _Pictures) -> Iterable[str]:
    yield f"<section><h2>Rejected <span>{len(rejected):,}</span></h2>"
    by_kind = _group((_kind(finding.reason), finding) for finding in rejected)
    yield _bars({kind: len(group) for kind, group in by_kind.items()})
    figures, rows = [], []
    for finding in _from_each(list(by_kind.values()), MAX_REJECTED):
        if image := pictures.image(finding):
            figures.append(f"<figure>{image}{_caption(finding, finding.reason)}</figure>")
        else:
            rows.append(f"<li>{_escape(finding.name)}<span>{_escape(finding.reason)}</span></li>")
    if figures:
        yield f'<div class="gallery">{"".join(figures)}</div>'
    if rows:
        yield f'<h3>Without a picture</h3><ul class="names">{"".join(rows)}</ul>'
    yield _and_more(len(rejected) - MAX_REJECTED, f"more in {REJECTED}")
    yield "</section>"


def _near_duplicates(groups: Sequence[Sequence[Finding]], pictures: _Pictures) -> Iterable[str]:
    yield f"<section><h2>Near duplicates <span>{len(groups):,}</span></h2>"
    told = "They look alike, mirrored ones included. All are kept, each group on one side of the split."
    yield f'<p class="soft">{told if groups else "none"}</p>'
    yield '<div class="groups">'
    for group in groups[:MAX_GROUPS]:
        figures = "".join(pictures.figure(finding, _size(finding)) for finding in group[:MAX_IN_GROUP])
        size = " large" if len(group) > 2 else ""
        yield f'<div class="group{size}">{figures}{_and_more(len(group) - MAX_IN_GROUP, "more")}</div>'
    yield f"</div>{_and_more(len(groups) - MAX_GROUPS, 'more groups')}</section>"


def _worst(kept: Sequence[Finding], pictures: _Pictures) -> Iterable[str]:
    jpegs = [finding for finding in kept if finding.jpeg_quality]
    yield "<section><h2>Worst of the kept</h2><h3>Heaviest JPEG compression</h3>"
    yield pictures.gallery(
        sorted(jpegs, key=lambda finding: (finding.jpeg_quality, -finding.blockiness))[:MAX_WORST],
        lambda finding: f"quality {finding.jpeg_quality}, blockiness {finding.blockiness:.2f}",
    )
    yield "<h3>Least detail</h3>"
    yield pictures.gallery(
        sorted(kept, key=lambda finding: finding.detail)[:MAX_WORST], lambda finding: f"{finding.detail:.1f} dB"
    )
    yield "<h3>Smallest</h3>"
    yield pictures.gallery(
        sorted(kept, key=lambda finding: min(finding.height, finding.width))[:MAX_WORST],
        lambda finding: f"{finding.width} × {finding.height} px",
    )
    yield "</section>"


def _noted(findings: Sequence[Finding], pictures: _Pictures) -> Iterable[str]:
    by_kind = _group((_kind(note), finding) for finding in findings for note in finding.notes)
    num_noted = sum(bool(finding.notes) for finding in findings)
    yield f"<section><h2>Noted <span>{num_noted:,}</span></h2>"
    yield '<p class="soft">Odd, but by itself no reason to reject.</p>' if by_kind else '<p class="soft">none</p>'
    for kind, group in by_kind.items():
        yield f"<h3>{_escape(kind)} <span>{len(group):,}</span></h3>"
        yield pictures.gallery(group[:MAX_NOTED], functools.partial(_particulars, kind))
        names = "\n".join(_escape(finding.name) for finding in group)
        yield f'<details><summary>All {len(group):,} names</summary><div class="plain">{names}</div></details>'
    yield "</section>"


def _distributions(kept: Sequence[Finding]) -> Iterable[str]:
    yield f"<section><h2>Distributions of the kept <span>{len(kept):,}</span></h2>"
    yield '<p class="soft">Dashed: the median. The bars at the ends hold what lies beyond them.</p><div class="charts">'
    yield _histogram("Shorter side", "px", [min(finding.height, finding.width) for finding in kept])
    yield _histogram("Longer side", "px", [max(finding.height, finding.width) for finding in kept])
    yield _histogram("File size", "kB", [finding.num_bytes / 1000 for finding in kept])
    yield _histogram("JPEG quality", "of 100", [finding.jpeg_quality for finding in kept if finding.jpeg_quality])
    yield _histogram("Blockiness", "ratio", [finding.blockiness for finding in kept])
    yield _histogram("Detail", "dB", [finding.detail for finding in kept])
    breeds = Counter(finding.breed or "no breed" for finding in kept)
    bars = _bars(dict(sorted(breeds.items(), key=lambda item: (-item[1], item[0]))))
    yield f"</div><h3>Photographs per breed <span>{len(breeds):,} breeds</span></h3>"
    yield f"<details><summary>All breeds</summary>{bars}</details>" if len(breeds) > MAX_OPEN_BREEDS else bars
    yield "</section>"


def _histogram(title: str, unit: str, values: Sequence[float]) -> str:
    """A chart; the bars at its ends hold what lies outside 99 % of the values, so that one giant squeezes no other."""
    if not values:
        return f'<div class="chart"><h3>{title}</h3><p class="soft">none</p></div>'
    low, middle, high = (_number(value) for value in (min(values), float(np.median(values)), max(values)))
    line = f"min {low} · median {middle} · max {high} {unit}" if low != high else f"all {len(values):,}: {low} {unit}"
    chart = _chart(title, unit, np.asarray(values)) if low != high else ""
    return f'<div class="chart"><h3>{title}</h3>{chart}<p class="soft">{line}</p></div>'


def _chart(title: str, unit: str, values: np.ndarray) -> str:
    edges = _bin_edges(values)
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    base = CHART_HEIGHT - BOTTOM
    across, up = (CHART_WIDTH - LEFT - RIGHT) / (edges[-1] - edges[0]), (base - TOP) / int(counts.max())
    parts = []
    for tick in _ticks(0, counts.max(), 4, 1):
        y = base - up * tick
        parts.append(f'<line x1="{LEFT}" x2="{CHART_WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for first, last, count in zip(edges[:-1], edges[1:], counts.tolist()):
        x, width = LEFT + across * (first - edges[0]), across * (last - first)
        span = f"{_number(first)} to {_number(last)} {unit}"
        parts.append(
            f'<rect x="{x + 0.5:.1f}" y="{base - up * count:.1f}" width="{max(width - 1, 1):.1f}" '
            f'height="{up * count:.1f}"><title>{span}: {count:,}</title></rect>'
        )
    for tick in _ticks(edges[0], edges[-1], 6, 0):
        x = LEFT + across * (tick - edges[0])
        parts.append(f'<text x="{x:.1f}" y="{base + 17}" text-anchor="middle">{_number(tick)}</text>')
    x = LEFT + across * (float(np.clip(np.median(values), edges[0], edges[-1])) - edges[0])
    parts.append(f'<line class="median" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{base}"/>')
    parts.append(f'<text x="{(LEFT + CHART_WIDTH - RIGHT) / 2}" y="{base + 37}" text-anchor="middle">{unit}</text>')
    parts.append(f'<text x="0" y="{TOP - 12}">photographs</text>')
    label = f'role="img" aria-label="{title}, number of photographs"'
    return f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" {label}>{"".join(parts)}</svg>'


def _bin_edges(values: np.ndarray) -> np.ndarray:
    """Round numbers from the lowest to the highest half percent of the values; whole ones for whole values."""
    low, high = np.percentile(values, [0.5, 99.5])
    if low == high:
        low, high = values.min(), values.max()
    step = _round_step((high - low) / NUM_BINS, 1 if np.issubdtype(values.dtype, np.integer) else 0)
    return step * np.arange(np.floor(low / step), np.floor(high / step) + 2)


def _ticks(low: float, high: float, number: int, smallest: float) -> np.ndarray:
    step = _round_step((high - low) / number, smallest)
    return step * np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1)


def _round_step(step: float, smallest: float) -> float:
    """1, 2 or 5 times a power of ten, no less than `step` and `smallest`."""
    power = 10.0 ** np.floor(np.log10(step))
    return float(max(smallest, next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)))


def _number(value: float) -> str:
    return f"{float(f'{value:.5g}') + 0.0:,.10g}"  # + 0.0: no minus before a zero


def _bars(counts: dict[str, int]) -> str:
    top = max(counts.values(), default=0)
    items = "".join(
        f'<li><span>{_escape(name)}</span><i style="width:{100 * count / top:.1f}%"></i><b>{count:,}</b></li>'
        for name, count in counts.items()
    )
    return f'<ul class="bars">{items}</ul>' if items else '<p class="soft">none</p>'


def _group(pairs: Iterable[tuple[str, Finding]]) -> dict[str, list[Finding]]:
    """The findings by kind, the largest group first."""
    groups: dict[str, list[Finding]] = {}
    for kind, finding in pairs:
        groups.setdefault(kind, []).append(finding)
    return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))


def _from_each(groups: Sequence[Sequence[Finding]], number: int) -> list[Finding]:
    """So many findings in all, taken from every group in turn."""
    return [finding for row in itertools.zip_longest(*groups) for finding in row if finding][:number]


def _caption(finding: Finding, text: str) -> str:
    name = _escape(finding.name)
    return f'<figcaption title="{name}"><b>{_escape(text)}</b><span>{name.replace("/", "/<wbr>")}</span></figcaption>'


def _size(finding: Finding) -> str:
    quality = f", quality {finding.jpeg_quality}" if finding.jpeg_quality else ""
    return f"{finding.width} × {finding.height}{quality}"


def _and_more(number: int, what: str) -> str:
    return f'<p class="soft">and {number:,} {what}</p>' if number > 0 else ""


def _particulars(kind: str, finding: Finding) -> str:
    """What the notes of a kind say beside it; the size where they say no more."""
    told = [note.removeprefix(kind).lstrip(":; ") for note in finding.notes if _kind(note) == kind]
    return "; ".join(filter(None, told)) or _size(finding)


def _kind(text: str) -> str:
    """A reason or a note without its particulars."""
    return PARTICULARS.sub("", text)


def _escape(text: str) -> str:
    """For HTML; what cannot be printed, or written as UTF-8, becomes a question mark."""
    printable = text if text.isprintable() else "".join(char if char.isprintable() else "\ufffd" for char in text)
    return html.escape(printable)
