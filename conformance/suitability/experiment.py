"""Does `dicom-gam suitability` tell sound networks from unsound ones? Measured on networks made for the purpose.

    python conformance/suitability/experiment.py images.csv --output build/suitability

`images.csv` is what conformance/default_bundle/prepare.py writes. For each training seed a sound bundle is trained and
its network altered; every network is then judged by the sound bundle's references on many random samples of a site's
images, of patients that were in no fold of the bundle. Development seeds chose the limits; other seeds are reported.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import Images, Labelled, Steps, Workshop, burn_markers, load_images
from torch import Generator

from dicom_gam.bundle.bundle import Bundle
from dicom_gam.bundle.verifier import Prepared
from dicom_gam.errors import TrainingError
from dicom_gam.evidence.criteria import LIMITS, Conclusion
from dicom_gam.evidence.site_images import SiteImage
from dicom_gam.evidence.suitability import Examined, Suitability, compare_site, examine_site
from dicom_gam.training.evaluation import share
from dicom_gam.training.images import one_per_group, read_manifest
from dicom_gam.training.specification import read_specification

SPECIFICATION = Path(__file__).parents[1] / "default_bundle" / "train.toml"
CHANGES = {
    "name": "suitability-experiment",
    "options": {"widths": [16, 32, 64], "blocks": 1},
    "checks": ("input", "attention", "early"),
    "alpha": 0.15,  # a network so small takes up to a tenth of the spines for garbage
}
INPUT_SIZE = 64
RANDOM_DRAWS = 5
SOUND, UNSOUND, CONTROL = "sound", "unsound", "control"


@dataclass(frozen=True, slots=True, eq=False)
class Situation:
    """A network at a site, and what it ought to be found: its verified images, once for each chance alteration."""

    name: str
    kind: str
    references: Bundle
    draws: Sequence[Sequence[Examined]]


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """Images at a site, one of each patient."""

    images: list[SiteImage]
    prepared: Prepared

    def through(self, bundle: Bundle) -> list[Examined]:
        """What a bundle makes of them."""
        found: list[Examined] = []
        for part in self.prepared.split(64):
            found += examine_site(bundle, self.images[len(found) : len(found) + len(part)], part)
        return found


def situations(workshop: Workshop, missing: list[str]) -> list[Situation]:
    """Every network at its site. `missing` is told what could not be made, and why."""
    own, foreign, unseen = (_site(workshop, chosen) for chosen in (_expected, _foreign, _never_seen))
    marked = _marked(own, workshop)
    sound, shortcut = workshop.bundle, workshop.marker_shortcut()
    tuned, anew, shuffled = (
        workshop.candidate(n) for n in (workshop.fine_tuned(), workshop.trained_anew(), workshop.shuffled_labels())
    )
    heads = [workshop.candidate(workshop.random_head(i)) for i in range(RANDOM_DRAWS)]
    trunks = [workshop.candidate(workshop.random_trunk(i)) for i in range(RANDOM_DRAWS)]
    used_to_markers = workshop.calibrated(workshop.sound, marked=True)
    marker = workshop.candidate(shortcut, used_to_markers)
    return [
        Situation("sound", SOUND, sound, [own.through(sound)]),
        Situation("fine-tuned, sound", SOUND, sound, [own.through(tuned)]),
        Situation("sound, marked images", SOUND, used_to_markers, [marked.through(used_to_markers)]),
        Situation("other anatomy: CT, MR, breast", UNSOUND, sound, [foreign.through(sound)]),
        Situation("other anatomy: MR, never seen", UNSOUND, sound, [unseen.through(sound)]),
        Situation("shuffled labels", UNSOUND, sound, [own.through(shuffled)]),
        Situation("randomised head", UNSOUND, sound, [own.through(b) for b in heads]),
        Situation("randomised trunk", UNSOUND, sound, [own.through(b) for b in trunks]),
        Situation("marker shortcut, marked images", UNSOUND, used_to_markers, [marked.through(marker)]),
        *_by_its_own_references(workshop, marked, missing),
        Situation("sound, marked images, references without markers", CONTROL, sound, [marked.through(sound)]),
        Situation("sound, trained anew", CONTROL, sound, [own.through(anew)]),
    ]


def _by_its_own_references(workshop: Workshop, marked: Site, missing: list[str]) -> list[Situation]:
    """The shortcut judged by what it did in its own calibration, which nothing forces to be another thing."""
    name = "marker shortcut, marked images, own references"
    try:
        unaware = workshop.calibrated(workshop.marker_shortcut(), marked=True)
    except TrainingError as error:  # it takes too many images for garbage: then there is no such bundle to be judged
        missing.append(f"training seed {workshop.seed}, {name}: {error}")
        return []
    return [Situation(name, CONTROL, unaware, [marked.through(unaware)])]


def _expected(image: Any, garbage: str) -> bool:
    return image.label != garbage


def _foreign(image: Any, garbage: str) -> bool:
    return image.label == garbage and image.family in ("CT", "MR", "breast")


def _never_seen(image: Any, garbage: str) -> bool:
    return image.label == garbage and image.family == "MR"


def _site(workshop: Workshop, chosen: Callable[[Any, str], bool]) -> Site:
    garbage = workshop.manifest.garbage_class
    images = one_per_group([i for i in workshop.folds["site"] if chosen(i, garbage)])
    fold: Labelled = workshop.images.fold(images)
    return Site([SiteImage(i.path, i.label, f"{i.source}/{i.group}") for i in images], fold.prepared)


def _marked(site: Site, workshop: Workshop) -> Site:
    """The same images, each with the marker of its own class, burned in at the network's resolution."""
    classes = torch.tensor([workshop.manifest.class_names.index(i.label) for i in site.images])
    content = burn_markers(site.prepared.content, classes, Generator().manual_seed(workshop.seed))
    return Site(site.images, Prepared(content, site.prepared.frequency))


