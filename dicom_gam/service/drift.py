"""The watch over drift: what a result tells about its sender's images, and who is told when they have drifted.

Every image that was verified counts, whatever its verdict; one that can't be used has no place among the calibration
images. The mathematics and what the alarm promises are in `core.drift`; the promise holds per sender and bundle.
"""

from __future__ import annotations

import logging
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dicom_gam.core.drift import DriftState, alarm, chance_of, smoothed_p_value, update
from dicom_gam.storage.rows import DriftSample, DriftStep

if TYPE_CHECKING:
    from dicom_gam.records import AIResult
    from dicom_gam.storage.protocols import AuditTrail, DriftRule, DriftStore
    from dicom_gam.storage.rows import PastImages

_log = logging.getLogger(__name__)


def drift_sample(result: AIResult) -> DriftSample | None:
    """What a result says about drift; None when the image was not verified."""
    if result.verification is None:
        return None
    rank, bundle, instance = result.verification.rank, result.bundle, result.instance
    return DriftSample(
        sender=instance.calling_ae_title,
        bundle_name=bundle.name,
        bundle_version=bundle.version,
        bundle_digest=bundle.digest,
        class_name=rank.class_name,
        size=rank.size,
        odder=rank.odder,
        equal=rank.equal,
        chance=chance_of(f"{bundle.digest} {instance.sop_instance_uid}"),  # a second run must draw the same
    )


def drift_rule(false_alarm_rate: float) -> DriftRule:
    """The rule by which storage moves a stream on; its alarm has this false-alarm rate.

    The image is ranked among the calibration images of its class and the stream's past images of that class together:
    only so are a stream's p-values independent (`core.drift` says why).
    """

    def step(text: str, sample: DriftSample, past: PastImages) -> DriftStep:
        p_value = smoothed_p_value(
            sample.odder + past.odder, sample.equal + past.equal, sample.size + past.count, sample.chance
        )
        state = update(_state(text), p_value)
        return DriftStep(
            state.to_json(),
            state.log_evidence / math.log(10),
            state.log_maximum / math.log(10),
            alarm(state, false_alarm_rate),
        )

    return step


def _state(text: str) -> DriftState:
    if not text:
        return DriftState()
    try:
        return DriftState.from_json(text)
    except ValueError as error:  # of another version: a bet may begin anew at any time, and no result waits for it
        _log.warning("drift.state_unreadable %s: the evidence starts anew", error)
        return DriftState()


def announce_alarms(drift: DriftStore, audit: AuditTrail) -> None:
    """Log and audit every alarm that nobody has been told of; a crash in between repeats it rather than lose it."""
    for reading in drift.unannounced():
        if reading.alarm_at is None:
            continue
        audit.append(
            "drift-alarm",
            sender=reading.sender,
            bundle=reading.bundle_name,
            version=reading.bundle_version,
            digest=reading.bundle_digest,
            images=reading.images,
            log10_evidence=reading.log10_maximum,
            since=datetime.fromtimestamp(reading.alarm_at, UTC).isoformat(),
        )
        drift.announced(reading)
        _log.warning(
            "drift-alarm sender=%r bundle=%s version=%s images=%d log10_evidence=%.1f: see `dicom-gam drift`",
            reading.sender,
            reading.bundle_name,
            reading.bundle_version,
            reading.images,
            reading.log10_maximum,
        )
