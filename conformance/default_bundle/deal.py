"""Write which image had which role when the default bundle was made, as a manifest for `dicom-gam evaluate`.

python conformance/default_bundle/deal.py IMAGES.csv > dealt.csv
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from dicom_gam.training.making import deal
from dicom_gam.training.specification import read_specification


def main(images_csv: Path) -> None:
    """Write the manifest to standard output; the split is the one that `dicom-gam train` makes."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "label", "group", "source", "family", "role"])
    for role, images in deal(read_specification(Path(__file__).with_name("train.toml")), images_csv).items():
        for image in images:
            writer.writerow([image.path.absolute(), image.label, image.group, image.source, image.family, role])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
