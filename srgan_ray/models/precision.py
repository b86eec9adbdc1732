"""Which number format the convolutions run in: asked of the hardware, named on what comes out."""

import contextlib
from collections.abc import Callable

import torch

from srgan_ray.errors import InputError

BF16, FP32 = "bf16", "fp32"
PRECISIONS = ("auto", BF16, FP32)

Autocast = Callable[[], contextlib.AbstractContextManager]


def best_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_precision(wanted: str) -> None:
    """Raise InputError for a precision that is not known."""
    if wanted not in PRECISIONS:
        raise InputError(f"--precision {wanted}; wanted one of {', '.join(PRECISIONS)}")


def resolve_precision(wanted: str, device: torch.device) -> str:
    """`auto` to bf16 where the hardware multiplies it natively, else to fp32.

    That is a GPU since Ampere, a CPU with AMX, or one with AVX512_BF16 (AMD since Zen 4, Intel's Cooper Lake). With
    AVX-512 alone bf16 convolutions were 3 times slower than fp32.
    """
    check_precision(wanted)
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return BF16 if torch.cuda.is_bf16_supported(including_emulation=False) else FP32
    capabilities = torch.cpu.get_capabilities()
    return BF16 if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else FP32


def autocast(precision: str, device: torch.device) -> Autocast:
    """A maker of autocast contexts for that precision; doing nothing for fp32."""
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=precision == BF16)
