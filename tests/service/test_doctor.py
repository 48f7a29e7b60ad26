"""What the doctor finds in sick nodes, and that it leaves healthy ones as they are."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dicom_gam.config import Settings, settings_from
from dicom_gam.dicom.certificate import certificates, validity
from dicom_gam.errors import ConfigError, StorageError
from dicom_gam.records import ReceivedInstance
from dicom_gam.service import doctor, doctor_checks, doctor_door, doctor_image
from dicom_gam.service.doctor import Examined, examine, exit_status
from dicom_gam.service.doctor_case import Case, Finding, Level, ok
from dicom_gam.service.store import AUDIT_FILE, DATABASE_FILE, Store, open_store, own
from dicom_gam.storage.layouts import LAYOUTS
from dicom_gam.storage.rows import Conclusion, NewDelivery, NewJob
from dicom_gam.storage.states import JobEvent
from tests.bundle.copies import with_changes
from tests.service.fakes import TORN_CONNECTIONS, Archive, free_port, until

Usage = namedtuple("Usage", "total used free")
GIB = 1024**3


@pytest.fixture
def case(tmp_path: Path) -> Callable[..., Case]:
    def make(**sections: Any) -> Case:
        table: dict[str, Any] = {"node": {"storage": tmp_path / "node", "minimum_free_bytes": 0, "port": free_port()}}
        for name, value in sections.items():
            table[name] = table.get(name, {}) | value if isinstance(value, dict) else value
        return Case(settings_from(table))

    return make


@pytest.fixture
def store(case: Callable[..., Case]) -> Iterator[Store]:
    with open_store(case().settings, create=True) as opened:
        yield opened


def end(store: Store, number: int, event: JobEvent, *destinations: str, now: float | None = None) -> str:
    now = time.time() if now is None else now
    name = add(store, number, now)
    (job,) = store.jobs.claim("w", 1, 60.0, now)
    deliveries = [
        NewDelivery(d, "1.2.9", "sr", "1.2.3", f"1.2.{number}", "1.2.840.10008.1.2.1", "b" * 64) for d in destinations
    ]
    assert store.jobs.finish(job.lease, Conclusion(event, "X"), deliveries, now)
    return name


def add(store: Store, number: int, received_at: float, uid: str | None = None) -> str:
    name = f"{number:032x}"
    instance = ReceivedInstance(
        Path("x"), "1.2.840.10008.5.1.4.1.1.1", uid or f"1.2.{number}", "1.2.840.10008.1.2.1", name, 9
    )
    store.jobs.add(NewJob(name, name, instance, received_at))
    return name


def only(findings: Iterator[Finding], level: Level) -> Finding:
    """The one finding that is not fine (or, for OK, the only one)."""
    found = [finding for finding in findings if level is Level.OK or finding.level is not Level.OK]
    assert [finding.level for finding in found] == [level], found
    return found[0]


@pytest.mark.requirement("OPS-03")
def test_a_wrong_configuration_is_explained_and_nothing_else_is_looked_at(tmp_path):
    (tmp_path / "node.toml").write_text("[node]\nprot = 11112\n")
    (found,) = examine(tmp_path / "node.toml")
    assert (found.check, found.level) == ("configuration", Level.FAIL)
    assert "unknown key node.prot (did you mean port?)" in found.found


@pytest.mark.requirement("OPS-03")
def test_one_check_that_fails_or_breaks_does_not_stop_the_others(tmp_path, monkeypatch):
    def refused(case: Case) -> Iterator[Finding]:
        raise StorageError("the disk is gone: put it back")

    def broken(case: Case) -> Iterator[Finding]:
        yield ok("so far")
        raise KeyError("SECRET^NAME")

    monkeypatch.setattr(
        doctor, "CHECKS", (("a", refused, False), ("b", broken, False), ("c", lambda c: [ok("x")], False))
    )
    (tmp_path / "node.toml").write_text("")
    found = list(examine(tmp_path / "node.toml"))
    assert [(item.check, item.level) for item in found[1:]] == [
        ("a", Level.FAIL),
        ("b", Level.OK),
        ("b", Level.FAIL),
        ("c", Level.OK),
    ]
    assert found[1].found == "the disk is gone: put it back"
    assert "KeyError" in found[3].found
    assert "SECRET" not in found[3].found
    assert exit_status(item.level for item in found) == 2


@pytest.mark.parametrize(
    ("levels", "status"), [([Level.OK], 0), ([Level.OK, Level.WARN], 1), ([Level.FAIL, Level.OK], 2)]
)
def test_exit_status_is_that_of_the_worst_finding(levels, status):
    assert exit_status(levels) == status


@pytest.mark.requirement("OPS-03")
def test_looking_at_a_node_that_never_ran_makes_nothing(case, tmp_path):
    fresh = case()
    for what, check, _ in doctor.CHECKS:
        if what not in ("bundles", "test image"):
            assert all(finding.level < Level.FAIL for finding in check(fresh)), what
    assert list(tmp_path.iterdir()) == []
    assert "the node makes it" in only(doctor_checks.check_folder(fresh), Level.OK).found


@pytest.mark.requirement("OPS-03")
def test_looking_at_a_node_changes_nothing_in_its_folder(case, store):
    end(store, 1, JobEvent.FINISH, "PACS")
    store.close()
    before = contents(case().folder)
    for what, check, _ in doctor.CHECKS:
        if what not in ("bundles", "test image"):
            list(check(case()))
    after = contents(case().folder)
    after = {
        name: value for name, value in after.items() if name not in (f"{DATABASE_FILE}-shm", f"{DATABASE_FILE}-wal")
    }
    assert after == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_others_may_read_is_told_with_the_command_that_closes_it(case):
    case().folder.mkdir(mode=0o700)
    case().folder.chmod(0o755)
    found = only(doctor_checks.check_folder(case()), Level.WARN)
    assert "mode 0755" in found.found
    assert found.remedy == f"chmod 700 {case().folder}"


def test_a_folder_of_another_user_is_told(case, monkeypatch):
    case().folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert "this is run by user 12345" in only(doctor_checks.check_folder(case()), Level.WARN).found


def test_stray_files_are_counted(case):
    (case().folder / "stray").mkdir(mode=0o700, parents=True)
    case().folder.chmod(0o700)
    (case().folder / "stray" / "x.dcm").write_bytes(b"x")
    assert "1 files without a job" in only(doctor_checks.check_folder(case()), Level.WARN).found


@pytest.mark.parametrize(
    ("free", "level", "words"),
    [
        (3 * GIB, Level.OK, "3.0 GiB of 9.0 GiB"),
        (1.5 * GIB, Level.WARN, "before their time"),
        (0.5 * GIB, Level.FAIL, "A700"),
    ],
)
def test_free_space_is_held_against_both_watermarks(case, monkeypatch, free, level, words):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9 * GIB, 0, free))
    finding = only(doctor_checks.check_space(case(node={"minimum_free_bytes": GIB})), level)
    assert words in finding.found


def test_a_watermark_that_comes_too_late_is_told(case, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(90 * GIB, 0, 50 * GIB))
    found = only(doctor_checks.check_space(case(node={"minimum_free_bytes": 4 * GIB})), Level.WARN)
    assert "images are refused before room is made" in found.found


def test_a_disk_that_can_not_sync_is_a_failure_and_a_slow_one_a_warning(case, monkeypatch):
    case().folder.mkdir()
    assert "written durably in" in only(doctor_checks.check_writes(case()), Level.OK).found
    monkeypatch.setattr(doctor_checks, "SLOW_WRITE_S", -1.0)
    assert "faster, local disk" in only(doctor_checks.check_writes(case()), Level.WARN).remedy

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    assert "Input/output error" in only(doctor_checks.check_writes(case()), Level.FAIL).found
    assert list(case().folder.iterdir()) == []


def test_a_damaged_database_is_a_failure(case, store):
    for number in range(200):
        add(store, number, 1.0)
    store.close()
    path = case().folder / DATABASE_FILE
    assert "is whole" in only(doctor_checks.check_database(case()), Level.OK).found
    content = bytearray(path.read_bytes())
    content[-3 * 4096 :] = b"\xff" * (3 * 4096)
    path.write_bytes(content)
    found = only(doctor_checks.check_database(case()), Level.FAIL)
    assert "is damaged" in found.found
    assert "restore the database from a backup" in found.remedy


def test_an_earlier_layout_is_not_brought_up_to_date_by_looking(case):
    case().folder.mkdir()
    path = case().folder / DATABASE_FILE
    with sqlite3.connect(path) as connection:
        connection.executescript(f"{LAYOUTS[0]} PRAGMA user_version = 1;")
    connection.close()
    assert "the next start brings it to" in only(doctor_checks.check_database(case()), Level.OK).found
    assert list(doctor_checks.check_jobs(case())) == list(doctor_checks.check_audit(case())) == []
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.close()


def test_a_database_of_a_later_version_is_a_failure(case, store):
    with store.database.transaction() as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "layout 99" in only(doctor_checks.check_database(case()), Level.FAIL).found


def test_images_that_wait_while_the_node_is_off_are_told_with_their_age(case, store):
    add(store, 1, time.time() - 7200)
    found = only(doctor_checks.check_jobs(case()), Level.WARN)
    assert "1 images wait to be processed, the oldest for 2 hours" in found.found
    assert found.remedy == "start the node"


def test_a_running_node_may_have_images_that_wait_a_little(case, store):
    add(store, 1, time.time() - 5)
    held = own(case().folder)
    try:
        assert "1 wait" in only(doctor_checks.check_jobs(case()), Level.OK).found
    finally:
        os.close(held)


def test_jobs_of_a_silent_worker_are_told(case, store):
    add(store, 1, time.time())
    store.jobs.claim("w", 1, 10.0, time.time() - 60)
    held = own(case().folder)
    try:
        assert "fallen silent" in only(doctor_checks.check_jobs(case()), Level.WARN).found
    finally:
        os.close(held)


def test_failed_and_quarantined_jobs_are_told_for_a_week(case, store):
    end(store, 1, JobEvent.GIVE_UP)
    add(store, 2, time.time(), uid="1.2.1")
    failed, quarantined = doctor_checks.check_jobs(case())
    assert (failed.level, quarantined.level) == (Level.WARN, Level.WARN)
    assert "1 jobs have failed" in failed.found
    assert "1 images were quarantined" in quarantined.found
    with store.database.transaction() as connection:
        connection.execute("UPDATE jobs SET finished_at = finished_at - 8 * 86400")
    assert "none failed lately" in only(doctor_checks.check_jobs(case()), Level.OK).found


PACS = {"name": "PACS", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}


def test_dead_letters_are_told_with_their_causes(case, store):
    for number, cause in enumerate(("no room there", "no room there", "SOP class refused"), 1):
        name = end(store, number, JobEvent.FINISH, "PACS")
        (delivery,) = store.outbox.deliveries(name)
        store.outbox.bury(delivery.delivery_id, 0xA700, cause, time.time())
    often, once = doctor_checks.check_deliveries(case(destinations=[PACS]))
    assert often.level is Level.FAIL
    assert often.found == "2 of 3 dead letters for PACS: no room there"
    assert "SOP class refused" in once.found


def test_results_for_a_destination_that_was_removed_are_a_failure(case, store):
    end(store, 1, JobEvent.FINISH, "OLD")
    found = next(f for f in doctor_checks.check_deliveries(case(destinations=[PACS])) if f.level is Level.FAIL)
    assert "1 results wait for OLD, which is no destination any more" in found.found


def test_results_that_wait_for_long_are_told_with_the_latest_cause_and_a_pause_with_its_reason(case, store):
    name = end(store, 1, JobEvent.FINISH, "PACS", now=time.time() - 7200)
    (delivery,) = store.outbox.deliveries(name)
    store.outbox.postpone(delivery.delivery_id, time.time(), None, "connection refused", time.time())
    there = case(destinations=[PACS])
    assert "the oldest for 2 hours: connection refused" in only(doctor_checks.check_deliveries(there), Level.WARN).found
    store.outbox.pause("PACS", "moving house", time.time())
    assert (
        "PACS is paused (moving house): 1 results wait" in only(doctor_checks.check_deliveries(there), Level.WARN).found
    )


@pytest.mark.requirement("OPS-03")
def test_an_edited_audit_log_is_named_by_its_first_bad_record(tmp_path, case, store, monkeypatch):
    for number in range(3):
        store.audit.append("x", number=number)
    assert "3 records, unbroken" in only(doctor_checks.check_audit(case()), Level.OK).found
    path = case().folder / AUDIT_FILE
    path.write_bytes(path.read_bytes().replace(b'"number":1}', b'"number":7}'))
    monkeypatch.setattr(doctor, "CHECKS", (("audit log", doctor_checks.check_audit, False),))
    (tmp_path / "node.toml").write_text(f'[node]\nstorage = "{case().folder}"\n')
    found = list(examine(tmp_path / "node.toml"))[1]
    assert (found.level, "record 2" in found.found or "record 3" in found.found) == (Level.FAIL, True)


def test_a_clock_behind_the_latest_image_is_a_failure(case, store, monkeypatch):
    monkeypatch.setattr(doctor_checks, "_synchronised", lambda: True)
    add(store, 1, time.time() + 86400)
    assert "the latest image was received at" in only(doctor_checks.check_clock(case()), Level.FAIL).found


@pytest.mark.parametrize(("kept", "level"), [(True, Level.OK), (None, Level.OK), (False, Level.WARN)])
def test_a_clock_that_nobody_keeps_right_is_a_warning(case, monkeypatch, kept, level):
    monkeypatch.setattr(doctor_checks, "_synchronised", lambda: kept)
    only(doctor_checks.check_clock(case()), level)


def test_an_impossible_year_is_a_failure(case, monkeypatch):
    monkeypatch.setattr(doctor_checks.time, "time", lambda: 100.0)
    monkeypatch.setattr(doctor_checks, "_synchronised", lambda: True)
    assert "which can't be" in only(doctor_checks.check_clock(case()), Level.FAIL).found


def test_the_kernel_can_be_asked_about_its_clock():
    assert doctor_checks._synchronised() in (True, False, None)


def test_a_node_that_is_off_is_a_warning_and_a_port_that_another_holds_a_failure(case):
    off = case()
    assert "its port" in only(doctor_door.check_running(off), Level.WARN).found
    with socket.create_server(("127.0.0.1", off.settings.node.port)):
        assert "in use by another program" in only(doctor_door.check_running(off), Level.FAIL).found


@TORN_CONNECTIONS[0]
@TORN_CONNECTIONS[1]
def test_a_node_that_runs_is_asked_for_an_echo(case, store):
    there = case()
    held = own(there.folder)
    try:
        assert "does not answer us" in only(doctor_door.check_running(there), Level.FAIL).found
        with Archive("DICOM_GAM", there.settings.node.port):
            assert "answers C-ECHO" in only(doctor_door.check_running(there), Level.OK).found
    finally:
        os.close(held)
    assert "does not run" in only(doctor_door.check_running(there), Level.WARN).found


CALLER = {"ae_title": "CR1", "hosts": ["10.0.0.0/8"]}


@pytest.mark.parametrize(
    ("host", "access", "level", "words"),
    [
        ("0.0.0.0", {}, Level.FAIL, "access.callers is empty"),
        ("0.0.0.0", {"anyone_may_send": True}, Level.WARN, "whoever reaches"),
        ("127.0.0.1", {}, Level.WARN, "only this machine itself"),
        ("127.0.0.1", {"callers": [CALLER]}, Level.WARN, "listens on 127.0.0.1 alone"),
        ("0.0.0.0", {"callers": [CALLER]}, Level.OK, "lets in 1 "),
    ],
)
def test_a_door_that_is_wide_open_or_that_nobody_can_enter_is_told(case, host, access, level, words):
    found = only(doctor_door.check_access(case(node={"host": host}, access=access)), level)
    assert words in found.found


def test_the_title_to_knock_with_is_one_that_is_let_in(case):
    assert doctor_door.admitted_title(case()) == "DICOM_GAM"
    assert doctor_door.admitted_title(case(access={"callers": [CALLER]})) is None
    near = {"ae_title": "CR2", "hosts": ["127.0.0.0/8"]}
    assert doctor_door.admitted_title(case(access={"callers": [CALLER, near]})) == "CR2"


def make_certificate(folder: Path, name: str, days: int) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
               "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", str(days), "-subj", "/CN=node"]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates that are valid for ten days and for ten years."""
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder, "short", 10)
    make_certificate(folder, "long", 3650)
    return folder


