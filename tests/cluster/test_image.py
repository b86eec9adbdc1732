"""The lock, the image and the runtime environment are of one piece with pyproject.toml, the code and each other."""

import hashlib
import json
import re
import runpy
import shlex
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray._private.runtime_env.packaging import create_package
from ray.runtime_env import RuntimeEnv

from srgan_ray.serving.protocol import ServeConfig

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "cluster" / "requirements.lock"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
KNOWN_BAD = ("pillow", "9.0.0")  # the release that audit.py asks for first

audit = runpy.run_path(str(ROOT / "cluster" / "audit.py"))["audit"]


def lines_of(text: str) -> list[str]:
    """The lines of a lock or a Dockerfile: continued ones joined, without comments."""
    without_comments = re.sub(r"^\s*#.*\n", "", text, flags=re.M)
    return [line for line in re.sub(r"\\\n", " ", without_comments).splitlines() if line.strip()]


def pins(text: str) -> dict[str, Requirement]:
    requirements = [Requirement(line.split(" --hash=")[0]) for line in lines_of(text)]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


# The lock


def test_each_line_of_the_lock_pins_one_version_by_hashes() -> None:
    for line in lines_of(LOCK.read_text()):
        assert re.fullmatch(r"[\w.-]+==[\w.]+( +--hash=sha256:[0-9a-f]{64})+", line), line[:80]


@pytest.mark.parametrize("needed", PROJECT["dependencies"])
def test_the_lock_has_what_the_package_needs(needed: str) -> None:
    assert_locked(Requirement(needed))


def test_the_lock_has_what_the_parts_of_ray_need() -> None:
    (ray,) = [Requirement(line) for line in PROJECT["dependencies"] if line.startswith("ray[")]
    needed = [Requirement(line) for line in metadata.requires("ray") or []]
    parts = [part for part in needed if part.marker and any(part.marker.evaluate({"extra": e}) for e in ray.extras)]
    assert {"pyarrow", "fastapi", "aiohttp"} <= {part.name for part in parts}
    for part in parts:
        assert_locked(part)


def test_the_lock_has_the_ray_that_is_tested_with() -> None:
    assert str(pins(LOCK.read_text())["ray"].specifier) == f"=={metadata.version('ray')}"


def assert_locked(needed: Requirement) -> None:
    locked = pins(LOCK.read_text()).get(canonicalize_name(needed.name))
    assert locked, f"{needed.name} is not in the lock: make lock"
    (version,) = [pin.version for pin in locked.specifier]
    assert needed.specifier.contains(version, prereleases=True), f"{locked} in the lock, not {needed}: make lock"


# The package


