"""The whole story of one batch: instances in, results out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from dicom_gam.bundle.bundle import Bundle
from dicom_gam.bundle.verifier import prepare, verify_batch
from dicom_gam.config import Settings
from dicom_gam.dicom.decode import decode_radiograph
from dicom_gam.dicom.results import encode_results
from dicom_gam.errors import EncodingError
from dicom_gam.records import (
    AIResult,
    Prediction,
    Radiograph,
    ReceivedInstance,
    Rejection,
    Verdict,
    Verification,
)


class Pipeline:
    """One bundle and one configuration, ready for batches. Holds no state between them; threads may share it."""

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        self.bundle = bundle
        self._settings = settings
        self._settings_digest = settings.result_digest()
        self._concepts = {entry.name: entry.concept.record() for entry in bundle.manifest.classes}
        self._body_parts = {entry.name: entry.body_parts for entry in bundle.manifest.classes}

    def __call__(self, instances: Sequence[ReceivedInstance], created: Sequence[datetime]) -> list[AIResult]:
        """Turn received instances into results, one for each and in their order.

        `created` are the times that stand in the results: a job's own, so that a second run gives the same bytes.
        An image that can't be used becomes a result with a rejection, and changes nothing for its neighbours.
        """
        decoded = [decode_radiograph(instance, self._settings.intake) for instance in instances]
        radiographs = [item for item in decoded if isinstance(item, Radiograph)]
        verified = iter(self._verify(radiographs))
        results = []
        for instance, item, when in zip(instances, decoded, created, strict=True):
            if isinstance(item, Rejection):
                results.append(AIResult(instance, self.bundle.identity, self._settings_digest, rejection=item))
            else:
                results.append(self._encode(item, *next(verified), when))
        return results

    def _verify(self, radiographs: Sequence[Radiograph]) -> list[tuple[Prediction, Verification]]:
        if not radiographs:
            return []
        batch = prepare((r.pixels for r in radiographs), self.bundle.manifest.preprocessing.record())
        verified = verify_batch(self.bundle, batch, self._settings.processing.bf16)
        return [(p, self._with_notes(r, p, v)) for r, (p, v) in zip(radiographs, verified, strict=True)]

    def _with_notes(self, radiograph: Radiograph, prediction: Prediction, verification: Verification) -> Verification:
        """Remark on a BodyPartExamined that contradicts a prediction that passed; the others claim nothing."""
        stated = str(radiograph.dataset.get("BodyPartExamined") or "").strip().upper()
        known = self._body_parts.get(prediction.label, ())
        if verification.verdict is not Verdict.PASS or not stated or not known or stated in known:
            return verification
        note = f"BodyPartExamined says {stated}, but the image looks like {prediction.label}: check the body part"
        return replace(verification, notes=(*verification.notes, note))

    def _encode(
        self, radiograph: Radiograph, prediction: Prediction, verification: Verification, created: datetime
    ) -> AIResult:
        result = AIResult(
            radiograph.instance,
            self.bundle.identity,
            self._settings_digest,
            radiograph_pixel_sha256=radiograph.pixel_sha256,
            study_instance_uid=str(radiograph.dataset.get("StudyInstanceUID", "")),
            prediction=prediction,
            verification=verification,
        )
        try:
            objects = encode_results(
                radiograph,
                prediction,
                verification,
                bundle=self.bundle.identity,
                class_concepts=self._concepts,
                settings=self._settings.output,
                settings_digest=self._settings_digest,
                created=created,
            )
        except EncodingError as error:
            return replace(result, error=str(error))
        return replace(result, objects=objects)
