"""The sections of the settings that concern the world outside: who may send, what is done with what, where it goes."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

AETitle = Annotated[str, StringConstraints(min_length=1, max_length=16, pattern=r"^[ -\[\]-~]*[!-\[\]-~][ -\[\]-~]*$")]
UIDText = Annotated[str, StringConstraints(max_length=64, pattern=r"^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=64)]
DEFAULT_MEMORY_BYTES = 3 * 1024**3


class Section(BaseModel):
    """A table of the configuration: frozen, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Caller(Section):
    """One sender that may open an association: its AE title, and the addresses it may come from."""

    ae_title: AETitle = Field(description="its calling AE title; `*` stands for every title")
    hosts: tuple[str, ...] = Field(
        min_length=1, description="addresses and networks it may come from, such as 10.1.2.3 and 10.1.0.0/16"
    )

    @field_validator("hosts")
    @classmethod
    def _networks(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            try:
                ipaddress.ip_network(host, strict=False)
            except ValueError as error:
                msg = f"{host!r} is neither an address nor a network: write it as 10.1.2.3, 10.1.0.0/16 or fd00::/8"
                raise ValueError(msg) from error
        return hosts


class AccessSettings(Section):
    """Who may send. Without callers only this machine itself may, unless you say otherwise in words."""

    callers: tuple[Caller, ...] = Field((), description="the senders that are let in; all others are refused")
    called_ae_titles: tuple[AETitle, ...] = Field((), description="further AE titles under which this node answers")
    anyone_may_send: bool = Field(
        False, description="let in whoever reaches the port; needed in words to listen beyond loopback without callers"
    )


class TlsSettings(Section):
    """TLS at the front door, by the BCP 195 profile of PS3.15. With a certificate, plain connections are refused."""

    certificate: Path | None = Field(None, description="the node's certificate chain, PEM; its presence turns TLS on")
    key: Path | None = Field(None, description="the private key that belongs to it, PEM, not encrypted")
    client_ca: Path | None = Field(
        None, description="certificates, PEM; senders must then show one that these have signed (mutual TLS)"
    )

    @model_validator(mode="after")
    def _whole(self) -> TlsSettings:
        if (self.certificate is None) != (self.key is None):
            msg = "certificate and key belong together: give both or neither"
            raise ValueError(msg)
        if self.client_ca is not None and self.certificate is None:
            msg = "client_ca without certificate and key: there is no TLS to ask senders for certificates in"
            raise ValueError(msg)
        return self


class Peer(Section):
    """Another system: either a DIMSE peer (AE title, host, port) or a DICOMweb server (url)."""

    name: Name = Field(description="your name for it, in logs, rules and tables")
    ae_title: AETitle | None = Field(None, description="its AE title (DIMSE)")
    host: str | None = Field(None, description="its address (DIMSE)")
    port: int | None = Field(None, ge=1, le=65535, description="its port (DIMSE)")
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s/?#]+[^\s?#]*$")] | None = Field(
        None, description="the root of its DICOMweb service, such as https://pacs:8042/dicom-web (instead of DIMSE)"
    )
    timeout_s: float = Field(30.0, gt=0, description="how long to wait for its answers")
    tls: bool = Field(False, description="speak TLS to it (DIMSE; for DICOMweb the url says so)")
    ca: Path | None = Field(None, description="certificates, PEM, to check its certificate by; else the system's")
    certificate: Path | None = Field(None, description="our certificate for it, PEM, where it asks for one")
    key: Path | None = Field(None, description="the private key of that certificate, PEM")
    authorization_file: Path | None = Field(
        None, description="a file that holds the value of the HTTP header Authorization, such as `Basic ...` (DICOMweb)"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Peer:
        dimse = (self.ae_title, self.host, self.port)
        if self.url is None and None in dimse:
            msg = "give ae_title, host and port (DIMSE), or url (DICOMweb)"
            raise ValueError(msg)
        if self.url is not None and any(item is not None for item in dimse):
            msg = "ae_title, host and port are DIMSE, url is DICOMweb: give one kind and not both"
            raise ValueError(msg)
        if self.url is None and self.authorization_file is not None:
            msg = "authorization_file is for DICOMweb, DIMSE knows no such header: remove it"
            raise ValueError(msg)
        if (self.certificate is None) != (self.key is None):
            msg = "certificate and key belong together: give both or neither"
            raise ValueError(msg)
        if self.url is None and not self.tls and (self.ca or self.certificate):
            msg = "ca or certificate without tls: set tls = true, or remove them"
            raise ValueError(msg)
        return self


class Destination(Peer):
    """Where results go: by C-STORE or, with `url`, by STOW-RS. Without rules every destination gets every result."""

    commitment: bool = Field(
        False, description="ask it for storage commitment: a result counts as delivered when it has answered (DIMSE)"
    )
    commitment_timeout_s: float = Field(
        3600.0, gt=0, description="how long to wait for the answer before the objects are sent and asked for again"
    )
    jpeg_ls: bool = Field(
        False,
        description="offer it overlays in JPEG-LS, without loss and smaller: sent so where it accepts that (DIMSE)",
    )

    @model_validator(mode="after")
    def _by_dimse(self) -> Destination:
        if self.commitment and self.url is not None:
            msg = "commitment is DIMSE only: remove it, or give ae_title, host and port instead of url"
            raise ValueError(msg)
        if self.jpeg_ls and self.url is not None:
            msg = (
                "jpeg_ls is DIMSE only, DICOMweb can't ask what the server accepts: remove it, or give ae_title, host "
                "and port instead of url"
            )
            raise ValueError(msg)
        return self


class Source(Peer):
    """Where `dicom-gam fetch` gets studies from: C-FIND and C-GET or C-MOVE, or, with `url`, QIDO-RS and WADO-RS."""

    retrieve: Literal["c-get", "c-move"] = Field(
        "c-get", description="`c-move` makes it send to this node, which must run and be known to it (DIMSE)"
    )

    @model_validator(mode="after")
    def _move_by_dimse(self) -> Source:
        if self.retrieve == "c-move" and self.url is not None:
            msg = "retrieve is DIMSE only: remove it, or give ae_title, host and port instead of url"
            raise ValueError(msg)
        return self


class Condition(Section):
    """What an image must be like. Every key that is given must match; a key matches when one of its patterns does.

    Patterns know `*` and `?`, and do not heed case. An absent value matches only the pattern `*`.
    """

    modality: tuple[str, ...] = Field((), description="Modality (0008,0060)")
    body_part_examined: tuple[str, ...] = Field((), description="Body Part Examined (0018,0015)")
    station_name: tuple[str, ...] = Field((), description="Station Name (0008,1010)")
    institution_name: tuple[str, ...] = Field((), description="Institution Name (0008,0080)")
    manufacturer: tuple[str, ...] = Field((), description="Manufacturer (0008,0070)")
    study_description: tuple[str, ...] = Field((), description="Study Description (0008,1030)")
    series_description: tuple[str, ...] = Field((), description="Series Description (0008,103E)")
    protocol_name: tuple[str, ...] = Field((), description="Protocol Name (0018,1030)")
    view_position: tuple[str, ...] = Field((), description="View Position (0018,5101)")
    sop_class_uid: tuple[str, ...] = Field((), description="SOP Class UID (0008,0016)")
    calling_ae_title: tuple[str, ...] = Field((), description="the AE title that sent the image")
    called_ae_title: tuple[str, ...] = Field((), description="the AE title it was sent to")

    @model_validator(mode="after")
    def _patterns(self) -> Condition:
        for key in self.model_fields_set:
            if not getattr(self, key):
                msg = f"{key} has no pattern, so nothing could match it: give one, or remove the key"
                raise ValueError(msg)
        return self


class Rule(Section):
    """What is done with images that meet a condition. The first rule that matches counts; none: not processed."""

    name: Name = Field(description="your name for it, in tables and the audit log")
    when: Condition = Field(Condition(), description="the condition; an empty one matches every image")
    process: bool = Field(True, description="false: keep such images, but make no result of them")
    bundle: str | None = Field(None, description="the bundle that classifies them; else processing.bundle")
    destinations: tuple[Name, ...] | None = Field(None, description="where their results go; else every destination")


class RetentionSettings(Section):
    """What is deleted, and when. A result that has not been delivered is never deleted, nor is its image."""

    images_days: float = Field(30.0, ge=0, description="received images are kept for so long after their job is final")
    results_days: float = Field(30.0, ge=0, description="delivered results are kept for so long")
    quarantine_days: float = Field(
        365.0, ge=0, description="images of failed, rejected and quarantined jobs are kept for so long"
    )
    make_room_below_bytes: int = Field(
        2 * 1024**3,
        ge=0,
        description="with less free space, images of delivered jobs go before their time, oldest first",
    )
    interval_s: float = Field(600.0, gt=0, description="how often this is looked after")


class DecodingSettings(Section):
    """The processes in which files are parsed and decoded, and what one file may cost."""

    processes: int = Field(2, ge=0, le=64, description="how many; 0 decodes within the service (only to find faults)")
    memory_bytes: int = Field(
        DEFAULT_MEMORY_BYTES, ge=256 * 1024**2, description="address space of one; an image that needs more is refused"
    )
    timeout_s: float = Field(30.0, gt=0, description="an image that takes longer is refused, its process ended")
