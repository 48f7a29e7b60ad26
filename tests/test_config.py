"""Settings: what is refused, and in which words."""

import pytest

from dicom_gam.config import Settings, load_settings, settings_from
from dicom_gam.errors import ConfigError

DESTINATION = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}


@pytest.mark.requirement("OPS-01")
def test_a_misspelt_key_is_refused_with_the_nearest_right_name():
    with pytest.raises(ConfigError, match=r"unknown key node\.ae_titel \(did you mean ae_title\?\)"):
        settings_from({"node": {"ae_titel": "X"}})


@pytest.mark.requirement("OPS-01")
def test_a_misspelt_key_of_a_destination_is_found_too():
    with pytest.raises(ConfigError, match=r"destinations\.0\.prot \(did you mean port\?\)"):
        settings_from({"destinations": [{**DESTINATION, "prot": 1}]})


@pytest.mark.requirement("OPS-01")
def test_every_wrong_key_is_named_at_once():
    with pytest.raises(ConfigError, match=r"node\.port.*processing\.device"):
        settings_from({"node": {"port": 99999}, "processing": {"device": "gpu"}})


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match=r"access\.callers\.0\.hosts is missing"):
        settings_from({"access": {"callers": [{"ae_title": "CT"}]}})


@pytest.mark.parametrize("title", ["", "A" * 17, "   ", "BACK\\SLASH"])
def test_an_ae_title_that_dicom_forbids_is_refused(title):
    with pytest.raises(ConfigError, match=r"node\.ae_title"):
        settings_from({"node": {"ae_title": title}})


def test_two_destinations_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="two destinations have the same name"):
        settings_from({"destinations": [DESTINATION, DESTINATION]})


def test_a_longest_wait_below_the_first_is_refused():
    with pytest.raises(ConfigError, match="maximum_retry_s is smaller than first_retry_s"):
        settings_from({"delivery": {"first_retry_s": 10, "maximum_retry_s": 5}})


def test_a_file_that_is_not_there_or_not_toml_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.toml: can't be read"):
        load_settings(tmp_path / "nothing.toml")
    (tmp_path / "bad.toml").write_text("[node\n")
    with pytest.raises(ConfigError, match=r"bad\.toml: is not valid TOML"):
        load_settings(tmp_path / "bad.toml")


def test_storage_is_taken_from_the_files_own_folder(tmp_path):
    (tmp_path / "node.toml").write_text('[node]\nstorage = "data"\n')
    assert load_settings(tmp_path / "node.toml").node.storage == tmp_path / "data"


def test_the_result_digest_changes_with_what_shapes_a_result_and_with_nothing_else():
    base = Settings()
    assert base.result_digest() == settings_from({"node": {"port": 104}}).result_digest()
    assert base.result_digest() != settings_from({"output": {"footer": "other"}}).result_digest()
    assert base.result_digest() != settings_from({"processing": {"bf16": True}}).result_digest()


@pytest.mark.requirement("OPS-02")
@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"destinations": [{"name": "x"}]}, "give ae_title, host and port"),
        ({"destinations": [{**DESTINATION, "url": "http://pacs/dicom-web"}]}, "give one kind and not both"),
        ({"destinations": [{"name": "x", "url": "ftp://pacs"}]}, r"destinations\.0\.url"),
        ({"destinations": [{"name": "x", "url": "http://pacs/q", "commitment": True}]}, "commitment is DIMSE only"),
        ({"destinations": [{**DESTINATION, "ca": "ca.pem"}]}, "ca or certificate without tls"),
        ({"destinations": [{**DESTINATION, "tls": True, "key": "key.pem"}]}, "certificate and key belong together"),
        ({"destinations": [{**DESTINATION, "authorization_file": "x"}]}, "authorization_file is for DICOMweb"),
        ({"tls": {"certificate": "cert.pem"}}, "certificate and key belong together"),
        ({"tls": {"client_ca": "ca.pem"}}, "client_ca without certificate"),
        ({"access": {"callers": [{"ae_title": "CT", "hosts": ["10.0.0.300"]}]}}, "neither an address nor a network"),
        ({"access": {"callers": [{"ae_title": "CT", "hosts": []}]}}, r"access\.callers\.0\.hosts"),
        ({"rules": [{"name": "r", "destinations": ["nowhere"]}]}, "'nowhere', which is not among"),
        ({"rules": [{"name": "r"}, {"name": "r"}]}, "two rules have the same name"),
        ({"rules": [{"name": "r", "when": {"modalty": ["CR"]}}]}, r"did you mean modality"),
        (
            {
                "destinations": [{**DESTINATION, "commitment": True}],
                "access": {"callers": [{"ae_title": "CT", "hosts": ["10.0.0.1"]}]},
            },
            "its answer would be refused at the door",
        ),
        ({"rules": [{"name": "r", "when": {"modality": []}}]}, "modality has no pattern"),
        ({"sources": [{"name": "x", "retrive": "c-get"}]}, r"did you mean retrieve"),
    ],
)
def test_a_contradiction_is_refused_in_words(table, words):
    with pytest.raises(ConfigError, match=words):
        settings_from(table)


def test_every_relative_path_is_taken_from_the_files_own_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "node.toml").write_text(
        '[tls]\ncertificate = "c.pem"\nkey = "/k.pem"\n'
        '[[destinations]]\nname = "web"\nurl = "https://pacs/dicom-web"\nauthorization_file = "secret"\n'
        '[[rules]]\nname = "a"\nbundle = "mine"\n[[rules]]\nname = "b"\nbundle = "built-in-name"\n'
    )
    read = load_settings(tmp_path / "node.toml")
    assert (str(read.tls.certificate), str(read.tls.key)) == (f"{tmp_path}/c.pem", "/k.pem")
    assert read.destinations[0].authorization_file == tmp_path / "secret"
    assert [rule.bundle for rule in read.rules] == [f"{tmp_path}/mine", "built-in-name"]
    assert read.bundles == ("radiograph-anatomy", f"{tmp_path}/mine", "built-in-name")


def test_settings_survive_the_way_to_a_receiver():
    settings = settings_from(
        {
            "access": {"callers": [{"ae_title": "CT*", "hosts": ["10.0.0.0/8"]}]},
            "destinations": [DESTINATION],
            "rules": [{"name": "r", "when": {"modality": ["CR", "DX"]}, "destinations": ["pacs"]}],
        }
    )
    assert Settings.model_validate_json(settings.as_json()) == settings
