"""TLS at the front door, with DCMTK, openssl and Python as clients, and certificates made by openssl."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import threading

import pytest
from pydicom.data import get_testdata_file

from dicom_gam.dicom.tls import client_context, server_context
from dicom_gam.errors import ConfigError
from dicom_gam.sections import Peer, TlsSettings
from tests.dicom.front_door import ABORT, FrontDoor, associate_rq, dcmtk, raw_connection, read_pdu, until

pytestmark = pytest.mark.usefixtures("certificates")


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)


def make_certificate(folder, name, ca=None, subject=None):
    """Make `name`.pem and `name`.key, signed by `ca` or by itself."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    signed = ["-CA", folder / f"{ca}.pem", "-CAkey", folder / f"{ca}.key"] if ca else []
    extension = (
        ["-addext", "subjectAltName=IP:127.0.0.1"] if ca else ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    )
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", f"/CN={subject or name}", "-keyout", key, "-out", certificate, *signed, *extension,
    )  # fmt: skip
    return certificate, key


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    make_certificate(folder, "ca")
    for name in ("node", "modality", "node2"):
        make_certificate(folder, name, "ca")
    make_certificate(folder, "stranger")
    return folder


@pytest.fixture
def settings(certificates, tmp_path):
    shutil.copy(certificates / "node.pem", tmp_path / "tls.pem")
    shutil.copy(certificates / "node.key", tmp_path / "tls.key")
    return TlsSettings(certificate=tmp_path / "tls.pem", key=tmp_path / "tls.key")


@pytest.fixture
def door(settings):
    with FrontDoor(tls=settings) as opened:
        yield opened


def echo(door, *options):
    return dcmtk("echoscu", "-ta", "10", "-aec", "DICOM_GAM", *options, "127.0.0.1", str(door.port))


def secured(certificates, name="modality"):
    return (
        "+tls",
        str(certificates / f"{name}.key"),
        str(certificates / f"{name}.pem"),
        "+cf",
        str(certificates / "ca.pem"),
    )


def client(certificates, name=None):
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    if name:
        context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    return context


def associates(sock):
    sock.sendall(associate_rq())
    return read_pdu(sock)[0] == 2


def subject_of(door, certificates):
    with raw_connection(door.port) as raw, client(certificates).wrap_socket(raw, server_hostname="127.0.0.1") as sock:
        return dict(part[0] for part in sock.getpeercert()["subject"])["commonName"]


@pytest.mark.requirement("DOOR-08")
def test_dcmtk_stores_over_tls(door, certificates):
    sent = dcmtk(
        "storescu",
        "-aec",
        "DICOM_GAM",
        *secured(certificates),
        "127.0.0.1",
        str(door.port),
        get_testdata_file("CT_small.dcm"),
    )
    assert sent.returncode == 0, sent.stderr
    assert len(door.arrivals) == 1


@pytest.mark.requirement("DOOR-08")
def test_a_plain_sender_is_refused_and_recorded(door):
    assert echo(door).returncode != 0
    until(lambda: door.told("connection.refused"))
    assert "TLS" in door.told("connection.refused")[0]["why"]


@pytest.mark.requirement("DOOR-08")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_tls_1_1_is_refused(door, certificates):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with raw_connection(door.port) as raw, pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(raw)
    until(lambda: door.told("connection.refused"))
    assert "PROTOCOL" in door.told("connection.refused")[0]["why"]


@pytest.mark.requirement("DOOR-08")
@pytest.mark.parametrize("cipher", ["AES256-SHA256", "ECDHE-ECDSA-AES256-SHA384", "DHE-RSA-AES256-GCM-SHA384"])
def test_a_cipher_without_forward_secrecy_or_authentication_is_refused(door, certificates, cipher):
    context = client(certificates)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(cipher)
    with raw_connection(door.port) as raw, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(raw, server_hostname="127.0.0.1")


@pytest.mark.requirement("DOOR-08")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(door, certificates, version):
    context = client(certificates)
    context.minimum_version = context.maximum_version = version
    with raw_connection(door.port) as raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as sock:
        assert associates(sock)


@pytest.mark.requirement("DOOR-05")
def test_a_stalled_handshake_is_harmless_and_ends(settings, certificates):
    with FrontDoor(tls=settings, negotiation_timeout_s=1.5) as door:
        stalled = [socket.create_connection(("127.0.0.1", door.port)) for _ in range(12)]
        for sock in stalled[6:]:
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert echo(door, *secured(certificates)).returncode == 0
        for sock in stalled:
            sock.settimeout(10)
            while sock.recv(100):
                pass
            sock.close()
        assert "handshake" in door.told("connection.dropped")[0]["why"]


