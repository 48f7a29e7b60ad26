"""The benches can be trusted: they run, and their counters see what they are there to see."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.benchmarks.bench_soak import Growth, slow_down
from tests.benchmarks.modality import new_uids
from tests.benchmarks.pushing import outcome
from tests.benchmarks.receivers_under_test import RECEIVERS
from tests.service.fakes import image, result_uids, save


@pytest.fixture
def archived(tmp_path):
    """Write objects as an archive that keeps every copy would: (UID, shade) pairs."""

    def write(*objects):
        files = []
        for number, (uid, shade) in enumerate(objects):
            files.append(save(image(uid, shade=shade), tmp_path / f"{number}.dcm"))
        return files

    return write


def test_an_outcome_is_sound_when_each_image_has_its_two_objects_even_if_one_came_again(archived):
    names = new_uids(2, "outcome")
    objects = [(uid, 7) for name in names for uid in result_uids(name)]
    found = outcome(names, archived(*objects, objects[0]))
    assert found.sound
    assert (found.images_with_exactly_one_result_set, found.identical_objects_sent_again) == (2, 1)


def test_an_outcome_tells_of_a_lost_a_doubled_and_an_unexpected_object(archived):
    lost, doubled = new_uids(2, "outcome")
    first, second = result_uids(doubled)
    found = outcome(
        [lost, doubled], archived((result_uids(lost)[0], 7), (first, 7), (first, 8), (second, 7), ("2.25.9", 7))
    )
    assert not found.sound
    assert (found.lost, found.doubled, found.unexpected_objects, found.identical_objects_sent_again) == (1, 1, 1, 0)


def test_the_slow_down_is_that_of_the_last_tenth_against_the_first():
    steady = [float(i) for i in range(100)]
    assert slow_down(steady) == 1.0
    assert slow_down(steady[:89] + [89.0 + 3 * i for i in range(11)]) == 3.0


@pytest.mark.parametrize(("after", "flat"), [((105e6, 30), True), ((130e6, 30), False), ((100e6, 60), False)])
def test_growth_is_seen_in_memory_and_in_descriptors(after, flat):
    assert Growth("service", (100e6, after[0]), (30, after[1])).flat is flat


def test_the_bench_of_the_front_door_runs_with_every_receiver(tmp_path):
    target = tmp_path / "bench.json"
    command = [sys.executable, "-m", "tests.benchmarks.bench_front_door", "--quick", "--json", str(target)]
    finished = subprocess.run([*command, "--folder", str(tmp_path)], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    document = json.loads(target.read_text())
    plain = [reading for reading in document["readings"] if not reading["cell"]["tls"]]
    assert {reading["receiver"] for reading in plain} == {receiver.name for receiver in RECEIVERS}
    assert all(reading["images"] == 4 and not reading["refused"] for reading in document["readings"])
    assert all(reading["cpu_s"] > 0 and reading["peak_rss_bytes"] > 0 for reading in document["readings"])
    assert min(document["limits"].values()) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json"], "it left something behind"
