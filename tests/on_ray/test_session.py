"""Whose Ray a command uses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from srgan_ray.demo import free_port

pytestmark = pytest.mark.ray


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    variables = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | environment
    return subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=100)


def test_an_embedded_ray_leaves_no_token_and_no_process(tmp_path: Path) -> None:
    code = (
        "import os\n"
        "from srgan_ray.on_ray.session import ray_session\n"
        "with ray_session():\n"
        "    import ray\n"
        "    print('to standard error')\n"
        "    assert ray.is_initialized() and os.environ['RAY_AUTH_MODE'] == 'token'\n"
        "assert not ray.is_initialized()\n"
    )
    done = run(code, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert not (tmp_path / ".ray").exists()


def test_a_given_address_that_does_not_answer_is_refused_at_once() -> None:
    code = (
        "from srgan_ray.errors import InputError\n"
        "from srgan_ray.on_ray.session import ray_session\n"
        "try:\n"
        "    with ray_session(): raise SystemExit('connected')\n"
        "except InputError as error: print(error)\n"
    )
    done = run(code, RAY_ADDRESS=f"127.0.0.1:{free_port()}")
    assert done.returncode == 0, done.stderr
    assert "wanted a running cluster" in done.stdout


@pytest.mark.slow
def test_a_given_cluster_is_used_and_left_as_it_is(ray_cluster: None) -> None:
    """The command connects to the session's Ray, and leaves it running."""
    import ray

    address = ray.get_runtime_context().gcs_address
    code = (
        "from srgan_ray.on_ray.session import ray_session\n"
        "with ray_session():\n"
        "    import ray\n"
        "    import sys\n"
        "    sys.__stdout__.write(ray.get_runtime_context().gcs_address)\n"
    )
    tokens = {key: value for key, value in os.environ.items() if key.startswith("RAY_AUTH")}
    done = run(code, RAY_ADDRESS=address, **tokens)
    assert done.returncode == 0, done.stderr
    assert done.stdout == address
    assert ray.is_initialized()
    assert ray.get(ray.remote(lambda: 7).remote()) == 7