def judge(situation: Situation, resample: int, size: int) -> Suitability:
    """One random sample of the site's images, judged without their labels' help."""
    pool = situation.draws[resample % len(situation.draws)]
    rows = np.random.default_rng(resample).choice(len(pool), min(size, len(pool)), replace=False)
    return compare_site(situation.references, [_unlabelled(pool[i]) for i in rows], LIMITS)


def _unlabelled(item: Examined) -> Examined:
    image = SiteImage(item.image.path, "", item.image.group)
    return Examined(image, item.target, item.values, item.prediction, item.verification)


def accuracy(situation: Situation) -> str:
    """The share given the right class, of all images of the site."""
    every = [e for draw in situation.draws for e in draw]
    return share(sum(e.prediction.label == e.image.label for e in every), len(every))


def metric_table(found: dict[str, Suitability]) -> str:
    """Markdown: the effect of every measurement with Holm's p, one column for each network; one sample each."""
    names = list(found)
    lines = [f"| measurement | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for i, metric in enumerate(found[names[0]].metrics):
        cells = [f"{f.metrics[i].auc:.2f} (p {_p(f.metrics[i].holm_p)})" for f in found.values()]
        lines.append(f"| {metric.name} | {' | '.join(cells)} |")
    lines.append(
        "| not passed | " + " | ".join(share(f.not_passed.count, f.not_passed.n) for f in found.values()) + " |"
    )
    lines.append("| **conclusion** | " + " | ".join(f.conclusion.value for f in found.values()) + " |")
    return "\n".join(lines)


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.2g}"


