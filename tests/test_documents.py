"""The documents say what the code does: links, commands, settings, messages, statuses."""

import doctest
import functools
import importlib
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from dicom_gam.cli.main import COMMANDS, load
from dicom_gam.config import settings_from, settings_table
from dicom_gam.dicom import statuses
from dicom_gam.records import Reason
from dicom_gam.service.doctor_case import Level

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPERATING = (ROOT / "conformance" / "OPERATING.md").read_text(encoding="utf-8")
TROUBLESHOOTING = (ROOT / "conformance" / "TROUBLESHOOTING.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for folder in ("", "conformance/**", "plugins/**", "docker/**", "dicom_gam/**")
    for path in ROOT.glob(f"{folder}/*.md".lstrip("/"))
    if not {"node_modules", "build", "template.md"}
    & set(path.relative_to(ROOT).parts)  # the template becomes STATEMENT.md
)
GUIDES = [
    name for name in DOCUMENTS if "decisions" not in name and Path(name).name not in {"TRACEABILITY.md", "STATEMENT.md"}
]

_FENCED = re.compile(r"```.*?```", re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FILE = re.compile(r"\.(toml|py|md|js|json|jsonl|csv|pem|npz|safetensors|sqlite|key|html|yml|service|dcm|png|rst)$")


@pytest.mark.requirement("OPS-06")
def test_the_table_of_settings_is_todays():
    assert settings_table() in OPERATING, "run: python conformance/write_settings_table.py"


@pytest.mark.requirement("OPS-06")
def test_the_readmes_configuration_is_valid():
    examples = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    settings = settings_from(tomllib.loads("\n".join(examples)))
    assert (settings.destinations[0].ae_title, settings.web.enabled) == ("MYPACS", True)


@pytest.mark.requirement("OPS-06")
def test_the_guides_configuration_is_valid_as_a_whole():
    examples = re.findall(r"```toml\n(.*?)```", OPERATING, re.DOTALL)
    settings = settings_from(tomllib.loads("\n".join(examples)))
    assert [rule.name for rule in settings.rules] == ["bedside chest", "not ours", "the rest"]
    assert settings.tls.client_ca is not None


@pytest.mark.requirement("OPS-06")
def test_the_configuration_of_the_guide_to_oversight_is_valid():
    text = (ROOT / "conformance" / "OVERSIGHT.md").read_text(encoding="utf-8")
    examples = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    examples += [
        "\n".join(line[4:] for line in block.splitlines())
        for block in re.findall(r"(?m)^    \[.*\]\n(?:^    .*\n?)*", text)
    ]
    settings = settings_from(tomllib.loads("\n".join(examples)))
    assert settings.web.enabled
    assert settings.atna.host
    assert settings.notifications.mail_to


@pytest.mark.requirement("OPS-06", "DOC-01")
def test_every_relative_link_in_every_document_leads_somewhere():
    lost = []
    for name in DOCUMENTS:
        for link in _LINK.findall(_FENCED.sub("", _read(name))):
            if re.match(r"[a-z]+:", link):
                continue
            place, _, anchor = link.partition("#")
            target = (ROOT / name).parent / place if place else ROOT / name
            if not target.exists() or (anchor and anchor not in _anchors(target)):
                lost.append(f"{name}: {link}")
    assert not lost


@pytest.mark.requirement("DOC-02")
def test_every_command_and_option_in_the_documents_exists():
    wrong = [
        f"{name}: {text}: {why}" for name in GUIDES for text, whole in _commands(name) for why in _faults(text, whole)
    ]
    assert not wrong


@pytest.mark.requirement("DOC-02")
def test_every_make_target_in_the_documents_exists():
    targets = set(re.findall(r"^([a-z][a-z-]*)\s*:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    targets |= set(
        re.findall(r"^([a-z-]+(?: [a-z-]+)+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    named = {
        (name, target) for name in GUIDES for target in re.findall(r"(?m)(?:^    |`)make ([a-z][a-z-]*)", _read(name))
    }
    assert not [(name, target) for name, target in sorted(named) if target not in targets]


@pytest.mark.requirement("DOC-03")
@pytest.mark.parametrize("document", ["README.md", "conformance/TROUBLESHOOTING.md", "conformance/COMPARISON.md"])
def test_every_setting_and_event_that_is_named_exists(document):
    unknown = []
    for span in _SPAN.findall(_FENCED.sub("", _read(document))):
        name = span.split("=")[0].strip()
        if not re.fullmatch(r"[a-z][a-z_]*(\.[a-z_]+)+", name) or _FILE.search(name) or name in _ENTRY_POINTS:
            continue
        if not (name in _keys() or f'"{name}' in _sources()):
            unknown.append(name)
    assert not unknown


@pytest.mark.requirement("DOC-03")
def test_every_message_that_the_table_of_symptoms_quotes_is_in_the_code():
    prose = _SPAN.sub("", _FENCED.sub("", TROUBLESHOOTING))
    quoted = re.findall(r'"([^"\n|]+)"', prose)
    assert len(quoted) > 40
    assert [words for words in quoted if words not in _sources()] == []


@pytest.mark.requirement("DOC-03")
def test_every_status_and_reason_that_the_table_of_symptoms_names_exists():
    known = {f"{status:04X}" for status in (*statuses.StoreStatus, *statuses.STORED)}
    assert set(re.findall(r"\b[ABC][0-9A-F]{3}\b", TROUBLESHOOTING)) <= known
    reasons = {span for span in _SPAN.findall(TROUBLESHOOTING) if re.fullmatch(r"[a-z]+(-[a-z]+)+", span)}
    assert len(reasons) > 5
    assert reasons - {"nvidia-smi"} <= {str(reason) for reason in Reason}


@pytest.mark.requirement("DOC-04")
def test_the_table_of_exit_statuses_says_what_the_commands_give():
    table = TROUBLESHOOTING.partition("## Exit statuses")[2]
    said = {
        command: {int(number) for number in re.findall(r"\b(\d+)\b", otherwise)}
        for commands, otherwise in re.findall(r"^\| (`.*?) \| [^|]* \| (.*) \|$", table, re.MULTILINE)
        for command in _SPAN.findall(commands)
    }
    assert len(said) == 11
    assert said == {command: _exit_statuses(command) for command in said}


@pytest.mark.requirement("DOC-05")
def test_the_comparison_cites_a_source_for_each_mark_and_uses_each_source():
    text, _, sources = (ROOT / "conformance" / "COMPARISON.md").read_text(encoding="utf-8").partition("## Sources")
    marks, given = set(re.findall(r"\[([mdo]\d+)\]", text)), set(re.findall(r"\[([mdo]\d+)\]", sources))
    assert marks == given
    assert len(marks) > 20


@pytest.mark.requirement("OPS-06")
def test_the_examples_in_the_documents_give_what_they_say():
    failures, examples = doctest.testfile(str(ROOT / "conformance" / "VERIFICATION.md"), module_relative=False)
    assert examples >= 4
    assert not failures


_ENTRY_POINTS = {"dicom_gam.architectures", "dicom_gam.attention_methods"}


@functools.cache
def _read(name):
    return (ROOT / name).read_text(encoding="utf-8")


@functools.cache
def _anchors(path):
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"(?m)^#+ +(.*)$", _FENCED.sub("", path.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@functools.cache
def _sources():
    """Every source and page of the package, with the parts of a text that goes over lines put together."""
    files = [*(ROOT / "dicom_gam").rglob("*.py"), *(ROOT / "dicom_gam").rglob("*.html")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return re.sub(r'"\s*\n\s*f?"', "", text)


@functools.cache
def _keys():
    rows = re.findall(r"^\| `(?:\[\[(\w+(?:\.\w+)*)\]\] )?([\w.]+)`", settings_table(), re.MULTILINE)
    keys = {f"{table}.{key}" if table else key for table, key in rows}
    return keys | {key.rpartition(".")[0] for key in keys}


@functools.cache
def _commands(name):
    """The commands of a document: their text, and whether it stands in a block of its own, so must be complete."""
    text = _FENCED.sub(lambda found: "\n".join("    " + line for line in found[0].splitlines()), _read(name))
    blocks = [(line, True) for line in re.findall(r"(?m)^ {4,}(?:\S*/)?dicom-gam (.*)$", text)]
    prose = re.sub(r"(?m)^ {4,}.*$", "", text)
    spans = [span[10:] for span in _SPAN.findall(prose) if span.startswith("dicom-gam ")]
    return blocks + [(span, False) for span in spans if not span.startswith("@")]  # "dicom-gam @ ...": a requirement


