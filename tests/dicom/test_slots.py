"""Limits across processes, with real processes that die."""

import signal
import subprocess
import sys

import pytest

from dicom_gam.dicom.scp.slots import Slots
from dicom_gam.errors import ConfigError

HOLDER = """
import sys, time
from pathlib import Path
from dicom_gam.dicom.scp.slots import Slots
slots = Slots(Path(sys.argv[1]))
taken = [slots.take("associations", 3) for _ in range(int(sys.argv[2]))]
print(sum(slot is not None for slot in taken), flush=True)
sys.stdin.read()
"""


def holder(path, count):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, int(process.stdout.readline())


@pytest.fixture(params=["alone", "shared"])
def slots(request, tmp_path):
    made = Slots(tmp_path / "slots" if request.param == "shared" else None)
    yield made
    made.close()


@pytest.mark.requirement("DOOR-15")
def test_no_more_places_are_given_than_the_limit_says(slots):
    taken = [slots.take("a", 2) for _ in range(3)]
    assert [slot is not None for slot in taken] == [True, True, False]
    taken[0].release()
    assert slots.take("a", 2) is not None


def test_keys_do_not_share_places(slots):
    assert slots.take("host 10.0.0.1", 1) is not None
    assert slots.take("host 10.0.0.2", 1) is not None


def test_a_second_release_takes_nothing_from_anybody(slots):
    first = slots.take("a", 1)
    first.release()
    second = slots.take("a", 1)
    first.release()
    assert slots.take("a", 1) is None
    second.release()


@pytest.mark.requirement("DOOR-15")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_limit_holds_over_processes_and_a_dead_one_gives_its_places_back(tmp_path, end):
    path = tmp_path / "slots"
    process, count = holder(path, 2)
    with process:
        assert count == 2
        slots = Slots(path)
        kept = slots.take("associations", 3)
        assert kept is not None
        assert slots.take("associations", 3) is None
        process.send_signal(end)
        process.wait(10)
        assert [slots.take("associations", 3) is not None for _ in range(3)] == [True, True, False]
    other, count = holder(path, 2)
    with other:
        assert count == 0
        kept.release()
        other.communicate("", 10)
    slots.close()


def test_a_file_that_can_not_be_opened_is_named(tmp_path):
    with pytest.raises(ConfigError, match="absent"):
        Slots(tmp_path / "absent" / "slots")