def error_table(counts: dict[str, Counter[Conclusion]], kinds: dict[str, str], right: dict[str, str]) -> str:
    """Markdown: conclusions over samples and training seeds. An INCONCLUSIVE is no error, and no answer either."""
    lines = [
        "| network and site | ought to be | right class | SUITABLE | INCONCLUSIVE | UNSUITABLE | wrong, 95 % CI |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in counts.items():
        n = sum(found.values())
        told = [str(found[c]) for c in (Conclusion.SUITABLE, Conclusion.INCONCLUSIVE, Conclusion.UNSUITABLE)]
        wrong = {SOUND: Conclusion.UNSUITABLE, UNSOUND: Conclusion.SUITABLE}.get(kinds[name])
        error = "-" if wrong is None else share(found[wrong], n)
        ought = {SOUND: "SUITABLE", UNSOUND: "UNSUITABLE"}.get(kinds[name], "(control)")
        lines.append(f"| {name} | {ought} | {right[name]} | {' | '.join(told)} | {error} |")
    return "\n".join(lines)


def run(images: Images, seeds: Sequence[int], arguments: argparse.Namespace) -> None:
    """The whole experiment; prints and writes the tables and every conclusion."""
    counts: dict[str, Counter[Conclusion]] = {}
    kinds: dict[str, str] = {}
    right: dict[str, list[str]] = {}
    records: list[dict[str, Any]] = []
    first: dict[str, Suitability] = {}
    missing: list[str] = []
    for seed in seeds:
        workshop = Workshop(images, seed, arguments.steps, arguments.output / f"seed-{seed}")
        for situation in situations(workshop, missing):
            kinds[situation.name] = situation.kind
            right.setdefault(situation.name, []).append(accuracy(situation))
            for resample in range(arguments.resamples):
                found = judge(situation, resample, arguments.size)
                counts.setdefault(situation.name, Counter())[found.conclusion] += 1
                first.setdefault(situation.name, found)
                records.append(_record(seed, resample, situation, found))
    shown = {name: "; ".join(told) for name, told in right.items()}
    drawn = f"training seeds {', '.join(map(str, seeds))}, {arguments.resamples} samples each"
    text = "\n\n".join(
        [
            f"# {arguments.size} images, {drawn}",
            f"One sample of training seed {seeds[0]}: P(a site image is odder than a calibration image), Holm's p",
            metric_table(first),
            "All samples. The intervals cover the drawing of samples; those of one seed share networks and images.",
            error_table(counts, kinds, shown),
            *(f"Could not be made: {told}" for told in missing),
        ]
    )
    print(text)
    (arguments.output / "results.md").write_text(text, encoding="utf-8")
    (arguments.output / "results.json").write_text(json.dumps(records, indent=0), encoding="utf-8")


def _record(seed: int, resample: int, situation: Situation, found: Suitability) -> dict[str, Any]:
    criteria = {c.name: [c.estimate, c.low, c.high] for c in found.criteria}
    name, kind = situation.name, situation.kind
    return {"seed": seed, "resample": resample, "name": name, "kind": kind, "conclusion": found.conclusion, **criteria}


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--output", type=Path, default=Path("build/suitability"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="training seeds; 0 chose the limits")
    parser.add_argument("--resamples", type=int, default=40)
    parser.add_argument("--size", type=int, default=50, help="images of a sample")
    parser.add_argument("--quick", action="store_true", help="hardly trained networks: does it run at all?")
    arguments = parser.parse_args()
    arguments.steps = Steps(20, 10, 5, 10) if arguments.quick else Steps()
    cache = arguments.output / "images.safetensors"
    if arguments.quick:
        arguments.output = arguments.output / "quick"  # where no half-trained network is taken for another
    plain = read_specification(SPECIFICATION).bundle
    table = plain.model_dump() | CHANGES
    table["preprocessing"] = table["preprocessing"] | {"input_size": INPUT_SIZE}
    manifest = type(plain).model_validate(table)
    listed = read_manifest(arguments.images, manifest.class_names)
    images = load_images(listed, manifest, cache)
    run(images, arguments.seeds, arguments)


if __name__ == "__main__":
    main()
