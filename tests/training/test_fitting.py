"""A training run: it repeats itself, and does what its schedule asks."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dicom_gam.core.attention import explain
from dicom_gam.core.network import SplitNetwork
from dicom_gam.core.preprocess import to_input
from dicom_gam.errors import BundleError, TrainingError
from dicom_gam.training.augmentation import SYNTHETIC_FAMILIES
from dicom_gam.training.cues import Box, Cue, load_cues
from dicom_gam.training.fitting import (
    Curve,
    Labelled,
    accuracy,
    batches,
    draw_weights,
    fit,
    outlier_exposure,
    wants_bf16,
)
from dicom_gam.training.images import load_pixels
from dicom_gam.training.specification import Precision, Schedule, read_specification
from tests.tiny_bundle import CPU, DISC, NO_SYNTHETIC, NOISE, SIDE, STRIPES, fold, tiny_manifest

QUICK = Schedule(steps=4, batch_size=8, validate_every=2)
EVERYTHING = (DISC, STRIPES, NOISE)
UPPER_LEFT: Box = (0.05, 0.05, 0.45, 0.45)
LOWER_RIGHT: Box = (0.55, 0.55, 0.95, 0.95)


def same(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())


@pytest.mark.requirement("TRN-01")
def test_training_twice_with_one_seed_gives_the_same_weights() -> None:
    train, validation = fold(1, 8, EVERYTHING), fold(2, 4, EVERYTHING)
    one, _ = fit(tiny_manifest(), QUICK, train, validation, CPU)
    torch.manual_seed(999)  # what happened before must not matter
    other, _ = fit(tiny_manifest(), QUICK, train, validation, CPU)
    assert same(one, other)


def test_training_with_another_seed_gives_other_weights() -> None:
    train = fold(1, 8, EVERYTHING)
    one, _ = fit(tiny_manifest(), QUICK, train, train, CPU)
    other, _ = fit(tiny_manifest(), QUICK.model_copy(update={"seed": 1}), train, train, CPU)
    assert not torch.equal(one.state_dict()["classifier.weight"], other.state_dict()["classifier.weight"])


def test_training_leaves_the_caller_s_random_state_and_determinism_alone() -> None:
    before = torch.get_rng_state()
    train = fold(1, 8, EVERYTHING)
    fit(tiny_manifest(), QUICK, train, train, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()


def test_trained_network_is_frozen_and_its_curve_has_every_validation() -> None:
    train = fold(1, 8, EVERYTHING)
    network, curve = fit(tiny_manifest(), QUICK.model_copy(update={"steps": 5}), train, train, CPU)
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    assert [step for step, _ in curve.accuracy] == [2, 4, 5]


def test_class_without_training_images_is_named() -> None:
    with pytest.raises(TrainingError, match="no training images of stripes, garbage"):
        fit(tiny_manifest(), QUICK, fold(1, 8, (DISC,)), fold(2, 2), CPU)


def test_layer_that_is_not_there_is_named_before_the_training() -> None:
    with pytest.raises(BundleError, match="no layer 'layer9'"):
        fit(tiny_manifest(attention_layer="layer9"), QUICK, fold(1, 8, EVERYTHING), fold(2, 2), CPU)


def test_loss_that_is_no_number_ends_the_training_with_a_remedy() -> None:
    train = fold(1, 8, EVERYTHING)
    train.contents[:] = torch.nan
    schedule = QUICK.model_copy(update={"synthetic_share": 0})
    with pytest.raises(TrainingError, match=r"loss is nan at step 2: lower training.learning_rate"):
        fit(tiny_manifest(), schedule, train, fold(2, 2), CPU)


@pytest.mark.parametrize("agreement", [[], [(1, 0.2), (2, 0.7)]])
def test_curve_is_drawn_as_a_png(agreement: list[tuple[int, float]]) -> None:
    png = Curve([(1, 2.0), (2, 1.0)], [(1, 0.5), (2, 0.9)], agreement).png()
    assert png.startswith(b"\x89PNG")


# --- where training starts from


def test_training_starts_from_given_weights() -> None:
    train, validation = fold(1, 20, EVERYTHING), fold(2, 10, EVERYTHING)
    schedule = NO_SYNTHETIC.model_copy(update={"steps": 100})
    trained, curve = fit(tiny_manifest(), schedule, train, validation, CPU)
    assert curve.accuracy[-1][1] == 1.0
    hardly = NO_SYNTHETIC.model_copy(update={"steps": 2, "learning_rate": 1e-6})
    started, curve = fit(tiny_manifest(), hardly, train, validation, CPU, trained.state_dict())
    assert curve.accuracy[-1][1] == 1.0
    weights = trained.state_dict()["classifier.weight"]
    torch.testing.assert_close(started.state_dict()["classifier.weight"], weights, atol=1e-5, rtol=0)
    assert fit(tiny_manifest(), hardly, train, validation, CPU)[1].accuracy[-1][1] < 0.9


def test_weights_of_another_network_are_refused() -> None:
    train = fold(1, 8, EVERYTHING)
    wider = tiny_manifest(options={"widths": [4, 4, 12], "blocks": 1})
    state = fit(wider, QUICK, train, train, CPU)[0].state_dict()
    with pytest.raises(TrainingError, match=r"(?s)don't fit architecture.*layer3.*same network, or from none"):
        fit(tiny_manifest(), QUICK, train, train, CPU, state)


# --- cues


def two_signs(count: int, seed: int, hidden: str = "", box: Box | None = None) -> Labelled:
    """Classes told apart by a sign at the upper left and, just as well, by another at the lower right; and noise."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(count)
    contents = 0.3 * torch.rand(len(labels), SIDE, SIDE, generator=g)
    contents[labels == NOISE] = torch.rand(count, SIDE, SIDE, generator=g)
    offset = torch.rand(len(labels), 2, 1, 1, generator=g) * 2 - 1
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    first, real = (labels == DISC)[:, None, None], (labels != NOISE)[:, None, None]
    if hidden != "upper left":
        radius = ((rows - 8 - offset[:, 0]) ** 2 + (columns - 8 - offset[:, 1]) ** 2).sqrt()
        contents[real & (radius < 5) & (first | (radius > 2.5))] = 0.9  # a disc or a ring
    if hidden != "lower right":
        square = ((rows - 24 - offset[:, 0]).abs() < 5) & ((columns - 24 - offset[:, 1]).abs() < 5)
        contents[real & square & (torch.where(first, rows, columns) % 4 < 2)] = 0.9  # stripes across or down
    cues = [Cue("test", (box,)) if box and label != NOISE else None for label in labels.tolist()]
    maps = load_cues(cues, tiny_manifest().preprocessing.record(), load_pixels)
    return Labelled(contents, labels, ["drawn"] * len(labels), maps)


