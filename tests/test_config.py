"""Settings: what is refused, and in which words."""

import pytest

from dicom_gam.config import Settings, load_settings, settings_from
from dicom_gam.errors import ConfigError

DESTINATION = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}


def test_a_misspelt_key_is_refused_with_the_nearest_right_name():
    with pytest.raises(ConfigError, match=r"unknown key node\.ae_titel \(did you mean ae_title\?\)"):
        settings_from({"node": {"ae_titel": "X"}})


def test_a_misspelt_key_of_a_destination_is_found_too():
    with pytest.raises(ConfigError, match=r"destinations\.0\.prot \(did you mean port\?\)"):
        settings_from({"destinations": [{**DESTINATION, "prot": 1}]})


def test_every_wrong_key_is_named_at_once():
    with pytest.raises(ConfigError, match=r"node\.port.*processing\.device"):
        settings_from({"node": {"port": 99999}, "processing": {"device": "gpu"}})


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match=r"destinations\.0\.host is missing"):
        settings_from({"destinations": [{"name": "pacs", "ae_title": "PACS", "port": 104}]})


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
