"""Frozen settings, read once, validated with messages that name the key and the remedy.

The one file is TOML; unknown keys are refused with the nearest right name.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from dicom_gam.errors import ConfigError

AETitle = Annotated[str, StringConstraints(min_length=1, max_length=16, pattern=r"^[ -\[\]-~]*[!-\[\]-~][ -\[\]-~]*$")]
UIDText = Annotated[str, StringConstraints(max_length=64, pattern=r"^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+$")]
BUILT_IN_BUNDLE = "radiograph-anatomy"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeSettings(_Section):
    """The listener and where it keeps what it receives."""

    ae_title: AETitle = Field("DICOM_GAM", description="this node's AE title; other called AE titles are refused")
    host: str = Field("127.0.0.1", description="the address to listen on; loopback until you open the door on purpose")
    port: int = Field(11112, ge=0, le=65535, description="the port to listen on; 0 picks a free one")
    storage: Path = Field(Path("dicom-gam-data"), description="folder for images, results, jobs and the audit log")
    maximum_associations: int = Field(64, ge=1, description="senders served at once")
    maximum_pdu_size: int = Field(131072, ge=16384, description="bytes of a PDU that are offered to senders")
    network_timeout_s: float = Field(60.0, gt=0, description="an association that is silent for this long is ended")
    minimum_free_bytes: int = Field(
        512 * 1024**2, ge=0, description="images are refused (A700) when the disk has less than this left"
    )


class ProcessingSettings(_Section):
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


class IntakeSettings(_Section):
    """What is accepted as a radiograph, and the caps that are checked before memory is allocated."""

    extra_sop_classes: tuple[UIDText, ...] = Field(
        (), description="SOP class UIDs to treat as radiographs beyond CR, DX, PX, IO, MG and SC"
    )
    maximum_pixels: int = Field(100_000_000, ge=1, description="larger images are refused before they are decoded")
    minimum_side: int = Field(32, ge=1, description="images with a shorter side are refused")


class OutputSettings(_Section):
    """The objects that go back."""

    sr: Literal["comprehensive-3d", "comprehensive"] = Field(
        "comprehensive-3d", description="the report's SOP class; `comprehensive` for archives that know no 3D"
    )
    overlay_long_side: int = Field(1024, ge=256, le=4096, description="the overlay's longer side in pixels")
    footer: str = Field(
        "RESEARCH USE ONLY - NOT FOR DIAGNOSIS - reduced resolution, read the original image",
        description="the line under every overlay",
    )
    manufacturer: str = Field("dicom_gam", description="Manufacturer in the result objects")
    institution_name: str = Field("", description="Institution Name in the result objects")


class Destination(_Section):
    """A C-STORE destination that gets every result."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(
        description="your name for it, in logs and tables"
    )
    ae_title: AETitle = Field(description="its AE title")
    host: str = Field(description="its address")
    port: int = Field(ge=1, le=65535, description="its port")
    timeout_s: float = Field(30.0, gt=0, description="how long to wait for its answers")


class DeliverySettings(_Section):
    """How a destination that does not answer is tried again."""

    first_retry_s: float = Field(30.0, gt=0, description="the first wait; every further one is twice as long")
    maximum_retry_s: float = Field(600.0, gt=0, description="the longest wait")
    attempts: int = Field(20, ge=1, description="tries before an object goes to the dead letters")

    @model_validator(mode="after")
    def _order(self) -> DeliverySettings:
        if self.maximum_retry_s < self.first_retry_s:
            msg = "maximum_retry_s is smaller than first_retry_s: make it at least as large"
            raise ValueError(msg)
        return self


class DriftSettings(_Section):
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


class Settings(_Section):
    """The whole configuration of one node."""

    node: NodeSettings = NodeSettings()
    processing: ProcessingSettings = ProcessingSettings()
    intake: IntakeSettings = IntakeSettings()
    output: OutputSettings = OutputSettings()
    delivery: DeliverySettings = DeliverySettings()
    drift: DriftSettings = DriftSettings()
    destinations: tuple[Destination, ...] = ()

    @model_validator(mode="after")
    def _distinct_destinations(self) -> Settings:
        names = [d.name for d in self.destinations]
        if len(set(names)) != len(names):
            msg = "two destinations have the same name: give each its own, results are tracked by it"
            raise ValueError(msg)
        return self

    def result_digest(self) -> str:
        """SHA-256 of the settings that shape a result; part of every result's UID and audit record."""
        shaping = {
            "intake": self.intake.model_dump(mode="json"),
            "output": self.output.model_dump(mode="json"),
            "bf16": self.processing.bf16,
        }
        return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()


def load_settings(path: Path) -> Settings:
    """Read `node.toml`. Raises ConfigError that names the file, the key and the remedy.

    A relative `node.storage` or bundle path is taken from the file's own folder.
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
    settings = settings_from(table, str(path))
    node, processing = settings.node, settings.processing
    folder = path.parent.absolute()
    bundle = folder / processing.bundle
    bundle_name = str(bundle) if bundle.exists() else processing.bundle
    return settings.model_copy(
        update={
            "node": node.model_copy(update={"storage": folder / node.storage}),
            "processing": processing.model_copy(update={"bundle": bundle_name}),
        }
    )


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
    return f"{key}: {item['msg']} (found {item['input']!r})" if item["loc"] else str(item["msg"])


def _names_at(location: tuple[Any, ...]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in location:
        if part == "destinations":
            model = Destination
        elif isinstance(part, str) and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                model = annotation
    return list(model.model_fields)


def settings_table() -> str:
    """Every setting as a Markdown table body, for the documentation."""
    rows = []
    for section, field in Settings.model_fields.items():
        model = Destination if section == "destinations" else cast(type[BaseModel], field.annotation)
        for key, info in model.model_fields.items():
            default = "required" if info.is_required() else f"`{json.dumps(info.default, default=str)}`"
            name = f"[[{section}]] {key}" if model is Destination else f"{section}.{key}"
            rows.append(f"| `{name}` | {default} | {info.description} |")
    return "\n".join(rows)