def agreement_with(network: nn.Module, box: Box) -> float:
    """The mean cosine of a box with the attention maps that the bundle would show."""
    images = two_signs(20, 3, box=box)
    assert images.cues is not None
    real = images.labels != NOISE
    x = to_input(images.contents[real], tiny_manifest().preprocessing.record())
    maps = explain(SplitNetwork(network, "layer3"), x, "hirescam", images.labels[real]).maps
    cues = F.adaptive_avg_pool2d(images.cues[real][:, None], (maps.shape[1], maps.shape[2]))
    return float(F.cosine_similarity(maps.flatten(1), cues.flatten(1)).mean())


GUIDED = Schedule(steps=150, batch_size=32, learning_rate=0.02, synthetic_share=0, cue_weight=1.0)


@lru_cache
def trained_on_two_signs(box: Box | None, precision: Precision = "float32") -> tuple[nn.Module, Curve]:
    """A network guided to a box, or left to itself."""
    schedule = GUIDED.model_copy(update={"precision": precision, "cue_weight": 1.0 if box else 0.0})
    return fit(tiny_manifest(), schedule, two_signs(60, 1, box=box), two_signs(20, 2, box=box), CPU)


@pytest.mark.requirement("TRN-03")
@pytest.mark.parametrize(("box", "guided_to"), [(UPPER_LEFT, "upper left"), (LOWER_RIGHT, "lower right")])
def test_cues_move_the_attention_and_what_the_network_answers_by(box: Box, guided_to: str) -> None:
    guided, curve = trained_on_two_signs(box)
    unguided, plain = trained_on_two_signs(None)
    assert curve.accuracy[-1][1] >= 0.98
    assert plain.accuracy[-1][1] >= 0.98
    assert agreement_with(guided, box) > 0.9
    assert agreement_with(guided, box) > agreement_with(unguided, box) + 0.2
    assert curve.agreement[-1][1] == pytest.approx(agreement_with(guided, box), abs=0.05)
    assert plain.agreement == []
    other = "lower right" if guided_to == "upper left" else "upper left"
    assert accuracy(guided, two_signs(40, 3, hidden=other), tiny_manifest(), CPU) >= 0.95
    assert accuracy(guided, two_signs(40, 3, hidden=guided_to), tiny_manifest(), CPU) <= 0.75


