import os
import subprocess
import sys

import pytest

CODE = """
from pathlib import Path
from srgan_ray.models.memory import return_freed_memory

def resident_mb():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024

blocks = [b"x" * 100_000 for _ in range(2000)]
del blocks[::2]
before = resident_mb()
return_freed_memory()
print(before - resident_mb())
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks Linux for the resident memory")
def test_what_lies_free_between_used_blocks_goes_back() -> None:
    """100 MB, in gaps of 100 kB."""
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert 80 < float(run.stdout) < 110
