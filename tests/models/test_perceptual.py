from pathlib import Path

import pytest
import torch
import torchvision

from srgan_ray.errors import InputError
from srgan_ray.models.perceptual import load_vgg
from srgan_ray.training.losses import content_loss


@pytest.mark.parametrize(("name", "num_convolutions"), [("vgg19", 16), ("vgg16", 13)])
def test_features_are_torchvisions_after_the_last_relu(name: str, num_convolutions: int, tmp_path: Path) -> None:
    """Compared with torchvision's own network, run with its own preprocessing constants and stopped by a hook."""
    torch.manual_seed(1)
    theirs = getattr(torchvision.models, name)().eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = load_vgg(str(tmp_path / "weights.pth"))
    images = torch.rand(1, 3, 32, 48)
    seen = []
    convolutions = [index for index, layer in enumerate(theirs.features) if isinstance(layer, torch.nn.Conv2d)]
    assert len(convolutions) == num_convolutions  # the last is conv5_4, or conv5_3
    ends = [index - 1 for index, layer in enumerate(theirs.features) if isinstance(layer, torch.nn.MaxPool2d)]
    for index in ends:
        theirs.features[index].register_forward_hook(lambda *args: seen.append(args[-1].clone()))
    preprocess = torchvision.models.VGG19_Weights.IMAGENET1K_V1.transforms()
    theirs.features(torchvision.transforms.functional.normalize(images, preprocess.mean, preprocess.std))
    [features] = ours(images)
    torch.testing.assert_close(features, seen[-1] / 12.75)
    assert features.min() >= 0
    assert ours.stamp.startswith(f"{name}, weights.pth")
    of_all_blocks = load_vgg(str(tmp_path / "weights.pth"), 5)(images)
    assert [features.shape[1] for features in of_all_blocks] == [64, 128, 256, 512, 512]
    torch.testing.assert_close(of_all_blocks, [features / 12.75 for features in seen])


def test_the_classifiers_weights_may_be_missing(tmp_path: Path) -> None:
    state = torchvision.models.vgg16().state_dict()
    torch.save(state, tmp_path / "whole.pth")
    torch.save({key: value for key, value in state.items() if "features" in key}, tmp_path / "features.pth")
    images = torch.rand(1, 3, 32, 32)
    whole, features = (load_vgg(str(tmp_path / name))(images)[0] for name in ("whole.pth", "features.pth"))
    assert torch.equal(whole, features)


def test_weights_of_half_precision_are_taken_as_fp32(tmp_path: Path) -> None:
    state = torchvision.models.vgg16().state_dict()
    torch.save({key: value.half() for key, value in state.items() if "features" in key}, tmp_path / "half.pth")
    vgg = load_vgg(str(tmp_path / "half.pth"))
    assert {parameter.dtype for parameter in vgg.parameters()} == {torch.float32}
    assert vgg(torch.rand(1, 3, 32, 32))[0].dtype == torch.float32


def test_frozen_in_eval_mode_but_gradients_pass() -> None:
    """The loss reaches SR, not the weights."""
    vgg = load_vgg("random").train()
    assert not any(module.training for module in vgg.modules())
    assert not any(parameter.requires_grad for parameter in vgg.parameters())
    sr = torch.rand(1, 3, 32, 32, requires_grad=True)
    loss = content_loss(vgg(sr), vgg(torch.rand(1, 3, 32, 32)))
    loss.backward()
    assert sr.grad is not None
    assert sr.grad.abs().max() > 0
    assert content_loss(vgg(sr), vgg(sr)).item() == 0


def test_random_weights_are_seeded_stamped_and_keep_the_scale() -> None:
    vgg, again = load_vgg("random"), load_vgg("random")
    assert "random" in vgg.stamp
    images = torch.rand(2, 3, 64, 64)
    [features], [same] = vgg(images), again(images)
    assert torch.equal(features, same)
    assert 0.05 < (12.75 * features).square().mean() < 20


@pytest.mark.parametrize("weights", ["cached", "no/such/file.pth"])
def test_missing_weights_name_the_ways_out(weights: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"--vgg-weights imagenet.*--vgg-weights FILE.*--vgg-weights random"):
        load_vgg(weights)


def test_a_failing_download_names_the_ways_out(tmp_path: Path, monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with pytest.raises(InputError, match=r"cannot be downloaded.*no network.*--vgg-weights random"):
        load_vgg("imagenet")


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_bytes(b"something else")
    torch.save(torchvision.models.alexnet().state_dict(), tmp_path / "alexnet.pth")
    for name in ("other.pth", "alexnet.pth"):
        with pytest.raises(InputError, match="no state dict of torchvision's vgg19 or vgg16"):
            load_vgg(str(tmp_path / name))
