"""schemathesis against the HTTP API, for every role and for nobody: `python -m tests.web.fuzz_api --examples 500`.

The application is called as WSGI, with a storage folder full of jobs. It prints what it found, operation by operation.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis
from flask import Flask
from hypothesis import strategies as st
from schemathesis.core.failures import FailureGroup

from dicom_gam.service.store import Store
from dicom_gam.storage.sqlite_access import ACCESS_FILE, AccessDatabase, SqliteAccess, User
from dicom_gam.web.access import PERMISSIONS, Guard
from dicom_gam.web.app import make_app
from dicom_gam.web.site import Site
from tests.web.logged_in import logged_in
from tests.web.made_site import made_settings, made_store
from tests.web.part10 import part10

DOCUMENT = "/openapi/openapi.json"
SOME_JOBS = 5


# The same file now and then, and other bytes under one UID: 202, 200 and 409.
schemathesis.openapi.media_type(
    "application/dicom",
    st.builds(part10, st.integers(1, 40).map(lambda number: f"1.2.3.{number}"), st.integers(0, 1)),
)


def token_of(app: Flask, store: Store, role: str) -> str:
    """A bearer token of an account with this role."""
    database = AccessDatabase(store.folder / ACCESS_FILE)
    SqliteAccess(database).put_user(User(role, (role,), False, False, 0.0, "none"))
    database.close()
    guard: Guard = app.extensions["dicom_gam_guard"]
    return guard.accounts.make_token(role, "fuzz", (role,), by="test")


def known_jobs(schema: Any, store: Store) -> None:
    """Have half of the cases ask for jobs and destinations that exist."""
    jobs = [job.job_id for job in store.jobs.jobs(SOME_JOBS)]
    known = {"job_id": jobs, "name": ["pacs", "research"]}

    @schema.hook
    def map_path_parameters(context: Any, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        chance = random.Random(repr(parameters))
        for name in known.keys() & (parameters or {}).keys():
            if chance.random() < 0.5:
                parameters[name] = chance.choice(known[name])
        return parameters


def faults(app: Flask, store: Store, roles: Sequence[str], examples: int, told: Counter[str]) -> Iterator[str]:
    """Try every operation as each of these roles (`nobody` has no token) and yield what is wrong with the answers."""
    tokens = {role: "" if role == "nobody" else token_of(app, store, role) for role in roles}
    document = logged_in(app, "viewer").get(DOCUMENT).get_json()
    valid, invalid = (schemathesis.openapi.from_dict(document) for _ in range(2))
    valid.app = invalid.app = app
    known_jobs(valid, store)
    guard: Guard = app.extensions["dicom_gam_guard"]

    for role, token in tokens.items():
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        for pair in zip(valid.get_all_operations(), invalid.get_all_operations(), strict=True):
            operations = [found.ok() for found in pair]
            yield from _try(operations, guard, headers, f"{role}: {operations[0].label}", examples, told)


def _try(
    operations: list[Any], guard: Guard, headers: dict[str, str], label: str, examples: int, told: Counter[str]
) -> Iterator[str]:
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    cases = [one.as_strategy(generation_mode=mode) for one, mode in zip(operations, modes, strict=True)]

    @hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    @hypothesis.given(case=st.one_of(*cases))
    def attempt(case: Any) -> None:
        guard.limiter.reset()  # schemathesis shows wrong tokens too, more than a minute allows
        response = case.call(headers=headers)
        told[f"{label} {response.status_code}"] += 1
        case.validate_response(response, headers=headers)

    try:
        attempt()
    except (FailureGroup, AssertionError) as failure:
        yield f"{label}\n{failure}\n" + "\n".join(str(one) for one in getattr(failure, "exceptions", ()))


def main() -> int:
    """Fuzz for long, print what came of it; 1 when there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=500, help="cases of each operation and role")
    examples = parser.parse_args().examples
    logging.disable(logging.CRITICAL)
    begun, told, bad = time.monotonic(), Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        settings = made_settings(Path(folder) / "node")
        with made_store(settings) as store:
            app = make_app(Site(settings, store))
            for fault in faults(app, store, [*PERMISSIONS, "nobody"], examples, told):
                bad += 1
                print(fault)
    for label, count in sorted(told.items()):
        print(f"{count:7d} {label}")
    print(f"{sum(told.values())} cases in {time.monotonic() - begun:.0f} s, {bad} operations with faults")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
