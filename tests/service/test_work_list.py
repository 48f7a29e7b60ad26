"""Work lists: CSV or plain text, and messages that name a line but never quote it."""

import pytest

from dicom_gam.errors import ConfigError
from dicom_gam.service.work_list import MAXIMUM_BYTES, read_work_list


@pytest.mark.parametrize(
    "text",
    [
        "1.2.3\n1.2.4\n1.2.3\n",
        "# asked for by the tumour board\n\n1.2.3\r\n1.2.4",
        "study_instance_uid\n1.2.3\n1.2.4\n",
        "patient,Study Instance UID,date\nDOE^JANE,1.2.3,2020\nDOE^JOHN,1.2.4,2021\n",
        'name;StudyInstanceUID\n"Doe; Jane";1.2.3\n\nx;1.2.4\n',
        "\ufeffstudy_instance_uid\tname\n1.2.3\tDoe, Jane\n1.2.4\tx\n",
    ],
)
def test_a_work_list_gives_each_study_once_and_in_order(tmp_path, text):
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8", newline="")
    assert read_work_list(path) == ["1.2.3", "1.2.4"]


@pytest.mark.requirement("SAF-02")
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("name,study_instance_uid\nDOE^JANE,1.2.3\nDOE^JOHN\n", "line 3: there is no Study Instance UID"),
        ("name,study_instance_uid\nDOE^JANE,DOE^JANE\n", "line 2: there is no Study Instance UID"),
        ("DOE^JANE\n", "line 1: there is no Study Instance UID"),
        ("DOE^JANE,1.2.3\n", "has no column study_instance_uid"),
        ("", "names no study"),
        ("study_instance_uid\n# none\n", "names no study"),
        ("1" * (MAXIMUM_BYTES + 1), "is larger than"),
        ('study_instance_uid\n"' + "1" * 200_000 + '"\n', "is no CSV"),
    ],
)
def test_a_wrong_work_list_is_refused_by_line_without_quoting_it(tmp_path, text, why):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=why) as refusal:
        read_work_list(path)
    assert "DOE" not in str(refusal.value)


def test_a_work_list_that_is_no_text_or_not_there_is_refused(tmp_path):
    path = tmp_path / "list.csv"
    with pytest.raises(ConfigError, match="can't be read"):
        read_work_list(path)
    path.write_bytes(b"\xff\xfe1\x00.\x00")
    with pytest.raises(ConfigError, match="no UTF-8"):
        read_work_list(path)
