"""The image's recipe, and its health check before a real front door and dashboard.

`make image` builds the image and tries it out, with a whole node in it.
"""

import re
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from dicom_gam.sections import TlsSettings
from dicom_gam.service.store import open_store
from dicom_gam.web.app import make_app
from dicom_gam.web.server import WebServer
from dicom_gam.web.site import Site
from tests.dicom.front_door import FrontDoor
from tests.dicom.self_signed import self_signed
from tests.end_to_end.peers import free_port
from tests.web.made_site import made_settings

REPOSITORY = Path(__file__).parents[2]
DOCKER = REPOSITORY / "docker"
HEALTH_CHECK = DOCKER / "healthcheck.py"


def dockerfile() -> list[list[str]]:
    """The Dockerfile's instructions, by word, without comments."""
    text = (DOCKER / "Dockerfile").read_text()
    lines = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    return [line.split() for line in lines.splitlines() if line]


def last_stage() -> list[list[str]]:
    found = dockerfile()
    return found[max(i for i, words in enumerate(found) if words[0] == "FROM") :]


def goes_to_the_builder(path: str) -> bool:
    """By the rules of .dockerignore: the last pattern that fits the file, or a folder that it is in, decides."""
    goes = True
    parts = Path(path).parts
    candidates = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if not line or line.startswith("#"):
            continue
        if any(fnmatch(c, pattern) or ("**/" in line and fnmatch(Path(c).name, pattern)) for c in candidates):
            goes = line.startswith("!")
    return goes


def copied() -> list[str]:
    """What COPY takes from the repository."""
    found = [words[1:-1] for words in dockerfile() if words[0] == "COPY" and "--from" not in words[1]]
    return [source.rstrip("/") for sources in found for source in sources]


@pytest.mark.requirement("IMG-01")
def test_the_base_is_a_build_argument_and_by_default_pinned_by_a_tag():
    arguments = dict(words[1].split("=", 1) for words in dockerfile() if words[0] == "ARG")
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+", arguments["BASE"])
    assert {words[1] for words in dockerfile() if words[0] == "FROM"} == {"${BASE}"}


