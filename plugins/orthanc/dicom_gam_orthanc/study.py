"""What Orthanc holds of a study that concerns the node: its radiographs, the marks on them, and the node's reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .host import GoneError, Host, HostError
from .report import Report, read_report
from .rules import Decision, decide, may_hold_radiographs
from .settings import Settings

WAITING = "WAITING"  # a study's word while no verdict is bad and not every image for the node has one
_WORST_FIRST = ("FAIL", "REJECT", WAITING, "PASS")
REPORT_SOP_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.88.34"})
_REPORT_MODALITY = "SR"


@dataclass(frozen=True)
class Marks:
    """Numbers of the metadata that the plugin keeps on images and studies."""

    verdict: int  # image and study
    sent: int  # image: when the node had taken it, UTC
    report: int  # image: Orthanc's ID of the report that decides
    refused: int  # image: why sending it was given up
    asked: int  # study: when a person asked to send it

    @classmethod
    def of(cls, settings: Settings) -> Marks:
        """The marks by the settings' first number."""
        return cls(*range(settings.first_number, settings.first_number + 5))


@dataclass(frozen=True)
class Image:
    """An image of a series that may hold radiographs. `marks` is all of its metadata, by name or number."""

    instance: str
    sop_instance_uid: str
    sop_class: str
    calling_aet: str
    marks: dict[str, str]


@dataclass(frozen=True)
class Arrived:
    """A report in Orthanc. `trusted`: it came from the node."""

    instance: str
    received: str
    trusted: bool
    report: Report


@dataclass(frozen=True)
class Reading:
    """A study as it is now. `reports`: of each image, by its SOP Instance UID, those that came from the node."""

    study: str
    images: tuple[Image, ...]
    reports: dict[str, tuple[Arrived, ...]]
    untrusted: int
    others: dict[str, int]  # how many further series there are, by Modality

    def newest(self, image: Image) -> Arrived | None:
        """The report that counts for an image: the one that no other supersedes, and of those the latest."""
        found = self.reports.get(image.sop_instance_uid, ())
        superseded = {uid for item in found for uid in item.report.supersedes}
        standing = [item for item in found if item.report.sop_instance_uid not in superseded] or found
        return max(standing, key=lambda item: (item.report.moment, item.received, item.instance), default=None)