def _faults(text, whole):
    """What is wrong with a command line; `a|b` stands for several, brackets for what may be left out."""
    words = shlex.split(text.partition(" &")[0], comments=True)
    words = [word.strip("[]") for word in words if word != "..."]
    several = next((word for word in words if re.fullmatch(r"[a-z]+(\|[a-z]+)+", word)), None)
    for one in several.split("|") if several else [None]:
        yield from _faults_of_one([one if word == several else word for word in words], whole=whole and not several)


def _faults_of_one(words, *, whole):
    if words[:1] in (["--version"], ["--help"]):
        return
    if not words or words[0] not in COMMANDS:
        yield "no such command"
        return
    command, rest = load(words[0]), words[1:]
    if hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands:
            yield f"no such command: {rest[0]}"
            return
        command, rest = command.commands[rest[0]], rest[1:]
    known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts} | {
        "--help"
    }
    yield from (word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known)
    if whole:
        yield from _unparsable(command, rest)


def _unparsable(command, words):
    try:
        command.make_context(command.name, list(words))
    except click.ClickException as error:
        yield error.format_message()
    except Exception as error:  # Typer may bring a click of its own
        if not hasattr(error, "format_message"):
            raise
        yield error.format_message()


def _exit_statuses(command):
    """The exit statuses other than 0 that a command's module names."""
    words = command.split()
    if words[0] != "dicom-gam":
        return {2}
    if words[1] == "doctor":
        return {int(level) for level in Level} - {0}
    module = importlib.import_module(f"dicom_gam.cli.{COMMANDS[words[1]][0].partition(':')[0]}")
    named = {value for name, value in vars(module).items() if name.startswith("EXIT_") and isinstance(value, int)}
    named |= set(getattr(module, "EXIT_STATUS", {}).values())
    return (named or {1}) - {0}
