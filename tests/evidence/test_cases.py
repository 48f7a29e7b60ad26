"""Which images may be evaluated on, what they are to the bundle, and what is made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_gam.bundle.bundle import load_bundle
from dicom_gam.errors import TrainingError
from dicom_gam.evidence.cases import held_out, kind_of, manipulation_generator, verify_images
from dicom_gam.evidence.manipulations import MANIPULATIONS
from dicom_gam.records import Verdict
from dicom_gam.training.images import LabelledImage
from tests.evidence.made_cases import made_case
from tests.tiny_bundle import DISC, NOISE, STRIPES, shapes


def row(role: str, label: str = "disc", family: str = "f", path: str = "x.png") -> LabelledImage:
    return LabelledImage(Path(path), label, path, "s", family, role)


@pytest.mark.requirement("EVD-01")
def test_held_out_rows_are_those_of_role_test_or_unseen():
    assert [i.role for i in held_out([row("test"), row("train"), row(""), row("unseen")], "m")] == ["test", "unseen"]


@pytest.mark.requirement("EVD-01")
def test_without_such_roles_rows_without_a_role_are_taken_and_used_ones_never():
    assert [i.role for i in held_out([row(""), row("calibration"), row("")], "m")] == ["", ""]


def test_nothing_left_is_refused_with_the_roles_that_are_there():
    with pytest.raises(TrainingError, match=r"m: every row has a role .*calibration, train.* Add rows with role test"):
        held_out([row("train"), row("calibration")], "m")


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (row("test"), "expected"),
        (row(""), "expected"),
        (row("unseen"), "unseen source"),
        (row("test", "garbage", "breast"), "near"),
        (row("unseen", "garbage", "other anatomy (hip)"), "near"),
        (row("test", "garbage", "CT"), "far"),
    ],
)
def test_what_an_image_is_to_the_bundle(image, kind):
    assert kind_of(image, "garbage") == kind


@pytest.mark.parametrize(
    ("case", "alarmed"),
    [
        (made_case(odder=4), True),  # p = 0.05: not above
        (made_case(odder=5), False),
        (made_case(odder=98, probabilities=(0.3, 0.1, 0.6)), True),
        (made_case(odder=98, degenerate=True), True),
    ],
)
def test_an_alarm_is_whatever_would_not_pass_at_that_level(case, alarmed):
    assert case.alarmed(0.05) is alarmed


def test_a_manipulation_draws_the_same_for_the_same_image_and_differently_for_another():
    first, again, other = (manipulation_generator(0, i, "noisy").random() for i in (3, 3, 4))
    assert first == again != other
    assert manipulation_generator(0, 3, "blurred").random() != first


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[LabelledImage]:
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for label, kind in (("disc", DISC), ("stripes", STRIPES), ("garbage", NOISE)):
        for i, content in enumerate(shapes(kind, 3, seed=55)):
            path = folder / f"{label}{i}.png"
            Image.fromarray((content.numpy() * 255).astype(np.uint8)).save(path)
            found.append(LabelledImage(path, label, path.stem, "s", "f", "test"))
    (folder / "broken.png").write_bytes(b"")
    return [*found, row("test", path=str(folder / "broken.png"))]


def test_every_image_is_verified_and_manipulations_are_dealt_over_the_classes(tiny_bundle_dir, pictures):
    cases, unusable = verify_images(load_bundle(str(tiny_bundle_dir)), pictures, manipulated=2, seed=0)
    kinds = [case.kind for case in cases]
    assert kinds.count("expected") == 6
    assert kinds.count("far") == 3
    made = [case for case in cases if case.kind in ("covariate", "fabricated")]
    assert len(made) == 2 * len(MANIPULATIONS)
    assert {case.image.label for case in made} == {"disc", "stripes"}
    assert [item.path.name for item in unusable] == ["broken.png"]
    for case in cases:  # only a wrong verdict needs a picture
        assert (case.thumbnail is not None) == (case.passed != case.expected)
    assert {case.verification.verdict for case in cases if case.kind == "far"} == {Verdict.REJECT}


def test_no_readable_image_at_all_is_refused(tiny_bundle_dir, pictures):
    with pytest.raises(TrainingError, match=r"none of 1 images can be read; the first one: .*broken\.png"):
        verify_images(load_bundle(str(tiny_bundle_dir)), pictures[-1:], manipulated=2, seed=0)