def test_guided_training_repeats_itself_and_leaves_no_hook() -> None:
    train = two_signs(8, 1, box=UPPER_LEFT)
    schedule = QUICK.model_copy(update={"cue_weight": 1.0})
    one, curve = fit(tiny_manifest(), schedule, train, train, CPU)
    other, _ = fit(tiny_manifest(), schedule, train, train, CPU)
    assert same(one, other)
    assert not any(module._forward_hooks for module in one.modules())
    assert [step for step, _ in curve.agreement] == [2, 4]


def test_cues_change_no_image_of_a_batch_and_guide_only_their_own_rows() -> None:
    train = two_signs(20, 1, box=UPPER_LEFT)
    assert train.cues is not None
    train.cues[train.labels == STRIPES] = 0
    guided = next(batches(tiny_manifest(), Schedule(cue_weight=1.0), train))
    plain = next(batches(tiny_manifest(), Schedule(), train))
    assert torch.equal(guided.contents, plain.contents)
    assert len(guided.cues) == len(guided.guided) > 0
    assert (guided.labels[guided.guided] == DISC).all()
    assert (guided.labels == DISC).sum() == len(guided.guided)
    assert len(plain.guided) == 0


def test_cue_weight_without_any_cue_is_refused() -> None:
    train = fold(1, 8, EVERYTHING)
    with pytest.raises(TrainingError, match="cue_weight is 2, but no training image has a cue: fill in"):
        fit(tiny_manifest(), QUICK.model_copy(update={"cue_weight": 2.0}), train, train, CPU)


def test_cue_on_a_negative_is_refused() -> None:
    train = two_signs(8, 1, box=UPPER_LEFT)
    assert train.cues is not None
    train.cues[-2:] = 1.0
    with pytest.raises(TrainingError, match="2 training images of garbage have a cue"):
        fit(tiny_manifest(), QUICK.model_copy(update={"cue_weight": 1.0}), train, train, CPU)


def test_cues_that_the_schedule_ignores_are_warned_of_and_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    train, without = two_signs(8, 1, box=UPPER_LEFT), two_signs(8, 1)
    with caplog.at_level(logging.WARNING):
        one, _ = fit(tiny_manifest(), QUICK, train, train, CPU)
    assert "cues are not used: training.cue_weight is 0" in caplog.text
    assert same(one, fit(tiny_manifest(), QUICK, without, without, CPU)[0])


# --- negatives


def test_outlier_exposure_is_the_cross_entropy_to_the_uniform_distribution() -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    negative = torch.tensor([True, True, False])
    uniform = torch.full((2, 3), 1 / 3)
    torch.testing.assert_close(outlier_exposure(logits, negative), F.cross_entropy(logits[:2], uniform))
    assert outlier_exposure(logits, torch.zeros(3, dtype=torch.bool)) == 0


