"""The endpoint as its users meet it: the command, HTTP, and Ctrl-C."""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fakes import photograph, write_generator
from hostile import GOOD, HOSTILE, broken, exchange, statuses
from srgan_ray.data import images
from srgan_ray.demo import free_port
from srgan_ray.errors import InputError
from srgan_ray.models.artifact import load_generator
from srgan_ray.models.generator import GeneratorConfig
from srgan_ray.models.registry import Registry
from srgan_ray.models.upscaler import Upscaler
from srgan_ray.serving.handler import ModelConfig
from srgan_ray.serving.protocol import Limits, Scaling, ServeConfig

pytestmark = pytest.mark.ray
DASHBOARD = Path(__file__).parents[2] / "cluster" / "monitoring" / "grafana_endpoint.json"


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


def test_no_hostile_request_through_the_proxy_is_answered_with_an_error_of_ours(
    generator_file: str, ray_cluster: None
) -> None:
    from srgan_ray.on_ray.app import endpoint

    config = ServeConfig(ModelConfig(generator_file), Limits(max_mb=5, receive_limit_s=0.5), port=free_port())
    dice = random.Random(0)
    requests = [pieces for _, pieces in HOSTILE.values()] + [broken(GOOD, dice) for _ in range(100)]
    with endpoint(config) as url, ThreadPoolExecutor(8) as executor:
        assert statuses(exchange(url, [GOOD], 60)) == [200]
        for pieces, reply in zip(requests, executor.map(lambda pieces: exchange(url, pieces, 2), requests)):
            assert all(status < 500 for status in statuses(reply)), (pieces[0][:500], reply[:500])
        assert statuses(exchange(url, [GOOD], 60)) == [200]


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


@pytest.mark.parametrize("resource", ["cpus", "gpus"])
def test_more_cpus_or_gpus_than_there_are_are_refused(resource: str, generator_file: str, ray_cluster: None) -> None:
    from srgan_ray.on_ray.app import endpoint

    config = ServeConfig(ModelConfig(generator_file), scaling=Scaling(**{f"num_{resource}": 1000}))
    with pytest.raises(InputError, match=f"--num-{resource} 1000"), endpoint(config):
        pass


