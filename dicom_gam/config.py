"""Frozen settings, read once, validated with messages that name the key and the remedy.

The one file is TOML; unknown keys are refused with the nearest right name.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, Field, StringConstraints, ValidationError, field_validator, model_validator

from dicom_gam.errors import ConfigError
from dicom_gam.oversight_sections import AtnaSettings, AuditSettings, NotificationSettings, WebSettings
from dicom_gam.records import ResultRole
from dicom_gam.sections import (
    AccessSettings,
    AETitle,
    DecodingSettings,
    Destination,
    RetentionSettings,
    Rule,
    Section,
    Source,
    TlsSettings,
    UIDText,
)
from dicom_gam.wording import Footer, LabelSettings

BUILT_IN_BUNDLE = "radiograph-anatomy"
_SectionT = TypeVar("_SectionT", bound=Section)


class NodeSettings(Section):
    """The listener and where it keeps what it receives."""

    ae_title: AETitle = Field("DICOM_GAM", description="this node's AE title; other called AE titles are refused")
    host: str = Field("127.0.0.1", description="the address to listen on; loopback until you open the door on purpose")
    port: int = Field(11112, ge=0, le=65535, description="the port to listen on; 0 picks a free one")
    storage: Path = Field(Path("dicom-gam-data"), description="folder for images, results, jobs and the audit log")
    receivers: int = Field(
        2, ge=0, le=64, description="processes that receive images; 0 receives within the service's own process"
    )
    maximum_associations: int = Field(128, ge=1, description="senders served at once, by all receivers together")
    maximum_associations_per_host: int = Field(96, ge=1, description="associations of one address at once")
    maximum_pdu_size: int = Field(
        131072, ge=16384, le=1024**2, description="bytes of a PDU that are offered to senders; larger ones are refused"
    )
    maximum_instance_bytes: int = Field(1024**3, ge=1024**2, description="larger data sets are refused (A700)")
    negotiation_timeout_s: float = Field(
        10.0, gt=0, description="time to be done with the TLS handshake and the association request"
    )
    pdu_timeout_s: float = Field(30.0, gt=0, description="time for one PDU to arrive whole, once it has begun")
    network_timeout_s: float = Field(60.0, gt=0, description="an association that is silent for this long is ended")
    minimum_free_bytes: int = Field(
        512 * 1024**2, ge=0, description="images are refused (A700) when the disk has less than this left"
    )


class ProcessingSettings(Section):
    """How waiting images are turned into results."""

    bundle: str = Field(BUILT_IN_BUNDLE, description="the built-in bundle's name, or the path of a bundle")
    device: Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = Field(
        "auto", description="`auto` takes a GPU if there is one; or `cpu`, `cuda:0`"
    )
    bf16: bool = Field(False, description="compute in bfloat16: quicker on recent GPUs, scores differ slightly")
    batch_size: int = Field(8, ge=1, le=1024, description="images that are processed together")
    batch_wait_ms: int = Field(50, ge=0, description="how long to wait for a batch to fill")
    attempts: int = Field(
        5, ge=1, description="tries of one image, crashes included, before its job is given up as failed"
    )
    lease_s: float = Field(120.0, gt=0, description="a worker that is silent for this long loses its jobs")


class IntakeSettings(Section):
    """What is accepted as a radiograph, and the caps that are checked before memory is allocated."""

    extra_sop_classes: tuple[UIDText, ...] = Field(
        (), description="SOP class UIDs to treat as radiographs beyond CR, DX, PX, IO, MG and SC"
    )
    maximum_pixels: int = Field(100_000_000, ge=1, description="larger images are refused before they are decoded")
    minimum_side: int = Field(32, ge=1, description="images with a shorter side are refused")


class OutputSettings(Section):
    """The objects that go back."""

    objects: tuple[ResultRole, ...] = Field(
        ("sr", "overlay", "rejection"),
        description="what goes back: `sr` and `overlay` always; `region` (segmentation), `presentation` (presentation "
        "state with the outline) and `rejection` (key object note on a rejected image) by choice",
    )
    sr: Literal["comprehensive-3d", "comprehensive"] = Field(
        "comprehensive-3d", description="the report's SOP class; `comprehensive` for archives that know no 3D"
    )
    overlay_long_side: int = Field(1024, ge=256, le=4096, description="the overlay's longer side in pixels")
    footer: Footer = Field(
        "RESEARCH USE ONLY - NOT FOR DIAGNOSIS - reduced resolution, read the original image",
        description="the line under every overlay; empty for none",
    )
    labels: LabelSettings = LabelSettings()
    manufacturer: str = Field("dicom_gam", description="Manufacturer in the result objects")
    institution_name: str = Field("", description="Institution Name in the result objects")

    @field_validator("objects")
    @classmethod
    def _whole(cls, objects: tuple[ResultRole, ...]) -> tuple[ResultRole, ...]:
        for role in ("sr", "overlay"):
            if role not in objects:
                msg = f"{role} is missing: report and overlay are always sent, for the one points to the other; add it"
                raise ValueError(msg)
        return tuple(role for role in get_args(ResultRole) if role in objects)


class DeliverySettings(Section):
    """How a destination that does not answer is tried again."""

    first_retry_s: float = Field(30.0, gt=0, description="the first wait; every further one is twice as long")
    maximum_retry_s: float = Field(600.0, gt=0, description="the longest wait")
    attempts: int = Field(
        20, ge=1, description="tries of an object that the destination refuses, before it is a dead letter"
    )

    @model_validator(mode="after")
    def _order(self) -> DeliverySettings:
        if self.maximum_retry_s < self.first_retry_s:
            msg = "maximum_retry_s is smaller than first_retry_s: make it at least as large"
            raise ValueError(msg)
        return self


class DriftSettings(Section):
    """The watch over each sender's images: whether they still look like those the bundle was calibrated on."""

    enabled: bool = Field(True, description="watch every sender's images for drift; see `dicom-gam drift`")
    false_alarm_rate: float = Field(
        0.001,
        gt=0,
        lt=1,
        description="the chance that one sender's images ever raise the drift alarm although nothing has changed, "
        "however long it runs; it holds for each sender and bundle, and for images that come in no particular order "
        "(many of one patient in a row raise it)",
    )


