"""The endpoint as its users meet it: the command, HTTP, and Ctrl-C."""

import itertools
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fakes import photograph, write_generator
from srgan_ray.data import images
from srgan_ray.demo import free_port
from srgan_ray.errors import InputError
from srgan_ray.models.artifact import load_generator
from srgan_ray.models.generator import GeneratorConfig
from srgan_ray.models.upscaler import Upscaler
from srgan_ray.serving.handler import ModelConfig
from srgan_ray.serving.protocol import Limits, ServeConfig

pytestmark = pytest.mark.ray


def post(url: str, body: bytes, content_type: str = "image/png"):
    request = urllib.request.Request(f"{url}/upscale", data=body, headers={"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def test_the_endpoint_answers_and_refuses_over_http(generator_file: str, ray_cluster: None) -> None:
    from srgan_ray.on_ray.app import endpoint

    lr = photograph(0, 30, 40)
    config = ServeConfig(ModelConfig(generator_file), Limits(max_mb=0.1, max_waiting=2), port=free_port())
    with endpoint(config) as url:
        status, headers, body = post(url, images.encode(lr, "png"))
        assert status == 200
        np.testing.assert_array_equal(images.decode(body), Upscaler(load_generator(generator_file)[0])(lr))
        lowered = {name.lower(): value for name, value in headers.items()}
        assert lowered["x-generator"] == "sharp"
        assert float(lowered["x-consistency-db"]) > 0
        with urllib.request.urlopen(f"{url}/healthz", timeout=10) as answer:
            assert json.load(answer)["status"] == "ok"
        for wrong, expected in ((b"no image", 400), (b"x" * 200_000, 413)):
            status, headers, body = post(url, wrong)
            assert status == expected
            assert headers["content-type"] == "application/problem+json"
            assert json.loads(body)["status"] == expected
        assert post(url, images.encode(lr, "png"), "text/plain")[0] == 415
        large = images.encode(photograph(0, 150, 150), "jpeg")
        with ThreadPoolExecutor(8) as executor:
            answers = [future.result() for future in [executor.submit(post, url, large) for _ in range(8)]]
        assert {status for status, _, _ in answers} <= {200, 503}
        assert sum(status == 200 for status, _, _ in answers) >= 2
        for status, headers, body in answers:
            if status == 503:
                assert "retry-after" in {name.lower() for name in headers}
                assert json.loads(body)["status"] == 503
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{url}/healthz", timeout=2)


def test_a_client_that_leaves_frees_its_place(ray_cluster: None, tmp_path: Path) -> None:
    from srgan_ray.on_ray.app import endpoint

    generator = write_generator(tmp_path / "slow.safetensors", 0, "slow", GeneratorConfig(16, 64))
    config = ServeConfig(ModelConfig(generator), Limits(max_waiting=1), port=free_port())
    small, large = (images.encode(photograph(0, *size), "jpeg") for size in ((8, 8), (1200, 1600)))
    with endpoint(config) as url:
        request = urllib.request.Request(f"{url}/upscale", large, {"Content-Type": "image/jpeg"})
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(request, timeout=2)
        started = time.monotonic()
        while (status := post(url, small)[0]) == 503:
            assert time.monotonic() - started < 5, "the place is still taken"
            time.sleep(0.1)
        assert status == 200


def test_a_taken_port_is_refused(generator_file: str, ray_cluster: None) -> None:
    import socket

    from srgan_ray.on_ray.app import endpoint

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(InputError, match=f"--port {port}"),
            endpoint(ServeConfig(ModelConfig(generator_file), port=port)),
        ):
            pass


def test_more_cpus_than_there_are_are_refused(generator_file: str, ray_cluster: None) -> None:
    from srgan_ray.on_ray.app import endpoint

    config = ServeConfig(ModelConfig(generator_file), num_cpus=1000)
    with pytest.raises(InputError, match="--num-cpus 1000"), endpoint(config):
        pass


@pytest.mark.slow
def test_the_command_serves_until_ctrl_c(generator_file: str, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "srgan_ray", "serve", "--generator", generator_file, "--port", str(port)]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert running.stderr
    before = list(itertools.takewhile(lambda line: "serving on" not in line, running.stderr))  # ends at Ctrl-C's hint
    assert running.poll() is None, before
    assert post(f"http://127.0.0.1:{port}", images.encode(photograph(0, 8, 8), "png"))[0] == 200
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    assert json.loads(output.splitlines()[-1])["served"].endswith(str(port))
    assert "Traceback" not in errors
