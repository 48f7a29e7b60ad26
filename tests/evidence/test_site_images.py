"""Finding a site's images, and taking one of each patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_gam.errors import TrainingError
from dicom_gam.evidence.site_images import Intake, SiteImage, find_images, read_images
from tests.dicom.radiograph_files import standard_pixels, write

CLASSES = ("disc", "stripes", "garbage")


def picture(path: Path, value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 50), value, np.uint8)).save(path)
    return path


def radiograph(path: Path, patient: str) -> Path:
    return write(path, standard_pixels().repeat(2, 0).repeat(2, 1), PatientID=patient)


def test_a_folder_is_searched_for_pictures_and_dicom_with_or_without_a_suffix(tmp_path):
    wanted = [picture(tmp_path / "a.PNG"), picture(tmp_path / "below" / "deep" / "b.jpg")]
    wanted += [radiograph(tmp_path / "c.dcm", "1"), radiograph(tmp_path / "IM0001", "2")]
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert {image.path for image in find_images(tmp_path, CLASSES)} == set(wanted)


def test_one_image_of_each_patient_is_used_and_the_others_are_counted(tmp_path):
    for i, patient in enumerate(["A", "A", "B", "A", ""]):
        radiograph(tmp_path / f"{i}.dcm", patient)
    picture(tmp_path / "5.png")
    picture(tmp_path / "6.png")
    intake = Intake([])
    read = [image.path.name for image, _ in read_images(find_images(tmp_path, CLASSES), intake)]
    assert read == ["0.dcm", "2.dcm", "4.dcm", "5.png", "6.png"]
    assert intake.further_images == 2


def test_an_unreadable_first_image_of_a_patient_does_not_lose_the_second(tmp_path):
    (tmp_path / "0.png").write_bytes(b"not a picture")
    images = [SiteImage(tmp_path / "0.png", group="A"), SiteImage(picture(tmp_path / "1.png"), group="A")]
    intake = Intake([])
    assert [image.path.name for image, _ in read_images(images, intake)] == ["1.png"]
    assert [item.path.name for item in intake.left_out] == ["0.png"]
    assert intake.left_out[0].reason.startswith("can't be read as a picture")


def test_whatever_a_file_holds_its_neighbours_are_read(tmp_path):
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 300)
    (tmp_path / "b.dcm").write_bytes(b"")
    (tmp_path / "c.png").mkdir()
    radiograph(tmp_path / "d.dcm", "1")
    write(tmp_path / "e.dcm", standard_pixels().repeat(2, 0).repeat(2, 1), NumberOfFrames=2)
    intake = Intake([])
    read = [image.path.name for image, _ in read_images(find_images(tmp_path, CLASSES), intake)]
    assert read == ["d.dcm"]
    assert [item.path.name for item in intake.left_out] == ["a.dcm", "b.dcm", "e.dcm"]
    assert all(item.reason for item in intake.left_out)


def test_a_csv_needs_paths_only_and_rows_that_bundles_are_made_from_are_passed_over(tmp_path):
    listed = tmp_path / "images.csv"
    listed.write_text("path\na.png\nsub/b.dcm\n")
    assert find_images(listed, CLASSES) == [SiteImage(tmp_path / "a.png"), SiteImage(tmp_path / "sub" / "b.dcm")]
    listed.write_text("path,label,group,source,role\na.png,disc,7,s,test\nb.png,,7,t,\nc.png,disc,8,s,train\n")
    assert find_images(listed, CLASSES) == [
        SiteImage(tmp_path / "a.png", "disc", "s/7"),
        SiteImage(tmp_path / "b.png", "", "t/7"),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file\na.png\n", "column path is missing"),
        ("path,label\na.png,knee\n", "line 2: label 'knee' is none of disc, stripes, garbage"),
        ("path,label\n,disc\n", "line 2: path is empty"),
        ("path\n", "holds no image"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused_with_the_line_and_the_reason(tmp_path, text, reason):
    listed = tmp_path / "images.csv"
    listed.write_text(text)
    with pytest.raises(TrainingError, match=reason):
        find_images(listed, CLASSES)


def test_a_folder_without_images_and_a_missing_one_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(TrainingError, match="holds no image"):
        find_images(tmp_path, CLASSES)
    with pytest.raises(TrainingError, match="there is no such folder or file"):
        find_images(tmp_path / "absent", CLASSES)
