import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from fakes import photograph, write_generator
from srgan_ray.data import images
from srgan_ray.models.artifact import interpolate, load_generator
from srgan_ray.models.upscaler import Upscaler
from srgan_ray.serving import picture
from srgan_ray.serving.api import build_api
from srgan_ray.serving.handler import Handler, ModelConfig
from srgan_ray.serving.protocol import Limits

LR = photograph(0, 20, 36)
PNG = images.encode(LR, "png")
AS_PNG = {"content-type": "image/png"}


def problem(response, status: int) -> str:
    """Check that the answer is this problem, and return its detail."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body["type"] == "about:blank"
    return body["detail"]


def test_body_and_multipart_give_what_the_upscaler_gives(client: TestClient, generator_file: str) -> None:
    expected = Upscaler(load_generator(generator_file)[0])(LR)
    assert expected.shape == (80, 144, 3)
    raw = client.post("/upscale", content=PNG, headers=AS_PNG)
    form = client.post("/upscale", files={"file": ("dog.png", PNG, "image/png")})
    for response in (raw, form):
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "image/png"
        np.testing.assert_array_equal(images.decode(response.content), expected)
    assert raw.headers["x-generator"] == "sharp"
    assert raw.headers["x-precision"] in ("fp32", "bf16")
    assert 0 < float(raw.headers["x-seconds"]) < 5


def test_consistency_is_the_result_degraded_again_against_the_input(client: TestClient) -> None:
    from skimage.metrics import peak_signal_noise_ratio

    from srgan_ray.data.degrade import opencv_cubic

    response = client.post("/upscale", content=PNG, headers=AS_PNG)
    expected = peak_signal_noise_ratio(LR, opencv_cubic(images.decode(response.content)), data_range=255)
    assert float(response.headers["x-consistency-db"]) == pytest.approx(expected, abs=0.01)


def test_16_bits_come_back_in_fp32_and_8_bits_alike(client: TestClient, generator_file: str) -> None:
    lr = LR.astype(np.uint16) * 200
    encoded = cv2.imencode(".png", np.ascontiguousarray(lr[..., ::-1]))[1].tobytes()
    response = client.post("/upscale", content=encoded, headers=AS_PNG)
    sr = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert sr.dtype == np.uint16
    np.testing.assert_array_equal(sr, Upscaler(load_generator(generator_file)[0], "fp32")(lr))
    assert len(np.unique(sr)) > 1000
    assert response.headers["x-precision"] == "fp32"
    rounded = client.post("/upscale?format=webp", content=encoded, headers=AS_PNG)
    assert images.decode(rounded.content).shape == sr.shape


def test_problems_that_only_the_pixels_tell(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.fromarray(LR[..., 0].astype(np.float32)).save(buffer, "TIFF")
    assert "32 bit" in problem(client.post("/upscale", content=buffer.getvalue(), headers=AS_PNG), 415)
    monkeypatch.setitem(picture.MAX_SIDE_PX, "webp", 100)
    assert "format: 144x80 pixels" in problem(client.post("/upscale?format=webp", content=PNG, headers=AS_PNG), 422)


@pytest.mark.parametrize(("format", "pillow_format"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_formats(client: TestClient, format: str, pillow_format: str) -> None:
    response = client.post(f"/upscale?format={format}", content=PNG, headers=AS_PNG)
    assert response.headers["content-type"] == f"image/{format}"
    image = Image.open(io.BytesIO(response.content))
    assert (image.format, image.size) == (pillow_format, (144, 80))


def test_red_stays_red(generator_file: str, monkeypatch) -> None:
    """The channel order survives decoding, the network's input, and encoding."""
    seen = []
    handler = Handler(ModelConfig(generator_file))
    run = Upscaler.run

    def remember(self, batch):
        seen.extend(tile.cut(lr) for lr, tile in batch)
        return run(self, batch)

    monkeypatch.setattr(Upscaler, "run", remember)
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    with TestClient(build_api(handler, Limits())) as client:
        assert client.post("/upscale", content=images.encode(red, "png"), headers=AS_PNG).status_code == 200
    np.testing.assert_array_equal(seen[0], red)


def test_a_generator_may_have_any_name(tmp_path: Path) -> None:
    file = write_generator(tmp_path / "generator.safetensors", 0, "собака 100%-train-5")
    with TestClient(build_api(Handler(ModelConfig(file)), Limits())) as client:
        answer = client.post("/upscale", content=PNG, headers=AS_PNG)
    assert answer.status_code == 200
    assert unquote(answer.headers["x-generator"]) == "собака 100%-train-5"


@pytest.mark.parametrize("body", [b"", b"no image", PNG[:200], PNG[:-300]])
def test_400_not_an_image_or_damaged(client: TestClient, body: bytes) -> None:
    assert problem(client.post("/upscale", content=body, headers=AS_PNG), 400)


def test_400_multipart_without_the_field(client: TestClient) -> None:
    assert "field `file`" in problem(client.post("/upscale", files={"picture": ("a.png", PNG, "image/png")}), 400)
    broken = client.post("/upscale", content=b"--x\r\nbroken", headers={"content-type": "multipart/form-data"})
    assert problem(broken, 400)


def test_413_too_many_bytes(client: TestClient) -> None:
    assert "200000" in problem(client.post("/upscale", content=b"x" * 200_001, headers=AS_PNG), 413)
    chunks = (b"x" * 10_000 for _ in range(30))  # no Content-Length
    assert problem(client.post("/upscale", content=chunks, headers=AS_PNG), 413)
    large = client.post("/upscale", files={"file": ("a.png", b"x" * 300_000, "image/png")})
    assert problem(large, 413)


