"""One sheet of overlays, for a person to look at: python -m tests.conformance.overlay_gallery SHEET.png.

Real radiographs of pydicom-data under all three verdicts, then every shape, size and wording that is hard to lay out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from pydicom import dcmread
from pydicom.data import get_testdata_file

from dicom_gam.config import IntakeSettings, OutputSettings
from dicom_gam.dicom.image.acceptance import read_layout
from dicom_gam.dicom.image.display import display
from dicom_gam.dicom.result.lettering import font
from dicom_gam.dicom.result.overlay import render_overlay
from dicom_gam.wording import LabelSettings
from tests.dicom.example_results import BUNDLE, check, prediction, thorax, verification

WIDTH, GAP, CAPTION = 2120, 16, 22
GERMAN = LabelSettings(
    pass_title="KI-PRÜFUNG: PASS (bestanden)",
    fail_title="KI-PRÜFUNG: FAIL - ERGEBNIS NICHT VERWENDEN",
    reject_title="KI-PRÜFUNG: EINGABE ABGELEHNT (REJECT)",
    failed="Nicht bestanden:",
    attention="Aufmerksamkeit",
    early="Frühe Merkmale",
    garbage_probability="Ausschusswahrscheinlichkeit",
    probability="Wahrscheinlichkeit",
    key_title="Fokus",
    key_line="Linie:",
)
GREEK = LabelSettings(
    pass_title="ΕΛΕΓΧΟΣ ΤΝ: PASS",
    fail_title="ΕΛΕΓΧΟΣ ΤΝ: FAIL - ΜΗΝ ΧΡΗΣΙΜΟΠΟΙΕΙΤΕ",
    reject_title="ΕΛΕΓΧΟΣ ΤΝ: REJECT",
    failed="Απέτυχε:",
    attention="προσοχή",
    key_title="Προσοχή",
    key_line="όριο:",
)
NOTE = "BodyPartExamined says HAND, but the image looks like chest: check the body part"


@dataclass(frozen=True)
class Case:
    caption: str
    pixels: np.ndarray
    verdict: str = "PASS"
    side: int = 512
    aspect: float = 1.0
    output: dict[str, object] = field(default_factory=dict)
    changes: dict[str, object] = field(default_factory=dict)


def cases() -> Iterator[Case]:
    chest, leg = real("RG1_UNCR.dcm"), real("RG3_UNCR.dcm")
    verdicts = ("PASS", "FAIL", "REJECT")
    yield from (Case(f"chest {verdict} 1024", chest, verdict, 1024) for verdict in verdicts)
    yield Case("4096, a part of it", chest, "FAIL", 4096)
    yield from (Case(f"leg {verdict} 512", leg, verdict) for verdict in verdicts)
    yield from (Case(f"chest {verdict} 256", chest, verdict, 256) for verdict in verdicts)
    yield Case("landscape 5000 x 4000", np.tile(thorax(400, 500), (10, 10))[:4000], "FAIL")
    yield Case("portrait 3:5", thorax(1000, 600))
    for name, shape in {"1:4": (1600, 400), "1:12": (1800, 150), "4:1": (400, 1600), "12:1": (150, 1800)}.items():
        yield Case(f"{name} (width : height)", thorax(*shape), "FAIL")
    yield Case("1:12 at 256", thorax(1800, 150), "FAIL", 256)
    yield Case("12:1 at 256", thorax(150, 1800), "PASS", 256)
    yield Case("32 x 32", thorax(32, 32))
    yield Case("tall pixels, 2:1", np.ascontiguousarray(chest[::2]), aspect=2.0)
    yield Case("wide pixels, 1:2", np.ascontiguousarray(chest[:, ::2]), aspect=0.5)
    yield Case("a remark", chest, changes={"notes": (NOTE,)})
    yield Case("no map", chest, "FAIL", changes={"attention_status": "degenerate"})
    whole = (check("input"), replace(check("attention"), passed=False, score=4.25), check("early"))
    yield Case("a check as a whole", chest, "FAIL", changes={"checks": whole})
    yield Case("attention everywhere", leg, changes={"attention_map": np.ones((8, 8), np.float32)})
    noise = np.random.default_rng(5).random((14, 14), np.float32)
    yield Case("restless attention", leg, changes={"attention_map": noise})
    yield Case("no footer", chest, output={"footer": ""})
    yield Case("long footer", chest, output={"footer": "not for diagnosis, " * 10})
    yield Case("German FAIL", chest, "FAIL", output={"labels": GERMAN})
    yield Case("German PASS 256", leg, "PASS", 256, output={"labels": GERMAN})
    yield Case("Greek FAIL", chest, "FAIL", output={"labels": GREEK})


@cache
def real(name: str) -> np.ndarray:
    """A radiograph of pydicom-data as a viewer shows it."""
    path = get_testdata_file(name, download=False)
    assert path is not None, f"{name} is missing: install the package pydicom-data"
    dataset = dcmread(path)
    return display(dataset.pixel_array, dataset, read_layout(dataset, IntakeSettings()))[0]


def drawn(case: Case) -> Image.Image:
    settings = OutputSettings(overlay_long_side=case.side, **case.output)
    checked = verification(case.verdict, **case.changes)
    picture = Image.fromarray(render_overlay(case.pixels, prediction(), checked, BUNDLE, settings, case.aspect))
    return picture.crop((0, 0, 1040, 700)) if case.side > 2048 else picture


def sheet(pictures: list[tuple[str, Image.Image]]) -> Image.Image:
    """Row by row, each row as high as its highest picture."""
    places, x, y, row = [], GAP, GAP, 0
    for caption, picture in pictures:
        if x + picture.width + GAP > WIDTH:
            x, y, row = GAP, y + row + GAP, 0
        places.append((caption, picture, x, y))
        x, row = x + picture.width + GAP, max(row, picture.height + CAPTION)
    result = Image.new("RGB", (WIDTH, y + row + GAP), (110, 110, 120))
    draw = ImageDraw.Draw(result)
    for caption, picture, left, top in places:
        draw.text((left, top), caption, fill=(255, 255, 255), font=font(True, 15))
        result.paste(picture, (left, top + CAPTION))
    return result


def main(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [(case.caption, drawn(case)) for case in cases()]
    sheet(pictures).save(path)
    print(f"{path}: {len(pictures)} overlays")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.conformance.overlay_gallery SHEET.png")
    main(Path(sys.argv[1]))
