"""Server time of every page of the dashboard over a database of 100,000 jobs.

    python -m tests.benchmarks.bench_web [--jobs 100000] [--rounds 40] [--json bench-web.json]

Each page takes its turn in every round, with other parameters each time, through the whole application (log-in, rights,
queries, templates, audit record) but without a network. Beside them stands, in the same rounds, a page of the same
server that only says hello: what the framework itself costs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from unittest import mock

from flask import Flask
from flask.testing import FlaskClient
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dicom_gam.service.store import Store, open_store
from dicom_gam.storage.audit_index import AuditIndex
from dicom_gam.storage.audit_signing import open_signer
from dicom_gam.web.app import make_app
from dicom_gam.web.site import Site
from tests.web.logged_in import logged_in
from tests.web.made_site import SENDERS, add_job, made_settings, receive

BAR_MS = 300.0
DAYS = 60
Page = Callable[[random.Random], str | dict[str, str]]
EVERYBODY = ("viewer", "operator", "auditor")


@contextmanager
def without_syncing() -> Iterator[None]:
    """Fill the database quickly: what is measured are pages, and the folder is thrown away."""
    with mock.patch.object(os, "fsync", return_value=None):
        yield


def filled(folder: Path, jobs: int) -> Store:
    """A store with so many jobs over two months, their deliveries and audit records."""
    settings = made_settings(folder)
    store = open_store(settings, create=True)
    store.audit.sign_with(open_signer(folder, None)[0], settings.audit.segment_bytes)  # new files, as a node has them
    with store.database.reading() as connection:
        connection.execute("PRAGMA synchronous = OFF")
    chance, now = random.Random(1), time.time()
    with without_syncing():
        for number in track(range(jobs), "filling the database"):
            add_job(store, number, chance, now - (jobs - number) * DAYS * 86400 / jobs)
        for number in range(jobs, jobs + 20):
            receive(store, number, now)
    return store


def addresses(store: Store, jobs: int) -> dict[str, Page]:
    """Every page, with parameters drawn anew for each request; a patient's are sent in a form."""
    known = store.jobs.jobs(2000)

    def job(chance: random.Random) -> str:
        return chance.choice(known).job_id

    def study(chance: random.Random) -> str:
        return chance.choice([found for found in known[:200] if found.study_instance_uid]).study_instance_uid

    return {
        "Now": lambda _: "/",
        "Attention": lambda _: "/attention",
        "Attention, one sender": lambda chance: f"/attention?sender={chance.choice(SENDERS)}",
        "Studies": lambda _: "/studies",
        "Studies by name": lambda chance: {"patient_name": f"Doe Jane{chance.randrange(jobs // 2)}"},
        "Studies by common name": lambda _: {"patient_name": "Doe"},
        "Studies by accession": lambda chance: {"accession_number": f"A{chance.randrange(jobs // 2):07d}"},
        "Studies, FAIL of a sender": lambda chance: f"/studies?outcome=FAIL&sender={chance.choice(SENDERS)}",
        "Study": lambda chance: f"/studies/{study(chance)}",
        "Job": lambda chance: f"/jobs/{job(chance)}",
        "Quality, 7 days": lambda _: "/quality?days=7",
        "Quality, 90 days": lambda _: "/quality?days=90",
        "Bundles": lambda _: "/bundles",
        "Settings": lambda _: "/settings",
        "Audit": lambda _: "/audit",
        "Audit of a job": lambda chance: f"/audit?text={job(chance)}",
        "metrics": lambda _: "/metrics",
        "API, jobs": lambda _: "/api/v1/jobs?limit=100",
        "API, a job": lambda chance: f"/api/v1/jobs/{job(chance)}",
        "API, a timeline": lambda chance: f"/api/v1/jobs/{job(chance)}/timeline",
    }


def hello() -> FlaskClient:
    """What a page costs that does nothing."""
    bare = Flask("hello")
    bare.add_url_rule("/", view_func=lambda: "hello")
    return bare.test_client()


def measured(client: FlaskClient, pages: dict[str, Page], rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Milliseconds of each page in every round, and the bytes of its longest answer."""
    chance, bare = random.Random(2), hello()
    times: dict[str, list[float]] = {name: [] for name in ("hello", *pages)}
    longest = dict.fromkeys(times, 0)
    for round_ in track(range(rounds + 1), "asking for pages"):
        for name in times:
            who, what = (bare, "/") if name == "hello" else (client, pages[name](chance))
            began = time.perf_counter()
            answer = who.get(what) if isinstance(what, str) else who.post("/studies", data=what)
            spent = time.perf_counter() - began
            if answer.status_code != 200:
                sys.exit(f"{name}, {what}: {answer.status}")
            longest[name] = max(longest[name], len(answer.data))
            if round_ > 0:  # the first one warms up
                times[name].append(1000 * spent)
    return times, longest


def main() -> None:
    """Fill, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, filled(Path(folder) / "node", asked.jobs) as store:
        with closing(AuditIndex(store.folder)) as index, Console().status("making the audit index"):
            index.catch_up()
        app = make_app(Site(made_settings(Path(folder) / "node"), store))
        client = logged_in(app, *EVERYBODY)
        times, longest = measured(client, addresses(store, asked.jobs), asked.rounds)
    rows = {
        name: {
            "median_ms": statistics.median(spent),
            "p95_ms": statistics.quantiles(spent, n=20)[-1],
            "times_hello": statistics.median(spent) / statistics.median(times["hello"]),
            "bytes": longest[name],
        }
        for name, spent in times.items()
    }
    table = Table(
        title=f"Server time of pages over {asked.jobs} jobs, {asked.rounds} requests each", title_justify="left"
    )
    for column in ("page", "median ms", "95th percentile ms", "times hello", "kB", f"within {BAR_MS:g} ms"):
        table.add_column(column)
    for name, row in rows.items():
        figures = (f"{row['median_ms']:.1f}", f"{row['p95_ms']:.1f}", f"{row['times_hello']:.0f}")
        table.add_row(name, *figures, f"{row['bytes'] / 1000:.0f}", "yes" if row["p95_ms"] <= BAR_MS else "NO")
    Console(width=120).print(table)
    if asked.json:
        asked.json.write_text(json.dumps({"jobs": asked.jobs, "rounds": asked.rounds, "pages": rows}, indent=2))


if __name__ == "__main__":
    main()