@pytest.mark.parametrize("name", ["short", "long"])
def test_validity_is_what_openssl_says_it_is(made, name):
    said = subprocess.run(
        ["openssl", "x509", "-in", f"{name}.pem", "-noout", "-dates"],
        cwd=made,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    [certificate] = certificates(made / f"{name}.pem")
    dates = [
        datetime.strptime(line.split("=")[1], "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC) for line in said.splitlines()
    ]
    assert [validity(certificate).not_before, validity(certificate).not_after] == dates


def test_dates_beyond_2049_are_read_too(tmp_path):
    make_certificate(tmp_path, "late", 20000)
    assert validity(certificates(tmp_path / "late.pem")[0]).not_after.year > 2070


@pytest.mark.parametrize("cut", [1, 5, 60, 200])
def test_a_malformed_certificate_is_an_error_of_ours(made, cut):
    with pytest.raises(ConfigError, match="malformed"):
        validity(certificates(made / "long.pem")[0][:cut])


def test_a_file_without_a_certificate_is_an_error_of_ours(made):
    with pytest.raises(ConfigError, match="holds no certificate"):
        certificates(made / "long.key")


def test_certificates_are_judged_by_their_dates_and_keys(case, made, monkeypatch):
    def tls(certificate: str, key: str) -> Case:
        return case(tls={"certificate": made / f"{certificate}.pem", "key": made / f"{key}.key"})

    assert "is valid until" in only(doctor_door.check_certificates(tls("long", "long")), Level.OK).found
    found = only(doctor_door.check_certificates(tls("short", "short")), Level.WARN)
    assert "expires in 9 days" in found.found
    with pytest.raises(ConfigError, match="belong together"):
        list(doctor_door.check_certificates(tls("long", "short")))

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2200, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(doctor_door, "datetime", Later)
    assert "has expired on" in only(doctor_door.check_certificates(tls("long", "long")), Level.FAIL).found


def test_a_node_that_speaks_tls_is_known_by_its_certificate(case, store, made):
    there = case(tls={"certificate": made / "long.pem", "key": made / "long.key"})
    renewed = case(
        node={"port": there.settings.node.port}, tls={"certificate": made / "short.pem", "key": made / "short.key"}
    )
    held = own(there.folder)
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{there.settings.node.port}", "-cert", "long.pem", "-key",
               "long.key", "-quiet"]  # fmt: skip
    server = subprocess.Popen(command, cwd=made, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        until(lambda: next(iter(doctor_door.check_running(there))).level is Level.OK, 20)
        assert "speaks TLSv1.3" in only(doctor_door.check_running(there), Level.OK).found
        assert "another certificate" in only(doctor_door.check_running(renewed), Level.FAIL).found
        server.kill()
        server.communicate()
        assert "no TLS to be had" in only(doctor_door.check_running(there), Level.FAIL).found
    finally:
        server.kill()
        server.communicate()
        os.close(held)


def test_a_door_without_tls_is_a_warning_where_others_can_listen(case):
    only(doctor_door.check_certificates(case()), Level.OK)
    only(doctor_door.check_certificates(case(node={"host": "0.0.0.0"})), Level.WARN)


def test_too_few_descriptors_for_the_associations_are_a_warning(case, monkeypatch):
    only(doctor_door.check_descriptors(case(node={"maximum_associations": 10})), Level.OK)
    monkeypatch.setattr(resource, "getrlimit", lambda what: (256, 256))
    assert "LimitNOFILE" in only(doctor_door.check_descriptors(case()), Level.WARN).remedy


@TORN_CONNECTIONS[0]
@TORN_CONNECTIONS[1]
def test_every_destination_and_source_is_asked(case):
    with Archive("PACS") as archive:
        there = {"name": "there", "ae_title": "PACS", "host": "127.0.0.1", "port": archive.port, "timeout_s": 5}
        gone = there | {"name": "gone", "port": free_port()}
        answers, missing, web = doctor_door.check_peers(
            case(
                destinations=[there, gone],
                sources=[{"name": "web", "url": f"http://127.0.0.1:{free_port()}/dicom-web"}],
            )
        )
    assert (answers.level, missing.level, web.level) == (Level.OK, Level.FAIL, Level.FAIL)
    assert "destination there (PACS at" in answers.found
    assert "destination gone" in missing.found
    assert "source web" in web.found


def test_offline_asks_nobody(tmp_path, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(doctor, "CHECKS", (("other systems", lambda case: asked.append("x") or [], True),))
    (tmp_path / "node.toml").write_text("")
    list(examine(tmp_path / "node.toml", offline=True))
    assert asked == []
    list(examine(tmp_path / "node.toml"))
    assert asked == ["x"]


def test_a_damaged_bundle_is_named_and_the_others_are_looked_at(case, tiny_bundle_dir, tmp_path):
    damaged = shutil.copytree(tiny_bundle_dir, tmp_path / "damaged")
    (damaged / "MODEL_CARD.md").write_text("changed")
    rules = [{"name": "r", "bundle": str(damaged)}]
    sick = case(processing={"bundle": str(tiny_bundle_dir)}, rules=rules)
    whole, broken = doctor_image.check_bundles(sick)
    assert (whole.level, broken.level) == (Level.OK, Level.FAIL)
    assert "MODEL_CARD.md differs from its checksum" in broken.found


def test_a_gpu_that_is_not_there_is_a_failure(case, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", (("computing device", doctor_image.check_device, False),))
    (tmp_path / "node.toml").write_text('[processing]\ndevice = "cuda:77"\n')
    found = list(examine(tmp_path / "node.toml"))[1]
    assert (found.level, "nvidia-smi" in found.found) == (Level.FAIL, True)
    assert (
        "processing.device cpu is there"
        in only(doctor_image.check_device(case(processing={"device": "cpu"})), Level.OK).found
    )


def test_a_test_image_goes_the_whole_road_in_memory_whatever_the_rules_say(case, tiny_bundle_dir, tmp_path):
    rules = [{"name": "nothing", "process": False}]
    well = case(processing={"bundle": str(tiny_bundle_dir), "device": "cpu"}, rules=rules)
    found = only(doctor_image.check_image(well), Level.OK).found
    assert "verdict" in found
    assert "sr and overlay" in found
    assert not well.folder.exists()


def test_a_class_with_a_wrong_code_is_told_before_its_results_become_dead_letters(case, tiny_bundle_dir, tmp_path):
    hand_called_knee = b'value = "85562004", scheme = "SCT", meaning = "Knee"'
    own = b'value = "D-01", scheme = "99TEST", meaning = "Disc"'
    wrong = with_changes(
        tiny_bundle_dir, tmp_path / "wrong", {"bundle.toml": lambda text: text.replace(own, hand_called_knee)}
    )
    told = list(doctor_image.check_bundles(case(processing={"bundle": str(wrong)})))
    assert [found.level for found in told] == [Level.OK, Level.FAIL]
    assert "85562004" in told[1].found


def test_a_test_image_that_the_settings_refuse_is_a_failure(case, tiny_bundle_dir):
    sick = case(processing={"bundle": str(tiny_bundle_dir), "device": "cpu"}, intake={"maximum_pixels": 100})
    assert "a sound test image was refused" in only(doctor_image.check_image(sick), Level.FAIL).found


def test_the_test_image_is_of_nobody_and_new_each_time():
    from io import BytesIO  # noqa: PLC0415

    from pydicom import dcmread  # noqa: PLC0415

    first, second = (dcmread(BytesIO(doctor_image.new_test_image())) for _ in range(2))
    assert first.PatientName == "DICOM_GAM^DOCTOR"
    assert first.SOPInstanceUID == first.file_meta.MediaStorageSOPInstanceUID != second.SOPInstanceUID
    assert first.StudyInstanceUID != second.StudyInstanceUID
    assert "InstitutionName" not in first


def test_no_test_image_is_sent_to_a_node_that_does_not_run(case):
    assert "does not run" in only(doctor_image.check_sent_image(case()), Level.FAIL).found


def findings(found: list[Examined], check: str) -> list[str]:
    return [item.found for item in found if item.check == check]


def test_a_test_image_that_is_sent_is_followed_to_its_result_at_the_destination(case, tmp_path):
    from dicom_gam.service.node import Node  # noqa: PLC0415 (in motion)
    from tests.service.fakes import process  # noqa: PLC0415

    with Archive("PACS") as archive:
        there = PACS | {"port": archive.port}
        settings: Settings = case(node={"receivers": 0, "port": free_port()}, destinations=[there]).settings
        with Node(settings, process) as node:
            took, ended = doctor_image.check_sent_image(Case(settings))
            assert node.wait_idle(20)
            assert "answers C-ECHO" in only(doctor_door.check_running(Case(settings)), Level.OK).found
        assert (took.level, ended.level) == (Level.OK, Level.OK)
        assert "verdict FAIL" in ended.found
        assert len(archive.received) == 2
