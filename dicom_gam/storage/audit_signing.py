"""Signatures under the audit log: Ed25519 (RFC 8032) over number and digest of a record, kept in the record after it.

The chain alone shows an edit only as long as nobody chains the rest anew. A signature can't be made anew without the
private key; so it is found, by whoever has the public key from before.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from dicom_gam.errors import ConfigError, StorageError
from dicom_gam.storage.blobs import sync_folder, write_all

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

KEY_FILE = "audit-key.pem"
PUBLIC_KEY_FILE = "audit-key.pub.pem"
_ONE_KEY = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----\s*", re.DOTALL)
_MAKE_ONE = "make one by: openssl genpkey -algorithm ed25519 -out FILE"


class Signer:
    """Signs the log. `fingerprint` is the SHA-256 of the public key's DER form, in hexadecimal."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.fingerprint = _fingerprint(key.public_key())

    def keys(self, number: int, sha256: str, time: str) -> dict[str, Any]:
        """What a checkpoint written at `time` holds that signs the record `number` before it."""
        signature = self._key.sign(_signed(number, sha256, time))
        return {
            "number": number,
            "sha256": sha256,
            "fingerprint": self.fingerprint,
            "signature": base64.b64encode(signature).decode("ascii"),
        }


class PublicKeys:
    """The keys whose signatures are believed, by fingerprint."""

    def __init__(self, keys: Sequence[Ed25519PublicKey]) -> None:
        self._keys = {_fingerprint(key): key for key in keys}

    @property
    def fingerprints(self) -> list[str]:
        """Their fingerprints, in the order of the files."""
        return list(self._keys)

    def fault(self, keys: Mapping[str, Any], number: int, sha256: str, time: str) -> str:
        """Say what is wrong with a checkpoint that stands after record `number`, empty when nothing is."""
        if keys.get("number") != number or keys.get("sha256") != sha256:
            return "it signs another record than the one before it: the log before it was rewritten"
        key = self._keys.get(str(keys.get("fingerprint")))
        if key is None:
            return f"it is signed by a key that is not among those given ({str(keys.get('fingerprint'))[:16]}...)"
        try:
            key.verify(base64.b64decode(str(keys.get("signature")), validate=True), _signed(number, sha256, time))
        except (InvalidSignature, binascii.Error, ValueError):
            return "its signature is wrong: the log up to it was rewritten by someone without the key"
        return ""


def read_public_keys(paths: Sequence[Path]) -> PublicKeys:
    """The keys of PEM files, each of which may hold several. Raises ConfigError that names the file."""
    found: list[Ed25519PublicKey] = []
    for path in paths:
        try:
            parts = _ONE_KEY.findall(path.read_bytes())
            keys = [load_pem_public_key(part) for part in parts]
        except OSError as error:
            msg = f"the public key {path} can't be read ({error.strerror}): give the copy that was kept of it"
            raise ConfigError(msg) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            msg = f"{path} is no public key in PEM form: give a copy of the node's {PUBLIC_KEY_FILE}"
            raise ConfigError(msg) from error
        ours = [key for key in keys if isinstance(key, Ed25519PublicKey)]
        if not ours or len(ours) != len(keys):
            msg = f"{path} holds no Ed25519 public key, or others besides: give a copy of the node's {PUBLIC_KEY_FILE}"
            raise ConfigError(msg)
        found += ours
    return PublicKeys(found)


def open_signer(folder: Path, configured: Path | None) -> tuple[Signer, list[str]]:
    """The key that signs the log in `folder`, and the fingerprints of those that signed it before and differ.

    The folder's own key is made where there is none; its public half is kept in the folder. Only for the node that
    owns the folder. Raises ConfigError for a key that can't be used, StorageError when one can't be written.
    """
    path = configured or folder / KEY_FILE
    if configured is None and not path.exists():
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write_durably(path, pem, 0o600)
    signer = Signer(_load(path))
    public = folder / PUBLIC_KEY_FILE
    before = read_public_keys([public]).fingerprints if public.exists() else []
    if signer.fingerprint not in before:
        _write_durably(public, (public.read_bytes() if before else b"") + signer.public_pem, 0o644)
        return signer, before
    return signer, []


def _load(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        msg = f"the key of the audit log {path} can't be read ({error.strerror}): see audit.key; {_MAKE_ONE}"
        raise ConfigError(msg) from error
    except TypeError as error:
        msg = f"the key of the audit log {path} has a passphrase, which nobody is there to type: give one without"
        raise ConfigError(msg) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        msg = f"{path} is no private key in PEM form: restore it from a backup, or {_MAKE_ONE}"
        raise ConfigError(msg) from error
    if not isinstance(key, Ed25519PrivateKey):
        msg = f"the key of the audit log {path} is not of the kind Ed25519: {_MAKE_ONE}"
        raise ConfigError(msg)
    return key


def _signed(number: int, sha256: str, time: str) -> bytes:
    return f"dicom_gam audit checkpoint\n{number}\n{sha256}\n{time}\n".encode()


def _fingerprint(key: Ed25519PublicKey) -> str:
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _write_durably(path: Path, content: bytes, mode: int) -> None:
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            write_all(descriptor, memoryview(content))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        msg = f"the key of the audit log {path} can't be written ({error.strerror}): see to the disk and its rights"
        raise StorageError(msg) from error
