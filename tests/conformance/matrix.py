"""The matrix: {kinds of source} x {oddities} x {verdicts} x {objects}, and what everybody says of the results.

`python -m tests.conformance.matrix` makes every source, takes it through the real decoder and encoder, asks dciodvfy,
dcentvfy, DCMTK's readers and our own checker, and stores the results in a real Orthanc by C-STORE and by STOW-RS, which
must give the same data sets back by its own interface and by WADO-RS. It prints tables and what it was not content
with, and ends with 1 when anything is short.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.conformance.archive import SETTINGS, Archive
from tests.conformance.cases import ROLES, Case, every_case, every_oddity_once
from tests.conformance.validators import Complaint, Outcome, opened, validated
from tests.end_to_end.peers import Orthanc, free_port

CHECKS = ("made", "dciodvfy", "checker", "dcmtk", "identity", "quiet", "dcentvfy", "c-store", "stow-rs")
_APART = ("scheme", "unavoidable", "inherited", "mended")  # lines that are no complaints, but are not hidden either
_PER_OBJECT = ("dciodvfy", "checker", "dcmtk", "identity", "c-store", "stow-rs")


def examined(case: Case, archive: Archive | None) -> Outcome:
    """Everything about one case, in a folder of its own; without an archive no round trip is made."""
    with tempfile.TemporaryDirectory(prefix="dicom-gam-matrix-") as folder:
        outcome, results = validated(case, Path(folder))
        opened(outcome, results, Path(folder))
        if archive is not None and results:
            faults = archive.faults(results, (Path(folder) / "source.dcm").read_bytes())
            outcome.complaints += [Complaint(*fault) for fault in faults]
        return outcome


def run(cases: Sequence[Case], archive: Archive | None, console: Console) -> list[Outcome]:
    """Examine the cases on all cores; what raises is an outcome too."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    outcomes: dict[Case, Outcome] = {}
    # Forked after the start-up: a spawned process would load everything again.
    with (
        Progress(*columns, console=console) as progress,
        ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as pool,
    ):
        bar = progress.add_task("conformance", total=len(cases))
        futures = {pool.submit(examined, case, archive): case for case in cases}
        for future in as_completed(futures):
            outcomes[futures[future]] = _outcome(futures[future], future)
            progress.advance(bar)
    return [outcomes[case] for case in cases]


def _outcome(case: Case, future: Future[Outcome]) -> Outcome:
    error = future.exception()
    if error is None:
        return future.result()
    return Outcome(case, complaints=[Complaint("made", "study", f"{type(error).__name__}: {error}")])


@dataclass(frozen=True, slots=True)
class _Score:
    """How many of `outcomes` have no complaint of a check, as a cell of a table."""

    outcomes: Sequence[Outcome]

    def cell(self, check: str, role: str | None = None) -> str:
        asked = [o for o in self.outcomes if self._is_asked(o, check, role)]
        short = [o for o in asked if any(c.check == check and role in (None, c.role) for c in o.complaints)]
        if not asked:
            return "-"
        colour = "red" if short else "green"
        return f"[{colour}]{len(asked) - len(short)}/{len(asked)}[/]"

    @staticmethod
    def _is_asked(outcome: Outcome, check: str, role: str | None) -> bool:
        if role is not None:
            return role in outcome.roles
        return check in ("made", "quiet") or bool(outcome.roles)

    def lines(self, apart: str) -> str:
        return str(sum(len(getattr(o, apart)) for o in self.outcomes))


def table_of(title: str, groups: dict[str, list[Outcome]]) -> Table:
    """Cases without a complaint / cases, for each group of cases and each check, and the lines that count apart."""
    table = Table(title=title, title_justify="left")
    for name in ("", "objects", *CHECKS, *_APART):
        table.add_column(name, justify="left" if not name else "right")
    for name, outcomes in groups.items():
        score = _Score(outcomes)
        objects = str(sum(len(o.roles) for o in outcomes))
        table.add_row(name, objects, *(score.cell(check) for check in CHECKS), *(score.lines(name) for name in _APART))
    return table


def table_of_objects(outcomes: Sequence[Outcome]) -> Table:
    """Objects without a complaint / objects, for each object and each check that looks at single objects."""
    table = Table(title="Objects", title_justify="left")
    for name in ("", *_PER_OBJECT):
        table.add_column(name, justify="left" if not name else "right")
    for role in ROLES:
        table.add_row(role, *(_Score(outcomes).cell(check, role) for check in _PER_OBJECT))
    return table


