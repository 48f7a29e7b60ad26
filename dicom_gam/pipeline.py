"""The whole story of one batch: tasks in, results out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from dicom_gam.bundle.bundle import Bundle
from dicom_gam.bundle.verifier import prepare, verify_batch
from dicom_gam.config import Settings
from dicom_gam.dicom.result.results import encode_results
from dicom_gam.errors import ConfigError, EncodingError
from dicom_gam.records import (
    AIResult,
    Decoded,
    Prediction,
    Radiograph,
    Rejection,
    Task,
    Verdict,
    Verification,
)

Decode = Callable[[Sequence[Task]], list[Decoded]]
Verified = tuple[Prediction, Verification]


class Pipeline:
    """Bundles, by their names in the settings, ready for batches. Keeps nothing between them; threads may share it.

    `decode` parses and decodes a batch and asks the rules about each image, such as a `dicom.DecoderPool`.
    Raises ConfigError when the default bundle is not among `bundles`.
    """

    def __init__(self, bundles: Mapping[str, Bundle], settings: Settings, decode: Decode) -> None:
        if settings.processing.bundle not in bundles:
            raise ConfigError(f"processing.bundle is {settings.processing.bundle!r}, which was not loaded: load it")
        self._bundles = dict(bundles)
        self._default = bundles[settings.processing.bundle]
        self._settings = settings
        self._settings_digest = settings.result_digest()
        self._decode = decode

    def __call__(self, tasks: Sequence[Task]) -> list[AIResult]:
        """Turn received instances into results, one for each and in their order.

        An image that can't be used becomes a result with a rejection, one that no result is wanted of a result that is
        skipped, and one for a bundle that isn't here an error; they change nothing for their neighbours.
        """
        decoded = self._decode(tasks)
        verified = self._verify(decoded)
        return [
            self._result(task, item, verified.get(place))
            for place, (task, item) in enumerate(zip(tasks, decoded, strict=True))
        ]

    def _verify(self, decoded: Sequence[Decoded]) -> dict[int, Verified]:
        """Verify each bundle's radiographs in one batch; the keys are places in `decoded`."""
        batches: dict[str, dict[int, Radiograph]] = {}
        for place, item in enumerate(decoded):
            if isinstance(item.outcome, Radiograph) and item.decision.bundle in self._bundles:
                batches.setdefault(item.decision.bundle, {})[place] = item.outcome
        verified: dict[int, Verified] = {}
        for name, radiographs in batches.items():
            bundle = self._bundles[name]
            batch = prepare((r.pixels for r in radiographs.values()), bundle.manifest.preprocessing.record())
            answers = verify_batch(bundle, batch, self._settings.processing.bf16)
            verified.update(zip(radiographs, answers, strict=True))
        return verified

    def _result(self, task: Task, decoded: Decoded, verified: Verified | None) -> AIResult:
        decision = decoded.decision
        bundle = self._bundles.get(decision.bundle, self._default)
        result = AIResult(
            task.instance,
            bundle.identity,
            self._settings_digest,
            skipped=decision.skipped,
            rule=decision.rule,
            destinations=decision.destinations,
            header=decoded.header,
        )
        if isinstance(decoded.outcome, Rejection):
            return replace(result, rejection=decoded.outcome)
        if decoded.outcome is None:
            return result
        if verified is None:
            return replace(result, error=self._not_loaded(decision.bundle))
        return self._encoded(result, task, decoded.outcome, verified, bundle)

    def _encoded(
        self, result: AIResult, task: Task, radiograph: Radiograph, verified: Verified, bundle: Bundle
    ) -> AIResult:
        prediction, verification = verified[0], _with_notes(radiograph, *verified, bundle)
        result = replace(
            result,
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
                bundle=bundle.identity,
                class_concepts={entry.name: entry.concept.record() for entry in bundle.manifest.classes},
                settings=self._settings.output,
                settings_digest=self._settings_digest,
                created=task.created,
                predecessors=task.predecessors,
            )
        except EncodingError as error:
            return replace(result, error=str(error))
        return replace(result, objects=objects)

    def _not_loaded(self, name: str) -> str:
        return (
            f"the bundle {name!r} was asked for and is not loaded (loaded are: {', '.join(self._bundles)}): "
            "name it in a rule or as processing.bundle, start the node again, then reprocess"
        )


def _with_notes(
    radiograph: Radiograph, prediction: Prediction, verification: Verification, bundle: Bundle
) -> Verification:
    """Remark on a BodyPartExamined that contradicts a prediction that passed; the others claim nothing."""
    stated = str(radiograph.dataset.get("BodyPartExamined") or "").strip().upper()
    known = next((entry.body_parts for entry in bundle.manifest.classes if entry.name == prediction.label), ())
    if verification.verdict is not Verdict.PASS or not stated or not known or stated in known:
        return verification
    note = f"BodyPartExamined says {stated}, but the image looks like {prediction.label}: check the body part"
    return replace(verification, notes=(*verification.notes, note))