@pytest.mark.requirement("IMG-02")
def test_the_image_runs_as_a_numeric_user_who_is_not_root():
    *_, user = (words[1] for words in last_stage() if words[0] == "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


@pytest.mark.requirement("IMG-03")
def test_what_is_copied_exists_and_goes_to_the_builder():
    assert copied()
    for source in copied():
        assert (REPOSITORY / source).exists(), source
        assert goes_to_the_builder(source), source


@pytest.mark.requirement("IMG-03")
@pytest.mark.parametrize(
    "path", ["tests/docker/test_image.py", ".git/HEAD", "build/base.tar", ".venv/bin/python", "docker/compose.yml",
             "conformance/STATEMENT.md", "dicom_gam/core/__pycache__/network.cpython-311.pyc"]
)  # fmt: skip
def test_tests_and_leftovers_do_not_go_to_the_builder(path):
    assert not goes_to_the_builder(path)


@pytest.mark.requirement("IMG-04")
def test_the_image_starts_the_command_of_the_package_behind_an_init():
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    entry = next(" ".join(words[1:]) for words in last_stage() if words[0] == "ENTRYPOINT")
    assert entry == '["dumb-init", "--single-child", "--", "dicom-gam"]'  # the exec form: no shell that eats SIGTERM
    assert "dicom-gam" in scripts
    assert any(pin.startswith("dumb-init==") for pin in pins())


@pytest.mark.requirement("IMG-04")
def test_the_health_check_is_the_file_that_is_copied():
    check = next(" ".join(words) for words in last_stage() if words[0] == "HEALTHCHECK")
    assert check.endswith('CMD ["dicom-gam-health"]')
    assert ["COPY", "docker/healthcheck.py", "/opt/dicom-gam/bin/dicom-gam-health"] in last_stage()
    assert HEALTH_CHECK.stat().st_mode & 0o111


def pins() -> list[str]:
    lines = (DOCKER / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.requirement("IMG-05")
def test_every_dependency_of_the_package_is_pinned_to_a_version_that_it_allows():
    pinned: dict[str, list[str]] = {}
    for pin in map(Requirement, pins()):
        (specifier,) = pin.specifier
        assert specifier.operator == "==", pin
        pinned.setdefault(pin.name.lower(), []).append(specifier.version)
    remedy = "make the pins anew: the command stands at the top of docker/requirements.txt"
    for text in tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]:
        wanted = Requirement(text)
        assert pinned.get(wanted.name.lower()), f"{wanted.name}: {remedy}"
        for version in pinned[wanted.name.lower()]:
            assert wanted.specifier.contains(version), f"{wanted} is pinned to {version}: {remedy}"


@pytest.mark.requirement("IMG-05")
def test_a_cpu_image_without_a_source_of_cpu_builds_is_refused_before_anything_is_fetched(tmp_path):
    ended = subprocess.run(
        ["/bin/sh", DOCKER / "install.sh", "libraries"],
        env={"PATH": str(tmp_path), "COMPUTE": "cpu", "TORCH_INDEX": ""},  # no program can be called
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert "TORCH_INDEX" in ended.stderr
    assert "docker/wheels" in ended.stderr


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return self_signed(tmp_path_factory.mktemp("tls"), "node")


@contextmanager
def dashboard(folder: Path, web: dict):
    settings = made_settings(folder, web=web)
    with open_store(settings, create=True) as store:
        server = WebServer(settings, make_app(Site(settings, store, None)))
        server.start()
        try:
            yield int(server.url.rsplit(":", 1)[1])
        finally:
            server.stop()


def health(folder: Path, port: int, web_port: int | None = None, encrypted: bool = False) -> tuple[int, str]:
    """What the health check says of a node with such a configuration."""
    certificate = 'certificate = "any.pem"\n' if encrypted else ""
    web = f"[web]\nenabled = true\nport = {web_port}\n{certificate}" if web_port else ""
    configuration = folder / "node.toml"
    configuration.write_text(f'[node]\nhost = "0.0.0.0"\nport = {port}\n{web}')
    command = [sys.executable, "-I", HEALTH_CHECK, configuration]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stderr == ""
    return ended.returncode, ended.stdout


# When the reset comes before the handshake begins, Python's ssl leaves the dead socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.requirement("IMG-06")
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
def test_the_health_check_is_content_with_a_node_that_serves_and_leaves_no_trace(tmp_path, certificate, encrypted):
    files = {"certificate": certificate.certificate, "key": certificate.key} if encrypted else {}
    tls = TlsSettings(**files, client_ca=certificate.certificate) if encrypted else TlsSettings()
    with FrontDoor(tls=tls) as door, dashboard(tmp_path / "data", files) as web_port:
        assert health(tmp_path, door.port, web_port, encrypted) == (0, "")
    assert door.notices == []  # written once the door is shut, so nothing can come later


@pytest.mark.requirement("IMG-06")
def test_the_health_check_says_which_door_is_shut(tmp_path):
    shut = free_port()
    status, words = health(tmp_path, shut)
    assert status == 1
    assert f"the DICOM port 127.0.0.1:{shut} does not answer" in words
    with FrontDoor() as door:
        assert health(tmp_path, door.port) == (0, "")  # no dashboard, none asked
        status, words = health(tmp_path, door.port, shut)
    assert status == 1
    assert f"the dashboard at 127.0.0.1:{shut} does not answer" in words


@pytest.mark.requirement("IMG-06")
def test_the_health_check_says_so_when_there_is_no_configuration(tmp_path):
    command = [sys.executable, "-I", HEALTH_CHECK, tmp_path / "absent.toml"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "absent.toml can't be read" in ended.stdout