def _grouped(outcomes: Iterable[Outcome], key: Callable[[Outcome], str]) -> dict[str, list[Outcome]]:
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(key(outcome), []).append(outcome)
    return groups


def show(outcomes: Sequence[Outcome], console: Console, *, rows: bool) -> None:
    """Print the tables and, verbatim, every complaint."""
    if rows:
        console.print(table_of("Cases", _grouped(outcomes, lambda o: f"{o.case.kind} / {o.case.oddity}")))
    console.print(table_of("Oddities", _grouped(outcomes, lambda o: o.case.oddity)))
    console.print(table_of("Kinds of source", _grouped(outcomes, lambda o: o.case.kind)))
    console.print(table_of("Verdicts", _grouped(outcomes, lambda o: o.case.verdict)))
    console.print(table_of_objects(outcomes))
    _list("complaints", outcomes, lambda o: o.complaints, console)
    for title, of in (
        ("inherited: the source has the same of the same value", lambda o: o.inherited),
        ("scheme: the designator of our private codes", lambda o: o.scheme),
        ("unavoidable", lambda o: o.unavoidable),
        ("mended: the source has no value, or one that can't be repeated", lambda o: o.mended),
    ):
        _list(title, outcomes, of, console, places=False)


def _list(
    title: str,
    outcomes: Sequence[Outcome],
    of: Callable[[Outcome], list[Complaint]],
    console: Console,
    *,
    places: bool = True,
) -> None:
    """Each line once, with how often and where it was first heard; without its place inside the object if need be."""
    first: dict[tuple[str, str, str], Case] = {}
    counts: Counter[tuple[str, str, str]] = Counter()
    for outcome in outcomes:
        for entry in of(outcome):
            key = (entry.check, entry.role, entry.line if places else re.sub(r"</.*/|\[\d+\](?=>)", "", entry.line))
            counts[key] += 1
            first.setdefault(key, outcome.case)
    console.print(f"\n{title}: {counts.total()} lines, {len(counts)} different", style="bold", highlight=False)
    for (check, role, line), count in counts.most_common():
        longest = 400 if places else 160
        said = line if len(line) <= longest else f"{line[:longest]} ... ({len(line)} characters)"
        where = f"{count:5} x {check} {role} ({first[check, role, line].name} ...): "
        console.print(f"{where}{said}", markup=False, highlight=False, soft_wrap=True)


def chosen(quick: bool, only: str) -> list[Case]:
    """The cases to run: all, or each oddity once; of those, what `only` names as KIND, KIND/ODDITY or /ODDITY."""
    kind, _, oddity = only.partition("/")
    cases = every_oddity_once() if quick else every_case()
    return [c for c in cases if kind in ("", c.kind) and oddity in ("", c.oddity)]


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.matrix", description=__doc__)
    parser.add_argument("--json", type=Path, help="write every line of every case here too")
    parser.add_argument("--quick", action="store_true", help="every oddity once, kinds and verdicts in turns")
    parser.add_argument("--only", default="", metavar="KIND/ODDITY", help="a part: MG, 'MG/plain' or '/UTF-8'")
    parser.add_argument("--rows", action="store_true", help="print a row for each kind and oddity too")
    parser.add_argument("--without-archive", action="store_true", help="no round trip through Orthanc")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the matrix; 0 when nobody complains."""
    options = _arguments(arguments)
    cases = chosen(options.quick, options.only)
    if not cases:
        sys.exit(f"--only {options.only!r} names no case: see tests/conformance/oddities.py")
    console = Console(width=None if sys.stdout.isatty() else 170)
    with tempfile.TemporaryDirectory(prefix="dicom-gam-orthanc-") as folder:
        if options.without_archive:
            outcomes = run(cases, None, console)
        else:
            orthanc = Orthanc(Path(folder) / "orthanc", free_port(), **SETTINGS)
            try:
                outcomes = run(cases, Archive(orthanc.http, orthanc.dicom), console)
            finally:
                orthanc.stop()
    show(outcomes, console, rows=options.rows)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1), encoding="utf-8")
    objects, refused = sum(len(o.roles) for o in outcomes), sum(bool(o.refused) for o in outcomes)
    short = sum(bool(o.complaints) for o in outcomes)
    console.print(f"\n{len(cases)} cases, {objects} objects, {refused} refused by name; {short} cases fall short")
    return int(short > 0)


if __name__ == "__main__":
    sys.exit(main())
