from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from dicom_gam.service.log_format import TEXT, JsonLines, TextLines, form_in_use, parsed


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(request.param)
    logger = logging.getLogger("dicom_gam.test_log_format")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield stream
    logger.removeHandler(handler)


LOG = logging.getLogger("dicom_gam.test_log_format")
as_json = pytest.mark.parametrize("lines", [JsonLines()], indirect=True)
as_text = pytest.mark.parametrize("lines", [TextLines(TEXT)], indirect=True)


def read(lines: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


@as_json
@pytest.mark.requirement("LOG-01")
def test_a_line_of_json_holds_time_level_event_and_every_key(lines: io.StringIO) -> None:
    LOG.error("delivery.dead job_id=%s destination=%s %s", "a1b2", "PACS", "refused: out of resources")
    (line,) = read(lines)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "ERROR",
        "logger": "dicom_gam.test_log_format",
        "event": "delivery.dead",
        "job_id": "a1b2",
        "destination": "PACS",
        "message": "delivery.dead job_id=a1b2 destination=PACS refused: out of resources",
    }


@as_json
@pytest.mark.requirement("LOG-01")
def test_an_exception_stays_in_its_line(lines: io.StringIO) -> None:
    try:
        raise OSError("line one\nline two")
    except OSError:
        LOG.exception("listener.failed")
    (line,) = read(lines)
    assert line["event"] == "listener.failed"
    assert "OSError: line one\nline two" in line["exc_info"]


@as_json
@pytest.mark.parametrize(
    "hostile",
    ['\n{"level": "INFO"}', '"}', "\x1b[2J\x00", "\u2028", "time=now level=x"],
    ids=["a line of JSON", "a quote", "control characters", "a line separator", "keys"],
)
@pytest.mark.requirement("LOG-02")
def test_nobody_forges_a_line_of_json(lines: io.StringIO, hostile: str) -> None:
    LOG.warning("association.rejected calling_ae_title=%s why=%s", "CT1", hostile)
    assert lines.getvalue().isascii()
    (line,) = read(lines)
    assert (line["level"], line["logger"], line["calling_ae_title"]) == ("WARNING", LOG.name, "CT1")
    assert line["time"] != "now"


@pytest.mark.requirement("LOG-02")
def test_half_a_character_makes_a_line_of_json_too() -> None:
    # Not by a logger: pytest would put it into its report, which can't be encoded then.
    record = logging.makeLogRecord({"name": "x", "levelname": "INFO", "msg": "association.rejected why=\ud800"})
    assert JsonLines().format(record).isascii()


@as_text
@pytest.mark.requirement("LOG-02")
def test_nobody_forges_a_line_of_text(lines: io.StringIO) -> None:
    LOG.warning("association.rejected why=%s", "x\n2026-01-01 00:00:00,000 INFO dicom_gam forged\r\x1b[2J\u2028")
    assert len(lines.getvalue().splitlines()) == 1
    assert "\x1b" not in lines.getvalue()


@pytest.mark.parametrize(
    ("message", "event", "keys"),
    [
        ("node.stopped", "node.stopped", {}),
        ("node.started ae_title=DICOM_GAM port=104", "node.started", {"ae_title": "DICOM_GAM", "port": "104"}),
        ("receiver.lost exit_status=-9: another one is started", "receiver.lost", {"exit_status": "-9"}),
        ("tls.reload_failed, the old certificate stays in use: why", "tls.reload_failed", {}),
        ("drift-alarm sender='CT 1' images=3 log10_evidence=2.1: see `dicom-gam drift`", "drift-alarm",
         {"sender": "CT 1", "images": "3", "log10_evidence": "2.1"}),
        ("drift-alarm sender=\"O'Neil\" bundle=b", "drift-alarm", {"sender": "O'Neil", "bundle": "b"}),
        ("job.failed job_id=a b=words c=3", "job.failed", {"job_id": "a", "b": "words", "c": "3"}),
        ("job.failed no key=3 after words", "job.failed", {}),
        ("receiver.lost not recorded: the disk", "receiver.lost", {}),
        ("The images have no cues", "", {}),
        ("www.example.com/x=1", "", {}),
        ("", "", {}),
    ],
)  # fmt: skip
def test_a_message_is_read_as_event_keys_and_words(message: str, event: str, keys: dict[str, str]) -> None:
    assert parsed(message) == (event, keys)


SCRIPT = """
import logging, sys
from dicom_gam.service.log_format import JsonLines, configure_logging, form_in_use
configure_logging(logging.INFO, sys.argv[1])
logging.getLogger("dicom_gam").info("node.started port=%d", 104)
logging.getLogger("pydicom").warning("Invalid value Doe^Jane")
logging.getLogger("httpx").info("POST https://chat/secret")
print(form_in_use())
"""


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.requirement("LOG-03")
def test_a_process_logs_in_the_form_that_it_was_told_and_hushes_libraries_that_quote(form: str) -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT, form], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.strip() == form
    (line,) = ended.stderr.splitlines()
    assert (
        json.loads(line)["port"] == "104" if form == "json" else line.endswith("INFO dicom_gam node.started port=104")
    )


def test_without_any_set_up_the_form_is_text() -> None:
    assert form_in_use() == "text"
