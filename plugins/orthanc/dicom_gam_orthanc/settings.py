"""The section "DicomGam" of Orthanc's configuration, read once and checked word by word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CONDITIONS = (  # what a rule may ask of an image: the key, and the DICOM tag whose value it is compared with
    ("Modality", "0008,0060"),
    ("BodyPartExamined", "0018,0015"),
    ("StudyDescription", "0008,1030"),
    ("SeriesDescription", "0008,103e"),
    ("StationName", "0008,1010"),
    ("InstitutionName", "0008,0080"),
)
CALLING_AET = "CallingAet"
KEYS = (
    "Modality", "Url", "TokenFile", "CertificateAuthority", "DashboardUrl", "Rules", "ExtraSopClasses", "ResultsFrom",
    "ResultsFromAddresses", "ResultsOverHttp", "Labels", "FirstNumber", "FirstPauseSeconds", "LongestPauseSeconds",
    "Attempts",
)  # fmt: skip
RULE_KEYS = ("Name", "Send", CALLING_AET, *(key for key, _ in CONDITIONS))


class SettingsError(Exception):
    """The configuration can't be used. The message names every key that is wrong, why, and what to write."""


@dataclass(frozen=True)
class Rule:
    """Matches when every condition does; a condition matches when one of its patterns does."""

    name: str
    send: bool
    conditions: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Settings:
    """How the plugin is to behave. `first_number` is that of its metadata and of its global property."""

    modality: str
    url: str
    token_file: str
    certificate_authority: str
    dashboard_url: str
    rules: tuple[Rule, ...]
    extra_sop_classes: frozenset[str]
    results_from: frozenset[str]
    results_from_addresses: frozenset[str]
    results_over_http: bool
    labels: bool
    first_number: int
    first_pause_s: float
    longest_pause_s: float
    attempts: int
    metadata_names: dict[str, str]  # names that Orthanc's UserMetadata gives to numbers, to the numbers


class _Reader:
    """Takes values out of a section and notes what is wrong with them."""

    def __init__(self, section: dict[str, Any], where: str, known: tuple[str, ...], faults: list[str]) -> None:
        self._section, self._where, self.faults = section, where, faults
        for key in section:
            if key not in known:
                self.fault(key, "is no setting", f"remove it, or use one of {', '.join(known)}")

    def fault(self, key: str, reason: str, remedy: str) -> None:
        self.faults.append(f"{self._where}.{key} {reason}: {remedy}")

    def text(self, key: str) -> str:
        value = self._section.get(key, "")
        if not isinstance(value, str):
            self.fault(key, "is not a text", "write it in quotation marks")
            return ""
        return value.strip()

    def flag(self, key: str, default: bool) -> bool:
        value = self._section.get(key, default)
        if not isinstance(value, bool):
            self.fault(key, "is neither true nor false", "write true or false, without quotation marks")
            return default
        return value

    def number(self, key: str, default: float, lowest: float, highest: float) -> float:
        value = self._section.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not lowest <= value <= highest:
            self.fault(key, "is no number that fits", f"write one from {lowest:g} to {highest:g}")
            return default
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._section.get(key, [])
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(item, str) and item.strip() for item in listed):
            self.fault(key, "is not a list of texts", 'write for example ["CR", "DX"]')
            return ()
        return tuple(item.strip() for item in listed)

    def readable(self, key: str) -> str:
        name = self.text(key)
        if name:
            try:
                Path(name).read_bytes()
            except OSError as error:
                remedy = "write the path of a file that Orthanc's user may read"
                self.fault(key, f"can't be read ({error.strerror})", remedy)
        return name

    def address(self, key: str) -> str:
        value = self.text(key).rstrip("/")
        if value and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname):
            self.fault(key, "is no address of a web server", 'write for example "https://node.hospital.example:8180"')
        return value


def read_settings(configuration: dict[str, Any]) -> Settings:
    """The settings from Orthanc's whole configuration; raises SettingsError with all that is wrong, a line each."""
    section = configuration.get("DicomGam")
    if not isinstance(section, dict):
        msg = "DicomGam is missing in Orthanc's configuration: add the section, as in orthanc-example.json"
        raise SettingsError(msg)
    faults: list[str] = []
    read = _Reader(section, "DicomGam", KEYS, faults)
    modality = read.text("Modality")
    results_from = read.texts("ResultsFrom") or _title_of(modality, configuration, read)
    settings = Settings(
        modality=modality,
        url=read.address("Url"),
        token_file=read.readable("TokenFile"),
        certificate_authority=read.readable("CertificateAuthority"),
        dashboard_url=read.address("DashboardUrl"),
        rules=_rules(section.get("Rules", [{}]), faults),
        extra_sop_classes=frozenset(read.texts("ExtraSopClasses")),
        results_from=frozenset(results_from),
        results_from_addresses=frozenset(read.texts("ResultsFromAddresses")),
        results_over_http=read.flag("ResultsOverHttp", False),
        labels=read.flag("Labels", True),
        first_number=int(read.number("FirstNumber", 4300, 1024, 65000)),
        first_pause_s=read.number("FirstPauseSeconds", 10, 0.1, 3600),
        longest_pause_s=read.number("LongestPauseSeconds", 600, 0.1, 86400),
        attempts=int(read.number("Attempts", 10, 1, 1000)),
        metadata_names={name: str(number) for name, number in configuration.get("UserMetadata", {}).items()},
    )
    if bool(settings.url) != bool(settings.token_file):
        read.fault("Url", "and TokenFile belong together", "give both, or neither to do without processing again")
    if faults:
        raise SettingsError("\n".join(faults))
    return settings


def _title_of(modality: str, configuration: dict[str, Any], read: _Reader) -> tuple[str, ...]:
    """The AE title that DicomModalities gives the node: from there its results come."""
    known = configuration.get("DicomModalities", {})
    entry = known.get(modality) if isinstance(known, dict) else None
    title = entry[0] if isinstance(entry, list) and entry else entry.get("AET", "") if isinstance(entry, dict) else ""
    if not modality:
        read.fault("Modality", "is missing", "write the node's name in DicomModalities")
    elif not isinstance(title, str) or not title:
        if configuration.get("DicomModalitiesInDatabase"):
            read.fault("ResultsFrom", "is missing", "write the node's AE title, as DicomModalities is in the database")
        else:
            remedy = f'add there "{modality}": ["DICOM_GAM", "node.hospital.example", 11112]'
            read.fault("Modality", f"names {modality!r}, which is not in DicomModalities", remedy)
        return ()
    return (title,)


def _rules(value: Any, faults: list[str]) -> tuple[Rule, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        faults.append(
            'DicomGam.Rules is no list of rules: write for example [{"Modality": ["CR", "DX"]}], or leave it out'
        )
        return ()
    rules = []
    for number, item in enumerate(value, 1):
        read = _Reader(item, f"DicomGam.Rules[{number}]", RULE_KEYS, faults)
        keys = (CALLING_AET, *(key for key, _ in CONDITIONS))
        conditions = tuple((key, read.texts(key)) for key in keys if key in item)
        for key, patterns in conditions:
            if not patterns and item[key] == []:
                read.fault(key, "has no pattern", "write at least one, or leave the key out")
        rules.append(Rule(read.text("Name") or f"rule {number}", read.flag("Send", True), conditions))
    return tuple(rules)
