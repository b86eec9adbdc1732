"""What `prepare` found, as one HTML page to look at: no script, nothing from elsewhere."""

import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from srgan_ray.data.forensics import Finding
from srgan_ray.data.manifest import REJECTED, Request
from srgan_ray.data.page import BASE, TOP, Axes, and_more, document, escape, format_number, img, round_step, tiles

Thumbnail = Callable[[Finding], bytes | None]
MAX_REJECTED, MAX_GROUPS, MAX_IN_GROUP, MAX_WORST, MAX_NOTED = 48, 40, 6, 12, 24  # pictures
MAX_PICTURE_BYTES = 3_000_000  # of all of them; a third more in base64, so that the page stays below 6 MB
MAX_OPEN_BREEDS = 30
NUM_BINS = 32
PARTICULARS = re.compile(r"^\d+x\d+ pixels[,;] |[:;].*|(?<=the same pixels) as .*", re.DOTALL)
STYLE = """
summary { color: var(--bar); cursor: pointer; font-size: .9rem; padding: .75rem 0; }
.groups { display: grid; gap: 1rem; margin: 1.25rem 0 .75rem; }
.gallery, .group { grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 1.5rem 1rem; }
.groups { grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); grid-auto-flow: dense; }
.group { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem; }
.group { display: grid; } .large { grid-column: 1 / -1; } .group p { align-self: center; }
img, .none { display: grid; width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--well);
  border-radius: .4rem; place-items: center; font-size: .8rem; color: var(--soft); }
figcaption > * { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 4; overflow: hidden; }
rect { fill: var(--bar); } rect:hover { opacity: .7; } .median { stroke: var(--ink); stroke-dasharray: 3 3; }
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
    parts = [
        *_headline(request, counts),
        *_rejected([finding for finding in findings if finding.reason], pictures),
        *_near_duplicates(near_duplicates, pictures),
        *_worst(kept, pictures),
        *_noted(findings, pictures),
        *_distributions(kept),
    ]
    return document(f"Photographs of {request.source}", STYLE, parts)


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
        return img(encoded)

    def figure(self, finding: Finding, caption: str) -> str:
        image = self.image(finding) or '<div class="none">no picture</div>'
        return f"<figure>{image}{_caption(finding, caption)}</figure>"

    def gallery(self, findings: Sequence[Finding], caption: Callable[[Finding], str]) -> str:
        figures = "".join(self.figure(finding, caption(finding)) for finding in findings)
        return f'<div class="gallery">{figures}</div>' if figures else '<p class="soft">none</p>'


def _headline(request: Request, counts: dict[str, int]) -> Iterable[str]:
    settings = f"seed {request.seed}, limit {request.limit or 'none'}, smaller side from {request.min_side_px} px"
    yield f'<p class="soft">{settings}; LR by {escape(", ".join(request.degradations))}</p>'
    yield tiles({_label(name): f"{count:,}" for name, count in counts.items()})


def _label(count_name: str) -> str:
    return count_name.replace("_", " ").replace("near duplicate", "near-duplicate")


def _rejected(rejected: Sequence[Finding], pictures: _Pictures) -> Iterable[str]:
    yield f"<section><h2>Rejected <span>{len(rejected):,}</span></h2>"
    by_kind = _group((_kind(finding.reason), finding) for finding in rejected)
    yield _bars({kind: len(group) for kind, group in by_kind.items()})
    figures, rows = [], []
    for finding in _from_each(list(by_kind.values()), MAX_REJECTED):
        if image := pictures.image(finding):
            figures.append(f"<figure>{image}{_caption(finding, finding.reason)}</figure>")
        else:
            rows.append(f"<li>{escape(finding.name)}<span>{escape(finding.reason)}</span></li>")
    if figures:
        yield f'<div class="gallery">{"".join(figures)}</div>'
    if rows:
        yield f'<h3>Without a picture</h3><ul class="names">{"".join(rows)}</ul>'
    yield and_more(len(rejected) - MAX_REJECTED, f"more in {REJECTED}")
    yield "</section>"


def _near_duplicates(groups: Sequence[Sequence[Finding]], pictures: _Pictures) -> Iterable[str]:
    yield f"<section><h2>Near duplicates <span>{len(groups):,}</span></h2>"
    told = "They look alike, mirrored ones included. All are kept, each group on one side of the split."
    yield f'<p class="soft">{told if groups else "none"}</p>'
    yield '<div class="groups">'
    for group in groups[:MAX_GROUPS]:
        figures = "".join(pictures.figure(finding, _size(finding)) for finding in group[:MAX_IN_GROUP])
        size = " large" if len(group) > 2 else ""
        yield f'<div class="group{size}">{figures}{and_more(len(group) - MAX_IN_GROUP, "more")}</div>'
    yield f"</div>{and_more(len(groups) - MAX_GROUPS, 'more groups')}</section>"


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
        yield f"<h3>{escape(kind)} <span>{len(group):,}</span></h3>"
        yield pictures.gallery(group[:MAX_NOTED], functools.partial(_particulars, kind))
        names = "\n".join(escape(finding.name) for finding in group)
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
    low, middle, high = (format_number(value) for value in (min(values), float(np.median(values)), max(values)))
    line = f"min {low} · median {middle} · max {high} {unit}" if low != high else f"all {len(values):,}: {low} {unit}"
    chart = _chart(title, unit, np.asarray(values)) if low != high else ""
    return f'<div class="chart"><h3>{title}</h3>{chart}<p class="soft">{line}</p></div>'


def _chart(title: str, unit: str, values: np.ndarray) -> str:
    edges = _bin_edges(values)
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    axes = Axes(edges[0], edges[-1], 0, int(counts.max()), unit, "photographs", y_least=1)
    marks = []
    for first, last, count in zip(edges[:-1], edges[1:], counts.tolist()):
        x, y, width = axes.x(first), axes.y(count), axes.x(last) - axes.x(first)
        span = f"{format_number(first)} to {format_number(last)} {unit}"
        marks.append(
            f'<rect x="{x + 0.5:.1f}" y="{y:.1f}" width="{max(width - 1, 1):.1f}" '
            f'height="{BASE - y:.1f}"><title>{span}: {count:,}</title></rect>'
        )
    x = axes.x(float(np.clip(np.median(values), edges[0], edges[-1])))
    marks.append(f'<line class="median" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{BASE}"/>')
    return axes.draw(f"{title}, number of photographs", marks)


def _bin_edges(values: np.ndarray) -> np.ndarray:
    """Round numbers from the lowest to the highest half percent of the values; whole ones for whole values."""
    low, high = np.percentile(values, [0.5, 99.5])
    if low == high:
        low, high = values.min(), values.max()
    step = round_step((high - low) / NUM_BINS, 1 if np.issubdtype(values.dtype, np.integer) else 0)
    return step * np.arange(np.floor(low / step), np.floor(high / step) + 2)


def _bars(counts: dict[str, int]) -> str:
    top = max(counts.values(), default=0)
    items = "".join(
        f'<li><span>{escape(name)}</span><i style="width:{100 * count / top:.1f}%"></i><b>{count:,}</b></li>'
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
    name = escape(finding.name)
    return f'<figcaption title="{name}"><b>{escape(text)}</b><span>{name.replace("/", "/<wbr>")}</span></figcaption>'


def _size(finding: Finding) -> str:
    quality = f", quality {finding.jpeg_quality}" if finding.jpeg_quality else ""
    return f"{finding.width} × {finding.height}{quality}"


def _particulars(kind: str, finding: Finding) -> str:
    """What the notes of a kind say beside it; the size where they say no more."""
    told = [note.removeprefix(kind).lstrip(":; ") for note in finding.notes if _kind(note) == kind]
    return "; ".join(filter(None, told)) or _size(finding)


def _kind(text: str) -> str:
    """A reason or a note without its particulars."""
    return PARTICULARS.sub("", text)
