"""Make a bundle of a network that is already trained, without changing what it answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dicom_gam.bundle.bundle import Bundle
from dicom_gam.bundle.manifest import Manifest
from dicom_gam.core.calibration import FEWEST_SCALING, needed_size
from dicom_gam.core.preprocess import to_input
from dicom_gam.errors import TrainingError
from dicom_gam.records import Verdict
from dicom_gam.training.evaluation import Row, outcomes, share, tabulate, total
from dicom_gam.training.fitting import Labelled
from dicom_gam.training.garbage_output import learn_garbage_output
from dicom_gam.training.images import LabelledImage, one_per_group, write_manifest
from dicom_gam.training.making import Dealt, deal, load_dealt, write_bundle
from dicom_gam.training.model_card import Words
from dicom_gam.training.specification import Schedule, Specification
from dicom_gam.training.weights import TrainedNetwork, place_weights, read_weights

# No fold is needed to train on, so most images go where few are too few: to the calibration.
FRACTIONS = {"train": 0.25, "scaling": 0.15, "calibration": 0.40, "test": 0.20}
GARBAGE_FRACTIONS = {"train": 0.7, "test": 0.3}
_HELD_OUT = ("scaling", "calibration", "test")
_BATCH = 64
BEARABLE_FOREIGN = 0.1  # the share of foreign images passed above which the maker is warned
_REMEDY = (
    "If you know it to do better, it doesn't see what it saw in its training: compare input_size, content_size, "
    "percentiles, mean, std and channels with it, and see that [[bundle.classes]] stand in the order of the outputs."
)


@dataclass(frozen=True, slots=True)
class Recognition:
    """How many of `n` held-out images of a class are given it among the real ones, and what the others mostly are."""

    name: str
    n: int
    right: int
    mostly: str


@dataclass(frozen=True, slots=True, eq=False)
class Adopted:
    """The finished bundle, what it does with held-out images, real and `foreign`, and what its maker must hear."""

    bundle: Bundle
    recognition: Sequence[Recognition]
    foreign: Row
    remarks: Sequence[str]


def adopt_network(
    specification: Specification,
    images_csv: Path,
    weights: Path,
    output: Path,
    device: torch.device,
    split_csv: Path | None = None,
) -> Adopted:
    """Make references, calibration, card and bundle of a trained network. Raises TrainingError or BundleError.

    A garbage output that the weights lack is learned beside the others. Images with role train are only learned from:
    those that the network was trained on belong there, or nowhere. `split_csv` is to tell which image served what.
    """
    specification = _own_fractions(specification)
    manifest, schedule = specification.bundle, specification.training
    trained = place_weights(manifest, read_weights(weights), str(weights))
    split = deal(specification, images_csv)
    _check_sizes(manifest, schedule, split)
    dealt = load_dealt(manifest, split)
    recognition = recognise(manifest, trained.network.to(device), _held_out(manifest, dealt), device)
    remarks = _remarks(trained, recognition)
    if trained.output_layer:
        others = dealt.fold([i for i in dealt.split["scaling"] if i.label != manifest.garbage_class])
        learn_garbage_output(trained, manifest, schedule, dealt.role("train"), others, device)
    words = _words(specification, trained, recognition, dealt)
    bundle = write_bundle(specification, trained.network.to(device), dealt, words, {}, output, device)
    if split_csv is not None:
        write_manifest(split_csv, [image for images in split.values() for image in images])
    foreign = _foreign(bundle, dealt.role("test"))
    return Adopted(bundle, recognition, foreign, [*remarks, *_foreign_remarks(foreign)])


def recognise(manifest: Manifest, network: nn.Module, images: Labelled, device: torch.device) -> list[Recognition]:
    """How the network tells the real classes apart, its garbage output aside, through the bundle's preprocessing."""
    spec, answers = manifest.preprocessing.record(), [torch.empty(0, dtype=torch.long)]
    with torch.inference_mode():
        for content in torch.split(images.contents, _BATCH):
            answers.append(network(to_input(content.to(device), spec))[:, : manifest.garbage_index].argmax(1).cpu())
    answer, found = torch.cat(answers), []
    for index, name in enumerate(manifest.class_names[:-1]):
        given = Counter(answer[images.labels == index].tolist())
        right = given.pop(index, 0)
        other = given.most_common(1)
        mostly = manifest.class_names[other[0][0]] if other else ""
        found.append(Recognition(name, right + given.total(), right, mostly))
    return found


def recognition_lines(recognition: Sequence[Recognition]) -> list[str]:
    """A sentence a class."""
    return [
        f"{r.name}: {share(r.right, r.n)} of {r.n}" + (f", else mostly taken for {r.mostly}" if r.mostly else "")
        for r in recognition
    ]


def foreign_line(foreign: Row) -> str:
    """A sentence on the foreign images that were tried."""
    return f"{share(foreign.verdicts[Verdict.PASS], foreign.n)} of {foreign.n}" if foreign.n else "none were tried"


def _foreign(bundle: Bundle, test: Labelled) -> Row:
    garbage = bundle.manifest.garbage_index
    negatives = test.select((test.labels == garbage).nonzero().flatten().tolist())
    name = bundle.manifest.garbage_class
    rows = tabulate(negatives.sources, [name] * len(negatives.sources), outcomes(bundle, negatives.prepared))
    return total(rows, "all", name)