class Settings(Section):
    """The whole configuration of one node."""

    node: NodeSettings = NodeSettings()
    processing: ProcessingSettings = ProcessingSettings()
    intake: IntakeSettings = IntakeSettings()
    output: OutputSettings = OutputSettings()
    delivery: DeliverySettings = DeliverySettings()
    drift: DriftSettings = DriftSettings()
    access: AccessSettings = AccessSettings()
    tls: TlsSettings = TlsSettings()
    decoding: DecodingSettings = DecodingSettings()
    retention: RetentionSettings = RetentionSettings()
    audit: AuditSettings = AuditSettings()
    atna: AtnaSettings = AtnaSettings()
    web: WebSettings = WebSettings()
    notifications: NotificationSettings = NotificationSettings()
    destinations: tuple[Destination, ...] = ()
    sources: tuple[Source, ...] = ()
    rules: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _names(self) -> Settings:
        for what, named in (("destinations", self.destinations), ("sources", self.sources), ("rules", self.rules)):
            names = [item.name for item in named]
            if len(set(names)) != len(names):
                msg = f"two {what} have the same name: give each its own, they are told apart by it"
                raise ValueError(msg)
        known = {destination.name for destination in self.destinations}
        for rule in self.rules:
            for name in rule.destinations or ():
                if name not in known:
                    msg = f"rule {rule.name!r} sends to {name!r}, which is not among [[destinations]]: add it there"
                    raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _commitment_can_be_answered(self) -> Settings:
        titles = {caller.ae_title for caller in self.access.callers}
        for destination in self.destinations:
            if destination.commitment and titles and not titles & {"*", destination.ae_title}:
                msg = (
                    f"destination {destination.name!r} is asked for storage commitment, and its answer would be "
                    f"refused at the door: add its AE title and address to [[access.callers]]"
                )
                raise ValueError(msg)
        return self

    @property
    def bundles(self) -> tuple[str, ...]:
        """Every bundle that is needed, the default one first."""
        named = (rule.bundle for rule in self.rules if rule.bundle is not None)
        return tuple(dict.fromkeys((self.processing.bundle, *named)))

    def as_json(self) -> str:
        """What was set, for a process of our own, which reads it by `model_validate_json`."""
        return self.model_dump_json(exclude_unset=True)

    def shaping(self) -> str:
        """The settings that shape a result, as canonical JSON; `shaped_by` reads it back."""
        shaping = {
            "intake": self.intake.model_dump(mode="json"),
            "output": self.output.model_dump(mode="json"),
            "bf16": self.processing.bf16,
        }
        return json.dumps(shaping, sort_keys=True)

    def result_digest(self) -> str:
        """SHA-256 of the settings that shape a result; part of every result's UID and audit record."""
        return hashlib.sha256(self.shaping().encode()).hexdigest()

    def shaped_by(self, shaping: str) -> Settings:
        """These settings with what shapes a result taken from an earlier `shaping`. Raises ConfigError."""
        kept = json.loads(shaping)
        table = self.model_dump(mode="json", exclude_unset=True)
        table |= {"intake": kept["intake"], "output": kept["output"]}
        table["processing"] = table.get("processing", {}) | {"bf16": kept["bf16"]}
        return settings_from(table, "the settings that were kept with the result")


