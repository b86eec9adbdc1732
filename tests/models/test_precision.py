from types import SimpleNamespace

import pytest
import torch

from srgan_ray.errors import InputError
from srgan_ray.models.precision import autocast, resolve_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("has_onednn", [True, False])
def test_bf16_that_the_cpu_does_not_have_is_refused(has_onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: has_onednn)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(_is_mkldnn_bf16_supported=lambda: False))
    assert resolve_precision("fp32", CPU) == "fp32"
    assert resolve_precision("bf16", GPU) == "bf16"
    if has_onednn:
        with pytest.raises(InputError, match=r"--precision bf16; this CPU.*wanted fp32 or auto"):
            resolve_precision("bf16", CPU)
    else:
        assert resolve_precision("bf16", CPU) == "bf16"


def test_fp32_on_a_gpu_is_not_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting alone, which needs no GPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    autocast("fp32", CPU)
    autocast("bf16", GPU)
    assert torch.backends.cudnn.allow_tf32
    autocast("fp32", GPU)
    assert not torch.backends.cudnn.allow_tf32
