"""What docker/compose.yml puts together, run together without Docker: node, Orthanc, nginx and Prometheus, all real.

Only addresses, ports, paths and waiting times are changed in the files, by `Stack.with_places`.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import runpy
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from dicom_gam.cli.serving import assembled
from dicom_gam.config import load_settings
from tests.end_to_end.peers import free_port, program, sample, wait_for

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
SERVICES = yaml.safe_load((DOCKER / "compose.yml").read_text())["services"]
DEBIAN_PLUGINS = [f"/usr/share/orthanc/plugins/lib{name}.so" for name in ("OrthancDicomWeb", "OrthancPython")]


class Stack:
    """The services of compose.yml that can be had here, on loopback, with all they write in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = ("node_dicom", "node_web", "orthanc_dicom", "orthanc_http", "viewer", "prometheus")
        self.ports = {name: free_port() for name in names}
        prepare = runpy.run_path(str(DOCKER / "compose/prepare.py"))
        prepare["main"](folder)
        self.users = folder / "orthanc/users.json"
        [(self.user, self.password)] = json.loads(self.users.read_text())["RegisteredUsers"].items()
        self.processes: list[subprocess.Popen] = []
        self.open = ExitStack()

    def with_places(self, name: str, changes: dict[str, str]) -> Path:
        """A committed file with places of this machine; every one of them must occur in it."""
        text = (DOCKER / name).read_text()
        for old, new in changes.items():
            assert old in text, f"{name} has no {old!r}"
            text = text.replace(old, new)
        target = self.folder / Path(name).name
        target.write_text(text)
        return target

    def launch(self, name: str, *command: str | Path) -> None:
        with (self.folder / f"{name}.log").open("w") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))

    def start_node(self) -> None:
        """As `dicom-gam serve` does, but here: a process of its own takes ten seconds to load PyTorch."""
        ports = self.ports
        config = self.with_places(
            "compose/node.toml",
            {
                '"0.0.0.0"': '"127.0.0.1"',
                "port = 11112": f"port = {ports['node_dicom']}\nreceivers = 0",
                "port = 8180": f"port = {ports['node_web']}",
                '"172.30.112.0/24"': '"127.0.0.1"',
                'host = "orthanc"': 'host = "127.0.0.1"',
                "port = 4242": f"port = {ports['orthanc_dicom']}",
                "/var/lib/dicom-gam": str(self.folder / "node"),
                "/run/dicom-gam": str(self.folder / "certificate"),
            },
        )
        for part in self.open.enter_context(assembled(load_settings(config))):
            self.open.enter_context(part)

    def start_orthanc(self) -> None:
        ports = self.ports
        config = json.loads((DOCKER / "compose/orthanc.json").read_text())
        script = Path(config["PythonScript"])
        config |= json.loads(self.users.read_text()) | {
            "HttpPort": ports["orthanc_http"],
            "DicomPort": ports["orthanc_dicom"],
            "RemoteAccessAllowed": False,
            "StorageDirectory": str(self.folder / "db"),
            "IndexDirectory": str(self.folder / "db"),
            "StableAge": 1,
            "DicomModalities": {
                name: [title, "127.0.0.1", ports["node_dicom"]]
                for name, (title, *_) in config["DicomModalities"].items()
            },
            "PythonScript": str(ROOT / "plugins/orthanc" / script.name),
            "Plugins": DEBIAN_PLUGINS,
        }
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(config))
        self.launch("orthanc", program("Orthanc"), path)

    def start_viewer(self) -> None:
        dist = self.folder / "dist"
        dist.mkdir()
        (dist / "index.html").write_text("<title>OHIF</title>")
        for name in ("app.bundle.js", "app-config.js"):  # as OHIF's image has them: empty, and whole as .gz
            (dist / name).write_text("")
            (dist / f"{name}.gz").write_bytes(gzip.compress(f"the image's {name}".encode()))
        (self.folder / "nginx").mkdir()
        config = self.with_places(
            "compose/nginx.conf",
            {
                "listen 8080": f"listen 127.0.0.1:{self.ports['viewer']}",
                "orthanc:8042": f"127.0.0.1:{self.ports['orthanc_http']}",
                "/tmp/": f"{self.folder}/nginx/",
                "/usr/share/nginx/html": str(dist),
                "/etc/dicom-gam/app-config.js": str(ROOT / "plugins/ohif/app-config.js"),
            },
        )
        # As root nginx would hand its work to a user that can't read here; in the image it isn't root.
        directives = "daemon off; user root;" if os.geteuid() == 0 else "daemon off;"
        self.launch("viewer", program("nginx"), "-c", config, "-g", directives)

    def start_prometheus(self) -> None:
        shutil.copy(DOCKER / "prometheus-alerts.yml", self.folder)
        config = self.with_places(
            "compose/prometheus.yml",
            {
                "interval: 30s": "interval: 1s",
                '"node:8180"': f'"127.0.0.1:{self.ports["node_web"]}"',
                "/run/dicom-gam": str(self.folder / "certificate"),
            },
        )
        address = f"--web.listen-address=127.0.0.1:{self.ports['prometheus']}"
        data = f"--storage.tsdb.path={self.folder / 'tsdb'}"
        self.launch("prometheus", program("prometheus"), f"--config.file={config}", data, address)

    def get(self, service: str, path: str, *, login: bool = False, host: str | None = None):
        """An answer's status, header and body."""
        scheme = "https" if service == "node_web" else "http"
        request = urllib.request.Request(f"{scheme}://127.0.0.1:{self.ports[service]}{path}")
        if login:
            token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        if host:
            request.add_header("Host", host)
        trusting = ssl.create_default_context(cafile=self.folder / "certificate/web.crt")
        try:
            with urllib.request.urlopen(request, timeout=20, context=trusting if scheme == "https" else None) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def answers(self, service: str, path: str, *, login: bool = False) -> bool:
        for process in self.processes:
            assert process.poll() is None, f"{process.args[0]} has ended; see the logs in {self.folder}"
        try:
            return self.get(service, path, login=login)[0] == 200
        except urllib.error.URLError:
            return False

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait(60)
        self.open.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    made = Stack(tmp_path_factory.mktemp("stack"))
    try:
        made.start_node()
        made.start_orthanc()
        made.start_viewer()
        made.start_prometheus()
        wait_for(lambda: made.answers("orthanc_http", "/system", login=True), what="Orthanc's start")
        wait_for(lambda: made.answers("node_web", "/ready"), what="the node's start")
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def first_study(stack):
    """What the service first-study says."""
    environment = {
        **os.environ,
        "ORTHANC_URL": f"http://127.0.0.1:{stack.ports['orthanc_http']}",
        "ORTHANC_USERS": str(stack.users),
        "VIEWER_URL": f"http://127.0.0.1:{stack.ports['viewer']}",
    }
    script = DOCKER / "compose/first_study.py"
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.requirement("DEP-08")
def test_the_first_study_goes_from_orthanc_to_the_node_and_its_verdict_comes_back(stack, first_study):
    assert re.search(r"Back in the study: .*PASS", first_study)
    assert f"Log in as {stack.user}, password {stack.password}" in first_study


