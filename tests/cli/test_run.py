from __future__ import annotations

import pytest

from dicom_gam.cli.run import run
from dicom_gam.errors import ConfigError


def test_a_folder_without_files_is_refused_for_no_verdict_would_look_like_success(tmp_path):
    with pytest.raises(ConfigError, match="no file is in this folder"):
        run([tmp_path])
