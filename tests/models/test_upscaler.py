import numpy as np
import pytest
import torch

from fakes import photograph
from srgan_ray.data import images
from srgan_ray.models import upscaler as upscaler_module
from srgan_ray.models.generator import Generator, GeneratorConfig, build_generator, fold_batchnorm
from srgan_ray.models.upscaler import Upscaler, scaled, spans


def lively_generator(num_blocks: int = 4, num_features: int = 16) -> Generator:
    """Untrained, but with an output that spans the range and depends on all of its input."""
    generator = build_generator(GeneratorConfig(num_blocks, num_features), 0).eval()
    with torch.no_grad():
        for module in generator.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.fill_(1)
                module.running_var.fill_(0.05)
            if isinstance(module, torch.nn.PReLU):
                module.weight.fill_(0.6)
        generator.tail.weight.mul_(3)
    return generator


@pytest.fixture
def whole_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No strips."""
    monkeypatch.setitem(upscaler_module.STRIP_PX, "cpu", 1000)


@pytest.mark.parametrize("strip_px", [1, 7, 32])
@pytest.mark.parametrize("tile_px", [32, 48, 33, 1000])
def test_tiled_equals_whole_bit_for_bit(tile_px: int, strip_px: int, monkeypatch, whole_at_once) -> None:
    generator, lr = lively_generator(), photograph(0, 101, 75)
    whole = Upscaler(generator, "fp32", tile_px=1000)(lr)
    assert whole.shape == (404, 300, 3)
    assert whole.std() > 20
    monkeypatch.setitem(upscaler_module.STRIP_PX, "cpu", strip_px)
    np.testing.assert_array_equal(Upscaler(generator, "fp32", tile_px)(lr), whole)


def test_the_upscaler_gives_what_the_generator_gives(whole_at_once) -> None:
    generator, lr = lively_generator(), photograph(0, 40, 50)
    with torch.inference_mode():
        sr = generator(torch.from_numpy(images.to_float(lr))[None])[0]
    difference = Upscaler(generator, "fp32", 16)(lr).astype(int) - images.to_levels(sr.numpy())
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("tile_px", [32, 48])
def test_tiled_equals_whole_before_rounding(tile_px: int) -> None:
    """In channels_last, as the upscaler runs it: in NCHW the CPU's convolutions depend on the image's size."""
    generator = lively_generator().to(memory_format=torch.channels_last)
    lr = torch.rand(1, 3, 101, 75).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        whole = generator(lr)
        for rows in spans(101, tile_px, generator.receptive_radius_px):
            for columns in spans(75, tile_px, generator.receptive_radius_px):
                tile = generator(lr[..., rows.read, columns.read])
                kept = tile[..., scaled(rows.inside), scaled(columns.inside)]
                assert torch.equal(kept, whole[..., scaled(rows.keep), scaled(columns.keep)])


def test_a_smaller_overlap_shows(monkeypatch) -> None:
    generator, lr = lively_generator(), photograph(0, 101, 75)
    whole = Upscaler(generator, "fp32", tile_px=1000)(lr)
    monkeypatch.setattr(Generator, "receptive_radius_px", 4)
    assert (Upscaler(generator, "fp32", 32)(lr) != whole).any()


def test_a_smaller_overlap_of_strips_shows(monkeypatch, whole_at_once) -> None:
    generator, lr = lively_generator(), photograph(0, 101, 75)
    whole = Upscaler(generator, "fp32", tile_px=1000)(lr)
    monkeypatch.setitem(upscaler_module.STRIP_PX, "cpu", 32)
    monkeypatch.setattr(upscaler_module, "RENDER_RADIUS_PX", 2)
    assert (Upscaler(generator, "fp32", tile_px=1000)(lr) != whole).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (40, 3), (65, 33)])
def test_any_size(size: tuple[int, int]) -> None:
    assert Upscaler(lively_generator(1, 4), "fp32", 32)(photograph(0, *size)).shape == (4 * size[0], 4 * size[1], 3)


def test_a_batch_gives_what_its_parts_give_alone() -> None:
    upscaler = Upscaler(lively_generator(), "fp32")
    batch = [(photograph(seed, 24, 30), *upscaler.tiles(24, 30)) for seed in range(5)]
    for together, alone in zip(upscaler.run(batch), batch):
        np.testing.assert_array_equal(together.sr, upscaler.run([alone])[0].sr)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 80, 81, 100, 1001])
@pytest.mark.parametrize("tile_px", [8, 32])
@pytest.mark.parametrize("overlap_px", [0, 5, 40])
def test_spans_cover_everything_once(length: int, tile_px: int, overlap_px: int) -> None:
    parts = list(spans(length, tile_px, overlap_px))
    assert [i for part in parts for i in range(part.keep.start, part.keep.stop)] == list(range(length))
    for part in parts:
        assert 0 <= part.read.start <= max(0, part.keep.start - overlap_px)
        assert min(length, part.keep.stop + overlap_px) <= part.read.stop <= length
        assert part.keep.start < part.keep.stop
    (read_px,) = {part.read.stop - part.read.start for part in parts}
    assert read_px <= tile_px + 2 * overlap_px


def test_what_one_tile_can_read_is_one_tile() -> None:
    upscaler = Upscaler(lively_generator(16, 4), "fp32")
    assert [len(upscaler.tiles(*size)) for size in ((336, 336), (336, 337), (337, 337))] == [1, 2, 4]
    assert {tile.shape for tile in upscaler.tiles(350, 450)} == {(215, 265)}


def test_a_generator_in_training_mode_is_left_so() -> None:
    generator = lively_generator().train()
    lr = photograph(0, 20, 20)
    sr = Upscaler(generator, "fp32")(lr)
    assert generator.training
    np.testing.assert_array_equal(Upscaler(generator.eval(), "fp32")(lr), sr)


def test_bf16_is_close_to_fp32() -> None:
    generator, lr = lively_generator(), photograph(0, 40, 40)
    fp32, bf16 = (Upscaler(generator, precision)(lr).astype(int) for precision in ("fp32", "bf16"))
    assert 0 < np.abs(fp32 - bf16).mean() < 2


class Overflowing(Generator):
    """Its output is infinite in half precision where the input is bright."""

    def extract(self, lr: torch.Tensor) -> torch.Tensor:
        features = super().extract(lr)
        is_bright = (lr.flatten(1).max(dim=1).values > 0.9).view(-1, 1, 1, 1)
        return torch.where(is_bright, torch.inf, features) if torch.is_autocast_enabled("cpu") else features


def test_a_tile_that_overflows_in_half_precision_is_run_in_fp32() -> None:
    generator = Overflowing(GeneratorConfig(1, 4))
    lr = np.zeros((32, 96, 3), np.uint8)
    lr[:, 80:] = 255  # in what the last of three tiles reads, and in no other
    half, full = (Upscaler(generator, precision, 26) for precision in ("bf16", "fp32"))
    batch = [(lr, tile) for tile in half.tiles(32, 96)]
    parts, expected = half.run(batch), full.run(batch)
    assert [part.overflowed for part in parts] == [False, False, True]
    np.testing.assert_array_equal(parts[2].sr, expected[2].sr)
    assert (parts[0].sr != expected[0].sr).any(), "the others stay in half precision"
    first = 4 * batch[2][1].columns.keep.start
    assert (half(lr) == full(lr))[:, first:].all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_damaged_weights_are_no_picture(precision: str) -> None:
    generator = lively_generator(1, 4)
    generator.tail.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        Upscaler(generator, precision)(photograph(0, 20, 20))


def test_folding_batchnorm_changes_no_more_than_rounding() -> None:
    generator = lively_generator(16, 64)
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.bias, -0.1, 0.1)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    lr = torch.rand(1, 3, 40, 40)
    folded = fold_batchnorm(generator)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        expected = generator(lr)
        assert (folded(lr) - expected).abs().max() < 1e-5 * (expected.max() - expected.min())
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
