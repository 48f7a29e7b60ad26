from __future__ import annotations

import json
import logging
import smtplib
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dicom_gam.config import Settings, settings_from
from dicom_gam.errors import AuditError, ConfigError, DeliveryError
from dicom_gam.oversight_sections import OCCASIONS
from dicom_gam.service import notification_channels
from dicom_gam.service.audit_follower import AuditFollower
from dicom_gam.service.followers import make_followers
from dicom_gam.service.notification_channels import Notification, dashboard_url
from dicom_gam.service.notifications import FILE, Notifier
from dicom_gam.service.occasions import happening_of
from dicom_gam.service.store import open_store
from dicom_gam.storage.audit_reader import START, AuditRecord
from tests.dicom.self_signed import self_signed
from tests.service.mail_server import MailServer

DEAD = {"job_id": "a1", "destination": "PACS", "role": "sr", "sop_instance_uid": "1.2.3", "words": "out of resources"}
UNREACHABLE = {"destination": "PACS", "attempt": 3, "waiting": 7, "words": "no answer"}
RECORDS: dict[str, tuple[str, dict[str, Any]]] = {
    "dead-letter": ("delivery.dead", DEAD),
    "destination-unreachable": ("destination.unreachable", UNREACHABLE),
    "job-failed": ("job.failed", {"job_id": "a1", "attempts": 5, "message": "out of memory"}),
    "quarantined": ("instance.quarantined", {"job_id": "a1", "calling_ae_title": "CT1", "sop_instance_uid": "1.2.3"}),
    "drift": ("drift-alarm", {"sender": "CT1", "bundle": "chest", "version": "1.0", "since": "2026-01-01"}),
    "disk-low": ("retention.no_room", {"wanted_bytes": 5}),
    "audit-broken": ("audit.recovered", {"torn_bytes": 17}),
}


def record(event: str, keys: dict[str, Any], number: int = 1) -> AuditRecord:
    return AuditRecord(number, "2026-03-01T10:20:30.456Z", event, keys, START, 100)


def of(occasion: str) -> AuditRecord:
    return record(*RECORDS[occasion])


class Told:
    """A channel that remembers what it told, or fails."""

    def __init__(self, name: str = "mail") -> None:
        self.name = name
        self.all: list[Notification] = []
        self.failure: Exception | None = None

    def send(self, notification: Notification) -> None:
        if self.failure is not None:
            raise self.failure
        self.all.append(notification)

    @property
    def counts(self) -> list[tuple[str, int]]:
        return [(notification.occasion, notification.count) for notification in self.all]


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def settings_for(folder: Path, **notifications: Any) -> Settings:
    node = {"storage": folder, "port": 0, "ae_title": "GAM1"}
    web = {"enabled": True, "public_url": "https://gam.hospital.example/"}
    return settings_from({"node": node, "web": web, "notifications": notifications})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def notifier(tmp_path: Path, clock: Clock) -> Callable[..., Notifier]:
    def make(*channels: Told, free: int = 2**50, **notifications: Any) -> Notifier:
        return Notifier(settings_for(tmp_path, **notifications), channels, clock, lambda: free)

    return make


def test_there_is_a_record_for_every_occasion() -> None:
    assert set(RECORDS) == set(OCCASIONS)


@pytest.mark.parametrize("occasion", OCCASIONS)
@pytest.mark.requirement("NOT-01")
def test_every_occasion_is_told_with_thing_reason_remedy_and_link(
    notifier: Callable[..., Notifier], occasion: str
) -> None:
    channel = Told()
    made = notifier(channel)
    made.note([of(occasion)])
    made.tell()
    (told,) = channel.all
    assert (told.occasion, told.node, told.count) == (occasion, "GAM1", 1)
    assert told.url == "https://gam.hospital.example/"
    for part in (told.what, told.why, told.remedy, told.url):
        assert len(part) > 5
        assert part in told.text
    assert "unknown" not in told.text
    assert "{" not in told.text


@pytest.mark.parametrize("occasion", OCCASIONS)
def test_a_record_that_lacks_keys_is_told_all_the_same(notifier: Callable[..., Notifier], occasion: str) -> None:
    keys = {"attempt": 3, "words": None} if occasion == "destination-unreachable" else {}
    happening = happening_of(record(RECORDS[occasion][0], keys))
    assert happening is not None
    assert happening.why


