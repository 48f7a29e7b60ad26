"""Getting studies by DIMSE: C-FIND to see what there is, then C-GET, or C-MOVE to our own listener (PS3.4 C)."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset
from pynetdicom import build_context, build_role, evt

from dicom_gam.dicom.identity import is_uid
from dicom_gam.dicom.image.acceptance import ACCEPTED_TRANSFER_SYNTAXES
from dicom_gam.dicom.scu.reactor import rest
from dicom_gam.dicom.scu.requestor import describe, native_context, open_association
from dicom_gam.dicom.scu.retrieve import Listed, RetrieveError, Taken
from dicom_gam.dicom.scu.sub_operations import SubOperations
from dicom_gam.errors import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dicom_gam.dicom.scu.retrieve import Station
    from dicom_gam.sections import Source

FIND, GET, MOVE = (f"1.2.840.10008.5.1.4.1.2.2.{number}" for number in (1, 3, 2))  # Study Root, PS3.6 A
MAXIMUM_MATCHES = 20_000  # of one query; no study of radiographs comes near
UIDS_PER_REQUEST = 100
_METHODS = {"C-FIND": "send_c_find", "C-GET": "send_c_get", "C-MOVE": "send_c_move"}
# A context for each class and syntax, so that the archive can send every original as it is: PS3.8 9.3.2.2 allows 128.
CLASSES_PER_ASSOCIATION = (128 - 1) // len(ACCEPTED_TRANSFER_SYNTAXES)

_WORDS = {
    0x0122: "it does not know this operation: ask its administrator, or try the other setting of source.retrieve",
    0x0124: "it does not authorise us: ask its administrator to allow our AE title to query and retrieve",
    0x0211: "it does not know this operation: try the other setting of source.retrieve",
    0xA701: "it is out of resources (can't count the matches): try again later",
    0xA702: "it is out of resources, or our node refused to take the images: look at both logs",
    0xA801: "it does not know our AE title as a place to send to (move destination unknown)",
    0xA900: "it finds that the request does not fit its model: look at its log",
    0xB000: "it could not send some of the images: look at its log",
    0xFE00: "it has cancelled the request: look at its log",
}
# Orthanc says C000 where the standard has A801.
_MOVE_ADVICE = (
    "; have its administrator add our AE title, address and port to its list of destinations, see to it that "
    "access.callers lets it in, or set source.retrieve to c-get"
)


class DimseSource:
    """An archive that speaks DIMSE; `retrieve.RemoteArchive`, with `move` besides."""

    def __init__(self, source: Source, station: Station) -> None:
        self._source = source
        self._station = station
        self._title = describe(source)

    def find(self, study_instance_uid: str) -> list[Listed]:
        """Every instance that it has of a study, none when it knows no such study. Raises RetrieveError."""
        study = {"StudyInstanceUID": study_instance_uid}
        listed = []
        with self._association([native_context(FIND)]) as assoc:
            if not self._query(assoc, "STUDY", study, ()):
                return []
            for series in self._query(assoc, "SERIES", study, ("SeriesInstanceUID", "Modality")):
                above = study | {"SeriesInstanceUID": series["SeriesInstanceUID"]}
                for image in self._query(assoc, "IMAGE", above, ("SOPInstanceUID", "SOPClassUID")):
                    listed.append(
                        Listed(
                            study_instance_uid,
                            series["SeriesInstanceUID"],
                            image["SOPInstanceUID"],
                            image["SOPClassUID"],
                            series["Modality"],
                        )
                    )
        return listed

    def get(self, listed: Sequence[Listed], done: Callable[[Taken], None]) -> None:
        """C-GET the instances. `done` is told of each of them once. Raises RetrieveError when it all breaks off.

        Only the classes that are listed are offered. Where the source does not tell the class, all are tried in turn.
        """
        told = {item.sop_class_uid for item in listed} - {""}
        unknown = len(told) < len({item.sop_class_uid for item in listed})
        classes = [uid for uid in self._station.sop_classes if unknown or uid in told]
        missing = dict.fromkeys(listed, "its SOP class is none that we take")
        for start in range(0, len(classes), CLASSES_PER_ASSOCIATION):
            offered = classes[start : start + CLASSES_PER_ASSOCIATION]
            asked = [item for item in missing if item.sop_class_uid in ("", *offered)]
            if not asked:
                continue
            operations = SubOperations(self._station, asked, done)
            try:
                words = self._get(offered, asked, operations)
            except RetrieveError as error:
                if operations.fault:
                    raise RetrieveError(f"{self._title}: {operations.fault}") from error
                raise
            for item in asked:
                if item.sop_instance_uid in operations.came:
                    del missing[item]
                else:
                    missing[item] = words
        for item, why in missing.items():
            done(Taken(item.sop_instance_uid, why=f"it did not come: {why}"))

    def move(self, listed: Sequence[Listed], tell: Callable[[int], None]) -> dict[str, str]:
        """C-MOVE the instances to our own AE title; return why by SOP Instance UID, for those that surely did not go.

        `tell` is told how many have gone. What has arrived is for our listener to know. Raises RetrieveError when it
        all breaks off.
        """
        failures: dict[str, str] = {}
        sent = 0
        with self._association([native_context(MOVE)]) as assoc:
            for batch in _batches(listed):
                move = (_identifier(batch), self._station.ae_title, MOVE)
                for answer in self._answers(assoc, "C-MOVE", *move):
                    gone = _completed(answer[0])
                    tell(sent + gone)
                response, identifier = answer
                sent += gone
                if response.Status != 0x0000:
                    failed = _values(identifier, "FailedSOPInstanceUIDList")
                    uids = [item.sop_instance_uid for item in batch if not gone or item.sop_instance_uid in failed]
                    failures |= dict.fromkeys(uids, _explained(response.Status) + _MOVE_ADVICE)
        return failures

    def _get(self, classes: Sequence[str], asked: Sequence[Listed], operations: SubOperations) -> str:
        """C-GET over one association; return in words why not everything came."""
        contexts = [native_context(GET)]
        contexts += [build_context(uid, [syntax]) for uid in classes for syntax in ACCEPTED_TRANSFER_SYNTAXES]
        roles = [build_role(uid, scp_role=True) for uid in classes]
        handlers = [(evt.EVT_C_STORE, operations.store), (evt.EVT_PDU_RECV, operations.received)]
        words = "the source says that it has sent everything, which it has not: look at its log"
        with self._association(contexts, roles, handlers) as assoc:
            if not any(context.abstract_syntax == GET for context in assoc.accepted_contexts):
                msg = f"{self._title} does not offer C-GET: set source.retrieve to c-move, or have C-GET allowed there"
                raise RetrieveError(msg)
            if not any(context.as_scp for context in assoc.accepted_contexts):
                return (
                    "the source knows C-GET but won't send such objects on the same association (no SCP role): set "
                    "source.retrieve to c-move, or have our SOP classes allowed there"
                )
            assoc.dimse_timeout = None
            with operations.watched(assoc, self._source.timeout_s):
                for batch in _batches(asked):
                    answers = self._answers(assoc, "C-GET", _identifier(batch), GET)
                    status = [response.Status for response, _ in answers][-1]
                    if status != 0x0000:
                        words = _explained(status)
        return words

    def _query(self, assoc: Any, level: str, keys: dict[str, str], wanted: Sequence[str]) -> list[dict[str, str]]:
        """The values of `wanted`, a UID first, in each match of a C-FIND; what contradicts the keys is left out."""
        query = _dataset(level, **keys, **dict.fromkeys(wanted, ""))
        found: dict[str, dict[str, str]] = {}
        for response, match in self._answers(assoc, "C-FIND", query, FIND):
            if response.Status not in (0x0000, 0xFF00, 0xFF01):
                raise RetrieveError(f"{self._title} answers C-FIND so: {_explained(response.Status)}")
            if match is None:
                continue
            values = {key: _values(match, key)[0] for key in (*keys, *wanted)}
            # Some archives heed not all keys; nothing but UIDs and a modality is taken from what they say.
            sound = all(is_uid(values[key]) for key in wanted if key.endswith("InstanceUID"))
            if sound and all(values[key] in ("", value) for key, value in keys.items()):
                found.setdefault(values[wanted[0]] if wanted else level, values)
            if len(found) > MAXIMUM_MATCHES:
                msg = f"{self._title} lists more than {MAXIMUM_MATCHES} matches on {level} level: this is no such study"
                raise RetrieveError(msg)
        return list(found.values())

    def _answers(self, assoc: Any, operation: str, *request: object) -> Iterator[tuple[Dataset, Dataset | None]]:
        """The responses up to the last one; there is at least one. Raises RetrieveError for silence."""
        try:
            rest(assoc)
            for response, identifier in getattr(assoc, _METHODS[operation])(*request):
                if "Status" not in response:
                    msg = f"{self._title} ended the association or fell silent during {operation}: look at its log"
                    raise RetrieveError(msg)
                yield response, identifier
        except (RuntimeError, ValueError) as error:  # the association has ended, or has no context for the operation
            msg = f"{self._title} closed the association before {operation}, or does not offer it: look at its log"
            raise RetrieveError(msg) from error

    @contextmanager
    def _association(
        self, contexts: Sequence[Any], roles: Sequence[Any] = (), handlers: Sequence[Any] = ()
    ) -> Iterator[Any]:
        try:  # an archive may be silent while it works; `SubOperations.watched` sees to that
            title = self._station.ae_title
            assoc = open_association(self._source, title, contexts, handlers, roles, patient=True)
        except DeliveryError as error:
            raise RetrieveError(str(error)) from error
        try:
            yield assoc
        except BaseException:
            assoc.abort()  # also when interrupted by hand: the other side shall not go on sending
            assoc.kill()
            raise
        if assoc.is_established:
            assoc.release()
        else:
            assoc.kill()


def _batches(listed: Sequence[Listed]) -> Iterator[list[Listed]]:
    """Instances of one series at a time: only the lowest level of a request may be a list (PS3.4 C.4.2.1.4.1)."""
    ordered = sorted(listed, key=lambda item: item.series_instance_uid)
    for _, series in groupby(ordered, key=lambda item: item.series_instance_uid):
        items = list(series)
        for start in range(0, len(items), UIDS_PER_REQUEST):
            yield items[start : start + UIDS_PER_REQUEST]


def _identifier(batch: Sequence[Listed]) -> Dataset:
    return _dataset(
        "IMAGE",
        StudyInstanceUID=batch[0].study_instance_uid,
        SeriesInstanceUID=batch[0].series_instance_uid,
        SOPInstanceUID=[item.sop_instance_uid for item in batch],
    )


def _dataset(level: str, **keys: str | list[str]) -> Dataset:
    dataset = Dataset()
    dataset.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(dataset, keyword, value)
    return dataset


def _completed(response: Dataset) -> int:
    return sum(int(response.get(f"NumberOf{kind}Suboperations") or 0) for kind in ("Completed", "Warning"))


def _values(dataset: Dataset | None, keyword: str) -> list[str]:
    """The values of an element as they were sent; one empty value when there is none.

    pydicom's conversion would quote what it finds odd in a warning, and an odd value may be a name.
    """
    if dataset is None or keyword not in dataset:
        return [""]
    value = dataset.get_item(keyword).value
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
    return [part.strip("\0 ") for part in text.split("\\")]


def _explained(status: int) -> str:
    """The final status in words. The archive's own comment is left out: it may quote a patient."""
    words = _WORDS.get(status)
    if words is None:
        words = "it can't process the request: look at its log" if status >> 12 == 0xC else "look at its log"
    return f"{words} (status {status:04X})"
