"""The page to drop a photograph on: one HTML document, and the policy that keeps everything else out of it."""

import base64
import hashlib
from importlib.resources import files

from srgan_ray.data.page import STYLE, document

TITLE = "Photographs at four times their size"
_FILES = ("body.html", "style.css", "script.js")


def build_page() -> tuple[str, str]:
    """The page, and its Content-Security-Policy: its own script and style, images that it made, its own endpoint."""
    body, style, script = (files(__package__).joinpath("page", name).read_text() for name in _FILES)
    page = document(TITLE, style, [body, f"<script>{script}</script>"])
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(STYLE + style)}; img-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