def test_413_too_many_pixels_is_decided_before_decoding(client: TestClient, monkeypatch) -> None:
    monkeypatch.setattr(images, "decode", lambda _: pytest.fail("decoded"))
    large = images.encode(np.zeros((101, 100, 3), np.uint8), "png")
    assert "100x101 pixels" in problem(client.post("/upscale", content=large, headers=AS_PNG), 413)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", ""])
def test_415_by_content_type(client: TestClient, content_type: str) -> None:
    assert "image/*" in problem(client.post("/upscale", content=PNG, headers={"content-type": content_type}), 415)


def test_415_by_content(client: TestClient) -> None:
    buffer = io.BytesIO()
    Image.fromarray(LR).save(buffer, "GIF")
    assert "GIF" in problem(client.post("/upscale", content=buffer.getvalue(), headers=AS_PNG), 415)


@pytest.mark.parametrize("query", ["format=gif", "fidelity=1.5", "fidelity=-0.1", "fidelity=much", "fidelity=nan"])
def test_422_parameters_out_of_range(client: TestClient, query: str) -> None:
    assert query.split("=")[0] in problem(client.post(f"/upscale?{query}", content=PNG, headers=AS_PNG), 422)


def test_422_fidelity_needs_a_second_generator(client: TestClient) -> None:
    response = client.post("/upscale?fidelity=0.5", content=PNG, headers=AS_PNG)
    assert "--fidelity-generator" in problem(response, 422)


@pytest.mark.parametrize("fidelity", [0.0, 0.5, 1.0])
def test_fidelity_blends_two_generators(generator_file: str, other_generator_file: str, fidelity: float) -> None:
    handler = Handler(ModelConfig(generator_file, other_generator_file))
    sharp, faithful = (load_generator(path)[0] for path in (generator_file, other_generator_file))
    expected = Upscaler({0.0: sharp, 1.0: faithful}.get(fidelity) or interpolate(sharp, faithful, fidelity))(LR)
    with TestClient(build_api(handler, Limits())) as client:
        response = client.post(f"/upscale?fidelity={fidelity}", content=PNG, headers=AS_PNG)
    np.testing.assert_array_equal(images.decode(response.content), expected)


def slow_client(generator_file: str, limits: Limits, gate: threading.Event) -> tuple[TestClient, list[str]]:
    """An API whose model waits for the gate before each tile, and a log of what the model did."""
    handler = Handler(ModelConfig(generator_file))
    log: list[str] = []
    upscale = handler.upscale

    def slow(encoded, format, fidelity, check):
        log.append("begun")
        while not gate.wait(0.01):
            check()
        result = upscale(encoded, format, fidelity, check)
        log.append("done")
        return result

    handler.upscale = slow  # type: ignore[method-assign]
    return TestClient(build_api(handler, limits)), log


def test_503_when_too_many_wait_and_service_after(generator_file: str) -> None:
    gate = threading.Event()
    client, log = slow_client(generator_file, Limits(max_waiting=2), gate)
    with client, ThreadPoolExecutor(2) as executor:
        waiting = [executor.submit(client.post, "/upscale", content=PNG, headers=AS_PNG) for _ in range(2)]
        deadline = time.monotonic() + 10
        while not log and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)  # the second one is behind the first
        refused = client.post("/upscale", content=PNG, headers=AS_PNG)
        assert problem(refused, 503)
        assert int(refused.headers["retry-after"]) > 0
        gate.set()
        assert [future.result().status_code for future in waiting] == [200, 200]
        assert client.post("/upscale", content=PNG, headers=AS_PNG).status_code == 200


def test_504_past_the_time_limit_and_the_work_stops(generator_file: str) -> None:
    gate = threading.Event()
    client, log = slow_client(generator_file, Limits(time_limit_s=0.3), gate)
    with client:
        assert "0.3 s" in problem(client.post("/upscale", content=PNG, headers=AS_PNG), 504)
        time.sleep(0.2)
        gate.set()
        assert client.post("/upscale", content=PNG, headers=AS_PNG).status_code == 200
    assert log == ["begun", "begun", "done"]


def test_500_tells_nothing_of_the_inside(client: TestClient, monkeypatch) -> None:
    def fail(*args, **kwargs):
        raise RuntimeError("secret path")

    monkeypatch.setattr(Handler, "upscale", fail)
    assert "secret" not in problem(client.post("/upscale", content=PNG, headers=AS_PNG), 500)


def test_unknown_paths_and_methods_are_problems_too(client: TestClient) -> None:
    problem(client.get("/nowhere"), 404)
    answer = client.get("/upscale")
    problem(answer, 405)
    assert answer.headers["allow"] == "POST"


def test_healthz_names_what_is_served(client: TestClient) -> None:
    answer = client.get("/healthz").json()
    assert answer["status"] == "ok"
    assert answer["generator"] == "sharp"
    assert answer["vgg_weights"] == "random, seed 0"


def test_docs_describe_the_body_and_the_problems(client: TestClient) -> None:
    assert "swagger" in client.get("/docs").text.lower()
    operation = client.get("/openapi.json").json()["paths"]["/upscale"]["post"]
    assert set(operation["requestBody"]["content"]) == {"image/*", "multipart/form-data"}
    assert {"200", "400", "413", "415", "422", "503", "504"} <= set(operation["responses"])
    assert {parameter["name"] for parameter in operation["parameters"]} == {"format", "fidelity"}
