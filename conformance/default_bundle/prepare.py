"""List the collected radiographs as a training manifest for the default bundle.

    python conformance/default_bundle/prepare.py FOLDER > images.csv

FOLDER holds `manifest.csv` with columns file, source, anatomy, label, group, modality, notes. What becomes what:
the four body parts are classes; everything else is a negative of some family. Held out whole ("unseen"): the hand
collection of V. Sochat and all DICOM radiographs (other sources), and everything MR (a family of negatives).
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

CLASSES = ("chest", "hand", "knee", "spine")
UNSEEN_SOURCES = ("hand_vsoch_boneage", "dicom_radiograph")


def row_of(item: dict[str, str]) -> tuple[str, str, str] | None:
    """Label, family and role of one file; None if it is no image or can't be decoded."""
    kind = item["label"].removeprefix("not_radiograph_")
    if (
        "DECODE FAIL" in item["notes"]
        or "(fake)" in item["notes"]
        or item["label"].startswith("not_image")
        or kind == "SEG"
    ):
        return None
    if item["label"].startswith("not_radiograph"):
        return _negative(item, kind)
    if item["anatomy"] in CLASSES:
        return item["anatomy"], item["source"], "unseen" if item["source"] in UNSEEN_SOURCES else ""
    if item["source"] in UNSEEN_SOURCES:
        return "garbage", f"other anatomy ({item['anatomy']})", "unseen"
    return "garbage", "breast", ""


def _negative(item: dict[str, str], kind: str) -> tuple[str, str, str] | None:
    if 'uint8 [0..255]"' in item["notes"] or ", 3)" in item["notes"]:
        return None  # colour DICOM: refused before any network sees it
    if kind == "BreastMRI" or kind == "MR":
        return "garbage", "MR", "unseen"
    if kind.endswith("CT"):
        return "garbage", "CT", ""
    family = {"photo": "photograph", "document": "document", "SC": "photograph"}.get(kind, kind)
    return "garbage", family, ""


def main(folder: Path) -> None:
    """Write the manifest to standard output."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "label", "group", "source", "family", "role"])
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        seen: set[tuple[str, str]] = set()
        for item in csv.DictReader(file):
            found = row_of(item)
            if item["modality"] and (item["source"], item["group"]) in seen:
                continue  # the same DICOM image again in another transfer syntax
            if found is not None:
                seen.add((item["source"], item["group"]))
                label, family, role = found
                path = (folder / item["file"]).absolute()
                writer.writerow([path, label, item["group"], item["source"], family, role])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