@pytest.mark.requirement("DOOR-09")
@pytest.mark.parametrize(("name", "accepted"), [("modality", True), ("stranger", False), (None, False)])
def test_under_mutual_tls_only_senders_with_a_certificate_of_ours_get_in(settings, certificates, name, accepted):
    mutual = settings.model_copy(update={"client_ca": certificates / "ca.pem"})
    with FrontDoor(tls=mutual) as door:
        with raw_connection(door.port) as raw:
            try:
                with client(certificates, name).wrap_socket(raw, server_hostname="127.0.0.1") as sock:
                    got_in = associates(sock)
            except (ssl.SSLError, ConnectionError):
                got_in = False
        assert got_in is accepted
        if not accepted:
            until(lambda: door.told("connection.refused"))
    if name is None:
        with FrontDoor(tls=mutual) as door:
            options = ("+tla", "+cf", str(certificates / "ca.pem"))
            assert echo(door, *options).returncode != 0


def replace(path, source):
    fresh = path.with_suffix(".new")
    shutil.copy(source, fresh)
    os.replace(fresh, path)


@pytest.mark.requirement("DOOR-10")
def test_a_certificate_that_is_replaced_serves_the_next_connection_and_a_bad_one_does_not(door, settings, certificates):
    assert subject_of(door, certificates) == "node"
    with raw_connection(door.port) as raw, client(certificates).wrap_socket(raw, server_hostname="127.0.0.1") as old:
        replace(settings.certificate, certificates / "node2.pem")  # and not yet its key
        assert subject_of(door, certificates) == "node"
        assert subject_of(door, certificates) == "node"
        assert len(door.told("tls.reload_failed")) == 1
        assert "belong together" in door.told("tls.reload_failed")[0]["why"]
        replace(settings.key, certificates / "node2.key")
        assert subject_of(door, certificates) == "node2"
        assert associates(old)
    settings.certificate.unlink()
    assert subject_of(door, certificates) == "node2"
    assert len(door.told("tls.reload_failed")) == 2


def test_unusable_files_are_named_with_the_remedy(settings, certificates, tmp_path):
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    encrypted = tmp_path / "encrypted.key"
    openssl("ec", "-in", certificates / "node.key", "-aes128", "-passout", "pass:secret", "-out", encrypted)
    for change, words in [
        ({"certificate": tmp_path / "absent.pem"}, "absent.pem can't be read"),
        ({"certificate": garbage}, "must be PEM"),
        ({"key": certificates / "modality.key"}, "belong together"),
        ({"key": encrypted}, "not be encrypted"),
        ({"client_ca": garbage}, "certificates in PEM"),
    ]:
        with pytest.raises(ConfigError, match=words):
            server_context(settings.model_copy(update=change))
    with pytest.raises(ConfigError, match="not set"):
        server_context(TlsSettings())


@pytest.mark.requirement("DEL-11")
def test_our_own_client_checks_whom_it_talks_to(door, certificates):
    def peer(**more):
        return Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=door.port, tls=True, **more)

    ours = {"certificate": certificates / "modality.pem", "key": certificates / "modality.key"}
    with raw_connection(door.port) as raw:
        trusting = client_context(peer(ca=certificates / "ca.pem", **ours))
        with trusting.wrap_socket(raw, server_hostname="127.0.0.1") as sock:
            assert associates(sock)
    for context, host in [
        (client_context(peer(ca=certificates / "stranger.pem")), "127.0.0.1"),
        (client_context(peer()), "127.0.0.1"),
        (client_context(peer(ca=certificates / "ca.pem")), "127.0.0.2"),
    ]:
        with raw_connection(door.port) as raw, pytest.raises(ssl.SSLCertVerificationError):
            context.wrap_socket(raw, server_hostname=host)
    with pytest.raises(ConfigError, match="absent"):
        client_context(peer(ca=certificates / "absent.pem"))


def test_stopping_ends_a_secured_association(settings, certificates):
    with FrontDoor(tls=settings) as door:
        with (
            raw_connection(door.port) as raw,
            client(certificates).wrap_socket(raw, server_hostname="127.0.0.1") as sock,
        ):
            assert associates(sock)
            stopper = threading.Thread(target=door.listener.stop, args=(0.1,))
            stopper.start()
            kind, _ = read_pdu(sock)
        stopper.join(10)
    assert kind == ABORT
    assert door.told("association.aborted")