class Studies:
    """Reads studies, and keeps the plugin's marks on them."""

    def __init__(self, host: Host, settings: Settings) -> None:
        self._host, self._settings = host, settings
        self.marks = Marks.of(settings)
        self._labels: bool | None = None

    def read(self, study: str) -> Reading:
        """Read a study; raises GoneError when there is none."""
        images: list[Image] = []
        reports: dict[str, list[Arrived]] = {}
        untrusted, others = 0, Counter[str]()
        for series in self._host.get(f"/studies/{study}/series"):
            if self.modality(series) == _REPORT_MODALITY:
                others[_REPORT_MODALITY] += 1
                for item in self._reports(series):
                    untrusted += not item.trusted
                    if item.trusted:
                        reports.setdefault(item.report.source_uid, []).append(item)
            elif self.may_hold_radiographs(series):
                images += self._images(series)
            else:
                others[self.modality(series)] += 1
        listed = {uid: tuple(found) for uid, found in reports.items()}
        return Reading(study, tuple(images), listed, untrusted, dict(others))

    @staticmethod
    def modality(series: dict[str, Any]) -> str:
        """A series' Modality; empty when it has none."""
        return str(series["MainDicomTags"].get("Modality", "")).strip()

    def may_hold_radiographs(self, series: dict[str, Any]) -> bool:
        """Whether a series is worth a look at each image; one image of it answers for all."""
        instances = series["Instances"]
        if not instances:
            return False
        if may_hold_radiographs(self.modality(series), "", self._settings):
            return True
        try:
            sop_class = self.metadata("instances", instances[0]).get("SopClassUid", "")
        except GoneError:
            return False
        return may_hold_radiographs("", sop_class, self._settings)

    def metadata(self, level: str, resource: str) -> dict[str, str]:
        """All metadata of a resource; ours under their numbers, also where the administrator has named them."""
        found = self._host.get(f"/{level}/{resource}/metadata?expand")
        return {self._settings.metadata_names.get(name, name): value for name, value in found.items()}

    def mark(self, level: str, resource: str, number: int, text: str) -> None:
        """Set one of our marks."""
        self._host.put(f"/{level}/{resource}/metadata/{number}", text)

    def unmark(self, level: str, resource: str, number: int) -> None:
        """Take one of our marks away, which must be there."""
        self._host.delete(f"/{level}/{resource}/metadata/{number}")

    def decide(self, image: Image) -> Decision:
        """Whether the rules send an image."""
        tags = self._host.get(f"/instances/{image.instance}/tags?short")
        return decide(self._settings, tags, image.sop_class, image.calling_aet)

    def to_send(self, study: str) -> list[str]:
        """The images of a study that are to go to the node and have not gone yet."""
        marked = {str(self.marks.sent), str(self.marks.refused)}
        images = (image for image in self.read(study).images if not marked & image.marks.keys())
        return [image.instance for image in images if self.decide(image).send]

    def show_verdicts(self, study: str, *, pending: bool = False) -> str:
        """Write what the newest reports say on the images and on the study; returns the study's word, or nothing.

        `pending`: images of it are still to be sent, so that it can't be a PASS yet.
        """
        reading = self.read(study)
        for image in reading.images:
            newest = reading.newest(image)
            verdict, report = (newest.report.verdict, newest.instance) if newest else ("", "")
            self._set("instances", image.instance, image.marks, self.marks.verdict, verdict)
            self._set("instances", image.instance, image.marks, self.marks.report, report)
        word = self.word_of(reading, pending=pending)
        self._set("studies", study, self.metadata("studies", study), self.marks.verdict, word)
        self._label(study, word)
        return word

    def is_pass(self, study: str) -> bool:
        """Whether a study is marked as a PASS."""
        return self.metadata("studies", study).get(str(self.marks.verdict)) == "PASS"

    def word_of(self, reading: Reading, *, pending: bool) -> str:
        """The study's word: the worst of its images' verdicts, and PASS only when every image for the node has it."""
        words = {WAITING} if pending else set()
        for image in reading.images:
            newest = reading.newest(image)
            if newest:
                words.add(newest.report.verdict)
            elif {str(self.marks.sent), str(self.marks.refused)} & image.marks.keys():
                words.add(WAITING)
        return next((word for word in _WORST_FIRST if word in words), "")

    def _set(self, level: str, resource: str, now: dict[str, str], number: int, text: str) -> None:
        before = now.get(str(number), "")
        if text and text != before:
            self.mark(level, resource, number, text)
        elif before and not text:
            self.unmark(level, resource, number)

    def _label(self, study: str, word: str) -> None:
        """Set the study's label where this Orthanc knows labels (1.12 and newer)."""
        if self._labels is None:
            self._labels = self._settings.labels and self._host.get("/system").get("HasLabels") is True
        if not self._labels:
            return
        wanted = f"dicom-gam-{word.lower()}" if word else ""
        present = self._host.get(f"/studies/{study}/labels")
        for name in (f"dicom-gam-{each.lower()}" for each in _WORST_FIRST):
            if name in present and name != wanted:
                self._host.delete(f"/studies/{study}/labels/{name}")
        if wanted and wanted not in present:
            self._host.put(f"/studies/{study}/labels/{wanted}", "")

    def _images(self, series: dict[str, Any]) -> Iterator[Image]:
        for item in self._host.get(f"/series/{series['ID']}/instances"):
            marks = self.metadata("instances", item["ID"])
            uid = str(item["MainDicomTags"].get("SOPInstanceUID", ""))
            sop_class, caller = marks.get("SopClassUid", ""), marks.get("RemoteAET", "")
            yield Image(item["ID"], uid, sop_class, caller, marks)

    def _reports(self, series: dict[str, Any]) -> Iterator[Arrived]:
        for instance in series["Instances"]:
            about = self.metadata("instances", instance)
            if about.get("SopClassUid") not in REPORT_SOP_CLASSES:
                continue
            try:
                report = read_report(self._host.get(f"/instances/{instance}/tags?short"))
            except GoneError:
                continue
            except HostError as error:
                self._host.warn(f"Orthanc can't read the report {instance}, which is left out: {error}")
                continue
            if report is not None:
                yield Arrived(instance, about.get("ReceptionDate", ""), self.is_trusted(about), report)

    def is_trusted(self, about: dict[str, str]) -> bool:
        """Whether an object came from the node, by what Orthanc noted when it arrived."""
        addresses = self._settings.results_from_addresses
        if addresses and about.get("RemoteIP") not in addresses:
            return False
        if about.get("Origin") == "DicomProtocol":
            return about.get("RemoteAET") in self._settings.results_from
        return self._settings.results_over_http and about.get("Origin") in ("RestApi", "Plugins")
