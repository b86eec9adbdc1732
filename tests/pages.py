"""What the tests ask of an HTML page."""

import html.parser
import re

VOID = {"meta", "img", "wbr", "line", "polyline"}


class Balance(html.parser.HTMLParser):
    """Fails where a tag is closed that is not the one opened last; keeps the texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        assert tag in VOID

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def assert_stands_alone(page: str) -> None:
    """The page has pictures, and needs nothing from elsewhere."""
    assert set(re.findall(r'(?:src|href)="(.{0,10})', page)) == {"data:image"}
    assert not re.search(r"https?:|url\(|@import|<script|<link", page)
