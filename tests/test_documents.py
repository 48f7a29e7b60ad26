"""The documents say what the code does."""

import doctest
import re
import tomllib
from pathlib import Path

import pytest

from dicom_gam.config import settings_from, settings_table

pytestmark = pytest.mark.requirement("OPS-06")

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


OPERATING = (ROOT / "conformance" / "OPERATING.md").read_text(encoding="utf-8")


def test_the_table_of_settings_is_todays():
    assert settings_table() in OPERATING, "run: python conformance/write_settings_table.py"


def test_the_readmes_configuration_is_valid():
    examples = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    settings = settings_from(tomllib.loads("\n".join(examples)))
    assert (settings.destinations[0].ae_title, settings.web.enabled) == ("MYPACS", True)


def test_the_guides_configuration_is_valid_as_a_whole():
    examples = re.findall(r"```toml\n(.*?)```", OPERATING, re.DOTALL)
    settings = settings_from(tomllib.loads("\n".join(examples)))
    assert [rule.name for rule in settings.rules] == ["bedside chest", "not ours", "the rest"]
    assert settings.tls.client_ca is not None


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


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "plugins/README.md",
        "docker/README.md",
        "conformance/VERIFICATION.md",
        "conformance/OPERATING.md",
        "conformance/OVERSIGHT.md",
    ],
)
def test_every_relative_link_leads_somewhere(document):
    path = ROOT / document
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    assert [x for x in links if not (path.parent / x).exists()] == []


def test_the_examples_in_the_documents_give_what_they_say():
    failures, examples = doctest.testfile(str(ROOT / "conformance" / "VERIFICATION.md"), module_relative=False)
    assert examples >= 4
    assert not failures
