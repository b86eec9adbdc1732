import base64
import dataclasses
import re
from collections import Counter

import pytest

from pages import Balance, assert_stands_alone
from srgan_ray.data import report
from srgan_ray.data.forensics import Finding
from srgan_ray.data.manifest import Request
from srgan_ray.data.report import render_report

GOOD = Finding("a/good.jpg", "a", "1", 400, 600, 50_000, "JPEG", 75, 1.2, -10.0)
REASONS = {
    "damaged JPEG image: image file is truncated": "damaged JPEG image",
    "too small: 80x60 pixels; the smaller side must be 96 or more": "too small",
    "80x60 pixels; the smaller side must be 96 or more": "the smaller side must be 96 or more",
    "12000x12000 pixels, more than 100000000": "more than 100000000",
    "duplicate: the same pixels as a/good.jpg": "duplicate",
    "the same pixels as a/good.jpg": "the same pixels",
    "a GIF image; readable are JPEG, PNG, WEBP, TIFF": "a GIF image",
}


class Thumbnails:
    """Gives every photograph the same bytes and counts how often it is asked for which."""

    def __init__(self, content: bytes | None = b"\xff\xd8 picture") -> None:
        self.asked: Counter[str] = Counter()
        self._content = content

    def __call__(self, finding: Finding) -> bytes | None:
        self.asked[finding.name] += 1
        return self._content


def render(
    findings: list[Finding],
    groups: list[list[Finding]] | None = None,
    counts: dict[str, int] | None = None,
    thumbnails: Thumbnails | None = None,
) -> str:
    return render_report(Request("src"), counts or {}, findings, groups or [], thumbnails or Thumbnails())


def many(number: int, prefix: str = "", **changes) -> list[Finding]:
    return [dataclasses.replace(GOOD, name=f"{prefix}{index:05d}.jpg", **changes) for index in range(number)]


def varied(number: int) -> list[Finding]:
    return [
        dataclasses.replace(
            finding,
            height=300 + index % 97,
            width=400 + index % 89,
            num_bytes=20_000 + 37 * index,
            jpeg_quality=30 + index % 70,
            blockiness=1 + index % 13 / 100,
            detail=-20 + index % 17,
            breed=f"breed {index % 120}",
        )
        for index, finding in enumerate(many(number))
    ]


def test_the_page_says_what_was_found() -> None:
    bad = Finding("b/bad.jpg", "b", reason="damaged JPEG image: truncated")
    noted = dataclasses.replace(GOOD, name="odd.jpg", notes=("wrong ending: PNG called .jpg",))
    counts = {"found": 20580, "train": 19511, "val": 1069, "near_duplicate_groups": 184}
    texts = Balance(render([GOOD, bad, noted], [[GOOD, noted]], counts)).texts
    for text in ("20,580", "19,511", "1,069", "184", "near-duplicate groups", "damaged JPEG image", "wrong ending"):
        assert text in texts
    for text in ("PNG called .jpg", "quality 75, blockiness 1.20", "-10.0 dB", "600 × 400 px", "bad.jpg", "odd.jpg"):
        assert text in texts


def test_every_kind_of_rejection_is_counted_and_shown() -> None:
    """Also one that is rare: of each kind some are shown, however many there are of another."""
    common = many(100, "common/", reason=next(iter(REASONS)))
    rare = [
        dataclasses.replace(GOOD, name=f"rare/{number}.jpg", reason=reason) for number, reason in enumerate(REASONS)
    ]
    texts = Balance(render([*common, *rare])).texts
    assert set(REASONS.values()) <= set(texts)
    assert set(REASONS) <= set(texts)
    assert f"and {107 - report.MAX_REJECTED} more in rejected.jsonl" in texts


def test_the_page_is_well_formed() -> None:
    bad = many(3, "bad/", reason="not an image: 3 bytes")
    odd = many(3, "odd/", notes=("pixel mode: CMYK", "heavy JPEG compression"))
    assert Balance(render([*varied(500), *bad, *odd], [many(9), many(2)])).open == []
    assert Balance(render([*bad, *odd], [odd], thumbnails=Thumbnails(None))).open == []


def test_the_page_stands_alone_and_is_always_the_same() -> None:
    page = render(varied(300), [many(3)])
    assert_stands_alone(page)
    assert page == render(varied(300), [many(3)])


@pytest.mark.parametrize(("start", "kind"), [(b"\xff\xd8", "jpeg"), (b"\x89PNG", "png"), (b"RIFF", "webp")])
def test_a_picture_is_called_what_it_is(start: bytes, kind: str) -> None:
    page = render([GOOD], thumbnails=Thumbnails(start))
    assert f"data:image/{kind};base64,{base64.b64encode(start).decode()}" in page


def test_names_can_do_no_harm() -> None:
    name = "\"><script>alert('1')</script>\udcff\u202e\n.jpg"
    evil = dataclasses.replace(GOOD, name=name, breed=name, notes=(name, "<b>: <i>"))
    findings = [evil, dataclasses.replace(evil, reason=name), dataclasses.replace(evil, id="", reason="<i>: " + name)]
    counts = {name: 1}
    page = render_report(Request(name), counts, findings, [[evil, evil]], lambda finding: None if finding.id else b"1")
    assert not re.search(r"<script|<i>|[\udc80-\udcff\u202e]", page)
    assert Balance(page).open == []
    page.encode()


def test_an_empty_page_says_none() -> None:
    page = render([])
    assert Balance(page).texts.count("none") == 13
    assert Balance(page).open == []


def test_values_that_are_all_alike_need_no_chart() -> None:
    page = render(many(7))
    assert "<svg" not in page
    assert "all 7: 400 px" in page


def test_a_chart_counts_every_photograph_also_the_giant() -> None:
    giant = dataclasses.replace(GOOD, name="giant.jpg", height=9000, width=12000)
    page = render([*varied(999), giant])
    charts = re.findall(r"<svg.*?</svg>", page)
    assert len(charts) == 6
    for chart in charts:
        assert sum(int(count.replace(",", "")) for count in re.findall(r": ([\d,]+)</title>", chart)) == 1000
    assert "max 9,000 px" in page
    assert all(int(x) < 1000 for x in re.findall(r'middle">(\d+)</text>', charts[0]))


def test_the_number_of_pictures_is_bounded_and_none_is_made_twice() -> None:
    thumbnails = Thumbnails()
    findings = many(500, "bad/", reason="damaged: x") + many(500, "odd/", notes=("odd: y",))
    groups = [many(20, f"{number}/") for number in range(100)]
    page = render(findings, groups, thumbnails=thumbnails)
    expected = report.MAX_REJECTED + report.MAX_GROUPS * report.MAX_IN_GROUP + 3 * report.MAX_WORST + report.MAX_NOTED
    assert page.count("<img") == expected
    assert set(thumbnails.asked.values()) == {1}
    for text in ("and 452 more in rejected.jsonl", "and 60 more groups", "and 14 more", "All 500 names", "00499.jpg"):
        assert text in page


def test_the_page_stays_small_with_large_pictures() -> None:
    findings = many(20_580, notes=("odd: y",))
    page = render(findings, [many(6, f"{number}/") for number in range(40)], thumbnails=Thumbnails(bytes(45_000)))
    assert len(page.encode()) < 6_000_000
    assert "no picture" in page
