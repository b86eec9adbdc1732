import dataclasses
import html.parser
import re

from srgan_ray.data import report
from srgan_ray.data.forensics import Finding
from srgan_ray.data.manifest import Request
from srgan_ray.data.report import render_report

GOOD = Finding("a/good.jpg", "a", "1", 400, 600, 50_000, "JPEG", 75, 1.2, -10.0)
VOID = {"meta", "img"}


def render(findings: list[Finding], groups: list[list[Finding]] | None = None, counts: dict | None = None) -> str:
    return render_report(Request("src"), counts or {}, findings, groups or [], lambda _: b"picture")


def many(number: int, **changes) -> list[Finding]:
    return [dataclasses.replace(GOOD, name=f"{index:05d}.jpg", **changes) for index in range(number)]


class Balance(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_says_what_was_found() -> None:
    bad = Finding("b/bad.jpg", "b", reason="damaged JPEG image: truncated")
    noted = dataclasses.replace(GOOD, name="odd.jpg", notes=("wrong ending: PNG called .jpg",))
    page = render([GOOD, bad, noted], [[GOOD, noted]], {"found": 20580, "near_duplicate_groups": 1})
    for text in ("20,580", "near duplicate groups", "damaged JPEG image: 1", "bad.jpg", "wrong ending: 1", "odd.jpg"):
        assert text in page
    assert "quality 75, blockiness 1.20" in page
    Balance().feed(page)


def test_the_page_stands_alone_and_is_always_the_same() -> None:
    page = render(many(100), [many(3)])
    assert set(re.findall(r'(?:src|href)="(.{0,10})', page)) == {"data:image"}
    assert "http" not in page
    assert "<script" not in page
    assert page == render(many(100), [many(3)])


def test_names_can_do_no_harm() -> None:
    evil = dataclasses.replace(GOOD, name="<script>alert(1)</script>\udcff.jpg", notes=("<b>", "x"))
    page = render([evil, dataclasses.replace(evil, reason="<i>")], [[evil, evil]])
    assert "<script" not in page
    assert "<i>" not in page
    page.encode()


def test_an_empty_page_says_none() -> None:
    page = render([])
    assert page.count("none") > 5
    parser = Balance()
    parser.feed(page)
    assert parser.open == ["html"] or not parser.open


def test_the_number_of_pictures_is_bounded() -> None:
    findings = many(500, reason="damaged: x") + many(500, notes=("odd: y",))
    page = render(findings, [many(20)] * 100)
    expected = report.MAX_REJECTED + report.MAX_GROUPS * report.MAX_IN_GROUP + 3 * report.MAX_WORST + report.MAX_NOTED
    assert page.count("<img") == expected
    assert f"and {500 - report.MAX_REJECTED} more" in page
    assert f"and {100 - report.MAX_GROUPS} more" in page
