"""What `prepare` found, as one HTML page to look at: no script, nothing from elsewhere."""

import base64
import html
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from srgan_ray.data.forensics import Finding
from srgan_ray.data.manifest import REJECTED, Request

Thumbnail = Callable[[Finding], bytes | None]
MAX_REJECTED, MAX_GROUPS, MAX_IN_GROUP, MAX_WORST, MAX_NOTED = 48, 40, 6, 12, 24  # pictures; the page stays some MB
NUM_BINS = 24
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #777; --bar: #4a7dbd; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
h3 { margin: 1.5rem 0 .5rem; } p.soft, figcaption { color: var(--soft); }
.tiles, .gallery, .charts { display: grid; gap: 1rem; }
.tiles { grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); margin: 1.5rem 0; }
.tile { border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; }
.tile b { display: block; font-size: 1.6rem; font-variant-numeric: tabular-nums; }
.gallery { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.group { display: flex; flex-wrap: wrap; gap: .5rem; padding: .5rem 0; border-bottom: 1px solid var(--line); }
figure { margin: 0; width: 150px; } figure img, figure .none { display: block; width: 150px; height: 150px; }
figure img { object-fit: contain; background: #8882; border-radius: .25rem; }
figure .none { display: grid; place-items: center; border: 1px dashed var(--line); border-radius: .25rem;
  color: var(--soft); box-sizing: border-box; }
figcaption { font-size: .75rem; line-height: 1.3; overflow-wrap: anywhere; padding-top: .25rem; }
figcaption b { display: block; color: CanvasText; font-weight: 600; }
.charts { grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); }
.charts figure { width: auto; } svg { width: 100%; height: auto; } svg rect { fill: var(--bar); }
svg text { font-size: 11px; fill: currentColor; } svg line { stroke: var(--soft); }
ul { columns: 18rem; font-size: .8rem; overflow-wrap: anywhere; }
"""


def render_report(
    request: Request,
    counts: dict[str, int],
    findings: Sequence[Finding],
    near_duplicates: Sequence[Sequence[Finding]],
    thumbnail: Thumbnail,
) -> str:
    """The page. `near_duplicates` are groups of photographs that look alike; `thumbnail` gives a small JPEG or None.

    The same input gives the same page, byte for byte.
    """
    kept = [finding for finding in findings if not finding.reason]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            f"<title>Photographs of {_escape(request.source)}</title><style>{STYLE}</style>",
            *_headline(request, counts),
            *_rejected([finding for finding in findings if finding.reason], thumbnail),
            *_near_duplicates(near_duplicates, thumbnail),
            *_worst(kept, thumbnail),
            *_noted(kept, thumbnail),
            *_distributions(kept),
            "</html>\n",
        ]
    )


def _headline(request: Request, counts: dict[str, int]) -> Iterable[str]:
    yield f"<h1>Photographs of {_escape(request.source)}</h1>"
    settings = f"seed {request.seed}, limit {request.limit or 'none'}, smaller side from {request.min_side_px} px"
    yield f'<p class="soft">{settings}; LR by {_escape(", ".join(request.degradations))}</p><div class="tiles">'
    for name, count in counts.items():
        yield f'<div class="tile"><b>{count:,}</b>{_escape(name.replace("_", " "))}</div>'
    yield "</div>"


def _rejected(rejected: Sequence[Finding], thumbnail: Thumbnail) -> Iterable[str]:
    yield f"<h2>Rejected: {len(rejected):,}</h2>"
    yield f'<p class="soft">All of them, with their reasons, stand in {REJECTED}.</p>'
    kinds = Counter(_kind(finding.reason) for finding in rejected)
    yield from _list(f"{kind}: {count:,}" for kind, count in kinds.most_common())
    yield from _gallery(rejected[:MAX_REJECTED], thumbnail, lambda finding: finding.reason)
    yield _and_more(len(rejected) - MAX_REJECTED)


def _near_duplicates(groups: Sequence[Sequence[Finding]], thumbnail: Thumbnail) -> Iterable[str]:
    yield f"<h2>Near duplicates: {len(groups):,} groups</h2>"
    yield '<p class="soft">They look alike, mirrored ones included; kept, each group on one side of the split.</p>'
    if not groups:
        yield "<p>none</p>"
    for group in groups[:MAX_GROUPS]:
        yield f'<div class="group">{"".join(_figure(finding, thumbnail, "") for finding in group[:MAX_IN_GROUP])}</div>'
        yield _and_more(len(group) - MAX_IN_GROUP)
    yield _and_more(len(groups) - MAX_GROUPS)


def _worst(kept: Sequence[Finding], thumbnail: Thumbnail) -> Iterable[str]:
    yield "<h2>The worst that were kept</h2>"
    jpegs = [finding for finding in kept if finding.jpeg_quality]
    for title, ranked, caption in (
        (
            "Strongest JPEG compression",
            sorted(jpegs, key=lambda finding: (finding.jpeg_quality, -finding.blockiness)),
            lambda finding: f"quality {finding.jpeg_quality}, blockiness {finding.blockiness:.2f}",
        ),
        (
            "Least detail",
            sorted(kept, key=lambda finding: finding.detail),
            lambda finding: f"detail {finding.detail:.1f} dB",
        ),
        (
            "Smallest",
            sorted(kept, key=lambda finding: min(finding.height, finding.width)),
            lambda finding: f"{finding.width}x{finding.height} px",
        ),
    ):
        yield f"<h3>{title}</h3>"
        yield from _gallery(ranked[:MAX_WORST], thumbnail, caption)


def _noted(kept: Sequence[Finding], thumbnail: Thumbnail) -> Iterable[str]:
    by_kind: dict[str, list[Finding]] = {}
    for finding in kept:
        for note in finding.notes:
            by_kind.setdefault(_kind(note), []).append(finding)
    yield f"<h2>Noted: {len(by_kind):,} kinds</h2>"
    for kind, noted in sorted(by_kind.items()):
        yield f"<h3>{_escape(kind)}: {len(noted):,}</h3>"
        yield from _gallery(noted[:MAX_NOTED], thumbnail, lambda finding: "; ".join(finding.notes))
        yield "<details><summary>All names</summary>"
        yield from _list(finding.name for finding in noted)
        yield "</details>"


def _distributions(kept: Sequence[Finding]) -> Iterable[str]:
    yield '<h2>Distributions of what was kept</h2><div class="charts">'
    yield _histogram("Smaller side", "px", [min(finding.height, finding.width) for finding in kept])
    yield _histogram("Larger side", "px", [max(finding.height, finding.width) for finding in kept])
    yield _histogram("File size", "kB", [finding.num_bytes / 1000 for finding in kept])
    yield _histogram("JPEG quality", "", [finding.jpeg_quality for finding in kept if finding.jpeg_quality])
    yield _histogram("Blockiness", "", [finding.blockiness for finding in kept])
    yield _histogram("Detail", "dB", [finding.detail for finding in kept])
    breeds = Counter(finding.breed for finding in kept)
    yield f"</div><details><summary>Breeds: {len(breeds):,}</summary>"
    yield from _list(f"{breed or 'none'}: {count:,}" for breed, count in sorted(breeds.items()))
    yield "</details>"


def _histogram(title: str, unit: str, values: Sequence[float]) -> str:
    if not values:
        return f"<figure><h3>{title}</h3><p>none</p></figure>"
    counts, edges = np.histogram(values, NUM_BINS)
    low, middle, high = (
        f"{value:,.5g} {unit}".strip() for value in (min(values), float(np.median(values)), max(values))
    )
    bars = "".join(
        f'<rect x="{10 + 13 * number}" y="{110 - 95 * count / counts.max():.1f}" width="12" '
        f'height="{95 * count / counts.max():.1f}"><title>{edges[number]:.5g} to {edges[number + 1]:.5g} {unit}: '
        f"{count:,}</title></rect>"
        for number, count in enumerate(counts.tolist())
    )
    return (
        f'<figure><h3>{title}</h3><svg viewBox="0 0 332 130" role="img" aria-label="{title}">{bars}'
        f'<line x1="10" y1="110.5" x2="322" y2="110.5"/><text x="10" y="125">{low}</text>'
        f'<text x="322" y="125" text-anchor="end">{high}</text>'
        f'<text x="322" y="12" text-anchor="end">at most {counts.max():,} in a bar</text></svg>'
        f"<figcaption>median {middle}, {len(values):,} photographs</figcaption></figure>"
    )


def _gallery(findings: Sequence[Finding], thumbnail: Thumbnail, caption: Callable[[Finding], str]) -> Iterable[str]:
    if not findings:
        yield "<p>none</p>"
    yield f'<div class="gallery">{"".join(_figure(finding, thumbnail, caption(finding)) for finding in findings)}</div>'


def _figure(finding: Finding, thumbnail: Thumbnail, caption: str) -> str:
    encoded = thumbnail(finding)
    picture = '<span class="none">no picture</span>'
    if encoded:
        picture = f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(encoded).decode()}">'
    heading = f"<b>{_escape(caption)}</b>" if caption else ""
    return f"<figure>{picture}<figcaption>{heading}{_escape(finding.name)}</figcaption></figure>"


def _list(lines: Iterable[str]) -> Iterable[str]:
    items = "".join(f"<li>{_escape(line)}</li>" for line in lines)
    return [f"<ul>{items}</ul>"] if items else []


def _and_more(number: int) -> str:
    return f"<p>and {number:,} more</p>" if number > 0 else ""


def _kind(text: str) -> str:
    """What stands before the particulars."""
    return text.partition(":")[0].partition(";")[0]


def _escape(text: str) -> str:
    return html.escape(text.encode(errors="replace").decode())  # file names need not be UTF-8
