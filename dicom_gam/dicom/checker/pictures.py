"""What overlay, segmentation and presentation state say about pixels, without decoding one."""

from __future__ import annotations

from collections import Counter

from dicom_gam.dicom.checker.defects import Complaints
from dicom_gam.dicom.checker.reading import Item, ResultFile
from dicom_gam.dicom.checker.report import ImageSize, check_title, check_words, described_verdict

_PIXEL_DATA = 0x7FE00010
_EXPLICIT = "1.2.840.10008.1.2.1"
# Photometric interpretation, samples, bits allocated, bits stored, high bit, pixel representation.
_COLOUR = ("RGB", 3, 8, 8, 7, 0)
_BINARY = ("MONOCHROME2", 1, 1, 1, 0, 0)


def check_overlay(file: ResultFile) -> None:
    """A Secondary Capture of red, green and blue bytes."""
    dataset, complaints = file.dataset, file.complaints
    _check_format(file, _COLOUR)
    if "PlanarConfiguration" in dataset and dataset.number("PlanarConfiguration") != 0:
        complaints.add("pixel-format", "PlanarConfiguration", "it is not 0")
    _check_length(file, _whole(dataset, "Rows") * _whole(dataset, "Columns") * 3)
    if "ImageComments" in dataset:
        check_title(dataset.text("ImageComments"), described_verdict(file), "ImageComments", complaints)


