"""Commands that run beside the tests, and their processes."""

import time
from collections.abc import Callable
from pathlib import Path


def wait_for(condition: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def processes_of(session: int) -> dict[int, str]:
    """Living processes of a session with their command lines, from /proc."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found[int(path.name)] = (path / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
