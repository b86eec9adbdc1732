"""The arrows of the house: which room may import which, read from the imports themselves."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "srgan_ray"
ALLOWED = {
    "errors": set(),
    "data": {"errors"},
    "models": {"errors", "data"},
    "evaluation": {"errors", "data", "models"},
    "training": {"errors", "data", "models", "evaluation", "config"},
    "serving": {"errors", "data", "models", "evaluation"},
    "config": {"errors", "data", "models", "training"},
    "search": {"errors", "data", "models", "evaluation", "training", "config"},
    "on_ray": {"errors", "data", "models", "evaluation", "training", "search", "serving", "config"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere in it, by its full name."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {
        f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    }


def room(module: str) -> str:
    return module.split(".")[1]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_rooms_import_along_the_arrows(path: Path) -> None:
    here = room(module_of(path) + ".")
    if here in ALLOWED:  # cli and demo, which compose everything, are free
        ours = {room(name) for name in imports(path) if name.startswith("srgan_ray.")}
        assert ours <= ALLOWED[here] | {here}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_only_one_room_imports_ray(path: Path) -> None:
    imports_ray = any(name.split(".")[0] == "ray" for name in imports(path))
    assert not imports_ray or path.parent.name == "on_ray"


def test_no_cycle_between_files() -> None:
    modules = {module_of(path) for path in FILES}
    graph = {
        module_of(path): {
            name for imported in imports(path) for name in (imported, imported.rpartition(".")[0]) if name in modules
        }
        for path in FILES
    }
    assert len(tuple(TopologicalSorter(graph).static_order())) >= len(modules)


def test_importing_does_nothing(tmp_path: Path) -> None:
    """No file, no Ray, no thread: importing every module of the package leaves the process as it was."""
    modules = [module_of(path) for path in FILES if path.name not in ("__main__.py", "__init__.py")]
    code = (
        "import importlib, threading, os\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "import ray\n"
        "assert not ray.is_initialized()\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert not os.listdir('.')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)


def test_commands_start_light() -> None:
    code = "import srgan_ray.cli, sys; assert not {'torch', 'ray', 'cv2', 'tyro'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("job", sorted((PACKAGE.parent / "jobs").glob("*.py")), ids=lambda path: path.stem)
def test_jobs_are_thin(job: Path) -> None:
    assert len(job.read_text().splitlines()) <= 40
    assert f'["{job.stem}", *sys.argv[1:]]' in job.read_text()