@pytest.mark.parametrize(
    ("nodes", "scaling", "message"),
    [
        ([{"CPU": 16, "GPU": 1}], Scaling(2, 2, num_gpus=1), "--min-replicas 2 of --num-cpus 8 and --num-gpus 1 each"),
        ([{"CPU": 16}, {"CPU": 8, "GPU": 1}], Scaling(num_cpus=16, num_gpus=1), "have room for 0: wanted 1 at least"),
        ([{"CPU": 3}, {"CPU": 3}], Scaling(0, 3, num_cpus=4), "--num-cpus 4; the largest node has 3"),
        ([{"CPU": 3}, {"CPU": 3}], Scaling(3, 3), "the nodes have room for 2: wanted 3 at least"),
    ],
)
def test_replicas_without_a_place_are_refused(
    nodes: list[dict[str, float]], scaling: Scaling, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from srgan_ray.on_ray import app, cluster

    monkeypatch.setattr(cluster, "_nodes", lambda: nodes)
    with pytest.raises(InputError, match=message), app.endpoint(ServeConfig(scaling=scaling)):
        pass


def test_a_serve_that_ran_before_keeps_its_port_and_its_applications(generator_file: str, ray_cluster: None) -> None:
    from ray import serve

    from srgan_ray.on_ray.app import NAME, endpoint

    port, wanted = free_port(), free_port()
    config = ServeConfig(ModelConfig(generator_file), port=wanted)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        with endpoint(config) as url:
            assert url == f"http://127.0.0.1:{port}"
            assert post(url, b"no image")[0] == 400
            with pytest.raises(InputError, match="has an application srgan-ray already"), endpoint(config):
                pass
            assert NAME in serve.status().applications
            assert post(url, b"no image")[0] == 400
    finally:
        serve.shutdown()


def test_what_serve_does_not_deploy_is_said_in_a_line(generator_file: str, tmp_path: Path, ray_cluster: None) -> None:
    from ray import serve

    from srgan_ray.on_ray.app import NAME, endpoint

    @serve.deployment
    class Other:
        pass

    missing = str(tmp_path / "missing.safetensors")
    serve.start(http_options={"host": "127.0.0.1", "port": free_port()})
    try:
        with (
            pytest.raises(InputError, match=r"did not start: .*missing\.safetensors"),
            endpoint(ServeConfig(ModelConfig(missing))),
        ):
            pass
        serve.run(Other.bind(), name="other", route_prefix="/")
        with (
            pytest.raises(InputError, match=r"refuses the endpoint: .*other"),
            endpoint(ServeConfig(ModelConfig(generator_file))),
        ):
            pass
        assert NAME not in serve.status().applications
    finally:
        serve.shutdown()


class Load:
    """Clients that post a photograph again and again from so many threads; keeps each answer's status and generator."""

    def __init__(self, url: str, body: bytes, num_clients: int) -> None:
        self.answers: list[tuple[int, str]] = []
        self._url, self._body, self._ended = url, body, threading.Event()
        self._threads = [threading.Thread(target=self._post) for _ in range(num_clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _post(self) -> None:
        while not self._ended.is_set():
            status, headers, _ = post(self._url, self._body, "image/jpeg")
            self.answers.append((status, headers.get("x-generator", "")))


def wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


def test_replicas_come_with_load_and_go_without_it(ray_cluster: None, tmp_path: Path) -> None:
    from ray import serve

    from srgan_ray.on_ray.app import NAME, endpoint

    def num_replicas() -> int:
        return serve.status().applications[NAME].deployments["Upscaler"].replica_states.get("RUNNING", 0)

    generator = write_generator(tmp_path / "slow.safetensors", 0, "slow", GeneratorConfig(16, 64))
    scaling = Scaling(min_replicas=1, max_replicas=2, scale_up_after_s=0.5, scale_down_after_s=2)
    config = ServeConfig(ModelConfig(generator), scaling=scaling, port=free_port())
    with endpoint(config) as url:
        assert num_replicas() == 1
        with Load(url, images.encode(photograph(0, 60, 80), "jpeg"), 12) as load:
            wait_until(lambda: num_replicas() == 2)
        wait_until(lambda: num_replicas() == 1)
        assert post(url, images.encode(photograph(0, 8, 8), "png"))[0] == 200
    assert {status for status, _ in load.answers} == {200}


def test_the_first_request_starts_the_first_replica(generator_file: str, ray_cluster: None) -> None:
    from srgan_ray.on_ray.app import endpoint

    config = ServeConfig(ModelConfig(generator_file), scaling=Scaling(min_replicas=0), port=free_port())
    with endpoint(config) as url:
        assert post(url, images.encode(photograph(0, 8, 8), "png"))[0] == 200


def test_a_relative_path_is_found_by_replicas_with_another_working_directory(
    generator_file: str, ray_cluster: None, monkeypatch
) -> None:
    from srgan_ray.on_ray.app import endpoint

    monkeypatch.chdir(Path(generator_file).parent)
    config = ServeConfig(ModelConfig(Path(generator_file).name), port=free_port())
    with endpoint(config) as url:
        assert post(url, images.encode(photograph(0, 8, 8), "png"))[0] == 200


def test_requests_that_have_begun_are_answered_before_the_endpoint_stops(ray_cluster: None, tmp_path: Path) -> None:
    from srgan_ray.on_ray.app import endpoint

    generator = write_generator(tmp_path / "slow.safetensors", 0, "slow", GeneratorConfig(16, 64))
    config = ServeConfig(ModelConfig(generator), port=free_port())
    body = images.encode(photograph(0, 300, 400), "jpeg")
    with ThreadPoolExecutor(3) as executor:
        with endpoint(config) as url:
            begun = [executor.submit(post, url, body, "image/jpeg") for _ in range(3)]
            time.sleep(0.5)
            assert not any(future.done() for future in begun)
        assert [future.result()[0] for future in begun] == [200] * 3


def test_a_promotion_and_a_rollback_fail_no_request(ray_cluster: None, tmp_path: Path) -> None:
    from srgan_ray.on_ray.app import endpoint

    old, new = (Path(write_generator(tmp_path / f"{name}.safetensors", 0, name)) for name in ("old", "new"))
    registry = Registry(tmp_path / "registry", "--to")
    registry.promote(old.read_bytes(), {})
    config = ServeConfig(registry=str(registry), port=free_port()).resolved()
    with endpoint(config) as url, Load(url, images.encode(photograph(0, 20, 30), "jpeg"), 4) as load:
        wait_until(lambda: (200, "old") in load.answers)
        registry.promote(new.read_bytes(), {})
        wait_until(lambda: (200, "new") in load.answers)
        registry.roll_back(None)
        wait_until(lambda: load.answers[-8:] == [(200, "old")] * 8)  # more than the 4 that may have begun before
        Path(registry.location(1)).write_bytes(b"half")
        time.sleep(6)
    assert {status for status, _ in load.answers} == {200}
    assert load.answers[-1] == (200, "old")


def test_metrics_and_log_lines_tell_of_each_request(ray_cluster: None, tmp_path: Path) -> None:
    import ray

    from srgan_ray.on_ray.app import endpoint
    from srgan_ray.on_ray.cluster import metrics_url

    logs = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs" / "serve"

    def lines() -> list[dict]:
        files = logs.glob("replica_srgan-ray_*.log")
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def metrics() -> str:
        with urllib.request.urlopen(metrics_url(), timeout=10) as answer:
            return answer.read().decode()

    def all_exported() -> bool:
        return all(f"\n{name}{{" in metrics() for name in wanted)

    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    wanted = {name for expression in expressions for name in re.findall(r"\bray_\w+", expression)}
    assert len(wanted) >= 9
    generator = write_generator(tmp_path / "generator.safetensors", 0, "old")
    with endpoint(ServeConfig(ModelConfig(generator), port=free_port())) as url:
        request = urllib.request.Request(
            f"{url}/upscale?format=webp",
            images.encode(photograph(0, 20, 50), "png"),
            {"Content-Type": "image/png", "X-Request-Id": "of-this-test"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.headers["x-request-id"] == "of-this-test"
        assert post(url, b"no image")[0] == 400
        wait_until(lambda: any(line.get("request_id") == "of-this-test" for line in lines()))
        os.replace(write_generator(tmp_path / "aside.safetensors", 1, "new"), generator)
        wait_until(all_exported)
        assert 'status="400"' in metrics()
    [line] = [line for line in lines() if line.get("request_id") == "of-this-test"]
    assert (line["status"], line["format"], line["megapixels"], line["num_tiles"]) == (200, "webp", 0.001, 1)
    assert 0 < line["model_s"] < line["seconds"]


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
