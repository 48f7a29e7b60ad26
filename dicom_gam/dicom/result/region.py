"""The attended region as a segmentation of the source image (PS3.3 A.51)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import SegmentationStorage

from dicom_gam.dicom.result import codes
from dicom_gam.dicom.result.attended_region import attended_mask, attended_parts
from dicom_gam.dicom.result.reference import copied, describe_anatomy
from dicom_gam.dicom.result.result_file import CONTENT_CREATOR, Origin, code_item, new_result, reference_item
from dicom_gam.dicom.uids import derived_uid, tracking_uid
from dicom_gam.records import Verification

SERIES_NUMBER = 9804
LABEL = "attended region"  # as the report tracks it
_ALL_PARTS = "attended region, all parts"  # of which the report tracks each by itself


def build_region(origin: Origin, verification: Verification) -> Dataset | None:
    """Build the segmentation, BINARY, one segment on the source's very pixels; None without an attended region.

    No Frame of Reference: the mask lies where it does because its pixels are the source's (PS3.3 A.51.4.1).
    """
    source = origin.reference
    if verification.attention_status == "degenerate":
        return None
    mask = attended_mask(verification.attention_map, source.Rows, source.Columns)
    if mask is None:
        return None
    region = new_result(
        origin,
        "region",
        SegmentationStorage,
        modality="SEG",
        series_number=SERIES_NUMBER,
        description="AI attended region",
    )
    describe_anatomy(source, region)
    region.pop("Laterality", None)  # multi-frame images state no side on series level
    _describe(region, origin)
    region.SegmentSequence = [_segment(origin, verification)]
    _add_dimension(region)
    _add_functional_groups(region, source)
    _add_pixels(region, mask)
    return region


def _describe(region: Dataset, origin: Origin) -> None:
    """Segmentation Series, Enhanced General Equipment, Segmentation Image and Common Instance Reference modules."""
    source = origin.reference
    region.ImageType = ["DERIVED", "PRIMARY"]
    region.DeviceSerialNumber = origin.text(origin.bundle.digest, 64)  # Type 1: which very device it was
    region.ContentLabel = "ATTENDED_REGION"
    region.ContentDescription = origin.text(codes.VERDICT_WORDS[origin.verdict], 64)
    region.ContentCreatorName = CONTENT_CREATOR
    region.SegmentationType = "BINARY"
    region.SegmentsOverlap = "NO"
    region.LossyImageCompression = "00"
    copied(source, ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"), region)
    series = Dataset()
    series.ReferencedInstanceSequence = [reference_item(source.SOPClassUID, source.SOPInstanceUID)]
    series.SeriesInstanceUID = source.SeriesInstanceUID
    region.ReferencedSeriesSequence = [series]


def _segment(origin: Origin, verification: Verification) -> Dataset:
    """What the segment is and by which algorithm (PS3.3 C.8.20.2, C.8.20.4)."""
    bundle = origin.bundle
    algorithm = Dataset()
    algorithm.AlgorithmFamilyCodeSequence = [code_item(codes.ARTIFICIAL_INTELLIGENCE)]
    algorithm.AlgorithmName = origin.text(bundle.name, 64)
    algorithm.AlgorithmVersion = origin.text(bundle.version, 64)
    algorithm.AlgorithmParameters = origin.text(
        f"bundle digest={bundle.digest}, settings digest={origin.settings_digest}, "
        f"attention method={verification.attention_method}, threshold=0.5",
        10240,
    )
    if bundle.manufacturer:
        algorithm.AlgorithmSource = origin.text(bundle.manufacturer, 64)
    segment = Dataset()
    segment.SegmentNumber = 1
    segment.SegmentLabel = LABEL
    segment.SegmentDescription = "Where the attention of the network is 0.5 or more on its scale of 0 to 1"
    segment.SegmentAlgorithmType = "AUTOMATIC"
    segment.SegmentAlgorithmName = algorithm.AlgorithmName
    segment.SegmentationAlgorithmIdentificationSequence = [algorithm]
    segment.SegmentedPropertyCategoryCodeSequence = [code_item(codes.SPATIAL_CONCEPT)]
    segment.SegmentedPropertyTypeCodeSequence = [code_item(codes.CLASS_ACTIVATION)]
    parts = attended_parts(verification.attention_map, origin.reference.Rows, origin.reference.Columns)
    segment.TrackingID = LABEL if len(parts) == 1 else _ALL_PARTS
    segment.TrackingUID = tracking_uid(
        origin.reference.SOPInstanceUID, bundle.digest, origin.settings_digest, segment.TrackingID
    )
    return segment


def _add_dimension(region: Dataset) -> None:
    """One dimension, the segment (PS3.3 C.7.6.17)."""
    organization = Dataset()
    organization.DimensionOrganizationUID = derived_uid("dimension organization", region.SOPInstanceUID)
    region.DimensionOrganizationSequence = [organization]
    index = Dataset()
    index.DimensionOrganizationUID = organization.DimensionOrganizationUID
    index.DimensionIndexPointer = Tag("ReferencedSegmentNumber")
    index.FunctionalGroupPointer = Tag("SegmentIdentificationSequence")
    index.DimensionDescriptionLabel = "Referenced Segment Number"
    region.DimensionIndexSequence = [index]


def _add_functional_groups(region: Dataset, source: Dataset) -> None:
    """The one frame shows segment 1 and comes from the whole source, so no frame number (PS3.3 C.7.6.16)."""
    identification = Dataset()
    identification.ReferencedSegmentNumber = 1
    shared = Dataset()
    shared.SegmentIdentificationSequence = [identification]
    region.SharedFunctionalGroupsSequence = [shared]
    image = reference_item(source.SOPClassUID, source.SOPInstanceUID)
    image.SpatialLocationsPreserved = "YES"
    image.PurposeOfReferenceCodeSequence = [code_item(codes.SOURCE_IMAGE)]
    derivation = Dataset()
    derivation.SourceImageSequence = [image]
    derivation.DerivationCodeSequence = [code_item(codes.SEGMENTATION)]
    content = Dataset()
    content.DimensionIndexValues = [1]
    frame = Dataset()
    frame.DerivationImageSequence = [derivation]
    frame.FrameContentSequence = [content]
    region.PerFrameFunctionalGroupsSequence = [frame]


def _add_pixels(region: Dataset, mask: NDArray[np.bool_]) -> None:
    """One bit for each pixel, the first in the lowest bit, without padding between rows (PS3.5 8.1.1)."""
    region.SamplesPerPixel = 1
    region.PhotometricInterpretation = "MONOCHROME2"
    region.NumberOfFrames = 1
    region.Rows, region.Columns = mask.shape
    region.BitsAllocated = region.BitsStored = 1
    region.HighBit = region.PixelRepresentation = 0
    content = np.packbits(mask, axis=None, bitorder="little").tobytes()
    region.add_new("PixelData", "OB", content + b"\0" * (len(content) % 2))
