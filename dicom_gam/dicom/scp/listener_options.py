"""What the front door needs to know, and the SOP classes that it takes without being for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pydicom.uid as uids

from dicom_gam.dicom.image.acceptance import ACCEPTED_SOP_CLASSES, ACCEPTED_TRANSFER_SYNTAXES
from dicom_gam.sections import AccessSettings, TlsSettings

# Not for us, but a sender that pushes whole studies must hear a named reason in our tables instead of a refused
# context in its own log.
OTHER_CLASSES: tuple[str, ...] = (
    uids.CTImageStorage,
    uids.EnhancedCTImageStorage,
    uids.MRImageStorage,
    uids.EnhancedMRImageStorage,
    uids.UltrasoundImageStorage,
    uids.UltrasoundMultiFrameImageStorage,
    uids.NuclearMedicineImageStorage,
    uids.PositronEmissionTomographyImageStorage,
    uids.XRayAngiographicImageStorage,
    uids.XRayRadiofluoroscopicImageStorage,
    uids.BreastTomosynthesisImageStorage,
    uids.RTImageStorage,
    uids.MultiFrameTrueColorSecondaryCaptureImageStorage,
    uids.VLPhotographicImageStorage,
    uids.VLEndoscopicImageStorage,
    uids.OphthalmicPhotography8BitImageStorage,
    uids.BasicTextSRStorage,
    uids.EnhancedSRStorage,
    uids.ComprehensiveSRStorage,
    uids.Comprehensive3DSRStorage,
    uids.XRayRadiationDoseSRStorage,
    uids.KeyObjectSelectionDocumentStorage,
    uids.GrayscaleSoftcopyPresentationStateStorage,
    uids.SegmentationStorage,
    uids.EncapsulatedPDFStorage,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerOptions:
    """What the listener needs to know; times in seconds, limits per node.

    `negotiation_timeout_s` is for all that comes before an association, `pdu_timeout_s` for one PDU from its first byte
    to its last, `network_timeout_s` for silence between PDUs. `slots_file` is shared by all receiver processes; without
    it this process counts its associations alone.
    """

    ae_title: str
    host: str
    port: int
    maximum_associations: int = 128
    maximum_associations_per_host: int = 96
    maximum_pdu_size: int = 131072
    maximum_instance_bytes: int = 1024**3
    negotiation_timeout_s: float = 10.0
    pdu_timeout_s: float = 30.0
    network_timeout_s: float = 60.0
    access: AccessSettings = AccessSettings()  # noqa: RUF009 (frozen)
    tls: TlsSettings = TlsSettings()  # noqa: RUF009 (frozen)
    sop_classes: tuple[str, ...] = ACCEPTED_SOP_CLASSES + OTHER_CLASSES
    transfer_syntaxes: tuple[str, ...] = ACCEPTED_TRANSFER_SYNTAXES
    slots_file: Path | None = None
