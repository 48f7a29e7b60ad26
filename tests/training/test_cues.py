"""Cues: read from a cell, drawn into the frame of the contents, compared with attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from dicom_gam.core.preprocess import Preprocessing, to_content
from dicom_gam.errors import TrainingError
from dicom_gam.training.cues import Cue, cue_agreement, load_cues, parse_cue, watch_layer
from dicom_gam.training.images import load_pixels
from tests.core.networks import MlpHead, autograd_map, seeded

SPEC = Preprocessing(input_size=8, content_size=4, percentiles=(1.0, 99.0), mean=0.5, std=0.25, channels=1)
LINE = "images.csv line 7"


def drawn(text: str, folder: Path = Path(), spec: Preprocessing = SPEC) -> Tensor:
    maps = load_cues([parse_cue(text, folder, LINE)], spec, load_pixels)
    assert maps is not None
    return maps[0]


def picture(folder: Path, pixels: object, name: str = "map.png") -> str:
    Image.fromarray(np.asarray(pixels, np.uint8)).save(folder / name)
    return name


def test_box_covers_cells_by_their_share() -> None:
    # x from 1/4 to 5/8: all of column 1, half of column 2; y from 0 to 1/8: half of row 0
    assert drawn("0.25,0,0.625,0.125").tolist() == [[0, 0.5, 0.25, 0], [0] * 4, [0] * 4, [0] * 4]


def test_several_boxes_are_joined() -> None:
    expected = torch.zeros(4, 4)
    expected[:2, :2] = 1
    expected[3, 2:] = 1
    torch.testing.assert_close(drawn(" 0,0,0.5,0.5; 0.5,0.75,1,1 ;0,0,.25,.25;"), expected)


@given(
    x=st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True).map(sorted),
    y=st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True).map(sorted),
)
def test_box_of_any_size_covers_its_area(x: list[float], y: list[float]) -> None:
    covered = load_cues([Cue(LINE, ((x[0], y[0], x[1], y[1]),))], SPEC, load_pixels)
    assert covered is not None
    assert covered.mean() == pytest.approx((x[1] - x[0]) * (y[1] - y[0]), abs=1e-5)
    assert covered.min() >= 0
    assert covered.max() <= 1 + 1e-6


def test_box_lies_where_the_content_of_its_image_lies() -> None:
    """A bright box on a wide black image, reduced to contents, is the cue of that box."""
    pixels = torch.zeros(40, 120)
    pixels[10:20, 30:90] = 1.0
    torch.testing.assert_close(drawn("0.25,0.25,0.75,0.5"), to_content(pixels, SPEC), atol=1e-5, rtol=0)


def test_heat_map_is_reduced_like_its_image_and_stretched_to_one(tmp_path: Path) -> None:
    pixels = np.full((8, 16), 20)
    pixels[:2, 4:8] = 100
    pixels[2:4, 4:8] = 60
    expected = torch.zeros(4, 4)
    expected[0, 1], expected[1, 1] = 1.0, 0.5
    torch.testing.assert_close(drawn(picture(tmp_path, pixels), tmp_path), expected)


def test_image_without_a_cue_gets_an_empty_map_and_no_cues_at_all_get_none() -> None:
    maps = load_cues([None, parse_cue("0,0,1,1", Path(), LINE)], SPEC, load_pixels)
    assert maps is not None
    assert maps.flatten(1).sum(1).tolist() == [0, 16]
    assert load_cues([None, None], SPEC, load_pixels) is None
    assert parse_cue("  ", Path(), LINE) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0.1,0.1,0.5", "3 numbers instead of the four.*quotation marks"),
        ("0.1", "1 numbers instead"),
        ("0.1,0.1,0.5,0.5,0.6", "5 numbers"),
        ("120,80,300,200", "fractions of the image.*divided by its columns"),
        ("0.5,0.1,0.2,0.4", "0 ≤ x0 < x1 ≤ 1"),
        ("0.1,0.4,0.2,0.4", "0 ≤ y0 < y1 ≤ 1"),
        ("-0.1,0,0.5,1", "0 ≤ x0"),
        ("0.1,0.2,0.3,,0.4", "write four numbers"),
        ("0.1,0.2,0.3,1e999", "0 ≤ y0"),
        ("nan,0,1,1", "is no file"),
        ("there/is/none.png", "is no file in .*: give a grey picture.*boxes"),
    ],
)
def test_bad_cell_is_refused_with_its_line_and_the_remedy(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=rf"^{LINE}: cue.*{reason}"):
        parse_cue(text, tmp_path, LINE)


def test_heat_map_that_is_no_picture_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "map.png").write_bytes(b"not a picture")
    with pytest.raises(TrainingError, match=rf"^{LINE}: cue: .*map.png: can't be read as a picture"):
        drawn("map.png", tmp_path)


def test_heat_map_of_one_grey_points_nowhere_and_is_refused(tmp_path: Path) -> None:
    name = picture(tmp_path, np.full((8, 8), 200))
    with pytest.raises(TrainingError, match=rf"^{LINE}: cue .*equally bright everywhere"):
        drawn(name, tmp_path)


class InPlace(nn.Module):
    """A ReLU writes into what the layer returned, as in torchvision's DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 3, 3, padding=1)
        self.classifier = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.relu_(self.features(x)).mean((2, 3)))


