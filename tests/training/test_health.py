import pytest

from srgan_ray.training.health import find_alarms

HEALTHY = {
    "step": 1000,
    "d_hr": 0.8,
    "d_sr": 0.2,
    "gradient_norm_content": 1e-4,
    "gradient_norm_adversarial": 3e-5,
    "colour_drift": 0.2,
    "checkerboard": 0.1,
    "consistency_db": 38.0,
}


def test_a_healthy_row_gives_none() -> None:
    assert find_alarms(HEALTHY) == []
    for change in ({"d_hr": 0.99}, {"d_sr": 0.01}):
        assert find_alarms({**HEALTHY, **change}) == [], "a discriminator that is sure of one kind alone"
    pretraining = {name: value for name, value in HEALTHY.items() if not name.startswith(("d_", "gradient_norm_"))}
    assert find_alarms({**pretraining, "gradient_norm_pixel": 1e-6}) == []


@pytest.mark.parametrize(
    ("change", "figure", "advice"),
    [
        ({"gradient_norm_content": 0.0}, "gradient_norm_content = 0", "raise its weight"),
        ({"gradient_norm_adversarial": 1e-9}, "gradient_norm_adversarial = 1e-09", "raise its weight"),
        ({"d_hr": 0.999, "d_sr": 0.001}, "D(hr) = 0.999, D(G(lr)) = 0.001", "pretrain longer"),
        ({"d_hr": 0.45, "d_sr": 0.5}, "D(hr) = 0.450, D(G(lr)) = 0.500", "lower --adversarial-weight"),
        ({"colour_drift": 3.0}, "colour_drift = 3.00 levels", "--schedule cosine"),
        ({"checkerboard": 2.0}, "checkerboard = 2.00", "train longer"),
        ({"consistency_db": 20.0}, "consistency_db = 20.0", "pretrain longer"),
    ],
)
def test_each_alarm_names_the_figure_and_what_to_change(change: dict, figure: str, advice: str) -> None:
    [alarm] = find_alarms({**HEALTHY, **change})
    assert figure in alarm
    assert advice in alarm


def test_a_stage_without_any_gradient_is_alarming() -> None:
    pretraining = {name: value for name, value in HEALTHY.items() if not name.startswith(("d_", "gradient_norm_"))}
    assert len(find_alarms({**pretraining, "gradient_norm_pixel": 0.0})) == 1
