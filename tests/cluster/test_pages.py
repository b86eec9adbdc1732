"""The pages of each situation: what they name is there, what they tell to type is what Ray takes, all is said.

That the verbs' arguments in them parse is tested in tests/test_readme.py.
"""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
PAGES = sorted(CLUSTER.rglob("*.md"))
SITUATIONS = ["laptop.md", "gpu_machine.md", "on_premise/README.md", "cloud/README.md"]
ROOMS = ("benchmarks", "cluster", "jobs", "srgan_ray", "tests")


def name(page: Path) -> str:
    return str(page.relative_to(CLUSTER))


def blocks(page: Path) -> list[list[str]]:
    """The commands of each block."""
    found = re.findall(r"```bash\n(.*?)```", page.read_text(), re.S)
    return [block.replace("\\\n", " ").strip().splitlines() for block in found]


def quoted(page: Path) -> list[str]:
    """What stands between backticks, outside the blocks."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    return re.findall(r"`([^`]+)`", text.replace("\n", " "))


def ray_commands() -> list[tuple[str, list[str]]]:
    """Each `ray …` in the blocks and in the text, without what it hands on to others."""
    found = []
    for page in PAGES:
        for line in [line for block in blocks(page) for line in block] + quoted(page):
            for part in re.split(r"&&|;(?= ray )", line):
                command = re.sub(r"^(\w+=\S+ )*", "", part.strip())
                if command.startswith("ray "):
                    found.append((name(page), shlex.split(command)[1:]))
    return found


def heading(text: str) -> str:
    """As GitHub names it in a link."""
    return re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            assert anchor in {heading(text) for text in re.findall(r"^#+ (.+)$", found.read_text(), re.M)}, target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_exist(page: Path) -> None:
    for path in re.findall(rf"(?<![\w/.-])((?:{'|'.join(ROOMS)})/[\w./-]*\w)", page.read_text()):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets_that_are_named_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    commands = [line for block in blocks(page) for line in block] + quoted(page)
    for target in re.findall(r"^make (\w+)", "\n".join(commands), re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


@pytest.mark.parametrize(("page", "words"), ray_commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_ray_takes_its_commands(page: str, words: list[str]) -> None:
    from ray.scripts.scripts import cli

    command = cli
    while hasattr(command, "commands"):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    if words:
        parsed = command.make_context(command.name, list(words)).params
        assert parsed.get("dashboard_host", "127.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize("situation", SITUATIONS)
def test_each_situation_has_three_commands_and_says_what_matters(situation: str) -> None:
    page = CLUSTER / situation
    assert situation in (CLUSTER / "README.md").read_text()
    assert len(blocks(page)[0]) == 3
    for told in ("Needed", "What it costs", "To stop it", "What is left behind"):
        assert f"**{told}" in page.read_text(), told


def test_the_overview_names_every_file_for_a_situation() -> None:
    overview = (CLUSTER / "README.md").read_text()
    for path in [*CLUSTER.glob("*.*"), *CLUSTER.glob("*/*.yaml"), *CLUSTER.glob("monitoring/*")]:
        if path.suffix in {".yaml", ".md", ".json", ".yml", ".lock"} and path.parent.name != "kubernetes":
            assert path.name in overview, path


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_nothing_is_opened_to_the_network(page: Path) -> None:
    assert "0.0.0.0" not in page.read_text()
