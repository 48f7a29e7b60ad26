"""The files of docker/ agree with each other, with the image and with what the node accepts."""

from __future__ import annotations

import configparser
import ipaddress
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from dicom_gam.config import settings_from
from dicom_gam.service.front_door import refuse_wide_open
from dicom_gam.service.node import GRACE_S
from dicom_gam.service.receivers import STOP_GRACE_S
from dicom_gam.web.server import refuse_open_web

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yml").read_text())
SERVICES = COMPOSE["services"]
IMAGE = (DOCKER / "Dockerfile").read_text()
ORTHANC = json.loads((DOCKER / "compose/orthanc.json").read_text())
MANIFESTS = {
    (each["kind"], each["metadata"]["name"]): each
    for path in (DOCKER / "kubernetes/base").glob("*.yaml")
    if path.name != "kustomization.yaml"
    for each in yaml.safe_load_all(path.read_text())
}
POD = MANIFESTS["StatefulSet", "dicom-gam"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
PASSWORD = re.compile(r"(?i)(password|passwd|token)[\"']?\s*[:=]\s*[\"']?(?!false\b)[a-z0-9]{4}")


def node_toml(where: str):
    settings = settings_from(tomllib.loads((DOCKER / where / "node.toml").read_text()), f"docker/{where}/node.toml")
    refuse_wide_open(settings)
    refuse_open_web(settings.web)
    return settings


def unit() -> configparser.ConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read(DOCKER / "systemd/dicom-gam.service")
    return parser


def mounts(service: dict) -> dict[str, str]:
    """Where what is mounted, by the path in the container."""
    return {target: source for source, target, *_ in (each.split(":") for each in service.get("volumes", []))}


@pytest.mark.requirement("DEP-01")
def test_every_tool_of_debian_finds_nothing_to_say_about_the_files():
    done = subprocess.run([sys.executable, DOCKER / "check.py", "--debian"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.requirement("DEP-01")
def test_the_check_names_the_file_and_what_is_wrong_with_it(tmp_path):
    copy = tmp_path / "docker"
    for name in ("prometheus-alerts.yml", "prometheus-alerts-test.yml", "prometheus.yml", "compose/prometheus.yml"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(
            (DOCKER / name).read_text().replace("dicom_gam_dead_letters > 0", "dicom_gam_dead_letters >> 0")
        )
    (copy / "systemd").mkdir()
    unit_file = (DOCKER / "systemd/dicom-gam.service").read_text()
    (copy / "systemd/dicom-gam.service").write_text(unit_file.replace("KillMode=mixed", "KillMode=mixt"))
    (copy / "grafana-dashboard.json").write_text('{\n"title": }')
    (copy / "check.py").write_text((DOCKER / "check.py").read_text())
    done = subprocess.run([sys.executable, copy / "check.py", "--debian"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "docker/grafana-dashboard.json: is no JSON: Expecting value: line 2" in done.stderr
    assert re.search(r"docker/prometheus-alerts.yml\n[\s\S]*34:\d+: .*DicomGamDeadLetters", done.stderr)
    assert re.search(r"dicom-gam.service:\d+: .*mixt", done.stderr)


@pytest.mark.requirement("DEP-02")
def test_every_file_that_compose_mounts_exists():
    for name, service in SERVICES.items():
        for target, source in mounts(service).items():
            if source.startswith("."):
                assert (DOCKER / source).exists(), f"{name}: {source}"
            else:
                assert source in COMPOSE["volumes"], f"{name}: {source} on {target}"


@pytest.mark.requirement("DEP-02")
def test_every_base_resource_of_kustomize_exists_and_none_is_forgotten():
    base = DOCKER / "kubernetes/base"
    named = yaml.safe_load((base / "kustomization.yaml").read_text())
    assert {*named["resources"], *named["configMapGenerator"][0]["files"], "kustomization.yaml"} == {
        path.name for path in base.iterdir()
    }


@pytest.mark.requirement("DEP-03")
@pytest.mark.parametrize("where", ["compose", "kubernetes/base"])
def test_the_node_takes_the_settings_and_they_fit_the_image(where):
    settings = node_toml(where)
    assert str(settings.node.storage) == re.search(r"^VOLUME (\S+)$", IMAGE, re.M)[1]
    assert {str(settings.node.port), str(settings.web.port)} == set(re.search(r"^EXPOSE (.+)$", IMAGE, re.M)[1].split())


@pytest.mark.requirement("DEP-03")
def test_compose_gives_the_node_its_settings_storage_certificate_and_ports():
    node, settings = SERVICES["node"], node_toml("compose")
    assert mounts(node)[node["command"][-1]] == "./compose/node.toml"
    assert mounts(node)[str(settings.node.storage)] == "node-data"
    assert mounts(node)[str(settings.web.certificate.parent)] == "certificate"
    assert settings.web.certificate.name == "web.crt"
    assert settings.web.key.name == "web.key"
    assert {each.rsplit(":", 1)[1] for each in node["ports"]} == {str(settings.node.port), str(settings.web.port)}
    assert f"USER {node['user']}" in IMAGE


@pytest.mark.requirement("DEP-03")
def test_node_and_orthanc_know_each_other_in_compose():
    settings = node_toml("compose")
    [(title, host, port)] = ORTHANC["DicomModalities"].values()
    assert (title, host, port) == (settings.node.ae_title, "node", settings.node.port)
    assert "node" in SERVICES
    assert SERVICES["node"]["hostname"] == "node"
    [destination] = settings.destinations
    assert (destination.ae_title, destination.host, destination.port) == (
        ORTHANC["DicomAet"],
        "orthanc",
        ORTHANC["DicomPort"],
    )
    [caller] = settings.access.callers
    assert (caller.ae_title, list(caller.hosts)) == (
        ORTHANC["DicomAet"],
        [COMPOSE["networks"]["default"]["ipam"]["config"][0]["subnet"]],
    )
    assert ORTHANC["DicomGam"]["Modality"] in ORTHANC["DicomModalities"]
    script = Path(ORTHANC["PythonScript"])
    assert (DOCKER / mounts(SERVICES["orthanc"])[str(script.parent)] / script.name).exists()
    assert ORTHANC["StorageDirectory"].startswith("/var/lib/orthanc/")


@pytest.mark.requirement("DEP-04")
def test_compose_publishes_nothing_beyond_this_machine():
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published)


@pytest.mark.requirement("DEP-04")
@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined_and_its_image_pinned(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert service["user"] != "0:0" or (name, service["network_mode"], service["cap_add"]) == (
        "prepare",
        "none",
        ["CHOWN"],
    )
    assert re.fullmatch(r"[a-z-]+(/[a-z-]+)?:v?[\w.]+", service["image"])
    assert not service["image"].endswith(":latest")
    assert name in ("prepare", "first-study") or ("healthcheck" in service and service["deploy"]["resources"]["limits"])


@pytest.mark.requirement("DEP-04")
def test_no_password_stands_in_the_files():
    texts = [
        path.read_text() for path in DOCKER.rglob("*") if path.suffix in (".yml", ".yaml", ".json", ".toml", ".conf")
    ]
    assert not [text for text in texts if re.search(PASSWORD, text)]
    assert "RegisteredUsers" not in ORTHANC  # prepare.py makes them, with Orthanc refusing to start without
    assert ORTHANC["AuthenticationEnabled"] is True


@pytest.mark.requirement("DEP-05")
def test_every_way_of_stopping_leaves_the_node_the_time_it_takes():
    least_s = STOP_GRACE_S + GRACE_S + 30  # and a batch in between
    given = {
        "compose": SERVICES["node"]["stop_grace_period"].removesuffix("s"),
        "systemd": unit()["Service"]["TimeoutStopSec"].removesuffix("s"),
        "kubernetes": POD["terminationGracePeriodSeconds"],
    }
    assert {way: int(seconds) >= least_s for way, seconds in given.items()} == dict.fromkeys(given, True)
    assert unit()["Service"]["KillMode"] == "mixed"  # the node tells its receivers and decoders itself


@pytest.mark.requirement("DEP-06")
def test_kubernetes_gives_the_node_its_settings_storage_certificate_and_probes():
    settings = node_toml("kubernetes/base")
    mounted = {each["mountPath"]: each["name"] for each in CONTAINER["volumeMounts"]}
    assert mounted[str(Path(CONTAINER["args"][2]).parent)] == "settings"
    assert mounted[str(settings.node.storage)] == "data"
    assert mounted[str(settings.web.certificate.parent)] == "certificate"
    secret = next(each for each in POD["volumes"] if each["name"] == "certificate")["secret"]
    assert {each["path"] for each in secret["items"]} == {settings.web.certificate.name, settings.web.key.name}
    ports = {each["name"]: each["containerPort"] for each in CONTAINER["ports"]}
    assert ports == {"dicom": settings.node.port, "https": settings.web.port}
    probes = {name: CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {probe["path"] for probe in probes.values()} == {"/live", "/ready"}
    assert probes["readiness"]["path"] == "/ready"
    assert probes["liveness"]["path"] == "/live"
    assert {probe["scheme"] for probe in probes.values()} == {"HTTPS"}


@pytest.mark.requirement("DEP-06")
def test_kubernetes_lets_in_and_out_just_the_addresses_of_the_settings():
    settings = node_toml("kubernetes/base")
    policy = MANIFESTS["NetworkPolicy", "dicom-gam"]["spec"]
    senders = {f"{ipaddress.ip_address(host)}/32" for caller in settings.access.callers for host in caller.hosts}
    assert {each["ipBlock"]["cidr"] for each in policy["ingress"][0]["from"]} == senders
    assert policy["ingress"][0]["ports"] == [{"protocol": "TCP", "port": settings.node.port}]
    assert policy["ingress"][1]["ports"] == [{"protocol": "TCP", "port": settings.web.port}]
    assert set(MANIFESTS["Service", "dicom-gam"]["spec"]["loadBalancerSourceRanges"]) == senders
    [destination] = settings.destinations
    assert policy["egress"][0]["to"] == [{"ipBlock": {"cidr": f"{destination.host}/32"}}]
    assert policy["egress"][0]["ports"] == [{"protocol": "TCP", "port": destination.port}]


@pytest.mark.requirement("DEP-06")
def test_the_pod_meets_the_restricted_security_standard_with_a_read_only_root_and_one_replica():
    assert MANIFESTS["StatefulSet", "dicom-gam"]["spec"]["replicas"] == 1
    pod, container = POD["securityContext"], CONTAINER["securityContext"]
    assert (pod["runAsNonRoot"], pod["seccompProfile"]["type"]) == (True, "RuntimeDefault")
    assert f"USER {pod['runAsUser']}:{pod['runAsGroup']}" in IMAGE
    assert pod["fsGroup"] == pod["runAsUser"]
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert container["allowPrivilegeEscalation"] is False
    assert container["readOnlyRootFilesystem"] is True
    labels = MANIFESTS["Namespace", "dicom-gam"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert CONTAINER["resources"]["requests"]
    assert CONTAINER["resources"]["limits"]["memory"]


@pytest.mark.requirement("DEP-06")
def test_the_gpu_overlay_asks_for_one_gpu_where_the_limits_stand():
    overlay = yaml.safe_load((DOCKER / "kubernetes/gpu/kustomization.yaml").read_text())
    operations = {each["path"]: each["value"] for each in yaml.safe_load(overlay["patches"][0]["patch"])}
    [path] = [each for each in operations if "limits" in each]
    *parents, last = [part.replace("~1", "/") for part in path.split("/")[1:]]
    place = MANIFESTS["StatefulSet", "dicom-gam"]
    for part in parents:
        place = place[int(part)] if part.isdigit() else place[part]
    assert place is CONTAINER["resources"]["limits"]
    assert (last, operations[path]) == ("nvidia.com/gpu", 1)
    assert node_toml("kubernetes/base").processing.device == "auto"


@pytest.mark.requirement("DEP-07")
def test_the_unit_runs_the_node_as_its_own_user_over_the_folders_of_the_guide():
    service = unit()["Service"]
    assert service["ExecStart"].endswith("/dicom-gam serve --config /etc/dicom-gam/node.toml")
    assert (service["User"], service["StateDirectory"], service["ConfigurationDirectory"]) == ("dicom-gam",) * 3
    assert f"u {service['User']} " in (DOCKER / "systemd/dicom-gam.sysusers.conf").read_text()
    assert service["OOMPolicy"] == "continue"  # a decoder that is killed must not end the service
    assert "MemoryDenyWriteExecute" not in service  # PyTorch writes machine code