@pytest.mark.requirement("DEP-08")
def test_the_address_that_is_told_opens_the_viewer_and_its_study_is_there(stack, first_study):
    path = re.search(r"^Open +http://127.0.0.1:\d+(\S+)$", first_study, re.M)[1]
    assert b"<title>OHIF</title>" in stack.get("viewer", path, login=True)[2]
    status, _, body = stack.get("viewer", f"/dicom-web/studies/{path.partition('=')[2]}/series", login=True)
    assert status == 200
    assert {"CR", "SR", "OT"} <= {series["00080060"]["Value"][0] for series in json.loads(body)}


@pytest.mark.requirement("DEP-09")
@pytest.mark.parametrize(
    "path", ["/", "/viewer?StudyInstanceUIDs=1.2", "/app-config.js", "/dicom-web/studies", "/wado"]
)
def test_nothing_is_shown_without_a_log_in(stack, path):
    status, headers, body = stack.get("viewer", path)
    assert status == 401
    assert headers["WWW-Authenticate"].startswith("Basic")
    assert b"OHIF" not in body


@pytest.mark.requirement("DEP-09")
def test_orthanc_itself_asks_for_the_log_in_too(stack):
    assert stack.get("orthanc_http", "/studies")[0] == 401


@pytest.mark.requirement("DEP-09")
def test_the_viewer_hands_out_its_compressed_scripts_and_our_configuration_instead_of_the_images(stack):
    assert stack.get("viewer", "/app.bundle.js", login=True)[2] == b"the image's app.bundle.js"
    _, headers, body = stack.get("viewer", "/app-config.js", login=True)
    assert body == (ROOT / "plugins/ohif/app-config.js").read_bytes()
    assert headers["Content-Type"] == "text/javascript"
    assert stack.get("viewer", "/health")[0] == 200


@pytest.mark.requirement("DEP-10")
def test_prometheus_reads_the_node_over_tls_and_loads_every_alert_rule(stack):
    def target():
        found = json.loads(stack.get("prometheus", "/api/v1/targets")[2])["data"]["activeTargets"]
        return found[0] if found and found[0]["health"] != "unknown" else None

    wait_for(lambda: stack.answers("prometheus", "/-/ready"), what="Prometheus's start")
    found = wait_for(target, what="the first scrape")
    assert (found["health"], found["labels"]["job"]) == ("up", "dicom_gam"), found["lastError"]
    groups = json.loads(stack.get("prometheus", "/api/v1/rules")[2])["data"]["groups"]
    rules = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
    written = re.findall(r"- alert: (\w+)", (DOCKER / "prometheus-alerts.yml").read_text())
    assert list(rules) == written
    assert "err" not in rules.values()


@pytest.mark.requirement("DEP-10")
def test_the_node_answers_to_the_name_that_prometheus_knows_it_by_and_to_no_other(stack):
    assert stack.get("node_web", "/metrics", host="node:8180")[0] == 200
    assert stack.get("node_web", "/metrics", host="attacker.example")[0] == 400


@pytest.mark.requirement("DEP-04")
def test_what_is_made_at_the_first_start_stays_and_is_for_its_user_only(stack):
    made = {
        path: path.read_bytes()
        for folder in ("certificate", "orthanc", "grafana")
        for path in (stack.folder / folder).iterdir()
    }
    runpy.run_path(str(DOCKER / "compose/prepare.py"))["main"](stack.folder)
    assert {path: path.read_bytes() for path in made} == made
    assert {path.name: path.stat().st_mode & 0o777 for path in made} == {
        "web.crt": 0o444,
        "web.key": 0o400,
        "users.json": 0o440,
        "admin-password": 0o400,
    }


def test_the_sample_of_the_first_study_is_in_pydicom_data():
    assert sample("RG1_UNCR.dcm").exists()
