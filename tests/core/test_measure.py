"""Prototypes, references and the table of measurements."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.models.video import r3d_18

from dicom_gam.core.attention import Explanation, explain
from dicom_gam.core.measure import MEASUREMENTS, build_references, measure, real_targets
from dicom_gam.core.network import SplitNetwork
from dicom_gam.core.prototypes import medoids, prototype_maps, prototype_vectors
from dicom_gam.core.similarity import SIMILARITIES, similarities
from tests.core.networks import seeded

G = torch.Generator().manual_seed(0)
COLUMN = {spec.name: i for i, spec in enumerate(MEASUREMENTS)}


def bump(row: int, column: int, count: int, side: int = 6) -> Tensor:
    maps = 0.05 * torch.rand(count, side, side, generator=G)
    maps[:, row, column] = 1.0
    return maps


def explanation(maps: Tensor, targets: list[int], degenerate: list[bool] | None = None, seed: int = 0) -> Explanation:
    n, g = len(maps), torch.Generator().manual_seed(seed)
    return Explanation(
        logits=torch.randn(n, 3, generator=g),
        targets=torch.tensor(targets),
        maps=maps,
        degenerate=torch.tensor(degenerate or [False] * n),
        early=(torch.rand(n, 2, 4, 4, generator=g), torch.rand(n, 3, 4, 4, generator=g)),
        features=torch.randn(n, 5, generator=g),
    )


def frequency(count: int, seed: int = 5) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def test_prototypes_of_separate_clusters_are_one_of_each() -> None:
    maps = torch.cat([bump(0, 0, 7), bump(3, 3, 9), bump(5, 0, 5)])[torch.randperm(21, generator=G)]
    found = prototype_maps(maps, 3)
    assert {int(m.flatten().argmax()) for m in found[1:]} == {0, 3 * 6 + 3, 5 * 6}


def test_every_prototype_but_the_mean_is_one_of_the_maps() -> None:
    maps = bump(1, 1, 8)
    found = prototype_maps(maps, 2)
    assert all(any(torch.equal(p, m) for m in maps) for p in found[1:])


def test_first_prototype_is_the_mean_map_scaled_to_a_maximum_of_one() -> None:
    maps = torch.tensor([[[1.0, 0.0]], [[0.0, 0.5]]])
    torch.testing.assert_close(prototype_maps(maps, 1)[0], torch.tensor([[1.0, 0.5]]))


def test_medoid_is_the_map_nearest_to_all_others() -> None:
    maps = torch.tensor([[[1.0, 0.0]], [[0.8, 0.6]], [[0.6, 0.8]]])  # at 0, 37 and 53 degrees
    assert torch.equal(prototype_maps(maps, 1)[1], maps[1])


def test_fewer_maps_than_prototypes_give_as_many_prototypes_as_maps() -> None:
    assert len(prototype_maps(bump(0, 0, 2), 5)) == 3


def test_prototypes_are_the_same_each_time() -> None:
    maps = torch.rand(30, 5, 5, generator=torch.Generator().manual_seed(2))
    assert torch.equal(prototype_maps(maps, 4), prototype_maps(maps.clone(), 4))


def test_medoids_of_a_line_by_hand() -> None:
    places = torch.tensor([0.0, 1.0, 2.0, 10.0, 11.0, 12.5])
    assert sorted(medoids((places[:, None] - places).abs(), 2)) == [1, 4]


def test_prototype_vectors_are_chosen_by_distance_after_whitening() -> None:
    vectors = torch.tensor([[0.0, 0.0], [0.0, 9.0], [1.0, 0.0], [1.0, 9.0]])
    flat = torch.diag(torch.tensor([1.0, 0.0]))  # the second coordinate says nothing
    assert set(prototype_vectors(vectors, flat, 2)[:, 0].tolist()) == {0.0, 1.0}


def test_target_is_the_most_probable_class_that_is_not_garbage() -> None:
    logits = torch.tensor([[1.0, 2.0, 9.0], [3.0, 2.0, -1.0]])
    assert real_targets(2)(logits).tolist() == [1, 0]
    assert logits[0, 2] == 9, "the caller's logits must not change"


def test_references_are_the_class_means_and_prototypes() -> None:
    e = explanation(torch.cat([bump(0, 0, 4), bump(5, 5, 4)]), [0] * 4 + [1] * 4)
    references = build_references([e], frequency(8), [e.targets], 1)
    torch.testing.assert_close(references.classes[1].feature_mean, e.features[4:].mean(0))
    assert references.classes[0].attention.shape == (2, 6, 6)
    assert references.classes[0].attention[1].flatten().argmax() == 0
    assert references.classes[1].attention[1].flatten().argmax() == 35


def test_references_do_not_depend_on_how_the_images_were_batched() -> None:
    maps = torch.cat([bump(0, 0, 4), bump(5, 5, 4)])
    whole = explanation(maps, [0] * 4 + [1] * 4)

    def part(rows: slice) -> Explanation:
        return Explanation(
            *(getattr(whole, f)[rows] for f in ("logits", "targets", "maps", "degenerate")),
            early=tuple(grid[rows] for grid in whole.early),
            features=whole.features[rows],
        )

    parts = [part(slice(0, 3)), part(slice(3, 8))]
    one = build_references([whole], frequency(8), [whole.targets], 2)
    other = build_references(parts, frequency(8), [p.targets for p in parts], 2)
    torch.testing.assert_close(one.classes[0].attention, other.classes[0].attention)
    torch.testing.assert_close(one.channel_whitening, other.channel_whitening)


def test_degenerate_maps_are_no_reference() -> None:
    maps = torch.cat([bump(0, 0, 3), torch.zeros(1, 6, 6)])
    e = explanation(maps, [0] * 4, [False, False, False, True])
    assert build_references([e], frequency(4), [e.targets], 4).classes[0].attention.amax((1, 2)).min() == 1


@pytest.fixture
def measured() -> tuple[Explanation, Tensor, dict[str, Tensor]]:
    learned = explanation(torch.cat([bump(0, 0, 6), bump(5, 5, 6)]), [0] * 6 + [1] * 6, seed=1)
    references = build_references([learned], frequency(12), [learned.targets], 1)
    new = explanation(torch.cat([bump(5, 5, 2), bump(0, 0, 2)]), [0, 1, 0, 1], seed=2)
    values = measure(new, frequency(4, seed=9), references, garbage_index=2)
    return new, values, {"attention": references.classes[0].attention}


def test_every_measurement_is_taken_of_every_image(measured: tuple[Explanation, Tensor, dict[str, Tensor]]) -> None:
    _, values, _ = measured
    assert values.shape == (4, len(MEASUREMENTS))
    assert torch.isfinite(values).all()


@pytest.mark.requirement("VER-06")
def test_early_maps_are_judged_at_the_depth_where_they_are_worst() -> None:
    learned = explanation(torch.cat([bump(0, 0, 6)]), [0] * 6, seed=1)
    references = build_references([learned], frequency(6), [learned.targets], 1)
    good = measure(learned, frequency(6), references, 2)
    spoilt = replace(learned, early=(learned.early[0], torch.rand(6, 3, 4, 4, generator=G) * 9))
    odd = measure(spoilt, frequency(6), references, 2)
    for name in ("pearson", "ssim"):
        assert (odd[:, COLUMN[f"early.{name}"]] <= good[:, COLUMN[f"early.{name}"]] + 1e-6).all()
    assert (odd[:, COLUMN["early.channel_distance"]] > good[:, COLUMN["early.channel_distance"]]).all()


def test_garbage_probability_is_the_softmax_of_the_garbage_logit(
    measured: tuple[Explanation, Tensor, dict[str, Tensor]],
) -> None:
    new, values, _ = measured
    torch.testing.assert_close(values[:, COLUMN["input.garbage_probability"]], new.logits.softmax(1)[:, 2])


def test_each_image_is_compared_with_its_own_class(measured: tuple[Explanation, Tensor, dict[str, Tensor]]) -> None:
    _, values, _ = measured
    overlap = values[:, COLUMN["attention.iou"]]
    assert overlap.tolist() == [0.0, 1.0, 1.0, 0.0]  # class 0 looks at the upper left, class 1 at the lower right


def test_similarities_stand_in_their_columns(measured: tuple[Explanation, Tensor, dict[str, Tensor]]) -> None:
    new, values, references = measured
    prototypes = references["attention"]
    by_prototype = [similarities(new.maps[2:3], p[None]) for p in prototypes]
    nearest = max(by_prototype, key=lambda s: s["cosine"].item())
    for name in SIMILARITIES:
        assert values[2, COLUMN[f"attention.{name}"]].item() == pytest.approx(nearest[name].item(), abs=1e-5)


@pytest.mark.requirement("VER-13")
def test_batch_is_measured_as_its_images_one_by_one(tiny_bundle_dir: object) -> None:
    from dicom_gam.bundle.bundle import load_bundle  # noqa: PLC0415
    from dicom_gam.bundle.verifier import explain_batch  # noqa: PLC0415
    from tests.tiny_bundle import DISC, STRIPES, prepared, shapes  # noqa: PLC0415

    bundle = load_bundle(str(tiny_bundle_dir))
    contents = torch.cat([shapes(DISC, 3, 50), shapes(STRIPES, 3, 50)])[[0, 3, 1, 4, 2, 5]]
    frequency = prepared(contents).frequency
    batch = measure(explain_batch(bundle, contents), frequency, bundle.references, 2)
    single = torch.cat(
        [
            measure(explain_batch(bundle, c[None]), f[None], bundle.references, 2)
            for c, f in zip(contents, frequency, strict=True)
        ]
    )
    torch.testing.assert_close(batch, single, atol=1e-4, rtol=1e-4)


def test_volumes_are_measured_like_images() -> None:
    volumes = torch.randn(6, 3, 8, 32, 32, generator=torch.Generator().manual_seed(3))
    network = seeded(lambda: r3d_18(num_classes=3)).eval()
    split = SplitNetwork(network, "layer3", ["stem", "layer1"])
    learned = explain(split, volumes, targets=torch.tensor([0, 0, 0, 1, 1, 1]))
    assert learned.maps.ndim == 4
    references = build_references([learned], frequency(6), [learned.targets], 1)
    values = measure(learned, frequency(6), references, garbage_index=2)
    assert values.shape == (6, len(MEASUREMENTS))
    usable = ~learned.degenerate
    assert torch.isfinite(values[usable]).all()
    one = measure(explain(split, volumes[:1], targets=torch.tensor([0])), frequency(6)[:1], references, 2)
    torch.testing.assert_close(one, values[:1], atol=1e-4, rtol=1e-4)
