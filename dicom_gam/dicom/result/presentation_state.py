"""The presentation state that shows the source image with the attended region outlined (PS3.3 A.33.1)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage

from dicom_gam.dicom.result import codes
from dicom_gam.dicom.result.attended_region import attended_parts
from dicom_gam.dicom.result.grey_scale import add_grey_scale
from dicom_gam.dicom.result.pixel_aspect import pixel_aspect
from dicom_gam.dicom.result.reference import describe_series_anatomy
from dicom_gam.dicom.result.result_file import CONTENT_CREATOR, Origin, new_result, reference_item
from dicom_gam.records import Radiograph, Verification

SERIES_NUMBER = 9805
LAYER = "AI_VERIFICATION"
_WHITE = 65535  # P-value
_MARGIN = 1 / 50  # of the shorter side, between the words and the image's edge
_LINE = 1 / 24  # of the width: what the height of a line is where the longest words fill the width
_HIGHEST_LINE = 1 / 8  # of the height


def build_presentation_state(origin: Origin, radiograph: Radiograph, verification: Verification) -> Dataset:
    """Build the presentation state: the grey scale that the network saw, the outline, and the verdict in words."""
    state = new_result(
        origin,
        "presentation",
        GrayscaleSoftcopyPresentationStateStorage,
        modality="PR",
        series_number=SERIES_NUMBER,
        description="AI presentation state",
    )
    source = origin.reference
    describe_series_anatomy(source, state)
    _identify(state, origin)
    state.ReferencedSeriesSequence = [_referenced_series(source)]
    state.DisplayedAreaSelectionSequence = [_displayed_area(source, pixel_aspect(radiograph.dataset))]
    state.GraphicLayerSequence = [_layer()]
    state.GraphicAnnotationSequence = [_annotation(origin, verification)]
    add_grey_scale(radiograph.dataset, radiograph.stretched, state)
    return state


def _identify(state: Dataset, origin: Origin) -> None:
    """Presentation State Identification module (PS3.3 C.11.10), which has a date and time of its own."""
    del state.ContentDate, state.ContentTime
    state.ContentLabel = LAYER
    state.ContentDescription = origin.text(codes.VERDICT_WORDS[origin.verdict], 64)
    state.PresentationCreationDate = f"{origin.local_time:%Y%m%d}"
    state.PresentationCreationTime = f"{origin.local_time:%H%M%S}"
    state.ContentCreatorName = CONTENT_CREATOR


def _referenced_series(source: Dataset) -> Dataset:
    series = Dataset()
    series.ReferencedImageSequence = [reference_item(source.SOPClassUID, source.SOPInstanceUID)]
    series.SeriesInstanceUID = source.SeriesInstanceUID
    return series


def _displayed_area(source: Dataset, aspect: float) -> Dataset:
    """The whole image, its first pixel being 1, 1 (PS3.3 C.10.4)."""
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [source.Columns, source.Rows]
    area.PresentationSizeMode = "SCALE TO FIT"
    ratio = Fraction(aspect).limit_denominator(1000)
    area.PresentationPixelAspectRatio = [ratio.numerator, ratio.denominator]  # vertical, horizontal
    return area


def _layer() -> Dataset:
    layer = Dataset()
    layer.GraphicLayer = LAYER
    layer.GraphicLayerOrder = 1
    layer.GraphicLayerRecommendedDisplayGrayscaleValue = _WHITE
    layer.GraphicLayerDescription = "Verdict of the AI verification and the region it attended to"
    return layer


def _annotation(origin: Origin, verification: Verification) -> Dataset:
    source = origin.reference
    annotation = Dataset()
    annotation.GraphicLayer = LAYER
    annotation.TextObjectSequence = [
        _text_object(codes.VERDICT_WORDS[verification.verdict], source.Rows, source.Columns)
    ]
    if verification.attention_status != "degenerate":
        parts = attended_parts(verification.attention_map, source.Rows, source.Columns)
        if parts:
            annotation.GraphicObjectSequence = [_outline_object(part.outline) for part in parts]
    return annotation


def _text_object(words: str, rows: int, columns: int) -> Dataset:
    """The words along the upper edge, inside the image.

    Units PIXEL: 0, 0 is the outer corner of the first pixel and columns, rows that of the last (PS3.3 C.10.5), as in an
    SCOORD; only the displayed area counts pixels from 1.
    """
    margin = min(rows, columns) * _MARGIN
    height = min(columns * _LINE, rows * _HIGHEST_LINE)
    text = Dataset()
    text.BoundingBoxAnnotationUnits = "PIXEL"
    text.UnformattedTextValue = words
    text.BoundingBoxTopLeftHandCorner = [margin, margin]
    text.BoundingBoxBottomRightHandCorner = [columns - margin, margin + height]
    text.BoundingBoxTextHorizontalJustification = "LEFT"
    return text


def _outline_object(outline: NDArray[np.float64]) -> Dataset:
    """A closed polygon (n, 2) of column, row."""
    graphic = Dataset()
    graphic.GraphicAnnotationUnits = "PIXEL"
    graphic.GraphicDimensions = 2
    graphic.NumberOfGraphicPoints = len(outline)
    graphic.GraphicData = [float(value) for value in outline.ravel()]
    graphic.GraphicType = "POLYLINE"
    graphic.GraphicFilled = "N"
    return graphic
