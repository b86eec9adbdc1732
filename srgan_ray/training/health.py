"""Whether a training is healthy: what a validation recorded, against the ranges in which trainings go well."""

from typing import Any

from srgan_ray.evaluation.judge import find_faults

MIN_PULL = 1e-4  # of the weaker loss term, over the stronger
SURE, UNSURE = 0.98, 0.02
ADVICE = {
    "colour_drift": "the colours shift; take --schedule cosine, or give `train` a --colour-weight",
    "checkerboard": "a pattern with the period of the pixel shuffle; train longer, or give `train` a --pattern-weight",
    "consistency_db": "SR made small again is not LR any more; lower --adversarial-weight, or pretrain longer",
}


def find_alarms(row: dict[str, Any]) -> list[str]:
    """Each finding in one line: the figure, what is healthy, and what to change."""
    return [alarm for check in (_pulls, _discriminator, _pictures) for alarm in check(row)]


def _pulls(row: dict[str, Any]) -> list[str]:
    norms = {name: value for name, value in row.items() if name.startswith("gradient_norm_")}
    strongest = max(norms.values())
    return [
        f"{name} = {value:.3g}, {strongest:.3g} the strongest: this loss term hardly trains anything; raise its weight"
        for name, value in norms.items()
        if value < MIN_PULL * strongest or not value
    ]


def _discriminator(row: dict[str, Any]) -> list[str]:
    if "d_hr" not in row:
        return []
    if row["d_hr"] > SURE and row["d_sr"] < UNSURE:
        return [
            f"D(hr) = {row['d_hr']:.3f}, D(G(lr)) = {row['d_sr']:.3f}: the discriminator is never fooled, and teaches "
            "little; pretrain longer, or make it smaller (--discriminator.num-features)"
        ]
    if row["d_hr"] <= row["d_sr"]:
        return [
            f"D(hr) = {row['d_hr']:.3f}, D(G(lr)) = {row['d_sr']:.3f}: the discriminator cannot tell them apart; "
            "lower --adversarial-weight or --learning-rate"
        ]
    return []


def _pictures(row: dict[str, Any]) -> list[str]:
    return [f"{fault}: {ADVICE[name]}" for name, fault in find_faults(row).items()]
