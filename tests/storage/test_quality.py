"""Counts and samples of finished jobs by day, on a database of figures alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_gam.storage.rows import SIMILARITIES
from dicom_gam.storage.sqlite import Database
from dicom_gam.storage.sqlite_quality import Count, Day, Figures, Judged

DAY_S = 86400.0
FIRST, SECOND = Day(0.0, DAY_S), Day(DAY_S, 2 * DAY_S)
LATER = 10 * DAY_S
PLACES = ", ".join("?" for _ in range(9 + len(SIMILARITIES)))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "node.sqlite")
    with opened.reading() as connection:
        connection.execute("PRAGMA foreign_keys = OFF")  # the jobs themselves don't matter here
    yield opened
    opened.close()


def fill(database: Database, many: int, at: float, *, start: int = 1, outcome: str = "PASS", senders: int = 3) -> None:
    with database.transaction() as connection:
        connection.executemany(
            f"INSERT INTO job_figures VALUES ({PLACES})",
            [
                (start + i, at + i / 1000, f"ROOM_{i % senders}", "anatomy", "1.0.0", "d" * 64, "chest", outcome,
                 0.5 if outcome == "PASS" else None, *(0.1 * place for place in range(len(SIMILARITIES))))
                for i in range(many)
            ],
        )  # fmt: skip


@pytest.mark.requirement("WEB-60")
def test_results_are_counted_on_the_day_they_were_finished_by_sender_bundle_and_outcome(database):
    fill(database, 3, 0.0)
    fill(database, 1, DAY_S - 0.5, start=10)
    fill(database, 2, DAY_S, start=20, outcome="UNUSABLE", senders=1)
    counts = Figures().counts(database, [FIRST, SECOND], LATER)
    assert Count(FIRST, "ROOM_0", "d" * 64, "PASS", 2, "anatomy 1.0.0") in counts
    assert Count(SECOND, "ROOM_0", "d" * 64, "UNUSABLE", 2, "anatomy 1.0.0") in counts
    assert sum(count.images for count in counts) == 6


@pytest.mark.requirement("WEB-60")
def test_a_day_that_is_not_over_is_counted_anew_at_every_look_and_one_that_is_only_once(database):
    figures = Figures()
    fill(database, 2, 0.0)
    now = SECOND.first + 60  # the first day has just ended: something may still be committed to it
    assert sum(count.images for count in figures.counts(database, [FIRST], now)) == 2
    fill(database, 1, 100.0, start=50)
    assert sum(count.images for count in figures.counts(database, [FIRST], LATER)) == 3
    with database.transaction() as connection:
        connection.execute("DELETE FROM job_figures")
    assert sum(count.images for count in figures.counts(database, [FIRST], LATER)) == 3


@pytest.mark.requirement("WEB-61")
def test_a_sample_is_bounded_always_the_same_fair_to_senders_and_stands_for_the_whole_day(database):
    fill(database, 3000, 0.0)
    fill(database, 30, DAY_S, start=5000)
    counts = Figures().counts(database, [FIRST, SECOND], LATER)
    drawn = Figures().sample(database, counts, 300, LATER)
    by_day = Counter(item.day for item in drawn)
    assert by_day[SECOND] == 30  # all of a quiet day
    assert 270 <= by_day[FIRST] <= 330
    assert sum(item.weight for item in drawn) == pytest.approx(3030)
    assert Figures().sample(database, counts, 300, LATER) == drawn
    rooms = []
    for room in ("ROOM_0", "ROOM_1", "ROOM_2"):  # which come in turns, as numbers do
        own = [count for count in counts if count.sender == room and count.day == FIRST]
        rooms.append(len(Figures().sample(database, own, 100, LATER, (room, ""))))
    assert all(85 <= count <= 115 for count in rooms), rooms


@pytest.mark.requirement("WEB-61")
def test_a_sample_of_one_sender_holds_that_sender_s_figures_only(database):
    fill(database, 30, 0.0)
    own = [c for c in Figures().counts(database, [FIRST], LATER) if c.sender == "ROOM_1"]
    drawn = Figures().sample(database, own, 100, LATER, ("ROOM_1", "d" * 64))
    assert (len(drawn), {item.weight for item in drawn}) == (10, {1.0})
    assert drawn[0].similarities == pytest.approx([0.1 * place for place in range(7)])


@pytest.mark.requirement("WEB-62")
def test_a_bundle_has_judged_what_got_a_p_value_however_often_one_asks(database):
    fill(database, 5, 0.0)
    fill(database, 2, 10.0, start=50, outcome="UNUSABLE")
    figures = Figures()
    assert figures.judged(database, LATER) == {"d" * 64: Judged("anatomy", "1.0.0", 5)}
    fill(database, 4, LATER - 10, start=100)
    assert figures.judged(database, LATER)["d" * 64].images == 9
    assert figures.judged(database, LATER + DAY_S)["d" * 64].images == 9
    fill(database, 1, LATER + DAY_S, start=200)
    assert figures.judged(database, LATER + DAY_S)["d" * 64].images == 10
