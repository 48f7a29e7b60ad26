"""A bundle from pictures to a model card, and calibrating it anew."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from dicom_gam.bundle.architectures import compact_resnet
from dicom_gam.bundle.bundle import Bundle, load_bundle
from dicom_gam.bundle.files import MODEL_CARD
from dicom_gam.bundle.verifier import verify_batch
from dicom_gam.core.network import SplitNetwork
from dicom_gam.errors import BundleError, TrainingError
from dicom_gam.records import Verdict
from dicom_gam.training.calibrating import calibrate
from dicom_gam.training.images import load_prepared, read_manifest
from dicom_gam.training.making import recalibrate_bundle, train_bundle
from dicom_gam.training.specification import CardText, Schedule, Source, Specification, read_specification
from tests.tiny_bundle import CPU, DISC, STRIPES, fold, one_thread, prepared, shapes, tiny_manifest
from tests.training.pictures import rows_of, write_csv

SPECIFICATION = Specification(
    bundle=tiny_manifest(alpha=0.3),
    training=Schedule(
        steps=150,
        batch_size=32,
        learning_rate=0.02,
        synthetic_share=0,
        validate_every=75,
        prototypes=2,
        fractions={"train": 0.4, "validation": 0.2, "calibration": 0.3, "test": 0.1},
    ),
    card=CardText(
        summary="Tells discs from stripes.",
        limits=("Knows no triangles.",),
        sources=(Source(name="generated", licence="CC0", attribution="the tests"),),
    ),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    folder = tmp_path_factory.mktemp("training")
    rows = [row for label in ("disc", "stripes") for row in rows_of(folder, label, 40, 1, "ours")]
    rows += rows_of(folder, "garbage", 30, 1, "ours")
    rows += rows_of(folder, "disc", 5, 2, "foreign", "unseen") + rows_of(folder, "garbage", 4, 2, "foreign", "unseen")
    with one_thread():
        bundle = train_bundle(SPECIFICATION, write_csv(folder / "images.csv", rows), folder / "bundle", CPU)
    return bundle, folder


def test_trained_bundle_is_written_as_it_was_returned(trained: tuple[Bundle, Path]) -> None:
    bundle, folder = trained
    read = load_bundle(str(folder / "bundle"))
    assert read.identity == bundle.identity
    assert read.model_card == bundle.model_card


def test_trained_bundle_tells_discs_from_stripes(trained: tuple[Bundle, Path]) -> None:
    for kind, label in ((DISC, "disc"), (STRIPES, "stripes")):
        assert {p.label for p, _ in verify_batch(trained[0], prepared(shapes(kind, 8, 55)))} == {label}


def test_calibration_has_the_images_that_were_dealt_to_it(trained: tuple[Bundle, Path]) -> None:
    assert {index: sample.size for index, sample in trained[0].calibration.items()} == {0: 12, 1: 12}  # 0.3 of 40


def section(card: str, title: str) -> str:
    return card.split(f"### {title}\n")[1].split("\n#")[0]


@pytest.mark.requirement("TRN-04")
def test_model_card_counts_the_test_images(trained: tuple[Bundle, Path]) -> None:
    table = section(trained[0].model_card, "Other patients of the training sources")
    assert re.search(r"^\| disc \| ours \| 4 \| 100\.0 % \(40-100\) \|", table, re.M)
    assert re.search(r"^\| stripes \| ours \| 4 \|", table, re.M)
    assert re.search(r"^\| all \| all \| 8 \|", table, re.M)


@pytest.mark.requirement("TRN-04")
def test_model_card_s_verdicts_are_those_of_the_bundle(trained: tuple[Bundle, Path]) -> None:
    bundle, folder = trained
    images = read_manifest(folder / "images.csv", bundle.manifest.class_names)
    foreign = [i for i in images if (i.source, i.label) == ("foreign", "disc")]
    images = load_prepared(foreign, bundle.manifest.preprocessing.record(), "again")
    counts = Counter(v.verdict for _, v in verify_batch(bundle, images))
    table = section(bundle.model_card, "Sources never seen in training")
    row = next(line for line in table.splitlines() if line.startswith("| disc | foreign | 5 |"))
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[5:8] == [str(counts[v]) for v in (Verdict.PASS, Verdict.FAIL, Verdict.REJECT)]


def test_model_card_judges_negatives_seen_unseen_and_made_up(trained: tuple[Bundle, Path]) -> None:
    card = trained[0].model_card
    assert "| ours | 6 |" in section(card, "Negatives of families seen in training, other images")  # 0.2 of 30
    assert "| foreign | 4 |" in section(card, "Negatives of families never seen in training")
    made_up = section(card, "Negatives made from test images")
    assert all(f"| {family} | 8 |" in made_up for family in ("inverted", "rotated", "noise", "blank"))


@pytest.mark.parametrize(
    "text", ["Tells discs from stripes.", "- Knows no triangles.", "| generated | CC0 | the tests |", "alpha = 0.3"]
)
def test_model_card_says_what_no_computer_can_know(text: str, trained: tuple[Bundle, Path]) -> None:
    assert text in trained[0].model_card


def test_existing_bundle_is_never_overwritten(trained: tuple[Bundle, Path], tmp_path: Path) -> None:
    path = trained[1] / "bundle"
    before = (path / MODEL_CARD).read_bytes()
    rows = [row for label in ("disc", "stripes") for row in rows_of(tmp_path, label, 60, 6, "site")]
    with pytest.raises(BundleError, match="is not empty"):
        recalibrate_bundle(str(path), write_csv(tmp_path / "images.csv", rows), path, {}, CPU)
    assert (path / MODEL_CARD).read_bytes() == before


def test_recalibrated_bundle_has_the_site_s_references_and_the_same_network(
    tiny_bundle_dir: Path, tmp_path: Path
) -> None:
    rows = [row for label in ("disc", "stripes") for row in rows_of(tmp_path, label, 60, 6, "site")]
    csv = write_csv(tmp_path / "images.csv", rows)
    new = recalibrate_bundle(str(tiny_bundle_dir), csv, tmp_path / "new", {"alpha": 0.2}, CPU)
    old = load_bundle(str(tiny_bundle_dir))
    assert (new.alpha, old.alpha) == (0.2, 0.1)
    assert {sample.size for sample in new.calibration.values()} == {30}  # 0.5 of 60
    assert (tmp_path / "new" / "weights.safetensors").read_bytes() == (
        tiny_bundle_dir / "weights.safetensors"
    ).read_bytes()
    assert not torch.equal(new.references.classes[0].feature_mean, old.references.classes[0].feature_mean)
    assert "## Recalibrated" in new.model_card
    assert load_bundle(str(tmp_path / "new")).identity == new.identity != old.identity


@pytest.mark.requirement("VER-09")
def test_too_few_images_are_refused_with_the_number_needed(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "disc", 60, 6, "site") + rows_of(tmp_path, "stripes", 40, 6, "site")
    csv = write_csv(tmp_path / "images.csv", rows)
    with pytest.raises(TrainingError) as caught:
        recalibrate_bundle(str(tiny_bundle_dir), csv, tmp_path / "new", {"alpha": 0.04}, CPU)
    message = str(caught.value)
    assert "stripes has 20 calibration images which support a false-alarm rate of 0.048; 0.04 needs" in message
    assert "raise alpha" in message
    assert "disc has" not in message
    assert not (tmp_path / "new").exists()


def test_network_that_gets_too_few_reference_images_right_is_refused() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        untrained = SplitNetwork(compact_resnet(3, (4, 4, 8), 1).eval(), "layer3", ("stem", "layer1"))
    with pytest.raises(TrainingError, match=r"fewer than 2 reference images of .* right: check the labels"):
        calibrate(tiny_manifest(), untrained, {"reference": fold(1, 1)}, 2, CPU)


def test_wrong_keys_of_a_specification_are_named_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text('[training]\nstepps = 3\n[card]\nsummary = "x"\n')
    with pytest.raises(TrainingError) as caught:
        read_specification(path)
    assert "bundle: Field required" in str(caught.value)
    assert "training.stepps: Extra inputs" in str(caught.value)


def test_specification_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.toml").write_text("[training")
    with pytest.raises(TrainingError, match=r"train\.toml: can't be read as TOML"):
        read_specification(tmp_path / "train.toml")
