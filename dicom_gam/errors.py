"""The exceptions of the package.

An expected refusal of one image is a value (`records.Rejection`), not an exception.

    DicomGamError
    ├── ConfigError          a setting is unknown, contradictory or out of range
    ├── BundleError          a model bundle is damaged, incomplete, tampered with or unfit
    ├── StorageError         the storage folder or its database can't be used
    ├── AuditError           the audit log is broken; names the first bad record
    ├── TrainingError        a manifest or a data set can't be trained or calibrated on
    ├── EncodingError        a result object could not be built
    ├── DeliveryError        a destination refused or could not be reached
    └── RetrieveError        a source can't be reached, refuses, or answers what makes no sense (dicom/retrieve.py)
"""


class DicomGamError(Exception):
    """Root of every error this package raises on purpose.

    The message names the thing, the reason and the remedy, for an administrator at 3 a.m.
    """


class ConfigError(DicomGamError):
    """A setting is unknown, contradictory or out of range."""


class BundleError(DicomGamError):
    """A model bundle is damaged, incomplete, tampered with or unfit for use."""


class StorageError(DicomGamError):
    """The storage folder or its database can't be used."""


class AuditError(DicomGamError):
    """The audit log is broken.

    `record` is the number (from 1) of the first bad record, or None when the log as a whole is the problem.
    """

    def __init__(self, message: str, record: int | None = None) -> None:
        super().__init__(message)
        self.record = record


class TrainingError(DicomGamError):
    """A manifest or a data set can't be trained or calibrated on."""


class EncodingError(DicomGamError):
    """A result object could not be built."""


class DeliveryError(DicomGamError):
    """A destination refused a result or could not be reached.

    `retryable` says whether another try may help.
    """

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable
