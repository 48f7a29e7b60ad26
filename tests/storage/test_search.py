"""Finding jobs: what is found, page by page, and from indexes alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_gam.storage.sqlite import Database
from dicom_gam.storage.sqlite_search import WAITING, JobQuery, SqliteSearch, numbers_statement

NAMES = {
    1: "Doe^Jane^M",
    2: "DOE^JOHN",
    3: "Doe-Smith^Ann",
    4: "MÜLLER^ÄNNE",
    5: "100%^Sure",
    6: "Do_e^Underscore",
    7: "van der Berg^Jan",
    8: "<script>alert(1)</script>",
}
OUTCOMES = {1: "PASS", 2: "FAIL", 3: "REJECT", 4: "PASS", 5: ""}


def add(database: Database, number: int, **changes: object) -> None:
    row = {
        "job_id": f"{number:032x}", "state": "done", "blob": f"{number:032x}", "sop_class_uid": "1.2",
        "sop_instance_uid": f"1.9.{number}", "transfer_syntax_uid": "1.2", "digest": "d", "size_bytes": 1,
        "calling_ae_title": "ROOM_1" if number % 2 else "ROOM_2", "called_ae_title": "GAM", "peer_address": "::1",
        "received_at": 1000.0 * number, "outcome": OUTCOMES.get(number, "PASS"),
        "study_instance_uid": f"1.8.{number // 2}",
    } | changes  # fmt: skip
    with database.transaction() as connection:
        connection.execute(
            f"INSERT INTO jobs ({', '.join(row)}) VALUES ({', '.join('?' for _ in row)})", list(row.values())
        )
        (place,) = connection.execute("SELECT max(number) FROM jobs").fetchone()
        if number in NAMES:
            connection.execute(
                "INSERT INTO job_headers VALUES (?, ?, ?, ?, '20250304', 'Chest', 'CR', 'CHEST')",
                (place, NAMES[number], f"Pat{number}", f"Acc{number}"),
            )


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Ten jobs; the last two have no header, as those whose image was deleted. Only for reading."""
    yield from _filled(tmp_path_factory.mktemp("search"))


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[Database]:
    """The same, to add to."""
    yield from _filled(tmp_path)


def _filled(folder: Path) -> Iterator[Database]:
    opened = Database(folder / "node.sqlite")
    for number in range(1, 11):
        add(opened, number)
    yield opened
    opened.close()


def found(database: Database, **query: object) -> list[int]:
    return [row.number for row in SqliteSearch(database).jobs(JobQuery(**query))]


@pytest.mark.requirement("WEB-30")
@pytest.mark.parametrize(
    ("typed", "numbers"),
    [
        ("doe", [3, 2, 1]),
        ("DOE JANE", [1]),
        ("doe^jane^m", [1]),
        ("Doe, Jane", [1]),
        ("  doe   jane ", [1]),
        ("jane", []),
        ("müller änne", [4]),
        ("Müller", [4]),
        ("van der berg jan", [7]),
        ("<SCRIPT>", [8]),
    ],
)
def test_a_name_is_found_by_its_beginning_whatever_its_case_and_what_parts_it(database, typed, numbers):
    assert found(database, patient_name=typed) == numbers


@pytest.mark.requirement("WEB-31")
@pytest.mark.parametrize(
    ("typed", "numbers"),
    [("%", []), ("100%", [5]), ("_", []), ("Do_", [6]), ("*", []), ("'; DROP TABLE jobs; --", []), ("\\", [])],
)
def test_what_would_be_a_wildcard_or_a_command_is_taken_as_it_stands(database, typed, numbers):
    assert found(database, patient_name=typed) == numbers
    assert found(database, patient_id=typed) == found(database, uid=typed) == found(database, sender=typed) == []


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({"patient_id": "pat3"}, [3]),
        ({"patient_id": "pat"}, []),
        ({"accession_number": "ACC4"}, [4]),
        ({"uid": "1.9.10"}, [10]),
        ({"uid": "1.8.1"}, [3, 2]),
        ({"job_id": f"{9:032x}"}, [9]),
        ({"sender": "ROOM_2", "patient_name": "d"}, [6, 2]),
        ({"outcome": "FAIL"}, [2]),
        ({"outcome": WAITING}, [5]),
        ({"since": 3000.0, "until": 5000.0}, [4, 3]),
        ({"patient_name": "doe", "patient_id": "pat4"}, []),
        ({"patient_name": "doe", "outcome": "REJECT", "since": 0.0}, [3]),
        ({}, [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
    ],
)
def test_every_condition_holds_and_all_of_them_together(database, query, numbers):
    assert found(database, **query) == numbers


@pytest.mark.requirement("WEB-32")
def test_pages_show_each_image_once_newest_first_also_when_more_come_in_between(growing):
    search, query, seen, before = SqliteSearch(growing), JobQuery(sender="ROOM_1"), [], None
    while rows := search.jobs(query, before, 2):
        assert len(rows) <= 2
        seen += [row.number for row in rows]
        before = rows[-1].number
        add(growing, 100 + len(seen), calling_ae_title="ROOM_1")
    assert seen == [9, 7, 5, 3, 1]


def test_what_is_forgotten_is_found_by_its_uid_but_shows_no_patient(database):
    (row,) = SqliteSearch(database).jobs(JobQuery(uid="1.9.9"))
    assert row.number == 9
    assert row.header is None
    (known,) = SqliteSearch(database).jobs(JobQuery(uid="1.9.4"))
    assert known.header.patient_name == "MÜLLER^ÄNNE"
    assert known.header.study_instance_uid == "1.8.2"


def test_senders_are_named_once_each(database):
    assert SqliteSearch(database).senders() == ["ROOM_1", "ROOM_2"]


@pytest.mark.requirement("WEB-32")
@pytest.mark.parametrize(
    "query",
    [
        JobQuery(),
        JobQuery(patient_name="doe"),
        JobQuery(patient_name="müller"),
        JobQuery(patient_id="x"),
        JobQuery(accession_number="x"),
        JobQuery(uid="1.2"),
        JobQuery(job_id="x"),
        JobQuery(sender="x", outcome="FAIL", since=1.0, until=2.0),
        JobQuery("a", "b", "c", "d", "e", "f", "PASS", 1.0, 2.0),
    ],
    ids=lambda query: ",".join(name for name in query.__slots__ if getattr(query, name)) or "all",
)
@pytest.mark.parametrize("before", [None, 5])
def test_a_search_reads_no_wide_row_and_walks_over_no_table(database, query, before):
    statement, values = numbers_statement(query, before, 50)
    with database.reading() as connection:
        plan = [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    steps = [step for step in plan if step.startswith(("SCAN", "SEARCH"))]
    assert steps
    for step in steps:
        assert "COVERING INDEX" in step or (step.startswith("SEARCH job_headers") and "INDEX headers_by_name" in step)
