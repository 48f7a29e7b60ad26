"""A bundle of a network that somebody else trained: what is kept, what is learned, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dicom_gam.training.weights
from dicom_gam.bundle.architectures import compact_resnet
from dicom_gam.bundle.bundle import load_bundle, whole_network
from dicom_gam.bundle.files import WEIGHTS
from dicom_gam.bundle.manifest import Manifest
from dicom_gam.core.preprocess import to_input
from dicom_gam.errors import BundleError, TrainingError
from dicom_gam.evidence.cases import held_out
from dicom_gam.records import Verdict
from dicom_gam.training.adopting import Adopted, adopt_network
from dicom_gam.training.images import read_manifest
from dicom_gam.training.listing import list_images
from dicom_gam.training.specification import CardText, Schedule, Specification
from dicom_gam.training.weights import place_weights, read_weights
from tests.tiny_bundle import CPU, DISC, NOISE, STRIPES, fold, one_thread, shapes, tiny_manifest
from tests.training.pictures import rows_of, write_csv

PER_CLASS = 60
WIDTHS = (8, 8, 16)


def manifest(**changes: object) -> Manifest:
    return tiny_manifest(**{"options": {"widths": list(WIDTHS), "blocks": 1}, **changes})


def specification(**changes: object) -> Specification:
    return Specification(
        bundle=manifest(**changes), training=Schedule(prototypes=2), card=CardText(summary="Given as weights.")
    )


def inputs(contents: Tensor) -> Tensor:
    return to_input(contents, manifest().preprocessing.record())


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    """Two classes and no garbage, trained as its owner would."""
    images = fold(1, 60)
    with torch.random.fork_rng(), one_thread():
        torch.manual_seed(0)
        network = compact_resnet(2, WIDTHS, 1).train()
        for _ in range(60):
            rows = torch.randint(len(images.labels), (32,))
            loss = F.cross_entropy(network(inputs(images.contents[rows])), images.labels[rows])
            slopes = torch.autograd.grad(loss, list(network.parameters()))
            with torch.no_grad():  # by hand: torch.optim would import a compiler
                for parameter, slope in zip(network.parameters(), slopes, strict=True):
                    parameter -= 0.2 * slope
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def weights(classifier: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    safetensors.torch.save_file(classifier.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def images_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rows = [row for label in ("disc", "stripes") for row in rows_of(folder, label, PER_CLASS, 1, "ours")]
    return write_csv(folder / "images.csv", rows + rows_of(folder, "garbage", 10, 1, "ours"))


@pytest.fixture(scope="module")
def adopted(weights: Path, images_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Adopted, Path]:
    output = tmp_path_factory.mktemp("adopted") / "bundle"
    with one_thread():
        made = adopt_network(specification(), images_csv, weights, output, CPU, output.with_name("split.csv"))
    return made, output


def network_of(path: Path) -> nn.Module:
    return whole_network(manifest(), (path / WEIGHTS).read_bytes(), "the bundle", CPU)


@pytest.mark.requirement("OWN-03")
def test_the_logits_of_the_real_classes_are_the_network_s_own_to_the_last_bit(
    adopted: tuple[Adopted, Path], weights: Path
) -> None:
    x = inputs(torch.cat([shapes(kind, 8, 9) for kind in (DISC, STRIPES, NOISE)]))
    after = network_of(adopted[1])(x)
    before = place_weights(manifest(), read_weights(weights), "weights").network(x)
    assert torch.equal(after[:, :2], before[:, :2])
    assert not torch.equal(after[:, 2], before[:, 2])


@pytest.mark.requirement("OWN-03")
def test_the_ratios_of_the_real_classes_probabilities_are_those_of_the_network_as_it_was_given(
    adopted: tuple[Adopted, Path], classifier: nn.Module
) -> None:
    x = inputs(torch.cat([shapes(kind, 8, 9) for kind in (DISC, STRIPES, NOISE)]))
    after = network_of(adopted[1])(x)[:, :2].softmax(1)
    assert torch.allclose(after, classifier(x).softmax(1), atol=1e-6)


@pytest.mark.requirement("OWN-03")
def test_every_given_value_is_in_the_bundle(adopted: tuple[Adopted, Path], classifier: nn.Module) -> None:
    kept = safetensors.torch.load_file(adopted[1] / WEIGHTS)
    for name, values in classifier.state_dict().items():
        assert torch.equal(kept[name][: len(values)] if values.ndim else kept[name], values), name


@pytest.mark.requirement("OWN-04")
def test_foreign_images_are_far_more_garbage_than_real_ones(adopted: tuple[Adopted, Path]) -> None:
    network = network_of(adopted[1])
    real = network(inputs(torch.cat([shapes(kind, 20, 9) for kind in (DISC, STRIPES)]))).softmax(1)[:, 2]
    foreign = network(inputs(shapes(NOISE, 20, 9))).softmax(1)[:, 2]
    assert (real < 0.5).all()
    assert foreign.min() > real.max()


@pytest.mark.requirement("OWN-04")
def test_the_same_images_and_seed_give_the_same_bundle(
    adopted: tuple[Adopted, Path], weights: Path, images_csv: Path, tmp_path: Path
) -> None:
    with one_thread():
        again = adopt_network(specification(), images_csv, weights, tmp_path / "again", CPU)
    assert again.bundle.identity == adopted[0].bundle.identity
    assert load_bundle(str(tmp_path / "again")).identity == again.bundle.identity


@pytest.mark.requirement("OWN-05")
def test_the_maker_is_warned_when_foreign_images_get_through_or_none_were_tried(
    adopted: tuple[Adopted, Path], weights: Path, images_csv: Path, tmp_path: Path
) -> None:
    header, *rows = (line.split(",") for line in images_csv.read_text().splitlines())
    negatives = [row for row in rows if row[1] == "garbage"]
    discs = [row for row in rows if row[1] == "disc"][-3:]
    rest = [row for row in rows if row not in negatives and row not in discs]
    foreign = [[disc[0], *negative[1:-1], "test"] for disc, negative in zip(discs, negatives, strict=False)]  # unseen
    for chosen, said in (([*negatives, *foreign], "would be PASSED"), ([], "is not known")):
        changed = images_csv.with_name("changed.csv")  # beside the images
        changed.write_text("\n".join(map(",".join, [header, *rest, *chosen])) + "\n")
        with one_thread():
            made = adopt_network(specification(), changed, weights, tmp_path / said[:5], CPU)
        assert [said in remark for remark in made.remarks] == [True], made.remarks


@pytest.mark.requirement("OWN-05")
def test_the_card_and_the_maker_are_told_how_often_the_network_is_right(adopted: tuple[Adopted, Path]) -> None:
    made = adopted[0]
    assert [(r.name, r.n, r.right) for r in made.recognition] == [("disc", 45, 45), ("stripes", 45, 45)]
    assert made.remarks == []
    assert (made.foreign.n, made.foreign.verdicts[Verdict.PASS]) == (3, 0)
    assert "- disc: 100.0 % (92-100) of 45\n" in made.bundle.model_card
    assert "from the real images of the column `train` below against images of the families ours" in (
        made.bundle.model_card
    )
    assert "### Negatives of families seen in training, other images\n" in made.bundle.model_card


def test_the_roles_are_written_so_that_others_can_keep_apart_what_was_used(
    adopted: tuple[Adopted, Path], images_csv: Path
) -> None:
    images = read_manifest(adopted[1].with_name("split.csv"), manifest().class_names)
    given = read_manifest(images_csv, manifest().class_names)
    assert {i.path.resolve() for i in images} == {i.path.resolve() for i in given}
    assert {i.role for i in held_out(images, "split.csv")} == {"test"}
    assert [sum(i.role == role and i.label == "disc" for i in images) for role in ("train", "calibration")] == [15, 24]


@pytest.mark.requirement("OWN-06")
def test_classes_in_another_order_than_the_outputs_are_refused(weights: Path, images_csv: Path, tmp_path: Path) -> None:
    swapped = specification(classes=manifest().model_dump()["classes"][::-1])
    with pytest.raises(TrainingError, match=r"no better than guessing: stripes: 0.0 %.*order of the outputs"):
        adopt_network(swapped, images_csv, weights, tmp_path / "bundle", CPU)


@pytest.mark.requirement("OWN-06")
def test_too_few_patients_are_refused_before_anything_is_computed(weights: Path, tmp_path: Path) -> None:
    rows = [row for label in ("disc", "stripes") for row in rows_of(tmp_path, label, 20, 1, "ours")]
    csv = write_csv(tmp_path / "images.csv", rows)
    with pytest.raises(
        TrainingError, match=r"alpha = 0.05: disc has 20 patients and needs about 28 more;.*raise alpha"
    ):
        adopt_network(specification(alpha=0.05), csv, weights, tmp_path / "bundle", CPU)


def test_a_network_with_a_garbage_output_of_its_own_is_taken_whole_and_said_to_be(classifier: nn.Module) -> None:
    state = compact_resnet(3, WIDTHS, 1).state_dict()
    placed = place_weights(manifest(), state, "weights")
    assert placed.output_layer == ""
    assert all(torch.equal(value, state[name]) for name, value in placed.network.state_dict().items())


def test_one_sigmoid_output_for_two_classes_gives_the_same_probabilities() -> None:
    single = compact_resnet(1, WIDTHS, 1).eval()
    placed = place_weights(manifest(), single.state_dict(), "weights")
    x = inputs(shapes(DISC, 4, 1))
    assert placed.one_output
    assert torch.allclose(placed.network(x)[:, :2].softmax(1)[:, 1:], single(x).sigmoid(), atol=1e-6)


class Pointwise(nn.Module):
    """A head of one 1×1 convolution and a mean, or with a softmax where none may be."""

    def __init__(self, outputs: int, end: nn.Module) -> None:
        super().__init__()
        self.stem, self.layer1, self.layer3 = nn.Conv2d(1, 4, 3, 4), nn.ReLU(), nn.Conv2d(4, 6, 1)
        self.head, self.end = nn.Conv2d(6, outputs, 1), end

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.end(self.head(self.layer3(self.layer1(self.stem(x)))).mean((2, 3)))
        return found


def test_a_pointwise_convolution_may_be_the_last_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_gam.training.weights, "build_network", lambda _a, k, _o: Pointwise(k, nn.Identity()))
    given = Pointwise(2, nn.Identity())
    placed = place_weights(manifest(), given.state_dict(), "weights")
    x = inputs(shapes(DISC, 4, 1))
    assert placed.output_layer == "head"
    assert torch.allclose(placed.network(x)[:, :2], given(x), atol=1e-5)


@pytest.mark.requirement("OWN-06")
def test_a_softmax_at_the_end_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_gam.training.weights, "build_network", lambda _a, k, _o: Pointwise(k, nn.Softmax(1)))
    with pytest.raises(TrainingError, match="something stands between layer 'head' and the network's answer"):
        place_weights(manifest(), Pointwise(2, nn.Softmax(1)).state_dict(), "weights")


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.requirement("OWN-06")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "stem.0.weight"), "the network has stem.0.weight, the weights don't"),
        (lambda s: {f"module.{k}": v for k, v in s.items()}, "a prefix such as `module.`"),
        (lambda s: s | {"stem.0.weight": torch.zeros(5, 1, 3, 3)}, r"stem.0.weight is \(5, 1, 3, 3\) and not"),
        (lambda s: compact_resnet(5, WIDTHS, 1).state_dict(), "has 5 outputs, but the specification has 2 classes"),
        (lambda s: s | {"classifier.bias": torch.zeros(3)}, "size mismatch for classifier.bias"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(classifier: nn.Module, change, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        place_weights(manifest(), change(classifier.state_dict()), "weights")


@pytest.mark.requirement("OWN-06")
def test_a_checkpoint_with_pickle_is_refused_with_the_way_to_convert_it(classifier: nn.Module, tmp_path: Path) -> None:
    torch.save(classifier.state_dict(), tmp_path / "classifier.pt")
    with pytest.raises(TrainingError, match=r"classifier\.pt: is a PyTorch checkpoint.*weights_only=True"):
        read_weights(tmp_path / "classifier.pt")


@pytest.mark.requirement("OWN-06")
def test_weights_that_are_no_numbers_no_safetensors_or_not_there_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"layer": torch.tensor([1.0, float("nan")])}, tmp_path / "nan.safetensors")
    (tmp_path / "text.safetensors").write_text("these are no weights")
    for name, message in (
        ("nan.safetensors", "layer holds values that are not finite"),
        ("text.safetensors", "is no safetensors file"),
        ("gone.safetensors", "can't be read: No such file"),
    ):
        with pytest.raises(TrainingError, match=message):
            read_weights(tmp_path / name)


@pytest.mark.requirement("OWN-06")
def test_a_layer_that_is_not_there_is_named_before_an_image_is_read(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no layer 'layer9'"):
        adopt_network(specification(attention_layer="layer9"), tmp_path / "no.csv", weights, tmp_path / "b", CPU)


@pytest.mark.requirement("OWN-02")
def test_files_that_are_no_images_are_left_out_by_name_and_one_patient_for_all_is_noticed(tmp_path: Path) -> None:
    rows_of(tmp_path, "disc", 2, 1, "x")
    for label in ("disc", "garbage/photo"):
        (tmp_path / "in" / label).mkdir(parents=True)
    (tmp_path / "x-disc-0.png").rename(tmp_path / "in" / "disc" / "a.png")
    (tmp_path / "x-disc-1.png").rename(tmp_path / "in" / "garbage" / "photo" / "b.png")
    (tmp_path / "in" / "disc" / "notes.txt").write_text("not an image")
    listed = list_images(tmp_path / "in", tmp_path / "images.csv", "ours")
    assert [path.name for path, _ in listed.left_out] == ["notes.txt"]
    images = read_manifest(tmp_path / "images.csv", ("disc", "garbage"))
    assert [(i.label, i.group, i.family) for i in images] == [
        ("disc", "p00001", "ours"),
        ("garbage", "p00002", "photo"),
    ]
    with pytest.raises(TrainingError, match=r"images\.csv: is there already"):
        list_images(tmp_path / "in", tmp_path / "images.csv", "ours")
    with pytest.raises(TrainingError, match="Make one folder for each class"):
        list_images(tmp_path / "in" / "disc", tmp_path / "other.csv", "ours")
