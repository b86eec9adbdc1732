"""PSNR and SSIM, each number with the protocol it was measured by. Numbers of unlike protocols are not compared."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from skimage.metrics import structural_similarity

PEAK = 255.0
BORDER_PX = 4
LOWER_IS_BETTER = frozenset({"lpips", "niqe", "swd", "checkerboard", "colour_drift"})


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a number was measured; two numbers compare only where all of it is equal."""

    metric: str
    """psnr (dB), ssim (Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5), niqe, lpips, or a diagnostic."""
    colour: str
    """y (studio range, 16…235) or rgb."""
    degradation: str
    """How LR was made, or `files` for LR images that were given."""
    data_hash: str
    """Of the images, in their order."""
    border_px: int = BORDER_PX
    """Pixels cut off at each side before measuring."""
    rounding: str = "uint8"
    """SR is rounded to 8 bit before measuring."""
    average: str = "mean over images"
    model_hash: str = ""
    """Of the pristine model, for niqe; of the network's weights, for lpips."""

    def __str__(self) -> str:
        return (
            f"{self.metric} on {self.colour}, border {self.border_px} px, LR by {self.degradation}, "
            f"SR rounded to {self.rounding}, {self.average}, data {self.data_hash}"
            + (f", model {self.model_hash}" if self.model_hash else "")
        )


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A number and its protocol."""

    value: float
    protocol: Protocol

    def gain_over(self, other: "Measurement") -> float:
        """How much better this value is: the difference, turned round for what is better when lower.

        Raises ValueError where their protocols differ.
        """
        if self.protocol != other.protocol:
            raise ValueError(f"cannot compare unlike protocols: {self.protocol} and {other.protocol}")
        if self.protocol.metric in LOWER_IS_BETTER:
            return other.value - self.value
        return self.value - other.value


def rgb_to_y(image: np.ndarray) -> np.ndarray:
    """`uint8` RGB (H, W, 3) to float64 luma (H, W), ITU-R BT.601 studio range: black 16, white 235."""
    return 16 + image.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255


def psnr(hr: np.ndarray, sr: np.ndarray, colour: str, border_px: int = BORDER_PX) -> float:
    """Peak signal-to-noise ratio in dB of two `uint8` RGB images of one size, peak 255; infinite for equal images."""
    error = np.mean((_comparable(hr, colour, border_px) - _comparable(sr, colour, border_px)) ** 2)
    return float(10 * np.log10(PEAK**2 / error)) if error else float("inf")


def ssim(hr: np.ndarray, sr: np.ndarray, colour: str, border_px: int = BORDER_PX) -> float:
    """Structural similarity of two `uint8` RGB images, averaged over the channels; sides of 11 + 2 * border or more."""
    return float(
        structural_similarity(
            _comparable(hr, colour, border_px),
            _comparable(sr, colour, border_px),
            data_range=PEAK,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=None if colour == "y" else -1,
        )
    )


METRICS = {"psnr": psnr, "ssim": ssim}


def measure(pairs: Sequence[tuple[np.ndarray, np.ndarray]], degradation: str, data_hash: str) -> dict[str, Measurement]:
    """The mean of every metric over (HR, SR) pairs, as `psnr_y`, `ssim_y`, `psnr_rgb`, `ssim_rgb`."""
    return {
        f"{name}_{colour}": average(
            (METRICS[name](hr, sr, colour) for hr, sr in pairs), Protocol(name, colour, degradation, data_hash)
        )
        for colour in ("y", "rgb")
        for name in METRICS
    }


def average(values: Iterable[float], protocol: Protocol) -> Measurement:
    """The mean of one or more values of one protocol."""
    return Measurement(float(np.mean(list(values))), protocol)


def as_json(measurements: dict[str, Measurement]) -> dict[str, Any]:
    """Plain values for a JSON file, which knows no infinity: what is not finite, as of equal images, is null."""
    return {
        name: {**dataclasses.asdict(found), "value": found.value if math.isfinite(found.value) else None}
        for name, found in measurements.items()
    }


def from_json(values: dict[str, Any]) -> dict[str, Measurement]:
    """What `as_json` gave; null is read as infinite."""
    return {
        name: Measurement(math.inf if found["value"] is None else found["value"], Protocol(**found["protocol"]))
        for name, found in values.items()
    }


def _comparable(image: np.ndarray, colour: str, border_px: int) -> np.ndarray:
    inside = image[border_px : image.shape[0] - border_px, border_px : image.shape[1] - border_px]
    return rgb_to_y(inside) if colour == "y" else inside.astype(np.float64)
