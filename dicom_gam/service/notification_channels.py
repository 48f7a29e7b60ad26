"""The ways in which people are told: mail and webhook."""

from __future__ import annotations

import json
import smtplib
import ssl
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import TYPE_CHECKING, Protocol

import httpx

from dicom_gam.errors import ConfigError, DeliveryError

if TYPE_CHECKING:
    from pathlib import Path

    from dicom_gam.oversight_sections import NotificationSettings, WebSettings

TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Notification:
    """What people are told. `count` is how often it has happened since `since`; the words are of the latest."""

    node: str
    occasion: str
    count: int
    since: str
    what: str
    why: str
    remedy: str
    url: str

    @property
    def subject(self) -> str:
        """One line."""
        times = f" ({self.count} times)" if self.count > 1 else ""
        return _one_line(f"[dicom_gam {self.node}] {self.what}{times}")[:200]

    @property
    def text(self) -> str:
        """All of it, for people."""
        lines = [f"What:    {self.what}", f"Why:     {self.why}", f"Remedy:  {self.remedy}"]
        if self.count > 1:
            lines.append(f"This is the latest of {self.count} of its kind since {self.since or 'a while ago'}.")
        lines.append(f"See {self.url}" if self.url else "The command dicom-gam doctor says more.")
        return "\n".join([*lines, "", f"Sent by dicom_gam on {self.node}. No message holds a patient's data."])


class Channel(Protocol):
    """A way to tell people. `name` also keys what waits for it."""

    name: str

    def send(self, notification: Notification) -> None:
        """Send one. Raises DeliveryError or ConfigError."""


def channels_of(settings: NotificationSettings) -> list[Channel]:
    """The channels that the settings name."""
    channels: list[Channel] = []
    if settings.smtp_host is not None:
        channels.append(Mail(settings))
    if settings.webhook_url_file is not None:
        channels.append(Webhook(settings.webhook_url_file))
    return channels


def dashboard_url(web: WebSettings) -> str:
    """Where the dashboard is; empty without one."""
    if not web.enabled:
        return ""
    if web.public_url is not None:
        return web.public_url
    host = f"[{web.host}]" if ":" in web.host else web.host
    return f"{'https' if web.certificate is not None else 'http'}://{host}:{web.port}/"


class Mail:
    """Mail through the mail server of the settings."""

    name = "mail"

    def __init__(self, settings: NotificationSettings) -> None:
        self._settings = settings

    def send(self, notification: Notification) -> None:
        """Send one mail to all."""
        settings = self._settings
        message = EmailMessage()
        message["Subject"] = notification.subject
        message["From"] = str(settings.mail_from)
        message["To"] = ", ".join(settings.mail_to)
        message["Date"] = formatdate(localtime=True)
        message["Message-ID"] = make_msgid(domain="dicom-gam.invalid")
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
        message.set_content(notification.text)
        with connected(settings) as server:
            try:
                server.send_message(message)
            except (smtplib.SMTPException, OSError, ValueError) as error:
                raise DeliveryError(_refused(settings, error)) from error


class _Server:
    """A connection to the mail server, logged in; closed at the end of the block, whatever the server says then."""

    def __init__(self, server: smtplib.SMTP) -> None:
        self._server = server

    def __enter__(self) -> smtplib.SMTP:
        return self._server

    def __exit__(self, *_: object) -> None:
        try:
            self._server.quit()
        except (smtplib.SMTPException, OSError):
            self._server.close()


def connected(settings: NotificationSettings) -> _Server:
    """Connect to the mail server and log in. Raises DeliveryError, or ConfigError for the password file."""
    host = str(settings.smtp_host)
    password = None if settings.smtp_password_file is None else read_secret(settings.smtp_password_file)
    try:
        if settings.smtp_tls == "tls":
            context = ssl.create_default_context()
            server: smtplib.SMTP = smtplib.SMTP_SSL(host, settings.smtp_port, timeout=TIMEOUT_S, context=context)
        else:
            server = smtplib.SMTP(host, settings.smtp_port, timeout=TIMEOUT_S)
    except (smtplib.SMTPException, OSError) as error:
        raise DeliveryError(_refused(settings, error)) from error
    try:
        if settings.smtp_tls == "starttls":
            server.starttls(context=ssl.create_default_context())
        if settings.smtp_user is not None and password is not None:
            server.login(settings.smtp_user, password)
    except (smtplib.SMTPException, OSError) as error:
        server.close()
        raise DeliveryError(_refused(settings, error)) from error
    return _Server(server)


class Webhook:
    """A JSON message posted to the URL that a file holds. `text` is what chat programs show."""

    name = "webhook"

    def __init__(self, url_file: Path) -> None:
        self._url_file = url_file

    def send(self, notification: Notification) -> None:
        """Post it. The URL is never told, as it holds a secret."""
        words = asdict(notification) | {"text": f"{notification.subject}\n{notification.text}"}
        answer = _asked("POST", self._url_file, json.dumps(words))
        if not answer.is_success:
            msg = f"the webhook of {self._url_file} answered {answer.status_code}: see whether its URL is still right"
            raise DeliveryError(msg)


def reach_webhook(url_file: Path) -> None:
    """See that somebody answers there, whatever they say; nothing is sent. Raises DeliveryError or ConfigError."""
    _asked("HEAD", url_file, "")


def _asked(method: str, url_file: Path, content: str) -> httpx.Response:
    url = read_secret(url_file)
    try:
        return httpx.request(
            method,
            url,
            content=content,
            headers={"Content-Type": "application/json"},
            timeout=TIMEOUT_S,
            follow_redirects=False,
        )
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        why = f"can't be reached ({type(error).__name__}): see to its URL, its certificate and the network"
        raise DeliveryError(f"the webhook of {url_file} {why}") from error


def read_secret(path: Path) -> str:
    """The first line of a file. Raises ConfigError when there is none."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        msg = f"{path} can't be read ({why}): correct the path, or let the service's user read it"
        raise ConfigError(msg) from error
    if not lines or not lines[0].strip():
        raise ConfigError(f"{path} is empty: put the secret into its first line")
    return lines[0].strip()


def _refused(settings: NotificationSettings, error: Exception) -> str:
    """In our own words: a server's may quote what it was sent."""
    where = f"the mail server {settings.smtp_host}:{settings.smtp_port}"
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return f"{where} refuses the log-in: see notifications.smtp_user and smtp_password_file"
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return f"{where} does not know what is wanted of it: see notifications.smtp_tls and smtp_user"
    if isinstance(error, smtplib.SMTPRecipientsRefused | smtplib.SMTPSenderRefused):
        return f"{where} refuses the addresses: see notifications.mail_from and mail_to"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{where} refuses the mail (code {error.smtp_code}): see its log"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{where} has a certificate that is not accepted ({error.verify_message}): see to it"
    why = getattr(error, "strerror", None) or type(error).__name__
    return f"{where} can't be reached ({why}): see to it, to notifications.smtp_tls, and to the network"


def _one_line(text: str) -> str:
    return " ".join(text.split())