def check_region(file: ResultFile, size: ImageSize | None) -> None:
    """A binary Segmentation whose frames lie on the source image."""
    dataset, complaints = file.dataset, file.complaints
    _check_format(file, _BINARY)
    frames = _whole(dataset, "NumberOfFrames")
    bits = _whole(dataset, "Rows") * _whole(dataset, "Columns") * frames
    _check_length(file, (bits + 7) // 8)
    _check_description(file)
    if size is not None and (dataset.number("Rows"), dataset.number("Columns")) != (size.rows, size.columns):
        complaints.add("wrong-frame-size", "Rows", f"the source image has {size.rows} rows and {size.columns} columns")
    groups = dataset.items("PerFrameFunctionalGroupsSequence")
    if frames < 1 or len(groups) != frames:
        complaints.add("frame-count", "NumberOfFrames", f"there are {len(groups)} items for {frames} frames")
    _check_segments(dataset, groups, complaints)


def _check_segments(dataset: Item, frames: list[Item], complaints: Complaints) -> None:
    numbers = [item.number("SegmentNumber") for item in dataset.items("SegmentSequence")]
    if numbers != list(range(1, len(numbers) + 1)):
        complaints.add("segment-numbers", "SegmentSequence", "they are not 1, 2, 3 and so on")
    shared = dataset.item("SharedFunctionalGroupsSequence").item("SegmentIdentificationSequence")
    for place, frame in enumerate(frames, 1):
        own = frame.item("SegmentIdentificationSequence").number("ReferencedSegmentNumber")
        if (shared.number("ReferencedSegmentNumber") if own is None else own) not in numbers:
            complaints.add("segment-numbers", f"PerFrameFunctionalGroupsSequence[{place}]", "it is of no segment")


def check_presentation(file: ResultFile, size: ImageSize | None) -> None:
    """A Grayscale Softcopy Presentation State: its displayed area and what is drawn on it."""
    dataset, complaints = file.dataset, file.complaints
    areas = [_area(item) for item in dataset.items("DisplayedAreaSelectionSequence")]
    whole = None if size is None else (1.0, 1.0, float(size.columns), float(size.rows))
    for number, area in enumerate(areas, 1):
        if area is None or (whole is not None and area != whole):
            place = f"DisplayedAreaSelectionSequence[{number}]"
            complaints.add("wrong-displayed-area", place)
    area = next((area for area in areas if area is not None), None)
    _check_description(file)
    layers = Counter(item.text("GraphicLayer") for item in dataset.items("GraphicLayerSequence"))
    for number, annotation in enumerate(dataset.items("GraphicAnnotationSequence"), 1):
        place = f"GraphicAnnotationSequence[{number}]"
        if layers[annotation.text("GraphicLayer")] != 1:
            complaints.add("unknown-layer", f"{place}.GraphicLayer")
        for n, graphic in enumerate(annotation.items("GraphicObjectSequence"), 1):
            _check_graphic(graphic, f"{place}.GraphicObjectSequence[{n}]", area, complaints)
        for n, words in enumerate(annotation.items("TextObjectSequence"), 1):
            here = f"{place}.TextObjectSequence[{n}]"
            _check_text(words, here, area, complaints)
            check_words(words.text("UnformattedTextValue"), described_verdict(file), here, complaints)


def _check_description(file: ResultFile) -> None:
    """The one text that a list of segmentations or presentation states shows."""
    check_words(file.dataset.text("ContentDescription"), described_verdict(file), "ContentDescription", file.complaints)


def _area(item: Item) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom, counted from 1 (PS3.3 C.10.4)."""
    corners = item.numbers("DisplayedAreaTopLeftHandCorner") + item.numbers("DisplayedAreaBottomRightHandCorner")
    if len(corners) != 4 or corners[0] > corners[2] or corners[1] > corners[3]:
        return None
    return corners[0], corners[1], corners[2], corners[3]


def _check_graphic(
    graphic: Item, place: str, area: tuple[float, float, float, float] | None, complaints: Complaints
) -> None:
    numbers = graphic.numbers("GraphicData")
    if len(numbers) != 2 * _whole(graphic, "NumberOfGraphicPoints") or graphic.number("GraphicDimensions") != 2:
        complaints.add("graphic-data-length", f"{place}.GraphicData")
    units = graphic.text("GraphicAnnotationUnits")
    if graphic.text("GraphicType") == "CIRCLE":
        return
    _check_inside(numbers, units, f"{place}.GraphicData", area, complaints)
    closed = len(numbers) >= 4 and numbers[:2] == numbers[-2:]
    if graphic.text("GraphicFilled") == "Y" and not closed:
        complaints.add("open-outline", place)


def _check_text(
    words: Item, place: str, area: tuple[float, float, float, float] | None, complaints: Complaints
) -> None:
    box = words.numbers("BoundingBoxTopLeftHandCorner") + words.numbers("BoundingBoxBottomRightHandCorner")
    anchor = words.numbers("AnchorPoint")
    if len(box) != 4 and len(anchor) != 2:
        complaints.add("text-without-place", place)
    if box:
        units = words.text("BoundingBoxAnnotationUnits")
        _check_inside(box, units, f"{place}.BoundingBoxTopLeftHandCorner", area, complaints)
    if anchor:
        units = words.text("AnchorPointAnnotationUnits")
        _check_inside(anchor, units, f"{place}.AnchorPoint", area, complaints)


def _check_inside(
    numbers: tuple[float, ...],
    units: str,
    place: str,
    area: tuple[float, float, float, float] | None,
    complaints: Complaints,
) -> None:
    """PIXEL: from (0, 0), the top left corner of pixel (1, 1); DISPLAY: a share of the displayed area (C.10.5)."""
    if units == "DISPLAY":
        left, top, right, bottom = 0.0, 0.0, 1.0, 1.0
    elif units == "PIXEL" and area is not None:
        left, top, right, bottom = area[0] - 1, area[1] - 1, area[2], area[3]
    else:
        if units not in ("PIXEL", "DISPLAY"):
            complaints.add("wrong-value", place, "its units are neither PIXEL nor DISPLAY")
        return
    points = zip(numbers[::2], numbers[1::2], strict=False)
    if not all(left <= x <= right and top <= y <= bottom for x, y in points):
        complaints.add("annotation-outside", place)


def _check_format(file: ResultFile, wanted: tuple[str, int, int, int, int, int]) -> None:
    dataset = file.dataset
    photometric = dataset.text("PhotometricInterpretation")
    if photometric != wanted[0]:
        file.complaints.add("pixel-format", "PhotometricInterpretation", f"it is not {wanted[0]}")
    keywords = ("SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
    for keyword, value in zip(keywords, wanted[1:], strict=True):
        if keyword in dataset and dataset.number(keyword) != value:
            file.complaints.add("pixel-format", keyword, f"it is not {value}")


def _check_length(file: ResultFile, wanted: int) -> None:
    found = file.dataset.elements.get(_PIXEL_DATA)
    if found is None or file.meta.text("TransferSyntaxUID") != _EXPLICIT:
        return
    if wanted <= 0 or len(found[1]) != wanted + wanted % 2:
        message = f"it has {len(found[1])} bytes where {wanted + wanted % 2} belong"
        file.complaints.add("pixel-length", "PixelData", message)


def _whole(item: Item, keyword: str) -> int:
    value = item.number(keyword)
    return 0 if value is None or not 0 <= value < 2**31 else int(value)