def load_settings(path: Path) -> Settings:
    """Read `node.toml`. Raises ConfigError that names the file, the key and the remedy.

    A relative path of a folder, file or bundle is taken from the file's own folder.
    """
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        msg = f"{path}: can't be read ({error.strerror}). Give the path of an existing TOML file."
        raise ConfigError(msg) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{path}: is not valid TOML: {error}"
        raise ConfigError(msg) from error
    return _anchored(settings_from(table, str(path)), path.parent.absolute())


def _anchored(section: _SectionT, folder: Path) -> _SectionT:
    """The section with every relative path taken from `folder`; a bundle is a path where there is such a folder."""
    changed: dict[str, Any] = {}
    for key, value in section:
        if isinstance(value, Path):
            changed[key] = folder / value
        elif isinstance(value, Section):
            changed[key] = _anchored(value, folder)
        elif isinstance(value, tuple) and any(isinstance(item, Section) for item in value):
            changed[key] = tuple(_anchored(item, folder) for item in value)
        elif key == "bundle" and isinstance(value, str) and (folder / value).exists():
            changed[key] = str(folder / value)
    return section.model_copy(update=changed)


def settings_from(table: dict[str, Any], origin: str = "settings") -> Settings:
    """Validate a nested dictionary of settings. Raises ConfigError that lists every wrong key at once."""
    try:
        return Settings.model_validate(table)
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors(include_url=False)]
        raise ConfigError(f"{origin}: " + "; ".join(lines)) from error


def _explain(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "the file as a whole"
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(item["loc"][-1]), _names_at(item["loc"][:-1]), n=1)
        return f"unknown key {key}" + (f" (did you mean {near[0]}?)" if near else " (remove it)")
    if item["type"] == "missing":
        return f"{key} is missing: add it"
    words = str(item["msg"]).removeprefix("Value error, ")
    if not item["loc"]:
        return words
    return f"{key}: {words}" if isinstance(item["input"], dict) else f"{key}: {words} (found {item['input']!r})"


def _names_at(location: tuple[Any, ...]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = _section_of(model.model_fields[part].annotation)[0] or model
    return list(model.model_fields)


def _section_of(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section that a field holds, and whether it holds many of them."""
    many = get_origin(annotation) is tuple
    kind = get_args(annotation)[0] if many or isinstance(annotation, UnionType) else annotation
    return (kind, many) if isinstance(kind, type) and issubclass(kind, BaseModel) else (None, many)


def settings_table() -> str:
    """Every setting as a Markdown table body, for the documentation."""
    return "\n".join(_rows(Settings, ""))


def _rows(model: type[BaseModel], before: str) -> list[str]:
    rows = []
    for key, info in model.model_fields.items():
        section, many = _section_of(info.annotation)
        if section is not None:
            inner = f"{before}{key}"
            rows += _rows(section, f"[[{inner}]] " if many else f"{inner}.")
            continue
        default = "required" if info.is_required() else f"`{json.dumps(info.default, default=str)}`"
        rows.append(f"| `{before}{key}` | {default} | {info.description} |")
    return rows
