"""Signatures under the log, and the keys that make and check them."""

import json
import shutil
import stat
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from dicom_gam.errors import AuditError, ConfigError, StorageError
from dicom_gam.storage.audit import AuditLog, records
from dicom_gam.storage.audit_reader import latest_checkpoint
from dicom_gam.storage.audit_signing import KEY_FILE, PUBLIC_KEY_FILE, PublicKeys, Signer, open_signer, read_public_keys
from dicom_gam.storage.audit_verification import verify_log
from tests.storage.made_audit_log import MemoryHead, Ticking

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TIME = "2026-01-02T12:00:00.250Z"


@pytest.mark.requirement("AUD-07")
def test_a_checkpoint_holds_number_digest_key_and_signature_of_the_record_before(tmp_path):
    head, path = MemoryHead(), tmp_path / "audit.jsonl"
    log = AuditLog(path, head, Ticking())
    log.sign_with(Signer(KEY), 10**9)
    log.append("event")
    assert log.checkpoint() == 2
    log.append("event")
    log.close()
    record = list(records(path))[1]
    keys = record["keys"]
    assert (record["event"], keys["number"], keys["sha256"]) == ("audit.checkpoint", 1, record["previous"])
    assert keys["fingerprint"] == Signer(KEY).fingerprint
    found = verify_log(path, head.mark, PublicKeys([KEY.public_key()]))
    assert (found.records, found.signed_to, found.signed_at) == (3, 2, record["time"])
    assert latest_checkpoint(path) == record["time"]
    assert verify_log(path, head.mark).unchecked_signatures == 1


def test_only_a_log_with_a_key_signs(tmp_path):
    log = AuditLog(tmp_path / "audit.jsonl", MemoryHead())
    with pytest.raises(StorageError, match="only the node signs"):
        log.checkpoint()
    log.close()


@given(
    st.integers(0, 10**12),
    st.binary(min_size=32, max_size=32),
    st.sampled_from(["number", "sha256", "time", "signature"]),
)
def test_a_signature_holds_for_its_own_record_and_time_only(number, sha256, changed):
    signer, trusted = Signer(KEY), PublicKeys([KEY.public_key()])
    keys = signer.keys(number, sha256.hex(), TIME)
    assert trusted.fault(keys, number, sha256.hex(), TIME) == ""
    place = {"number": number, "sha256": sha256.hex(), "time": TIME}
    if changed == "signature":
        keys["signature"] = signer.keys(number + 1, sha256.hex(), TIME)["signature"]
    else:
        place[changed] = number + 1 if changed == "number" else "0" * 64 if changed == "sha256" else TIME[:-2] + "1Z"
    if place != {"number": number, "sha256": sha256.hex(), "time": TIME} or changed == "signature":
        assert trusted.fault(keys, **place)


@pytest.mark.parametrize("keys", [{}, {"number": 1}, {"number": 1, "sha256": "a", "fingerprint": None, "signature": 3}])
def test_a_checkpoint_without_what_it_should_hold_is_a_fault_and_no_error(keys):
    assert PublicKeys([KEY.public_key()]).fault(keys, 1, "a", TIME)


@pytest.mark.requirement("AUD-13")
def test_the_key_is_made_once_readable_by_its_owner_only_and_openssl_reads_it(tmp_path):
    first, before = open_signer(tmp_path, None)
    again, _ = open_signer(tmp_path, None)
    assert (before, again.fingerprint) == ([], first.fingerprint)
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    assert read_public_keys([tmp_path / PUBLIC_KEY_FILE]).fingerprints == [first.fingerprint]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([KEY_FILE, PUBLIC_KEY_FILE])
    openssl = shutil.which("openssl")
    if openssl:
        command = [openssl, "pkey", "-in", str(tmp_path / KEY_FILE), "-pubout"]
        done = subprocess.run(command, capture_output=True, check=True)
        assert done.stdout == (tmp_path / PUBLIC_KEY_FILE).read_bytes()


@pytest.mark.requirement("AUD-13")
def test_a_new_key_is_added_to_the_public_ones_so_that_old_signatures_still_hold(tmp_path):
    first, _ = open_signer(tmp_path, None)
    (tmp_path / KEY_FILE).unlink()
    second, before = open_signer(tmp_path, None)
    assert before == [first.fingerprint]
    assert read_public_keys([tmp_path / PUBLIC_KEY_FILE]).fingerprints == [first.fingerprint, second.fingerprint]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "can't be read"),
        (b"", "no private key in PEM form"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no private key in PEM form"),
    ],
)
def test_a_key_that_can_not_be_used_is_refused_with_the_command_that_makes_one(tmp_path, content, told):
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=told) as caught:
        open_signer(tmp_path, path)
    assert "openssl genpkey -algorithm ed25519" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_file_that_is_no_public_key_is_refused(tmp_path, content):
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="public key"):
        read_public_keys([path])


def test_a_closed_file_that_does_not_end_with_a_signature_is_found(tmp_path):
    head, path = MemoryHead(), tmp_path / "audit.jsonl"
    log = AuditLog(path, head, Ticking())
    log.extend([("event", {"n": n}) for n in range(5)])
    log.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.with_name("audit-000000000001.jsonl").write_bytes(b"".join(lines[:3]))
    path.write_bytes(b"".join(lines[3:]))
    with pytest.raises(AuditError, match="should be a signature") as caught:
        verify_log(path, head.mark, PublicKeys([KEY.public_key()]))
    assert caught.value.record == 3


def test_the_latest_signature_is_found_far_from_the_end(tmp_path):
    head, path = MemoryHead(), tmp_path / "audit.jsonl"
    log = AuditLog(path, head, Ticking())
    assert latest_checkpoint(path) == ""
    log.sign_with(Signer(KEY), 10**9)
    number = log.checkpoint()
    log.extend([("event", {"text": '\n{"event":"audit.checkpoint",' + "x" * 500_000}) for _ in range(7)])
    log.close()
    assert latest_checkpoint(path) == next(r["time"] for r in records(path) if r["number"] == number)
    assert json.loads(path.read_bytes().splitlines()[-1])["number"] == 8
