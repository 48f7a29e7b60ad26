"""A few SIGKILLs while four senders push; `python -m tests.benchmarks.bench_kill` makes two hundred."""

from __future__ import annotations

import pytest
from rich.console import Console

from tests.benchmarks.bench_kill import kill_and_count, report

KILLS = 4


@pytest.mark.requirement("STO-02")
@pytest.mark.parametrize("seed", [22])  # one kill of each kind, one of them while the node starts
def test_after_kill_9_while_four_senders_push_every_acknowledged_image_has_exactly_one_result_set(tmp_path, seed):
    run = kill_and_count(tmp_path, KILLS, seed, ready_s=(0.1, 0.7), pause_s=0.03)
    report(run, Console())
    assert sum(run.kills.values()) >= KILLS
    assert run.outcome.images >= 4 * KILLS, "the senders hardly got anything in, so the kills prove nothing"
    assert run.outcome.lost == 0
    assert run.outcome.doubled == 0
    assert run.sound