@pytest.mark.parametrize(("attempt", "told"), [(1, 0), (2, 0), (3, 1), (4, 0)])
@pytest.mark.requirement("NOT-01")
def test_a_destination_is_told_of_once_when_it_stays_away(
    notifier: Callable[..., Notifier], attempt: int, told: int
) -> None:
    channel = Told()
    made = notifier(channel)
    made.note([record("destination.unreachable", RECORDS["destination-unreachable"][1] | {"attempt": attempt})])
    made.tell()
    assert len(channel.all) == told


@pytest.mark.requirement("NOT-02")
def test_one_message_for_each_occasion_in_the_time_that_is_set_with_a_count(
    notifier: Callable[..., Notifier], clock: Clock
) -> None:
    channel = Told()
    made = notifier(channel, at_most_every_s=900)
    made.note([of("dead-letter")])
    made.tell()
    for _ in range(3):
        made.note([of("dead-letter"), of("quarantined")])
        made.tell()
    assert channel.counts == [("dead-letter", 1), ("quarantined", 1)]
    clock.now += 899
    made.tell()
    assert len(channel.all) == 2
    clock.now += 1
    made.tell()
    assert channel.counts[2:] == [("dead-letter", 3), ("quarantined", 2)]
    assert "the latest of 3 of its kind since 2026-03-01T10:20:30.456Z" in channel.all[2].text
    clock.now += 10_000
    made.tell()
    assert len(channel.all) == 4


@pytest.mark.parametrize(("whole", "told"), [(True, 0), (False, 1)])
@pytest.mark.requirement("NOT-01")
def test_a_log_that_was_verified_is_told_of_when_it_is_broken(
    notifier: Callable[..., Notifier], whole: bool, told: int
) -> None:
    channel = Told()
    made = notifier(channel)
    made.note([record("audit.verified", {"whole": whole, "records": 40, "bad_record": None if whole else 17})])
    made.tell()
    assert len(channel.all) == told
    assert all("record 17 is the first that is bad" in notification.what for notification in channel.all)


def test_a_clock_that_steps_back_holds_up_nothing(notifier: Callable[..., Notifier], clock: Clock) -> None:
    channel = Told()
    made = notifier(channel)
    made.note([of("dead-letter")])
    made.tell()
    clock.now -= 10_000
    made.note([of("dead-letter")])
    made.tell()
    assert len(channel.all) == 2


@pytest.mark.requirement("NOT-03")
def test_what_waits_survives_a_crash(notifier: Callable[..., Notifier], clock: Clock) -> None:
    before, after = Told(), Told()
    before.failure = DeliveryError("the mail server is away")
    made = notifier(before)
    made.note([of("dead-letter"), of("dead-letter")])
    with pytest.raises(DeliveryError, match="away"):
        made.tell()
    notifier(after).tell()
    assert after.counts == [("dead-letter", 2)]


@pytest.mark.requirement("NOT-03")
def test_a_channel_that_is_away_holds_up_no_other(notifier: Callable[..., Notifier]) -> None:
    mail, webhook = Told("mail"), Told("webhook")
    mail.failure = DeliveryError("away")
    made = notifier(mail, webhook)
    made.note([of("dead-letter")])
    for _ in range(3):
        with pytest.raises(DeliveryError):
            made.tell()
    mail.failure = None
    made.tell()
    assert (mail.counts, webhook.counts) == ([("dead-letter", 1)], [("dead-letter", 1)])


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"waiting": 3}', b'{"waiting": {"mail": {"drift": {"count": 1}}}}']
)
def test_a_damaged_file_of_what_waits_is_told_and_begun_anew(
    tmp_path: Path, notifier: Callable[..., Notifier], caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / FILE).write_bytes(content)
    channel = Told()
    made = notifier(channel)
    assert "notification.waiting_lost" in caplog.text
    made.note([of("drift")])
    made.tell()
    assert channel.counts == [("drift", 1)]


def test_only_the_occasions_that_are_chosen_are_told(notifier: Callable[..., Notifier]) -> None:
    channel = Told()
    made = notifier(channel, occasions=["drift"])
    made.note([of(occasion) for occasion in OCCASIONS])
    made.tell()
    assert channel.counts == [("drift", 1)]


