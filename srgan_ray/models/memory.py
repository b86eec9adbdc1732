"""How a process that runs networks holds its memory."""

import ctypes
from collections.abc import Callable

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_MAX_INT = 2**31 - 1
# Of a process in which the loop runs in a thread of its own, to which glibc gives an arena that returns what a step
# frees to the system, whatever `keep_freed_memory` says: up to 12,000 page faults a step.
WORKER_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}


def keep_freed_memory() -> None:
    """Keep what a training step frees for the next one, for the rest of the process; does nothing without glibc.

    Left alone, glibc returns large blocks to the system at once, which hands out new pages, zeroed, one by one: a tenth
    of the pretraining step on two CPU cores, a twentieth of the adversarial one.
    """
    if mallopt := _of_glibc("mallopt"):
        mallopt(_M_TRIM_THRESHOLD, _MAX_INT)
        mallopt(_M_MMAP_THRESHOLD, _MAX_INT)


def return_freed_memory() -> None:
    """Give the system back what lies free between blocks that are in use; does nothing without glibc.

    Pictures of ever other sizes leave gaps that the next one does not fill.
    """
    if trim := _of_glibc("malloc_trim"):
        trim(0)


def _of_glibc(function: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), function, None)
