"""The documents as text."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.uid import UID

import dicom_gam
from conformance.statement import network, objects
from conformance.statement.markdown import code, filled, listed, table
from conformance.statement.on_the_wire import Proposal, proposals
from dicom_gam.dicom.image import acceptance
from dicom_gam.dicom.result import codes, sr
from dicom_gam.dicom.result.reference import IMAGE, PATIENT_AND_STUDY
from dicom_gam.dicom.scp import acceptor, event_report
from dicom_gam.dicom.scu import dicomweb_source, stow
from dicom_gam.records import ResultRole
from dicom_gam.sections import Condition
from dicom_gam.service import notary, outbox

TEMPLATE = Path(__file__).parent / "template.md"
FOLDER = Path(__file__).parent.parent
BEGIN, END = "<!-- decisions -->", "<!-- /decisions -->"
_CODES = """<!-- Written by `python -m conformance.statement` from the code and encoded examples; do not edit. -->
# Codes in the results of dicom_gam {{version}}

## Private codes

Coding scheme designator `{{scheme}}` ({{scheme_name}}), stated in Coding Scheme Identification Sequence (0008,0110). No
coding scheme UID is registered, and none is claimed. A code keeps its meaning for good; new ones may come.

{{private}}

What each measurement is, and what it can and can't see, stands in [VERIFICATION.md](VERIFICATION.md).

## Codes of others

Every one that stands in the examples from which [STATEMENT.md](STATEMENT.md) is made, and those that are only
sometimes needed. The finding besides, which is a code of the bundle's class table.

{{standard}}
"""


def documents(made: objects.Objects | None = None) -> dict[str, str]:
    """Every document by its name in the conformance folder; of the index, the list of decisions is ours."""
    made = made or objects.Objects()
    return {"STATEMENT.md": _statement(made), "CODES.md": _codes(made), "README.md": _index()}


def _index() -> str:
    rows = []
    for path in sorted(FOLDER.glob("decisions/*.md")):
        number, _, title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").partition(" ")
        rows.append((f"[{number}](decisions/{path.name})", title))
    before, _, rest = (FOLDER / "README.md").read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table(('number', 'what was decided'), rows)}\n\n{END}{rest.partition(END)[2]}"


def _codes(made: objects.Objects) -> str:
    parts = {
        "version": dicom_gam.__version__,
        "scheme": codes.PRIVATE_SCHEME,
        "scheme_name": codes.PRIVATE_SCHEME_NAME,
        "private": objects.private_codes(),
        "standard": made.standard_codes(),
    }
    return filled(_CODES, parts)


def _statement(made: objects.Objects) -> str:
    asked = proposals(made.files)
    parts = {"version": dicom_gam.__version__} | _created(made) | _services(asked) | _answers() | _security()
    return filled(TEMPLATE.read_text(encoding="utf-8"), parts)


def _created(made: objects.Objects) -> dict[str, str]:
    own = {f"iod_{role}": made.own(role) for role in get_args(ResultRole)}
    classes = [UID(uid) for uid in sr.SOP_CLASSES.values()]
    return own | {
        "objects": made.overview(),
        "sr_class": f"{classes[0].name} {code(classes[0])}",
        "sr_fallback": f"{classes[1].name} {code(classes[1])}",
        "common": made.common(),
        "tree": made.tree(),
        "rejection_tree": made.rejection_tree(),
        "schemes": made.schemes(),
        "private_scheme": code(codes.PRIVATE_SCHEME),
        "language": made.language,
        "overlay_syntax": made.syntax("overlay"),
        "extensions": made.extensions(),
        "used_attributes": _used_attributes(),
        "rule_attributes": _rule_attributes(),
    }


def _services(asked: dict[str, Proposal]) -> dict[str, str]:
    return {
        "implementation": network.implementation(asked),
        "limits": network.limits(asked),
        "proposed": network.proposed(asked),
        "echo_accepted": network.named(acceptor._ECHO_SYNTAXES),
        "store_contexts": network.contexts(asked["store"]),
        "store_compressed": network.compressed(asked["store"], asked["store compressed"]),
        "commitment_accepted": network.named(event_report.TRANSFER_SYNTAXES),
        "stow_accept": code(stow._JSON),
        "qido_accept": code(dicomweb_source._JSON[0]),
        "wado_accept": listed(
            [f"`Accept: {accept}`" for accept in dicomweb_source._ACCEPTS], "or, where that is refused,"
        ),
    }


def _answers() -> dict[str, str]:
    return {
        "rejections": network.rejections(),
        "responses": network.responses(),
        "reasons": network.reasons(),
        "sop_classes_processed": network.sop_classes_processed(),
        "sop_classes_kept": network.sop_classes_kept(),
        "transfer_syntaxes": network.transfer_syntaxes(),
        "store_statuses": network.store_statuses(),
        "stow_statuses": network.stow_statuses(),
        "commitment_reasons": network.commitment_reasons(),
        "retrieve_statuses": network.retrieve_statuses(),
        "web_statuses": network.web_statuses(),
        "objects_per_association": str(outbox.OBJECTS_PER_ASSOCIATION),
        "objects_per_request": str(notary.OBJECTS_PER_REQUEST),
        "broken_in_a_row": str(outbox.BROKEN_IN_A_ROW),
        "settings": network.settings(
            "node.", "access.", "[[access", "tls.", "delivery.", "output.", "[[destinations", "[[sources"
        ),
        "character_sets": network.character_sets(),
    }


def _security() -> dict[str, str]:
    return {
        "ciphers": network.ciphers(),
        "tls_versions": network.tls_versions(),
        "audit_events": network.audit_events(),
    }


def _used_attributes() -> str:
    rooms = {
        "telling whether it is one of our own results, or no radiograph": ["acceptance.py"],
        "decoding and bringing to what a viewer would show": [
            "decode.py",
            "stored_pixels.py",
            "display.py",
            "part10.py",
        ],
        "rules": ["rules.py"],
    }
    rows = [(purpose, _keywords(files)) for purpose, files in rooms.items()]
    rows.append(("copying into results (annex A)", [*PATIENT_AND_STUDY, *IMAGE]))
    lines = table(("", ""), [(purpose, ", ".join(map(_named, words))) for purpose, words in rows]).splitlines()
    return "\n".join(lines[2:])


def _keywords(files: list[str]) -> list[str]:
    """Every keyword of the dictionary that stands in these files as text or as an attribute."""
    found: set[str] = set()
    for name in files:
        path = Path(acceptance.__file__).parent / name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = (
                node.value if isinstance(node, ast.Constant) else node.attr if isinstance(node, ast.Attribute) else None
            )
            if isinstance(text, str) and tag_for_keyword(text) is not None:
                found.add(text)
    return sorted(found, key=lambda keyword: tag_for_keyword(keyword) or 0)


def _named(keyword: str) -> str:
    tag = tag_for_keyword(keyword) or 0
    return f"{dictionary_description(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _rule_attributes() -> str:
    rows = [(code(f"when.{name}"), info.description) for name, info in Condition.model_fields.items()]
    return table(("key", "of the image"), rows)