def _foreign_remarks(foreign: Row) -> list[str]:
    passed = foreign.verdicts[Verdict.PASS]
    if foreign.n == 0:
        return ["how foreign images fare is not known: give negatives, ten or more of each kind that may come along."]
    if passed <= BEARABLE_FOREIGN * foreign.n:
        return []
    return [
        f"{passed} of {foreign.n} foreign images would be PASSED: the network never learned what is foreign. The card "
        "says which kinds. Give more negatives of those, keep them away by [[rules]], or have the network learn them "
        "(dicom-gam train --from)."
    ]


def _own_fractions(specification: Specification) -> Specification:
    """The specification with this module's fractions, unless it brings its own."""
    given = specification.training.model_fields_set
    own = {"fractions": FRACTIONS, "garbage_fractions": GARBAGE_FRACTIONS}
    changes = {key: value for key, value in own.items() if key not in given}
    return specification.model_copy(update={"training": specification.training.model_copy(update=changes)})


def _held_out(manifest: Manifest, dealt: Dealt) -> Labelled:
    images = [image for role in _HELD_OUT for image in dealt.split.get(role, [])]
    return dealt.fold([image for image in images if image.label != manifest.garbage_class])


def _check_sizes(manifest: Manifest, schedule: Schedule, split: Mapping[str, Sequence[LabelledImage]]) -> None:
    """Refuse too few patients before anything is computed. Raises TrainingError with the number that is missing."""
    needs = {"calibration": needed_size(manifest.alpha), "scaling": FEWEST_SCALING, "train": schedule.prototypes}
    problems = []
    for entry in manifest.classes:
        missing = 0
        for role, least in needs.items():
            own = one_per_group([image for image in split.get(role, ()) if image.label == entry.name])
            if len(own) < least:
                missing = max(missing, math.ceil((least - len(own)) / schedule.fractions.get(role, 1) - 1e-9))
        if missing:
            groups = {(i.source, i.group) for part in split.values() for i in part if i.label == entry.name}
            problems.append(f"{entry.name} has {len(groups)} patients and needs about {missing} more")
    if problems:
        raise TrainingError(
            f"too few images for alpha = {manifest.alpha:g}: {'; '.join(problems)}. Add images of other patients, or "
            "raise alpha, which needs fewer; if these are enough, see that the column `group` tells patients apart."
        )


def _remarks(trained: TrainedNetwork, recognition: Sequence[Recognition]) -> list[str]:
    """What must be heard. Raises TrainingError when the network tells the classes apart no better than guessing."""
    told = "; ".join(recognition_lines(recognition))
    chance = 1 / len(recognition)
    shares = [r.right / max(r.n, 1) for r in recognition]
    remarks = []
    if len(recognition) > 1 and sum(shares) / len(shares) <= chance + 0.05:
        raise TrainingError(f"the network tells the classes apart no better than guessing: {told}. {_REMEDY}")
    if len(recognition) > 1 and min(shares) < (1 + chance) / 2:
        remarks.append(f"the network is often wrong on these images: {told}. {_REMEDY}")
    if not trained.output_layer:
        remarks.append(
            "the weights have one output more than there are classes: the last is taken for a garbage class that the "
            "network was trained with. If it is a class of its own, list it in [[bundle.classes]]."
        )
    return remarks


def _words(
    specification: Specification, trained: TrainedNetwork, recognition: Sequence[Recognition], dealt: Dealt
) -> Words:
    manifest = specification.bundle
    figures = (
        "Every figure is computed by `dicom-gam bundle make` on images that were used neither to learn the garbage "
        "output nor to calibrate. The network was trained elsewhere: if it was trained on any of these images, or on "
        "others of these patients, the figures flatter."
    )
    kept = "The network was trained elsewhere and given as weights. None of its values was changed."
    if trained.one_output:
        kept += " Its one output z for two classes stands as two, -z/2 and z/2, whose softmax is its sigmoid."
    if trained.output_layer:
        kept += "\n\n" + _garbage_words(manifest, specification.training, trained.output_layer, dealt)
    else:
        kept += f" Its last output is taken for {manifest.garbage_class}; on what it was trained is not known here."
    lines = "\n".join(f"- {line}" for line in recognition_lines(recognition))
    kept += (
        "\n\nThe right class among the real ones, on images held out here, through this bundle's preprocessing (much "
        f"less than what is known of the network means that the preprocessing doesn't fit):\n\n{lines}"
    )
    return Words(figures, kept)


def _garbage_words(manifest: Manifest, schedule: Schedule, layer: str, dealt: Dealt) -> str:
    families = sorted({i.family for i in dealt.split.get("train", []) if i.label == manifest.garbage_class})
    listed = f"images of the families {', '.join(families)}" if families else "no images of its own"
    made = ", ".join(schedule.synthetic_families) if schedule.synthetic_share else "none"
    return (
        f"The output {manifest.garbage_class} was learned beside it: one row of layer `{layer}` on the network's own "
        f"features, seed {schedule.seed}, from the real images of the column `train` below against {listed} and "
        f"negatives generated from the real ones ({made}), and set back until none of the column `scaling` is taken "
        "for it. The ratios among the probabilities of the real classes are the network's own. How often foreign "
        "images are noticed stands under Figures; a kind of image that stands there in no row was not tried."
    )
