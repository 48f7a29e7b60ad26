"""Audit messages to a real syslog server: rsyslog, as Debian packages it."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from dicom_gam.config import Settings, settings_from
from dicom_gam.service.audit_follower import AuditFollower
from dicom_gam.service.followers import make_followers
from dicom_gam.service.store import Store, open_store
from tests.dicom.self_signed import SelfSigned, self_signed

SCHEMA = etree.RelaxNG(etree.parse(Path(__file__).parents[1] / "service" / "atna.rng"))
BOM = "\ufeff"
TEMPLATE = 'template(name="all" type="string" string="%pri% %app-name% %msgid% %protocol-version%|%msg%\\n")'
TLS = """
global(defaultNetstreamDriver="gtls" defaultNetstreamDriverCAFile="{ca}"
       defaultNetstreamDriverCertFile="{certificate}" defaultNetstreamDriverKeyFile="{key}")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="{mode}")
input(type="imtcp" address="127.0.0.1" port="{port}")
"""
UDP = 'module(load="imudp")\ninput(type="imudp" address="127.0.0.1" port="{port}")\n'


class Rsyslog:
    """A rsyslogd of our own, without any right; it can be stopped and started again."""

    def __init__(self, folder: Path, inputs: str) -> None:
        self.output = folder / "messages"
        self._pid_file, self._config = folder / "rsyslogd.pid", folder / "rsyslog.conf"
        self._process: subprocess.Popen[bytes] | None = None
        head = f'global(workDirectory="{folder}" maxMessageSize="64k")\n'
        tail = f'action(type="omfile" file="{self.output}" template="all" flushOnTXEnd="on")\n'
        self._config.write_text(head + inputs + TEMPLATE + "\n" + tail)

    def start(self) -> None:
        command = ["rsyslogd", "-n", "-f", str(self._config), "-i", str(self._pid_file)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def messages(self) -> list[str]:
        """What it wrote, of ours."""
        lines = self.output.read_text("utf-8").splitlines() if self.output.exists() else []
        return [line for line in lines if " dicom_gam " in line]


@pytest.fixture
def rsyslog(tmp_path: Path) -> Iterator[Callable[..., Rsyslog]]:
    made: list[Rsyslog] = []

    def make(inputs: str) -> Rsyslog:
        folder = tmp_path / "rsyslog"
        folder.mkdir()
        made.append(Rsyslog(folder, inputs))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def authority(tmp_path: Path) -> SelfSigned:
    return self_signed(tmp_path, "repository")


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings_for(folder: Path, **atna: Any) -> Settings:
    node = {"storage": folder / "node", "port": 0, "minimum_free_bytes": 0}
    return settings_from({"node": node, "atna": {"host": "127.0.0.1", "timeout_s": 5} | atna})


class Following:
    """A store and the followers that its settings ask for, as a node has them."""

    def __init__(self, settings: Settings) -> None:
        self.store: Store = open_store(settings, create=True)
        (self.follower,) = make_followers(settings, self.store)
        self.loop = self.follower.loop

    def __enter__(self) -> Following:
        self.loop.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.stop()
        assert self.loop.join(30)
        self.follower.finish()
        self.store.close()

    def images(self, first: int, count: int) -> list[str]:
        """Record that images came; return their UIDs."""
        uids = [f"1.2.826.0.1.{number}" for number in range(first, first + count)]
        peer = {"calling_ae_title": "CT1", "peer_address": "10.0.0.7", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1"}
        self.store.audit.extend([("instance.stored", peer | {"job_id": uid, "sop_instance_uid": uid}) for uid in uids])
        self.loop.wake()
        return uids


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def uid_of(line: str) -> str:
    """The image that a message is about; the message has to fit the schema."""
    header, _, xml = line.partition(BOM)
    assert header.startswith("85 dicom_gam DICOM+RFC3881 1|")
    tree = etree.fromstring(xml.encode())
    SCHEMA.assertValid(tree)
    return str(tree.find(".//Instance").get("UID"))


@pytest.mark.requirement("ATN-06")
def test_rsyslog_gets_every_message_over_tls_in_order_also_those_from_before_it_was_there(
    tmp_path: Path, rsyslog: Callable[..., Rsyslog], authority: SelfSigned, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    server = rsyslog(TLS.format(ca=authority.certificate, certificate=authority.certificate, key=authority.key,
                                port=port, mode="anon"))  # fmt: skip
    with Following(settings_for(tmp_path, port=port, ca=authority.certificate)) as following:
        uids = following.images(1, 300)
        wait_for(lambda: "follower.held" in caplog.text)  # nobody is there yet
        server.start()
        wait_for(lambda: len(server.messages()) >= 300)
        uids += following.images(301, 5)
        wait_for(lambda: len(server.messages()) >= 305)
        following.store.audit.append("instance.stored", job_id="", sop_instance_uid="1.2.826.0.1.306")
    wait_for(lambda: len(server.messages()) >= 306)  # what came after the loop had ended goes out at the finish
    assert [uid_of(line) for line in server.messages()] == [*uids, "1.2.826.0.1.306"]


@pytest.mark.requirement("ATN-07")
def test_nothing_is_lost_when_rsyslog_is_restarted(
    tmp_path: Path, rsyslog: Callable[..., Rsyslog], authority: SelfSigned
) -> None:
    port = free_port()
    server = rsyslog(TLS.format(ca=authority.certificate, certificate=authority.certificate, key=authority.key,
                                port=port, mode="anon"))  # fmt: skip
    server.start()
    with Following(settings_for(tmp_path, port=port, ca=authority.certificate)) as following:
        uids = following.images(1, 20)
        wait_for(lambda: len(server.messages()) >= 20)
        server.stop()
        uids += following.images(21, 20)
        server.start()
        wait_for(lambda: set(uids) <= {uid_of(line) for line in server.messages()})
    found = [uid_of(line) for line in server.messages()]
    assert list(dict.fromkeys(found)) == uids  # some of them twice, none lost, in order


@pytest.mark.requirement("ATN-08")
def test_mutual_tls_lets_us_in_with_our_certificate_and_says_so_without(
    tmp_path: Path, rsyslog: Callable[..., Rsyslog], authority: SelfSigned, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    server = rsyslog(TLS.format(ca=authority.certificate, certificate=authority.certificate, key=authority.key,
                                port=port, mode="x509/certvalid"))  # fmt: skip
    server.start()
    with Following(settings_for(tmp_path, port=port, ca=authority.certificate)) as following:
        uids = following.images(1, 3)
        wait_for(lambda: "atna.certificate" in caplog.text)
        assert server.messages() == []
    ours = {"certificate": authority.certificate, "key": authority.key}
    with Following(settings_for(tmp_path, port=port, ca=authority.certificate, **ours)):
        wait_for(lambda: len(server.messages()) >= 3)
    assert [uid_of(line) for line in server.messages()] == uids


@pytest.mark.requirement("ATN-08")
def test_a_server_that_is_not_the_one_we_trust_gets_nothing(
    tmp_path: Path, rsyslog: Callable[..., Rsyslog], authority: SelfSigned, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    server = rsyslog(TLS.format(ca=authority.certificate, certificate=authority.certificate, key=authority.key,
                                port=port, mode="anon"))  # fmt: skip
    server.start()
    stranger = self_signed(tmp_path, "stranger")
    with Following(settings_for(tmp_path, port=port, ca=stranger.certificate)) as following:
        following.images(1, 3)
        wait_for(lambda: "its certificate is not accepted" in caplog.text)
    assert server.messages() == []


def test_rsyslog_gets_the_messages_by_udp(tmp_path: Path, rsyslog: Callable[..., Rsyslog]) -> None:
    port = free_port(socket.SOCK_DGRAM)
    server = rsyslog(UDP.format(port=port))
    server.start()
    with Following(settings_for(tmp_path, port=port, transport="udp")) as following:
        wait_for(lambda: following.images(1, 1) != [] and bool(server.messages()))  # until it listens
        uids = following.images(500, 20)
        wait_for(lambda: len([line for line in server.messages() if uid_of(line) in set(uids)]) >= 20)


def test_the_follower_is_one_of_the_nodes_loops_and_says_how_it_fares(tmp_path: Path) -> None:
    with Following(settings_for(tmp_path, port=free_port(), transport="tls")) as following:
        following.images(1, 1)
        wait_for(lambda: "can't be reached" in following.loop.pulse().failure)
        assert isinstance(following.follower, AuditFollower)
        assert following.loop.pulse().name == "follower atna"
