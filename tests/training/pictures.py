"""A CSV of generated pictures, as someone would hand it to `dicom-gam train`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from tests.tiny_bundle import DISC, NOISE, STRIPES, shapes

KINDS = {"disc": DISC, "stripes": STRIPES, "garbage": NOISE}


def write_csv(path: Path, rows: Iterable[Mapping[str, str]]) -> Path:
    rows = list(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows_of(folder: Path, label: str, count: int, seed: int, source: str, role: str = "") -> list[dict[str, str]]:
    """Write `count` PNGs of one kind; every one is another patient's."""
    rows = []
    for i, content in enumerate(shapes(KINDS[label], count, seed)):
        name = f"{source}-{label}-{i}.png"
        Image.fromarray((255 * content.numpy()).astype(np.uint8)).save(folder / name)
        rows.append({"path": name, "label": label, "group": f"{label}{i}", "source": source, "role": role})
    return rows