def test_outlier_exposure_takes_the_confidence_in_real_classes_from_negatives() -> None:
    train, validation = fold(1, 60, EVERYTHING), fold(2, 20, EVERYTHING)
    outliers = validation.contents[validation.labels == NOISE]

    def confidence(weight: float) -> tuple[float, float]:
        schedule = NO_SYNTHETIC.model_copy(update={"outlier_weight": weight, "steps": 100})
        network, curve = fit(tiny_manifest(), schedule, train, validation, CPU)
        logits = network(to_input(outliers, tiny_manifest().preprocessing.record()))
        return float(logits[:, :NOISE].softmax(1).amax(1).mean()), curve.accuracy[-1][1]

    (plain, plain_accuracy), (exposed, exposed_accuracy) = confidence(0.0), confidence(0.5)
    assert plain > 0.7
    assert exposed < min(0.65, plain - 0.1)  # 0.5 is the least that two classes can have
    assert min(plain_accuracy, exposed_accuracy) >= 0.98


def test_images_are_drawn_by_class_and_in_a_class_by_the_root_of_their_family_s_size() -> None:
    """Class 0 has 4 images of a and 1 of b; the negatives 9 photographs and 1 document."""
    labels = torch.tensor([0] * 5 + [1] * 10)
    names = ["a"] * 4 + ["b"] + ["photograph"] * 9 + ["document"]
    weights = draw_weights(Labelled(torch.zeros(15, 2, 2), labels, names))
    assert weights[:5].sum() == pytest.approx(weights[5:].sum())
    assert weights[:4].sum() / weights[4] == pytest.approx(2.0)
    assert weights[5:14].sum() / weights[14] == pytest.approx(3.0)
    assert len(set(weights[5:14].tolist())) == 1


def test_only_the_chosen_families_are_generated() -> None:
    """Of one-grey contents an inverted negative is the only one bright all over; blanks and noise never are."""
    train = fold(1, 20, EVERYTHING)
    train.contents[:] = 0.0
    schedule = Schedule(batch_size=40, synthetic_share=0.5, synthetic_families=("inverted",))
    batch = next(batches(tiny_manifest(), schedule, train))
    negatives = batch.contents[-20:]
    assert (batch.labels[-20:] == NOISE).all()
    assert (negatives.flatten(1).median(1).values > 0.6).all()
    mixed = next(
        batches(tiny_manifest(), schedule.model_copy(update={"synthetic_families": SYNTHETIC_FAMILIES}), train)
    )
    assert (mixed.contents[-20:].flatten(1).median(1).values < 0.6).any()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ('["inverted", "upside_down"]', "upside_down: no such family; there are inverted, rotated,.*blank"),
        ('["blank", "blank"]', "stands there twice"),
        ("[]", "set synthetic_share = 0 instead"),
    ],
)
def test_bad_choice_of_families_is_refused(value: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text(f"[training]\nsynthetic_families = {value}\n")
    with pytest.raises(TrainingError, match=f"train.toml.*training.synthetic_families: .*{reason}"):
        read_specification(path)


def test_every_setting_of_the_schedule_is_described() -> None:
    assert [name for name, setting in Schedule.model_fields.items() if not setting.description] == []


# --- precision


def test_guided_training_in_bf16_is_as_good_and_keeps_float32_weights() -> None:
    network, curve = trained_on_two_signs(UPPER_LEFT, "bf16")
    assert curve.accuracy[-1][1] >= 0.98
    assert agreement_with(network, UPPER_LEFT) > 0.9
    assert all(p.dtype == torch.float32 for p in network.parameters())
    assert not same(network, trained_on_two_signs(UPPER_LEFT)[0])


@pytest.mark.parametrize(
    ("precision", "able", "wanted"),
    [("auto", True, True), ("auto", False, False), ("float32", True, False), ("bf16", True, True)],
)
def test_gpu_computes_in_bf16_where_it_can_and_may(
    precision: str, able: bool, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able)
    assert wants_bf16(precision, torch.device("cuda")) is wanted  # type: ignore[arg-type]


def test_bf16_on_a_gpu_without_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(TrainingError, match=r'Tesla T4 has no bf16: set training.precision to "auto"'):
        wants_bf16("bf16", torch.device("cuda"))


def test_cpu_computes_in_float32_unless_told_otherwise() -> None:
    assert not wants_bf16("auto", CPU)
    assert wants_bf16("bf16", CPU)