@pytest.mark.requirement("NOT-01")
def test_a_disk_that_fills_up_is_told_once_until_there_is_room_again(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, channel = [2**50], Told()
    made = Notifier(settings_for(tmp_path, at_most_every_s=0), [channel], clock, lambda: free[0])
    monkeypatch.setattr("dicom_gam.service.notifications.LOOK_EVERY_S", 0.0)
    for free[0] in (2**50, 2**20, 2**20, 2**50, 2**20):
        made.tell()
    assert channel.counts == [("disk-low", 1), ("disk-low", 1)]
    assert "1 MiB are free" in channel.all[0].what


def test_a_log_that_can_not_be_read_is_told_at_once(notifier: Callable[..., Notifier]) -> None:
    channel = Told()
    notifier(channel).note_unreadable(AuditError("record 7 is bad", 7))
    assert channel.counts == [("audit-broken", 1)]
    assert "record 7 is bad" in channel.all[0].why


@pytest.mark.parametrize(
    ("web", "url"),
    [
        ({}, ""),
        ({"enabled": True}, "http://127.0.0.1:8180/"),
        ({"enabled": True, "host": "::1", "certificate": "c", "key": "k"}, "https://[::1]:8180/"),
    ],
)
def test_the_link_leads_to_the_dashboard_if_there_is_one(web: dict[str, Any], url: str) -> None:
    assert dashboard_url(settings_from({"web": web}).web) == url


# The real channels


class Hook:
    """An HTTP server that keeps what is posted to it."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, dict[str, Any]]] = []
        self.status = 204
        posts, hook = self.posts, self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                posts.append((self.path, json.loads(body)))
                self.send_response(hook.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hooks/S3CRET"


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def mailing(folder: Path, port: int, **more: Any) -> Settings:
    settings = {"smtp_host": "localhost", "smtp_port": port, "mail_from": "gam@hospital.example",
                "mail_to": ["admin@hospital.example", "night@hospital.example"], "smtp_tls": "none"}  # fmt: skip
    return settings_for(folder, **settings | more)


def tell(settings: Settings, records: Sequence[AuditRecord]) -> None:
    made = Notifier(settings, free_bytes=lambda: 2**50)
    made.note(records)
    made.tell()


@pytest.mark.requirement("NOT-04")
def test_a_mail_server_gets_a_mail_for_everybody(tmp_path: Path) -> None:
    with MailServer() as server:
        tell(mailing(tmp_path, server.port), [of("dead-letter"), of("dead-letter")])
    (mail,) = server.mails
    assert mail["To"] == "admin@hospital.example, night@hospital.example"
    assert mail["From"] == "gam@hospital.example"
    assert mail["Subject"].startswith("[dicom_gam GAM1] a result could not be delivered to PACS (job a1, sr)")
    assert mail["Subject"].endswith("(2 times)")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert "out of resources" in mail.get_content()
    assert "https://gam.hospital.example/" in mail.get_content()


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's TLS that this machine trusts."""
    made = self_signed(tmp_path, "mail", "DNS:localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(made.certificate))
    return made.server_context()


@pytest.mark.requirement("NOT-04")
def test_mail_goes_by_starttls_with_a_log_in(tmp_path: Path, trusted: ssl.SSLContext) -> None:
    (tmp_path / "password").write_text("pa55\n")
    login = {"smtp_user": "gam", "smtp_password_file": tmp_path / "password", "smtp_tls": "starttls"}
    with MailServer(trusted, login="gam\0pa55") as server:
        tell(mailing(tmp_path, server.port, **login), [of("drift")])
    assert len(server.mails) == 1
    assert server.logins == ["\0gam\0pa55"]


@pytest.mark.requirement("NOT-04")
def test_a_wrong_password_is_told_without_it(tmp_path: Path, trusted: ssl.SSLContext) -> None:
    (tmp_path / "password").write_text("wr0ng")
    login = {"smtp_user": "gam", "smtp_password_file": tmp_path / "password", "smtp_tls": "starttls"}
    with MailServer(trusted, login="gam\0pa55") as server:
        with pytest.raises(DeliveryError, match="refuses the log-in") as failed:
            tell(mailing(tmp_path, server.port, **login), [of("drift")])
        assert server.mails == []
    assert "wr0ng" not in str(failed.value)


def test_no_mail_goes_to_a_server_that_is_not_trusted_or_knows_no_tls(tmp_path: Path) -> None:
    stranger = self_signed(tmp_path, "stranger", "DNS:localhost").server_context()
    for context, why in ((stranger, "not accepted"), (None, "does not know what is wanted")):
        with MailServer(context) as server:
            with pytest.raises(DeliveryError, match=why):
                tell(mailing(tmp_path, server.port, smtp_tls="starttls"), [of("drift")])
            assert server.mails == []


@pytest.mark.parametrize(
    ("command", "answer", "why"),
    [("RCPT", "550 no", "addresses"), ("MAIL", "550 no", "addresses"), ("DATA", "554 no", "code 554")],
)
def test_a_refusal_is_told_in_our_words(tmp_path: Path, command: str, answer: str, why: str) -> None:
    with MailServer() as server:
        server.answers[command] = answer
        with pytest.raises(DeliveryError, match=why):
            tell(mailing(tmp_path, server.port), [of("drift")])


@pytest.mark.requirement("NOT-05")
def test_a_webhook_gets_json_that_people_and_programs_can_read(tmp_path: Path, hook: Hook) -> None:
    (tmp_path / "url").write_text(f"{hook.url}\n")
    tell(settings_for(tmp_path, webhook_url_file=tmp_path / "url"), [of("job-failed")])
    ((path, words),) = hook.posts
    assert path == "/hooks/S3CRET"
    assert (words["occasion"], words["count"], words["node"]) == ("job-failed", 1, "GAM1")
    assert words["text"].startswith("[dicom_gam GAM1] an image has no result (job a1")


@pytest.mark.parametrize("status", [302, 404, 500])
@pytest.mark.requirement("NOT-05")
def test_a_webhook_that_does_not_take_it_is_told_without_its_secret_url(
    tmp_path: Path, hook: Hook, status: int
) -> None:
    (tmp_path / "url").write_text(hook.url)
    hook.status = status
    with pytest.raises(DeliveryError, match=f"answered {status}") as failed:
        tell(settings_for(tmp_path, webhook_url_file=tmp_path / "url"), [of("drift")])
    assert "S3CRET" not in str(failed.value)
    assert len(hook.posts) == 1


@pytest.mark.parametrize("content", ["http://127.0.0.1:1/S3CRET", "not a url", "http://[", "ftp://x/S3CRET"])
def test_a_webhook_that_can_not_be_reached_is_told_without_its_secret_url(tmp_path: Path, content: str) -> None:
    (tmp_path / "url").write_text(content)
    with pytest.raises(DeliveryError, match="can't be reached") as failed:
        tell(settings_for(tmp_path, webhook_url_file=tmp_path / "url"), [of("drift")])
    assert content not in str(failed.value)


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff"])
def test_a_secret_file_that_is_not_there_or_empty_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "url").write_bytes(content)
    with pytest.raises((DeliveryError, ConfigError), match=r"url (can't be read|is empty)"):
        tell(settings_for(tmp_path, webhook_url_file=tmp_path / "url"), [of("drift")])


@pytest.mark.requirement("NOT-06")
def test_nothing_of_a_patient_and_no_header_of_a_strangers_gets_into_a_mail(tmp_path: Path) -> None:
    hostile = "CT1\r\nBcc: everybody@example.com\r\n\r\nx"
    keys = RECORDS["quarantined"][1] | {"calling_ae_title": hostile, "patient_name": "Doe^Jane", "patient_id": "4711"}
    with MailServer() as server:
        tell(mailing(tmp_path, server.port), [record("instance.quarantined", keys)])
    (mail,) = server.mails
    assert mail["Bcc"] is None
    assert "Doe" not in mail.as_string()
    assert "4711" not in mail.as_string()


@pytest.mark.requirement("NOT-03")
def test_a_node_tells_people_when_the_mail_server_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MailServer() as gone:
        port = gone.port
    settings = mailing(tmp_path / "node", port)
    with caplog.at_level(logging.INFO), open_store(settings, create=True) as store:
        (follower,) = make_followers(settings, store)
        assert isinstance(follower, AuditFollower)
        store.audit.append("delivery.dead", **DEAD)
        follower.loop.start()
        wait_for(lambda: "follower.held name=notifications" in caplog.text)
        with MailServer(port=port) as server:
            wait_for(lambda: "follower.works_again" in caplog.text)
        follower.loop.stop()
        assert follower.loop.join(20)
        follower.finish()
    assert len(server.mails) == 1


def test_without_a_collector_and_a_channel_nobody_follows_the_log(tmp_path: Path) -> None:
    settings = settings_from({"node": {"storage": tmp_path / "node"}})
    with open_store(settings, create=True) as store:
        assert make_followers(settings, store) == []


def test_a_mail_server_that_breaks_off_at_the_end_has_the_mail_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: smtplib.SMTP) -> None:
        raise smtplib.SMTPServerDisconnected("gone")

    monkeypatch.setattr(notification_channels.smtplib.SMTP, "quit", broken)
    with MailServer() as server:
        tell(mailing(tmp_path, server.port), [of("drift")])
    assert len(server.mails) == 1


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
