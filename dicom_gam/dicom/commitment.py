"""Storage commitment (PS3.4 annex J): asking a destination to answer for what it has stored, and its answer."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PROCESSING_FAILURE = 0x0110
# Failure Reason (0008,1197), PS3.3 C.14.1.1.
_FAILURE_REASONS: Mapping[int, str] = MappingProxyType(
    {
        0x0110: "it failed while looking for the object: see to its log",
        0x0112: "it has no such object (any more): see to its log, and to its rules of deletion",
        0x0119: "it has the object under another SOP class",
        0x0122: "it does not answer for objects of this SOP class: ask its administrator to allow it",
        0x0131: "it finds the Transaction UID used twice",
        0x0213: "it is out of resources: look at its disk space",
    }
)


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """What a destination's N-EVENT-REPORT says about one transaction.

    `committed` are SOP Instance UIDs; `failed` are pairs of SOP Instance UID and Failure Reason (0008,1197).
    """

    transaction_uid: str
    committed: tuple[str, ...]
    failed: tuple[tuple[str, int], ...]
    calling_ae_title: str = ""
    peer_address: str = ""


def explain_failure(reason: int) -> str:
    """Say in plain words why a destination does not answer for an object, with the number in hexadecimal."""
    words = _FAILURE_REASONS.get(reason, "it gives a reason that DICOM does not define: see to its log")
    return f"the destination does not answer for it: {words} (Failure Reason {reason:04X})"
