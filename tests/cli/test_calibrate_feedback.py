"""`dicom-gam calibrate --from-feedback`: readers' words as labels, with the tiny bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from dicom_gam.bundle.bundle import load_bundle
from dicom_gam.cli import train as command_module
from dicom_gam.cli.main import app
from dicom_gam.config import load_settings
from dicom_gam.core.calibration import needed_size
from dicom_gam.errors import TrainingError
from dicom_gam.service.feedback import Feedback, FeedbackCase
from dicom_gam.service.feedback_calibration import EVENT, count_feedback, needed_patients
from dicom_gam.service.store import AUDIT_FILE, open_store
from dicom_gam.storage.rows import ReviewKind
from tests.tiny_bundle import DISC, STRIPES, one_thread, shapes

ALPHA = 0.2
PATIENTS = 60  # the network takes some for garbage: what suffices at best would not do


def command(*arguments: str) -> Result:
    with one_thread():
        return CliRunner().invoke(app, ["calibrate", *arguments], env={"COLUMNS": "200"})


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text('[node]\nstorage = "node"\nminimum_free_bytes = 0\n')
    with open_store(load_settings(path), create=True):
        return path


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[FeedbackCase]:
    """Enough patients of both classes for ALPHA, and one image of a class that the bundle doesn't know."""
    folder = tmp_path_factory.mktemp("pictures")
    made = []
    for kind, label in ((DISC, "disc"), (STRIPES, "stripes")):
        for number, picture in enumerate(shapes(kind, PATIENTS, 6)):
            path = folder / f"{label}{number}.png"
            Image.fromarray((picture * 255).byte().numpy()).save(path)
            made.append(case(path, label, number))
    return [*made, case(made[0].path, "foot", 999)]


def case(path: Path, label: str, number: int) -> FeedbackCase:
    verdict = "FAIL" if number % 10 == 0 else "PASS"
    return FeedbackCase(
        path, label, f"p-{label}-{number}", "ROOM", f"{number:032x}", verdict, label, ReviewKind.AGREE, "rad"
    )


@pytest.fixture
def reviewed(monkeypatch: pytest.MonkeyPatch, cases: list[FeedbackCase]) -> list[FeedbackCase]:
    """What readers have said; a test may take some of it away."""
    said = list(cases)
    left_out = {"readers see different things in it: have them agree": 2}
    monkeypatch.setattr(command_module, "read_feedback", lambda _store: Feedback(tuple(said), left_out))
    return said


@pytest.mark.requirement("REP-20")
def test_enough_feedback_makes_a_bundle_with_the_same_network_and_thresholds_of_its_own(
    tiny_bundle_dir, config, reviewed, tmp_path
):
    done = command(str(tiny_bundle_dir), "--from-feedback", "--config", str(config), "--alpha", str(ALPHA),
                   "--set-version", "1.1.0", "--device", "cpu", "--output", str(tmp_path / "new"))  # fmt: skip
    assert done.exit_code == 0, done.output + repr(done.exception)
    made, old = load_bundle(str(tmp_path / "new")), load_bundle(str(tiny_bundle_dir))
    assert (made.identity.version, made.alpha) == ("1.1.0", ALPHA)
    assert {sample.size for sample in made.calibration.values()} == {PATIENTS // 2}
    assert made.calibration[0].size != old.calibration[0].size
    assert "2 reviewed images are left out: readers see different things" in done.output
    line = (tmp_path / "node" / AUDIT_FILE).read_text().splitlines()[-1]
    assert (EVENT in line, old.identity.digest in line, "p-disc" in line) == (True, True, False)


@pytest.mark.requirement("REP-20")
def test_too_little_feedback_is_refused_with_the_number_that_is_missing_of_each_class(
    tiny_bundle_dir, config, reviewed, tmp_path
):
    reviewed[:] = [item for item in reviewed if item.label == "stripes"]
    done = command(str(tiny_bundle_dir), "--from-feedback", "--config", str(config), "--alpha", str(ALPHA),
                   "--output", str(tmp_path / "new"))  # fmt: skip
    assert isinstance(done.exception, TrainingError)
    assert f"disc has 0 patients and needs {needed_patients(ALPHA)} more" in str(done.exception)
    assert "stripes" not in str(done.exception)
    assert not (tmp_path / "new").exists()


@pytest.mark.requirement("REP-20")
def test_patients_are_counted_and_not_images_with_the_verdicts_they_had(tiny_bundle_dir, cases):
    disc, stripes = count_feedback(str(tiny_bundle_dir), [cases[0], *cases[:20]], 0.01)
    assert (disc.images, disc.patients, dict(disc.verdicts)) == (21, 20, {"FAIL": 3, "PASS": 18})
    assert (stripes.patients, stripes.missing) == (0, stripes.needs)
    twice = [*cases[:1], replace(cases[0], label="stripes")]  # of one patient, who counts for one class
    assert [count.patients for count in count_feedback(str(tiny_bundle_dir), twice)] == [1, 0]
    assert stripes.needs == 2 * needed_size(0.01)  # half of the patients are calibrated on


@pytest.mark.requirement("REP-20")
def test_with_nothing_reviewed_the_command_says_what_is_needed(tiny_bundle_dir, config, tmp_path):
    done = command(str(tiny_bundle_dir), "--from-feedback", "-c", str(config), "--output", str(tmp_path / "new"))
    assert "too little feedback" in str(done.exception)
    assert "still missing" in done.output


@pytest.mark.parametrize(
    "arguments", [[], ["images.csv", "--from-feedback", "-c", "x"], ["--from-feedback"], ["images.csv", "-c", "x"]]
)
def test_images_come_either_from_a_csv_or_from_a_node_s_readers(tiny_bundle_dir, tmp_path, arguments):
    assert command(str(tiny_bundle_dir), *arguments, "--output", str(tmp_path / "new")).exit_code == 2
