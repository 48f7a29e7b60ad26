"""A node signs its log: at the first start, when it is due, when it stops; and `audit verify` says so."""

import shutil
import time

import pytest
from typer.testing import CliRunner

from dicom_gam.cli.main import app
from dicom_gam.errors import AuditError, ConfigError
from dicom_gam.oversight_sections import AuditSettings
from dicom_gam.service.audit_check import check_log
from dicom_gam.service.audit_seal import Sealer
from dicom_gam.service.node import Node
from dicom_gam.service.store import AUDIT_FILE, open_store
from dicom_gam.storage.audit import records
from dicom_gam.storage.audit_signing import KEY_FILE, PUBLIC_KEY_FILE
from tests.service.fakes import process


def told(configured):
    return [record["event"] for record in records(configured.node.storage / AUDIT_FILE)]


def verify(*arguments):
    return CliRunner().invoke(app, ["audit", "verify", *map(str, arguments)], env={"COLUMNS": "400"})


@pytest.mark.requirement("AUD-07")
def test_a_node_signs_at_its_first_start_and_when_it_stops(settings):
    configured = settings()
    for _ in range(2):
        with Node(configured, process) as node:
            assert any(loop.name == "audit-seal" and loop.alive for loop in node.vitals().loops)
    marks = [name for name in told(configured) if name in ("node.started", "node.stopped", "audit.checkpoint")]
    assert marks == [
        "node.started", "audit.checkpoint", "node.stopped", "audit.checkpoint",
        "node.started", "node.stopped", "audit.checkpoint",
    ]  # fmt: skip
    found = check_log(configured.node.storage)
    assert found.signed_to == found.records


@pytest.mark.requirement("AUD-07")
@pytest.mark.parametrize(("passed_s", "signs"), [(10, False), (3601, True), (-10, True)])
def test_a_signature_is_made_when_the_latest_is_too_old_or_in_the_future(settings, passed_s, signs):
    configured = settings().model_copy(update={"audit": AuditSettings(checkpoint_interval_s=3600.0)})
    with open_store(configured, create=True) as store:
        now = [time.time()]
        Sealer(configured.audit, store.folder, store.audit, lambda: now[0]).sign_if_due()
        now[0] = time.time() + passed_s
        again = Sealer(configured.audit, store.folder, store.audit, lambda: now[0])
        assert 0 < again.sign_if_due() <= 3600
        assert told(configured).count("audit.checkpoint") == 1 + signs


def test_another_key_is_put_on_record_and_old_signatures_still_hold(settings):
    configured = settings()
    with Node(configured, process):
        pass
    kept = shutil.copy(configured.node.storage / PUBLIC_KEY_FILE, configured.node.storage.parent / "kept.pem")
    (configured.node.storage / KEY_FILE).unlink()
    with Node(configured, process):
        pass
    assert "audit.key_changed" in told(configured)
    assert len(check_log(configured.node.storage).fingerprints) == 2
    with pytest.raises(AuditError, match="not among those given"):
        check_log(configured.node.storage, [kept])


def test_a_configured_key_that_is_not_there_keeps_the_node_from_starting(settings, tmp_path):
    configured = settings().model_copy(update={"audit": AuditSettings(key=tmp_path / "none.pem")})
    with pytest.raises(ConfigError, match=r"see audit\.key"):
        Node(configured, process).start()


@pytest.mark.requirement("AUD-09")
def test_audit_verify_says_how_far_signatures_reach_and_what_a_kept_key_is_worth(settings, tmp_path):
    configured = settings()
    with Node(configured, process):
        pass
    storage = configured.node.storage
    kept = tmp_path / "kept.pem"
    shutil.copy(storage / PUBLIC_KEY_FILE, kept)
    by_folder, by_kept = verify(storage), verify(storage, "--public-key", kept)
    assert (by_folder.exit_code, by_kept.exit_code) == (0, 0)
    assert "records, unbroken" in by_folder.stdout
    assert "signed up to record" in by_folder.stdout
    assert "kept elsewhere" in by_folder.stdout
    assert "kept elsewhere" not in by_kept.stdout
    (storage / PUBLIC_KEY_FILE).unlink()
    assert isinstance(verify(storage).exception, AuditError | SystemExit)
    assert verify(storage, "--public-key", kept).exit_code == 0


@pytest.mark.requirement("AUD-09")
def test_a_log_that_was_replaced_by_an_unsigned_one_is_found_with_the_kept_key(settings, tmp_path):
    configured = settings()
    with Node(configured, process):
        pass
    kept = shutil.copy(configured.node.storage / PUBLIC_KEY_FILE, tmp_path / "kept.pem")
    shutil.rmtree(configured.node.storage)
    with open_store(configured, create=True) as store:
        store.audit.append("event")
    with pytest.raises(AuditError, match="nothing in the audit log"):
        check_log(configured.node.storage, [kept])
