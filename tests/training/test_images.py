"""The CSV manifest, splitting by group, and reading pictures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file

from dicom_gam.core.preprocess import Preprocessing
from dicom_gam.errors import TrainingError
from dicom_gam.training.images import (
    LabelledImage,
    load_pixels,
    load_prepared,
    one_per_group,
    read_manifest,
    split_by_group,
)
from tests.training.pictures import write_csv

LABELS = ("chest", "hand")
GOOD = "path,label,group,source\na.png,chest,p1,here\n"


def manifest(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "images.csv"
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label,group\na.png,chest,p1\n", "column source is missing from the first line"),
        ("path\na.png\n", "column label, group, source is missing"),
        ("", "column path, label, group, source is missing"),
        ("path,label,group,source\n", "has no rows below the first line"),
        (GOOD + "b.png,chset,p2,here\n", "images.csv line 3: label 'chset' is none of chest, hand"),
        (GOOD + "b.png,hand,,here\n", "images.csv line 3: group is empty"),
        (GOOD + "b.png\n", "images.csv line 3: label, group, source is empty"),
        (
            GOOD.replace("source", "source,role").replace("here", "here,trian"),
            "line 2: role 'trian' is none of train, ",
        ),
    ],
)
def test_wrong_manifest_is_refused_with_the_line_and_the_remedy(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        read_manifest(manifest(tmp_path, text), LABELS)
    assert message in str(caught.value)


def test_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nowhere\.csv: can't be read"):
        read_manifest(tmp_path / "nowhere.csv", LABELS)


def test_manifest_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.csv"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(TrainingError, match="can't be read as a CSV manifest"):
        read_manifest(path, LABELS)


def test_rows_are_read_with_paths_from_the_manifest_s_folder(tmp_path: Path) -> None:
    (image,) = read_manifest(manifest(tmp_path, GOOD), LABELS)
    assert image == LabelledImage(tmp_path / "a.png", "chest", "p1", "here", "here")


def test_family_and_role_are_read_where_they_are_given(tmp_path: Path) -> None:
    text = "path,label,group,source,family,role\na.png,chest,p1,here,photos,test\n"
    (image,) = read_manifest(manifest(tmp_path, text), LABELS)
    assert (image.family, image.role) == ("photos", "test")


def test_byte_order_mark_of_a_spreadsheet_does_no_harm(tmp_path: Path) -> None:
    assert len(read_manifest(manifest(tmp_path, GOOD, "utf-8-sig"), LABELS)) == 1


def labelled(group: str, label: str = "chest", source: str = "here", role: str = "", n: int = 0) -> LabelledImage:
    return LabelledImage(Path(f"{source}-{label}-{group}-{n}"), label, group, source, source, role)


FRACTIONS = {"train": 0.5, "validation": 0.1, "calibration": 0.3, "test": 0.1}


@st.composite
def image_lists(draw: st.DrawFn) -> list[LabelledImage]:
    """Patients with images of one or both labels in one or both sources; some images have a role of their own."""
    return [
        labelled(
            f"p{draw(st.integers(0, 8))}",
            draw(st.sampled_from(LABELS)),
            draw(st.sampled_from(["here", "there"])),
            draw(st.sampled_from(["", "", "", "", "", "test"])),
            n,
        )
        for n in range(draw(st.integers(1, 40)))
    ]


@pytest.mark.requirement("TRN-02")
@given(image_lists(), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_no_group_is_in_two_roles(images: list[LabelledImage], seed: int) -> None:
    roles: dict[tuple[str, str], set[str]] = {}
    own = {(i.source, i.group): i.role for i in images if i.role}
    for role, dealt in split_by_group(images, FRACTIONS, seed).items():
        for i in dealt:
            roles.setdefault((i.source, i.group), set()).add(role)
    assert all(len(found) == 1 for found in roles.values())
    assert all(roles[key] == {role} for key, role in own.items())


@given(image_lists(), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_every_image_is_dealt_once_and_knows_its_role(images: list[LabelledImage], seed: int) -> None:
    dealt = split_by_group(images, FRACTIONS, seed)
    assert Counter(i.path for part in dealt.values() for i in part) == Counter(i.path for i in images)
    assert all(i.role == role for role, part in dealt.items() for i in part)


def test_split_is_the_same_for_one_seed_whatever_the_order_and_another_for_another_seed() -> None:
    images = [labelled(f"p{i}") for i in range(40)]
    one, two = ({i.group for i in split_by_group(images, FRACTIONS, seed)["train"]} for seed in (1, 2))
    again = {i.group for i in split_by_group(images[::-1], FRACTIONS, 1)["train"]}
    assert one == again
    assert one != two


def test_fractions_are_kept_in_every_label_and_source() -> None:
    images = [labelled(f"{label}{i}", label, source) for i in range(40) for label in LABELS for source in "ab"]
    for role, part in split_by_group(images, FRACTIONS, 3).items():
        counts = Counter((i.label, i.source) for i in part)
        assert len(counts) == 4
        assert set(counts.values()) == {round(40 * FRACTIONS[role])}


@pytest.mark.requirement("TRN-02")
def test_role_of_one_image_is_that_of_its_whole_group() -> None:
    images = [labelled("p0", role="unseen"), labelled("p0", n=1), labelled("p0", "hand", n=2), labelled("p1")]
    dealt = split_by_group(images, FRACTIONS, 0)
    assert [i.group for i in dealt["unseen"]] == ["p0"] * 3


def test_groups_with_a_role_of_their_own_do_not_count_towards_the_fractions() -> None:
    images = [labelled(f"p{i}", role="unseen" if i < 30 else "") for i in range(40)]
    sizes = {role: len(part) for role, part in split_by_group(images, FRACTIONS, 0).items()}
    assert sizes == {"train": 5, "validation": 1, "calibration": 3, "test": 1, "unseen": 30}


def test_one_image_of_each_group_is_kept_and_the_same_name_in_another_source_is_another_patient() -> None:
    images = [labelled("p1"), labelled("p1", source="there"), labelled("p1", n=2)]
    assert [i.path.name for i in one_per_group(images)] == ["here-chest-p1-0", "there-chest-p1-0"]


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "LA"])
def test_eight_bit_picture_is_grey_from_zero_to_one(mode: str, tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 51], [102, 255]], np.uint8)).convert(mode).save(tmp_path / "a.png")
    pixels = load_pixels(tmp_path / "a.png")
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, [[0, 0.2], [0.4, 1]], atol=0.005)


def test_sixteen_bit_picture_is_grey_from_zero_to_one(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 13107], [26214, 65535]], np.uint16)).save(tmp_path / "a.png")
    np.testing.assert_allclose(load_pixels(tmp_path / "a.png"), [[0, 0.2], [0.4, 1]], atol=1e-4)


def test_dicom_file_of_any_image_class_is_read() -> None:
    pixels = load_pixels(Path(str(get_testdata_file("CT_small.dcm"))))
    assert pixels.shape == (128, 128)
    assert (pixels.min(), pixels.max()) == (0, 1)


@pytest.mark.parametrize("name", ["a.png", "a.dcm"])
def test_file_that_is_no_image_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"not an image")
    with pytest.raises(TrainingError, match=name):
        load_pixels(tmp_path / name)


def test_truncated_picture_is_named(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[:50])
    with pytest.raises(TrainingError, match=r"a\.png: can't be read as a picture"):
        load_pixels(tmp_path / "a.png")


def test_contents_of_no_images_are_an_empty_batch() -> None:
    assert load_prepared([], Preprocessing(8, 8, (1, 99), 0.5, 0.25, 1), "none").content.shape == (0, 8, 8)


def test_cue_of_a_row_is_read_and_a_bad_one_is_refused_with_its_line(tmp_path: Path) -> None:
    row = {"path": "a.png", "label": "disc", "group": "1", "source": "s"}
    csv_file = write_csv(tmp_path / "images.csv", [row | {"cue": ""}, row | {"cue": "0.1,0.2,0.5,1"}])
    first, second = read_manifest(csv_file, ["disc"])
    assert first.cue is None
    assert second.cue is not None
    assert second.cue.boxes == ((0.1, 0.2, 0.5, 1.0),)
    write_csv(csv_file, [row | {"cue": "10,20,50,100"}])
    with pytest.raises(TrainingError, match=r"images.csv line 2: cue box '10,20,50,100' must have"):
        read_manifest(csv_file, ["disc"])
