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
    AVX-512 alone bf16 convolutions were 3 times slower than fp32. Raises InputError for bf16 on a CPU whose
    convolutions have none.
    """
    check_precision(wanted)
    if wanted == BF16 and device.type == "cpu" and not _multiplies_bf16():
        raise InputError(f"--precision {BF16}; this CPU's convolutions have no bf16 (AVX-512): wanted {FP32} or auto")
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return BF16 if torch.cuda.is_bf16_supported(including_emulation=False) else FP32
    capabilities = torch.cpu.get_capabilities()
    return BF16 if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else FP32


def autocast(precision: str, device: torch.device) -> Autocast:
    """A maker of autocast contexts for that precision; doing nothing for fp32.

    On a GPU fp32 is then meant: cuDNN's convolutions would round it to TF32, 10 bits of mantissa, for this process.
    """
    if precision == FP32 and device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=precision == BF16)


def _multiplies_bf16() -> bool:
    """Whether the CPU's convolutions do, at whatever speed: oneDNN's may refuse, PyTorch's own never do."""
    return not torch.backends.mkldnn.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
