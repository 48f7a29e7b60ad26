"""The table of damaged images is measured, repeatable, complete, and shows no truncated image that passed."""

import re

import pydicom.uid as uids
import pytest

from conformance.damage_table import CHANGED, DOCUMENT, REFUSED, SAME, document, measure
from dicom_gam.dicom.image.acceptance import ACCEPTED_TRANSFER_SYNTAXES


@pytest.mark.requirement("DEC-04")
def test_a_measurement_can_be_repeated_and_counts_every_case(tmp_path):
    once, again = (measure(uids.RLELossless, tmp_path, flips=30, cuts=5) for _ in range(2))
    assert once == again
    assert once.flips.total() == 30
    assert {REFUSED, CHANGED} <= set(once.flips) <= {REFUSED, SAME, CHANGED}
    assert once.cuts == once.mended == {REFUSED: 5}
    assert "| RLE Lossless | 5 | 0 | 5 | 0 |" in document({uids.RLELossless: once}, 30, 5)


@pytest.mark.parametrize("syntax", [uids.JPEGLSLossless, uids.JPEGLSNearLossless], ids=["lossless", "near lossless"])
def test_a_changed_byte_of_jpeg_ls_is_refused_nearly_always(tmp_path, syntax):
    assert measure(syntax, tmp_path, flips=40, cuts=3).flips[REFUSED] >= 36


@pytest.mark.requirement("DEC-04", "DEC-03")
def test_the_document_has_every_accepted_syntax_and_no_truncated_image_that_gave_pixels():
    rows = re.findall(
        r"^\| (.+?) \| (\d+) \| (\d+) \| ([\d-]+) \| ([\d-]+) \|$", DOCUMENT.read_text("utf-8"), re.MULTILINE
    )
    assert [row[0] for row in rows] == [uids.UID(syntax).name for syntax in ACCEPTED_TRANSFER_SYNTAXES]
    assert {row[2] for row in rows} == {"0"}
    assert {row[4] for row in rows} == {"0", "-"}
