"""Make what the other services need before their first start: a certificate and two passwords.

Run by `docker compose up` at every start; what is there already stays, but for a certificate that soon runs out.
"""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NODE, ORTHANC, GRAFANA = 10001, 999, 472  # the users of the images
READER = "reader"
VALID = timedelta(days=825)
RENEW_BEFORE = timedelta(days=60)


def main(folder: Path) -> None:
    """Fill the three volumes below `folder`."""
    certificate = folder / "certificate" / "web.crt"
    if not _holds(certificate):
        made, key = make_certificate(("node", "localhost"), ("127.0.0.1", "::1"))
        _write(certificate.with_suffix(".key"), key, NODE, NODE, 0o400)
        _write(certificate, made, NODE, NODE, 0o444)
    users = folder / "orthanc" / "users.json"
    if not users.exists():
        text = json.dumps({"RegisteredUsers": {READER: secrets.token_urlsafe(15)}})
        _write(users, text.encode(), ORTHANC, NODE, 0o440)  # the service first-study reads it too
    password = folder / "grafana" / "admin-password"
    if not password.exists():
        _write(password, secrets.token_urlsafe(15).encode(), GRAFANA, GRAFANA, 0o400)


def make_certificate(names: tuple[str, ...], addresses: tuple[str, ...]) -> tuple[bytes, bytes]:
    """A self-signed certificate and its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dicom_gam")])
    alternatives: list[x509.GeneralName] = [x509.DNSName(each) for each in names]
    alternatives += [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


def _holds(path: Path) -> bool:
    """Whether there is a certificate that is valid for a while; one from a hospital's CA is never replaced."""
    if not path.exists():
        return False
    certificate = x509.load_pem_x509_certificates(path.read_bytes())[0]
    ours = certificate.issuer == certificate.subject
    return not ours or certificate.not_valid_after_utc - datetime.now(UTC) > RENEW_BEFORE


def _write(path: Path, content: bytes, user: int, group: int, mode: int) -> None:
    """Put a whole file in place at once, for `user` and `group` only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partly = path.with_name(f".{path.name}")
    partly.unlink(missing_ok=True)
    with os.fdopen(os.open(partly, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
        if os.geteuid() == 0:
            os.fchown(file.fileno(), user, group)
    partly.rename(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
