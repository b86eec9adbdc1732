"""The page in a real browser, headless Chromium, against the real API."""

import io
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fakes import photograph, served
from srgan_ray.data import images
from srgan_ray.serving.api import build_api
from srgan_ray.serving.handler import Handler, ModelConfig
from srgan_ray.serving.protocol import Limits
from srgan_ray.serving.web import build_page

CHROMIUM = shutil.which("chromium")
PHOTOGRAPH = images.encode(photograph(3, 60, 90), "png")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def handler(generator_file: str, other_generator_file: str) -> Handler:
    return Handler(ModelConfig(generator_file, fidelity_generator=other_generator_file))


@pytest.fixture
def page(browser, handler: Handler):
    """The page, opened; fails where it asks for anything from elsewhere or reports an error."""
    strays: list[str] = []
    with served(build_api(handler, Limits())) as url:
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.set_default_timeout(20_000)
        page.on(
            "request", lambda request: None if request.url.startswith((url, "blob:")) else strays.append(request.url)
        )
        page.on("pageerror", lambda error: strays.append(str(error)))
        page.on("console", lambda message: strays.append(message.text) if "Security Policy" in message.text else None)
        page.goto(url)
        yield page
        page.close()
    assert not strays


def choose(page, content: bytes = PHOTOGRAPH, name: str = "dog.png", mime_type: str = "image/png") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": mime_type, "buffer": content})


def natural_size(page, selector: str) -> list[int]:
    return page.eval_on_selector(selector, "image => [image.naturalWidth, image.naturalHeight]")


def until(page, condition: Callable[[], bool]) -> None:
    """Playwright's own waiting for a condition needs `eval`, which the page's policy forbids."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        page.wait_for_timeout(20)


def wait_for_result(page) -> None:
    page.wait_for_selector("#result:not([hidden])")
    until(page, lambda: natural_size(page, "#after")[0] > 0)
    page.wait_for_selector("#progress", state="hidden")


def test_a_chosen_photograph_comes_back_and_can_be_kept(page, handler: Handler, tmp_path: Path) -> None:
    choose(page)
    wait_for_result(page)
    assert (natural_size(page, "#before"), natural_size(page, "#after")) == ([90, 60], [360, 240])
    assert "sharp" in page.inner_text("#figures")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "dog_x4.png"
    download.value.save_as(tmp_path / "kept.png")
    expected = handler.upscale(PHOTOGRAPH, "png", 0.0).encoded
    np.testing.assert_array_equal(images.decode((tmp_path / "kept.png").read_bytes()), images.decode(expected))


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_dropped_and_pasted(page, event: str) -> None:
    page.evaluate(
        """([content, event]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(content)], "dog.png", { type: "image/png" }));
            document.dispatchEvent(event === "drop"
                ? new DragEvent("drop", { dataTransfer: data })
                : new ClipboardEvent("paste", { clipboardData: data }));
        }""",
        [list(PHOTOGRAPH), event],
    )
    wait_for_result(page)
    assert natural_size(page, "#after") == [360, 240]


def test_the_settings_reach_the_endpoint_by_keyboard_alone(page) -> None:
    choose(page)
    wait_for_result(page)
    page.focus("#fidelity")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert page.inner_text("#fidelity-value") == "0.25"
    page.keyboard.press("Tab")
    page.keyboard.press("w")  # WebP, by its first letter
    page.keyboard.press("Tab")
    with page.expect_request("**/upscale?*") as sent:
        page.keyboard.press("Enter")
    assert sent.value.url.endswith("upscale?format=webp&fidelity=0.25")
    until(page, lambda: page.get_attribute("#download", "download") == "dog_x4.webp")


def test_the_slider_moves_the_border_between_before_and_after(page) -> None:
    choose(page)
    wait_for_result(page)
    page.focus("#split")
    page.keyboard.press("Home")
    assert page.eval_on_selector("#before", "image => getComputedStyle(image).clipPath") == "inset(0px 100% 0px 0px)"
    box = page.locator("#compare").bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + box["height"] / 2)
    split = page.eval_on_selector("#compare", "element => parseFloat(element.style.getPropertyValue('--split'))")
    assert split == pytest.approx(75, abs=2)
    fitted = box["width"]
    page.check("#full")
    assert page.locator("#compare").bounding_box()["width"] == 360 != fitted
    assert page.eval_on_selector("#split", "range => getComputedStyle(range).touchAction") == "pan-x pan-y"


def test_a_problem_is_told_and_forgotten(page) -> None:
    choose(page, b"no image at all")
    page.wait_for_selector("#problem:not([hidden])")
    assert "not an image" in page.inner_text("[role=alert]")
    assert page.is_hidden("#result")
    choose(page)
    wait_for_result(page)
    assert page.is_hidden("#problem")


def test_what_the_browser_cannot_show_is_upscaled_all_the_same(page) -> None:
    buffer = io.BytesIO()
    Image.fromarray(photograph(3, 60, 90)).save(buffer, "TIFF")
    choose(page, buffer.getvalue(), "dog.tiff", "image/tiff")
    wait_for_result(page)
    page.wait_for_selector("#unshown:not([hidden])")
    assert page.is_hidden("#split")


def test_after_is_not_seen_through_what_is_transparent_in_before(page) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (90, 60), (255, 0, 0, 0)).save(buffer, "PNG")
    choose(page, buffer.getvalue())
    wait_for_result(page)
    background = page.eval_on_selector("#before", "image => getComputedStyle(image).backgroundColor")
    assert not background.endswith(", 0)"), background


def test_stop_drops_the_request(page, handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    monkeypatch.setattr(handler, "upscale", lambda *arguments: done.wait(20))
    choose(page)
    until(page, lambda: page.inner_text("#seconds") == "1 s")
    assert page.inner_text("[role=status]") == "Upscaling", "read out once, and not each second"
    with page.expect_event("requestfailed") as dropped:
        page.click("#stop")
    assert "/upscale?" in dropped.value.url
    page.wait_for_selector("#progress", state="hidden")
    assert page.is_enabled("#again")
    assert page.evaluate("document.activeElement.id") == "again"
    assert page.is_hidden("#problem")
    done.set()


@pytest.mark.parametrize("width", [320, 390, 1100])
def test_nothing_is_wider_than_the_window(page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    choose(page)
    wait_for_result(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.check("#full")  # scrolls in its frame
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_a_second_generator_there_is_no_fidelity(browser, generator_file: str) -> None:
    with served(build_api(Handler(ModelConfig(generator_file)), Limits(max_mb=2))) as url:
        page = browser.new_page()
        page.goto(url)
        until(page, lambda: "up to 2 MB" in page.inner_text("#limits"))
        assert page.is_hidden("#fidelity")
        page.close()


def test_the_policy_lets_nothing_else_in() -> None:
    html, policy = build_page()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in html.replace("http-equiv", "")