def test_the_package_has_every_file_of_its_folder() -> None:
    globs = PYPROJECT["tool"]["setuptools"]["package-data"]["srgan_ray"]
    folder = ROOT / "srgan_ray"
    packed = {path for glob in ("**/*.py", *globs) for path in folder.glob(glob)}
    there = {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert there == packed


# The image

DOCKERFILE = [line.split(maxsplit=1) for line in lines_of((ROOT / "cluster" / "Dockerfile").read_text())]


def instructions(name: str) -> list[str]:
    return [rest.strip() for instruction, rest in DOCKERFILE if instruction == name]


def test_the_image_is_made_of_what_is_in_the_repository() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = {source for line in instructions("COPY") for source in shlex.split(line)[:-1]}
    assert sources == kept
    assert all((ROOT / source).exists() for source in sources)
    assert sources >= {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "srgan_ray", "jobs"}
    assert not instructions("ADD")


def test_the_base_image_is_pinned_and_has_a_python_that_the_package_takes() -> None:
    base, *later = instructions("FROM")
    assert (match := re.fullmatch(r"python:(\d+\.\d+\.\d+)-slim-\w+ AS dependencies", base)), base
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(match[1])
    assert all(line.split()[0] == "dependencies" for line in later)


def test_the_image_installs_from_the_lock_alone() -> None:
    commands = [
        command for line in instructions("RUN") for command in line.split("&&") if re.search(r"\bpip\d? ", command)
    ]
    from_lock, *others = commands
    assert "--require-hashes" in from_lock
    assert f"-r /tmp/{LOCK.name}" in from_lock
    assert others
    assert all({"--no-deps", "--no-index"} <= set(command.split()) for command in others)
    assert not any("://" in line for line in instructions("RUN"))


def test_the_image_runs_without_root_and_asks_for_a_token() -> None:
    user, _, group = instructions("USER")[-1].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert f"useradd --create-home --uid {user} ray" in instructions("RUN")
    assert "RAY_AUTH_MODE=token" in " ".join(instructions("ENV")).split()
    assert instructions("EXPOSE") == [str(ServeConfig().port)]


def test_no_secret_is_built_in() -> None:
    settings = " ".join(instructions("ENV") + instructions("ARG")).split()
    assert not [line for line in settings if re.search("SECRET|TOKEN|PASSW|KEY|CREDENTIAL", line.partition("=")[0])]


# The runtime environment


@pytest.fixture
def runtime_env(monkeypatch: pytest.MonkeyPatch) -> RuntimeEnv:
    """As Ray reads it, in the folder that jobs are submitted from."""
    monkeypatch.chdir(ROOT)
    return RuntimeEnv(**yaml.safe_load((ROOT / "cluster" / "runtime_env.yaml").read_text()))


def test_the_runtime_environment_installs_the_lock(runtime_env: RuntimeEnv) -> None:
    """Ray keeps what it has installed, and installs anew where these lines are others: the checksum is one of them."""
    lock = f"${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/{LOCK.relative_to(ROOT)}"
    checksum = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    assert runtime_env["pip"]["packages"] == [f"-r {lock}", f"# sha256 {checksum}"], "make lock"


def test_only_the_code_is_uploaded(runtime_env: RuntimeEnv, tmp_path: Path) -> None:
    code = {str(path.relative_to(ROOT)) for folder in ("srgan_ray", "jobs") for path in (ROOT / folder).rglob("*.py")}
    results = {f"{name}/file" for name in (".git", ".venv", "demo", "pretrained", "trained", "search", "shards")}
    for name in code | results:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).touch()
    create_package(str(tmp_path / "tree"), tmp_path / "a.zip", include_gitignore=True, excludes=runtime_env["excludes"])
    uploaded = {name for name in zipfile.ZipFile(tmp_path / "a.zip").namelist() if not name.endswith("/")}
    assert uploaded == code


# The audit


@pytest.fixture
def osv() -> Iterator[HTTPServer]:
    """A service of advisories: `advisories` is what it has, `status` what it answers with."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            package = (query["package"]["name"], query["version"])
            affected = [{"package": query["package"], "ranges": []}]
            vulns = [{"id": "PYSEC-0", "summary": "", "affected": affected}] if package in server.advisories else []
            body = json.dumps({"vulns": vulns} if vulns else {}).encode()
            self.send_response(server.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.advisories, server.status = {KNOWN_BAD}, 200
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    (tmp_path / "a.lock").write_text(f"six==1.17.0 --hash=sha256:{64 * '0'}\n")
    return tmp_path / "a.lock"


def url(server: HTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/v1/query"


def test_a_lock_without_advisories_passes(osv: HTTPServer, lock: Path, capfd: pytest.CaptureFixture) -> None:
    assert audit(lock, url(osv)) == 0
    assert "No known vulnerabilities found" in capfd.readouterr().err


def test_an_advisory_fails(osv: HTTPServer, lock: Path, capfd: pytest.CaptureFixture) -> None:
    osv.advisories.add(("six", "1.17.0"))
    assert audit(lock, url(osv)) == 1
    assert "PYSEC-0" in capfd.readouterr().out


def test_a_lock_without_hashes_fails(osv: HTTPServer, lock: Path) -> None:
    lock.write_text("six==1.17.0\n")
    assert audit(lock, url(osv)) != 0


@pytest.mark.parametrize("status", [404, 500])
def test_a_service_that_is_not_there_is_said(osv: HTTPServer, lock: Path, status: int, capfd) -> None:
    osv.status = status
    assert audit(lock, url(osv)) == 0
    assert re.fullmatch(rf"NOT AUDITED: a.lock: {url(osv)} does not answer: {status} .*\n", capfd.readouterr().err)


def test_a_service_that_refuses_is_said(lock: Path, capfd: pytest.CaptureFixture) -> None:
    assert audit(lock, "http://127.0.0.1:9/v1/query") == 0
    assert "NOT AUDITED" in capfd.readouterr().err


def test_a_service_that_knows_of_nothing_is_said(osv: HTTPServer, lock: Path, capfd: pytest.CaptureFixture) -> None:
    osv.advisories.clear()
    assert audit(lock, url(osv)) == 0
    assert "knows of no advisory against pillow 9.0.0" in capfd.readouterr().err
