"""The lock against the advisories of OSV, by pip-audit: `python cluster/audit.py`, a part of `make check`.

Exits with pip-audit's code: not 0 where an advisory was found, or something broke. Only where OSV does not answer, the
lock is not audited: one line says so, and the code is 0.
"""

import subprocess
import sys
from pathlib import Path

import requests

LOCK = Path(__file__).with_name("requirements.lock")
OSV = "https://api.osv.dev/v1/query"
TIMEOUT_S = 15
# There are advisories against it: a service that knows of none would find nothing in the lock either.
KNOWN_BAD = {"package": {"name": "pillow", "ecosystem": "PyPI"}, "version": "9.0.0"}


def audit(lock: Path, service: str) -> int:
    """The exit code."""
    if silence := find_silence(service):
        print(f"NOT AUDITED: {lock.name}: {service} does not answer: {silence}", file=sys.stderr)
        return 0
    command = f"-m pip_audit --vulnerability-service osv --osv-url {service} --progress-spinner off"
    pins = ["--strict", "--disable-pip", "--require-hashes", "--requirement", lock]
    return subprocess.run([sys.executable, *command.split(), *pins]).returncode


def find_silence(service: str) -> str:
    """Why there are no advisories to be had from a service; nothing where there are."""
    try:
        answer = requests.post(service, json=KNOWN_BAD, timeout=TIMEOUT_S)
        answer.raise_for_status()
        return "" if answer.json().get("vulns") else "it knows of no advisory against pillow 9.0.0"
    except requests.RequestException as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(audit(LOCK, OSV))