def test_watched_layer_shows_what_the_head_received_and_no_hook_stays() -> None:
    network = seeded(InPlace)
    x = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    plain = network(x)
    with watch_layer(network, "features") as seen:
        watched = network(x)
    network(x)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], network.features(x))
    assert (seen[0] < 0).any()
    torch.testing.assert_close(watched, plain)
    assert not any(module._forward_hooks for module in network.modules())


def test_no_hook_stays_after_an_error() -> None:
    network = seeded(InPlace)
    with pytest.raises(RuntimeError), watch_layer(network, "features"):
        network(torch.zeros(1, 5, 6, 6))
    assert not any(module._forward_hooks for module in network.modules())


def test_agreement_is_the_cosine_worked_by_hand() -> None:
    """Two channels, mean pooling, weights 2 and -1: the evidence is (2·A₀ - A₁)/4, clipped at zero."""
    activations = torch.tensor([[[[3.0, 0.0], [1.0, 0.0]], [[2.0, 5.0], [2.0, 0.0]]]]).requires_grad_()
    logits = activations.mean((2, 3)) @ torch.tensor([[0.0, 2.0], [0.0, -1.0]])
    cue = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])  # evidence is 4, 0 / 0, 0 (before: 4, -5 / 0, 0)
    found = cue_agreement(activations, logits, torch.tensor([0]), torch.tensor([1]), cue)
    assert found.item() == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("build", [MlpHead, InPlace])
def test_agreement_is_with_the_attention_map_by_the_book(build: type[nn.Module]) -> None:
    network = seeded(build, 4)
    layer = "body" if build is MlpHead else "features"
    g = torch.Generator().manual_seed(2)
    x, cues = torch.randn(5, 1, 16, 16, generator=g), torch.rand(2, 32, 32, generator=g)
    rows, labels = torch.tensor([3, 1]), torch.tensor([1, 0])
    maps = autograd_map(network, layer, x[rows], labels, "hirescam")
    side = 32 // maps.shape[-1]
    small = cues.unflatten(2, (-1, side)).unflatten(1, (-1, side)).mean((2, 4))
    expected = (maps * small).flatten(1).sum(1) / (maps.flatten(1).norm(dim=1) * small.flatten(1).norm(dim=1))
    with watch_layer(network, layer) as seen:
        logits = network(x)
    torch.testing.assert_close(cue_agreement(seen[0], logits, rows, labels, cues), expected)


@pytest.mark.parametrize("build", [MlpHead, InPlace])
def test_gradient_of_the_agreement_is_the_finite_difference(build: type[nn.Module]) -> None:
    """Down to the first layer and through the head's own gradient."""
    network = seeded(build, 3)
    layer = "body" if build is MlpHead else "features"
    g = torch.Generator().manual_seed(2)
    x, cues = torch.randn(2, 1, 16, 16, generator=g), torch.rand(2, 16, 16, generator=g)
    rows, labels = torch.arange(2), torch.tensor([1, 0])

    def agreement() -> Tensor:
        with watch_layer(network, layer) as seen:
            logits = network(x)
        return cue_agreement(seen[0], logits, rows, labels, cues).sum()

    weights = [p for p in network.parameters() if p.ndim > 1]
    gradients = torch.autograd.grad(agreement(), weights)
    for weight, gradient in zip(weights, gradients, strict=True):
        original, step = weight.data, 1e-3 * gradient / gradient.norm()
        weight.data = original + step
        above = agreement().item()
        weight.data = original - step
        below = agreement().item()
        weight.data = original
        assert (above - below) / 2e-3 == pytest.approx(gradient.norm().item(), rel=0.03)


def test_attention_without_any_evidence_has_no_agreement_and_a_finite_gradient() -> None:
    activations = torch.ones(1, 1, 2, 2).requires_grad_()
    weight = torch.tensor([[-1.0]], requires_grad=True)
    logits = activations.mean((2, 3)) @ weight
    found = cue_agreement(activations, logits, torch.tensor([0]), torch.tensor([0]), torch.ones(1, 2, 2))
    assert found.item() == 0
    (gradient,) = torch.autograd.grad(found.sum(), weight)
    assert torch.isfinite(gradient).all()
