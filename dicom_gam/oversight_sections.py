"""The sections of the settings for those who watch over the node: audit, dashboard, notifications.

Secrets are never in the settings themselves, only the paths of files that hold them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from dicom_gam.sections import Section

Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/?#]+[^\s?#]*$")]
Role = Literal["viewer", "operator", "auditor"]


class AuditSettings(Section):
    """The audit log and the evidence kept with it."""

    segment_bytes: int = Field(
        64 * 1024**2, ge=64 * 1024, description="the log goes on in a new file when one has grown beyond this"
    )
    checkpoint_interval_s: float = Field(
        86400.0, gt=0, description="how often the log is signed; it also is when the node stops and at each new file"
    )
    key: Path | None = Field(
        None,
        description="the Ed25519 private key that signs the log, PEM; else `audit-key.pem` in node.storage, which is "
        "made at the first start",
    )


class AtnaSettings(Section):
    """Audit messages (PS3.15 A.5) to the hospital's audit record repository, by syslog."""

    host: str | None = Field(None, description="the repository's address; without it no messages are sent")
    port: int = Field(6514, ge=1, le=65535, description="its port; 6514 is usual for TLS, 514 for UDP")
    transport: Literal["tls", "udp"] = Field("tls", description="`tls` (RFC 5425), or `udp`, which may lose messages")
    ca: Path | None = Field(None, description="certificates, PEM, to check its certificate by; else the system's")
    certificate: Path | None = Field(None, description="our certificate for it, PEM, where it asks for one")
    key: Path | None = Field(None, description="the private key of that certificate, PEM")
    source_id: str = Field("dicom_gam", min_length=1, description="AuditSourceID: what the repository knows us as")
    enterprise_site: str = Field("", description="AuditEnterpriseSiteID: your hospital or department")
    timeout_s: float = Field(10.0, gt=0, description="how long to wait for the connection")

    @model_validator(mode="after")
    def _whole(self) -> AtnaSettings:
        if (self.certificate is None) != (self.key is None):
            msg = "certificate and key belong together: give both or neither"
            raise ValueError(msg)
        if self.transport == "udp" and (self.ca or self.certificate):
            msg = "ca and certificate are for TLS: set transport to tls, or remove them"
            raise ValueError(msg)
        return self


class OidcSettings(Section):
    """Log-in by the hospital's own directory (OpenID Connect)."""

    discovery_url: Url = Field(description="the provider's `.../.well-known/openid-configuration`")
    client_id: str = Field(min_length=1, description="what the provider knows the dashboard as")
    client_secret_file: Path = Field(description="a file that holds the client's secret")
    label: str = Field("Log in with your hospital account", description="what the button says")
    roles_claim: str = Field("groups", description="the claim of the ID token that lists a person's groups")
    viewers: tuple[str, ...] = Field((), description="groups whose members are viewers")
    operators: tuple[str, ...] = Field((), description="groups whose members are operators")
    auditors: tuple[str, ...] = Field((), description="groups whose members are auditors")


class WebSettings(Section):
    """The dashboard and the HTTP API."""

    enabled: bool = Field(False, description="serve the dashboard and the HTTP API")
    host: str = Field("127.0.0.1", description="the address to listen on; beyond loopback it needs a certificate")
    port: int = Field(8180, ge=0, le=65535, description="the port to listen on; 0 picks a free one")
    certificate: Path | None = Field(None, description="its certificate chain, PEM; its presence turns TLS on")
    key: Path | None = Field(None, description="the private key that belongs to it, PEM")
    public_url: Url | None = Field(None, description="what people type to get here, when a proxy stands before it")
    session_minutes: float = Field(30.0, gt=0, description="without a click for this long one is logged out")
    maximum_upload_bytes: int = Field(512 * 1024**2, ge=1024, description="larger files are refused (413)")
    metrics_for_all: bool = Field(
        False, description="let whoever reaches the port read /metrics; else this machine, and holders of a token"
    )
    oidc: OidcSettings | None = Field(None, description="log-in by the hospital's directory")

    @model_validator(mode="after")
    def _whole(self) -> WebSettings:
        if (self.certificate is None) != (self.key is None):
            msg = "certificate and key belong together: give both or neither"
            raise ValueError(msg)
        return self


Occasion = Literal[
    "dead-letter", "destination-unreachable", "job-failed", "quarantined", "drift", "disk-low", "audit-broken"
]
OCCASIONS: tuple[Occasion, ...] = (
    "dead-letter", "destination-unreachable", "job-failed", "quarantined", "drift", "disk-low", "audit-broken"
)  # fmt: skip


class NotificationSettings(Section):
    """Who is told when something needs a person. No message holds a patient's data."""

    occasions: tuple[Occasion, ...] = Field(OCCASIONS, description="what is worth a message")
    at_most_every_s: float = Field(900.0, ge=0, description="one message for each occasion in this time, with a count")
    webhook_url_file: Path | None = Field(
        None, description="a file that holds the URL to POST a JSON message to (a file, as such URLs hold secrets)"
    )
    smtp_host: str | None = Field(None, description="the mail server; without it no mail is sent")
    smtp_port: int = Field(587, ge=1, le=65535, description="its port")
    smtp_tls: Literal["starttls", "tls", "none"] = Field("starttls", description="how the connection is protected")
    smtp_user: str | None = Field(None, description="the name to log in with")
    smtp_password_file: Path | None = Field(None, description="a file that holds the password")
    mail_from: str | None = Field(None, description="the sender's address")
    mail_to: tuple[str, ...] = Field((), description="who gets the mail")

    @model_validator(mode="after")
    def _whole(self) -> NotificationSettings:
        if self.smtp_host is not None and (self.mail_from is None or not self.mail_to):
            msg = "smtp_host without mail_from and mail_to: say from whom and to whom mail goes"
            raise ValueError(msg)
        if (self.smtp_user is None) != (self.smtp_password_file is None):
            msg = "smtp_user and smtp_password_file belong together: give both or neither"
            raise ValueError(msg)
        return self
