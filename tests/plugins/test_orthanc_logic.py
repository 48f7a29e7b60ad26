"""Parts of the Orthanc plugin that a real Orthanc of Debian can't show: other versions, odd answers, great numbers."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from dicom_gam.dicom.image import acceptance

CONFIGURATION = {"DicomModalities": {"node": ["DICOM_GAM", "127.0.0.1", 11112]}, "DicomGam": {"Modality": "node"}}
FOLDER = Path(__file__).parents[2] / "plugins" / "orthanc"
EXAMPLE, README = FOLDER / "orthanc-example.json", FOLDER / "README.md"
CR, SC, SR = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.34"


@pytest.fixture
def plugin(monkeypatch):
    """The plugin's modules, over a stand-in for the module that only Orthanc has."""
    stand_in = ModuleType("orthanc")
    stand_in.OrthancException = type("OrthancException", (Exception,), {})
    monkeypatch.setitem(sys.modules, "orthanc", stand_in)
    names = ("host", "settings", "rules", "report", "study", "follower")
    return SimpleNamespace(**{n: importlib.import_module(f"plugins.orthanc.dicom_gam_orthanc.{n}") for n in names})


def test_the_plugin_takes_for_radiographs_what_the_node_takes_for_radiographs(plugin):
    rules = plugin.rules  # a plugin imports nothing of the node, so it has the table once more
    assert set(acceptance.ACCEPTED_SOP_CLASSES) == rules.RADIOGRAPH_SOP_CLASSES | rules.SECONDARY_CAPTURE_SOP_CLASSES
    assert set(acceptance.SECONDARY_CAPTURE_SOP_CLASSES) == rules.SECONDARY_CAPTURE_SOP_CLASSES
    assert set(acceptance.RADIOGRAPHIC_MODALITIES) == rules.RADIOGRAPHIC_MODALITIES


def settings_of(plugin, **more):
    return plugin.settings.read_settings(CONFIGURATION | {"DicomGam": {"Modality": "node"} | more})


class FakeOrthanc:
    """As much of the REST API as the plugin asks: `instances` are series, metadata and tags by ID."""

    def __init__(self, plugin, **system):
        self._gone = plugin.host.GoneError
        self.system, self.series, self.metadata, self.tags = system, {}, {}, {}
        self.labels, self.jobs, self.changes, self.stored, self.properties = set(), {}, [], [], {0: "0"}
        self.asked = []
        self.stable, self.outcome = True, {"State": "Success"}

    def add(self, instance, modality, sop_class, tags=None, **about):
        series = self.series.setdefault(
            f"s-{modality}",
            {"ID": f"s-{modality}", "MainDicomTags": {"Modality": modality}, "Instances": [], "ParentStudy": "study"},
        )
        series["Instances"].append(instance)
        self.metadata[f"instances/{instance}"] = {"SopClassUid": sop_class, "Origin": "DicomProtocol"} | about
        self.tags[instance] = {"0008,0060": modality, "0008,0016": sop_class} | (tags or {})
        self.changes.append(("NewInstance", "Instance", instance))

    def get(self, path):
        self.asked.append(path)
        parts = path.partition("?")[0].strip("/").split("/")
        if path.startswith("/changes"):
            since = int(path.partition("since=")[2].partition("&")[0] or len(self.changes))
            page = [
                {"Seq": number, "ChangeType": kind, "ResourceType": level, "ID": item}
                for number, (kind, level, item) in enumerate(self.changes, 1)
            ][since : since + 1000]
            last = page[-1]["Seq"] if page else len(self.changes)
            return {"Changes": page, "Last": last, "Done": last == len(self.changes)}
        if parts[-1] == "metadata":
            return dict(self.metadata.get("/".join(parts[:2]), {}))
        answers = {
            ("system",): self.system,
            ("studies", "study"): {"IsStable": self.stable},
            ("studies", "study", "series"): list(self.series.values()),
            ("studies", "study", "labels"): sorted(self.labels),
        }
        if tuple(parts) in answers:
            return answers[tuple(parts)]
        if parts[0] == "series":
            found = self.series[parts[1]]
            uids = ({"ID": i, "MainDicomTags": {"SOPInstanceUID": i}} for i in found["Instances"])
            return list(uids) if len(parts) == 3 else found
        if parts[0] == "instances" and parts[1] in self.tags:
            owner = next(name for name, item in self.series.items() if parts[1] in item["Instances"])
            return self.tags[parts[1]] if len(parts) == 3 else {"ParentSeries": owner}
        if parts[0] == "jobs" and parts[1] in self.jobs:
            return self.jobs[parts[1]]
        raise self._gone(path)

    def post(self, _path, body):
        self.stored.append(body["Resources"][0])
        self.jobs[f"job-{len(self.stored)}"] = self.outcome
        return {"ID": f"job-{len(self.stored)}"}

    def put(self, path, text):
        kind, resource, what, name = path.strip("/").split("/")
        if what == "labels":
            self.labels.add(name)
        else:
            self.metadata.setdefault(f"{kind}/{resource}", {})[name] = text

    def delete(self, path):
        kind, resource, what, name = path.strip("/").split("/")
        if what == "labels":
            self.labels.discard(name)
        else:
            self.metadata[f"{kind}/{resource}"].pop(name, None)

    def property(self, number):
        return self.properties.get(number, "0")

    def set_property(self, number, value):
        self.properties[number] = value

    def inform(self, text):
        self.said = text

    warn = inform


def coded(concept, value=None, scheme="99DGAM", kind="CODE", **more):
    item = {"0040,a040": kind, "0040,a043": [{"0008,0100": concept, "0008,0102": scheme, "0008,0104": concept}]}
    if value:
        item["0040,a168"] = [{"0008,0100": value, "0008,0102": "99DGAM", "0008,0104": value}]
    return item | more


def report_tags(uid, source, *verdicts, made="20260101120000", supersedes=()):
    """A report as far as it is read: one group with the verdict and the image that it is about."""
    image = coded("121112", scheme="DCM", kind="IMAGE") | {"0008,1199": [{"0008,1155": source}]}
    group = {"0040,a040": "CONTAINER", "0040,a730": [image, *(coded("VERDICT", verdict) for verdict in verdicts)]}
    before = [{"0008,1115": [{"0008,1199": [{"0008,1155": name} for name in supersedes]}]}]
    return {
        "0008,0018": uid, "0008,0023": made[:8], "0008,0033": made[8:], "0040,a360": before,
        "0040,a730": [{"0040,a040": "CONTAINER", "0040,a730": [group]}],
    }  # fmt: skip


def follower_of(plugin, fake, clock, **settings):
    chosen = settings_of(plugin, **settings)
    return plugin.follower.Follower(fake, chosen, plugin.study.Studies(fake, chosen), lambda: clock[0])


def work_off(follower, clock, steps=50):
    for _ in range(steps):
        clock[0] += follower.step()


@pytest.mark.requirement("ORT-06")
@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"Modality": ""}, "DicomGam.Modality is missing: write the node's name in DicomModalities"),
        (
            {"Rules": [{"Modalities": ["CR"]}]},
            "DicomGam.Rules[1].Modalities is no setting: remove it, or use one of Name",
        ),
        (
            {"Rules": [{"Modality": 7}]},
            'DicomGam.Rules[1].Modality is not a list of texts: write for example ["CR", "DX"]',
        ),
        ({"Rules": [{"Modality": []}]}, "DicomGam.Rules[1].Modality has no pattern: write at least one"),
        ({"Url": "node:8180", "TokenFile": ""}, "DicomGam.Url is no address of a web server: write for example"),
        ({"Url": "http://node:8180"}, "DicomGam.Url and TokenFile belong together: give both"),
        ({"TokenFile": "/nowhere"}, "DicomGam.TokenFile can't be read (No such file or directory): write the path"),
        ({"FirstNumber": 12}, "DicomGam.FirstNumber is no number that fits: write one from 1024 to 65000"),
        ({"Labels": "yes"}, "DicomGam.Labels is neither true nor false: write true or false"),
    ],
)
def test_a_bad_setting_is_named_with_reason_and_remedy(plugin, section, told):
    with pytest.raises(plugin.settings.SettingsError) as refused:
        settings_of(plugin, **section)
    assert told in str(refused.value)


def test_the_example_configuration_is_accepted(plugin, tmp_path):
    example = json.loads(EXAMPLE.read_text())
    token = tmp_path / "token"
    token.write_text("x")
    example["DicomGam"]["TokenFile"] = str(token)
    assert plugin.settings.read_settings(example).modality in example["DicomModalities"]


def test_every_setting_stands_in_the_readme(plugin):
    table = README.read_text().partition("## Settings")[2].partition("\n\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    told = {word for row in rows for word in re.findall(r"`(\w+)`", row)}
    assert set(plugin.settings.KEYS) <= told
    assert all(f"`{key}`" in table for key in plugin.settings.RULE_KEYS if key != "Send")


@pytest.mark.requirement("ORT-03")
@pytest.mark.parametrize(
    ("tags", "sop_class", "caller", "rules", "sent"),
    [
        ({"0008,0060": "CR"}, CR, "XRAY", [{}], True),
        ({"0008,0060": "DX"}, SC, "XRAY", [{}], True),
        ({"0008,0060": "OT"}, SC, "XRAY", [{}], False),
        ({"0008,0060": "CT"}, "1.2.840.10008.5.1.4.1.1.2", "XRAY", [{}], False),
        ({"0008,0060": "CR"}, CR, "DICOM_GAM", [{}], False),
        (
            {"0008,0060": "CR", "0008,0008": "DERIVED\\SECONDARY\\OTHER\\GRADCAM", "0008,1090": "dicom_gam"},
            SC, "OTHER", [{}], False,
        ),
        ({"0008,0060": "CR", "0018,0015": "chest"}, CR, "XRAY", [{"BodyPartExamined": ["CHEST", "THORAX"]}], True),
        ({"0008,0060": "CR", "0018,0015": "HAND"}, CR, "XRAY", [{"BodyPartExamined": "CHEST"}], False),
        (
            {"0008,0060": "CR", "0008,1030": "QA phantom"},
            CR, "X", [{"StudyDescription": "*PHANTOM*", "Send": False}, {}], False,
        ),
        ({"0008,0060": "CR"}, CR, "ICU_2", [{"CallingAet": "ICU_*", "Modality": "DX"}], False),
    ],
)  # fmt: skip
def test_rules_decide_which_image_goes(plugin, tags, sop_class, caller, rules, sent):
    assert plugin.rules.decide(settings_of(plugin, Rules=rules), tags, sop_class, caller).send is sent


@pytest.mark.requirement("ORT-04")
@pytest.mark.parametrize("verdicts", [(), ("PASS", "FAIL"), ("MAYBE",)])
def test_a_report_without_exactly_one_verdict_of_ours_is_none(plugin, verdicts):
    assert plugin.report.read_report(report_tags("r", "image", *verdicts)) is None
    assert plugin.report.read_report(report_tags("r", "image", "FAIL")).verdict == "FAIL"


@pytest.mark.requirement("ORT-04")
def test_the_newest_report_counts_also_when_the_clock_went_back_and_the_old_one_comes_late(plugin):
    fake = FakeOrthanc(plugin)
    fake.add("image", "CR", CR, **{"4301": "sent"})
    new = report_tags("new", "image", "FAIL", made="20250101000000", supersedes=["old"])
    fake.add("r-new", "SR", SR, new, RemoteAET="DICOM_GAM", ReceptionDate="20260101T000000")
    fake.add(
        "r-old", "SR", SR, report_tags("old", "image", "PASS"), RemoteAET="DICOM_GAM", ReceptionDate="20260202T000000"
    )
    fake.add("r-forged", "SR", SR, report_tags("x", "image", "PASS", supersedes=["new"]), RemoteAET="STRANGER")
    studies = plugin.study.Studies(fake, settings_of(plugin))
    assert studies.show_verdicts("study") == "FAIL"
    assert fake.metadata["instances/image"]["4300"] == "FAIL"
    assert fake.metadata["instances/image"]["4302"] == "r-new"


@pytest.mark.requirement("ORT-04")
@pytest.mark.parametrize(
    ("verdicts", "word"),
    [
        (("PASS", "PASS"), "PASS"),
        (("PASS", ""), "WAITING"),
        (("PASS", "REJECT"), "REJECT"),
        (("REJECT", "FAIL"), "FAIL"),
        (("", "FAIL"), "FAIL"),
    ],
)
def test_a_study_has_its_worst_verdict_and_passes_only_when_every_image_did(plugin, verdicts, word):
    fake = FakeOrthanc(plugin)
    for number, verdict in enumerate(verdicts):
        fake.add(f"image-{number}", "CR", CR, **{"4301": "sent"})
        if verdict:
            tags = report_tags(f"r{number}", f"image-{number}", verdict)
            fake.add(f"r{number}", "SR", SR, tags, RemoteAET="DICOM_GAM")
    assert plugin.study.Studies(fake, settings_of(plugin)).show_verdicts("study") == word
    assert fake.metadata["studies/study"]["4300"] == word


@pytest.mark.requirement("ORT-04")
def test_a_study_that_passed_is_no_pass_while_a_new_image_of_it_waits(plugin):
    fake, clock = FakeOrthanc(plugin), [0.0]
    fake.add("image", "CR", CR, **{"4301": "sent"})
    fake.add("r", "SR", SR, report_tags("r", "image", "PASS"), RemoteAET="DICOM_GAM")
    follower = follower_of(plugin, fake, clock)
    work_off(follower, clock)
    assert fake.metadata["studies/study"]["4300"] == "PASS"
    fake.outcome = {"State": "Failure", "ErrorDetails": "connecting to AET"}
    fake.add("second", "CR", CR)
    work_off(follower, clock)
    assert fake.metadata["studies/study"]["4300"] == "WAITING"


@pytest.mark.requirement("ORT-09")
@pytest.mark.parametrize(("system", "wanted"), [({"HasLabels": True}, {"mine", "dicom-gam-fail"}), ({}, {"mine"})])
def test_labels_are_set_where_orthanc_has_them_and_the_former_one_goes(plugin, system, wanted):
    fake = FakeOrthanc(plugin, **system)
    fake.labels = {"mine", "dicom-gam-pass"} if system else {"mine"}
    fake.add("image", "CR", CR)
    fake.add("r", "SR", SR, report_tags("r", "image", "FAIL"), RemoteAET="DICOM_GAM")
    plugin.study.Studies(fake, settings_of(plugin)).show_verdicts("study")
    assert fake.labels == wanted


@pytest.mark.requirement("ORT-03")
def test_a_ct_of_2000_slices_costs_a_handful_of_requests(plugin):
    fake, clock = FakeOrthanc(plugin), [0.0]
    for number in range(2000):
        fake.add(f"slice-{number}", "CT", "1.2.840.10008.5.1.4.1.1.2")
    follower = follower_of(plugin, fake, clock)
    follower.step()
    assert fake.stored == []
    assert len(fake.asked) < 12
    assert fake.properties[4300] == "2000"


@pytest.mark.requirement("ORT-02")
def test_the_position_does_not_pass_a_study_that_waits(plugin):
    fake, clock = FakeOrthanc(plugin), [0.0]
    fake.stable = False
    fake.add("image", "CR", CR)
    fake.changes.append(("NewPatient", "Patient", "p"))
    work_off(follower_of(plugin, fake, clock), clock)
    assert fake.properties[4300] == "0"
    fake.stable = True
    work_off(follower_of(plugin, fake, clock), clock)  # as after a kill: only position and marks are left
    assert fake.stored == ["image"]
    assert fake.properties[4300] == "2"
    fake.properties[4300] = "0"  # killed before the position was written: nothing is sent twice
    work_off(follower_of(plugin, fake, clock), clock)
    assert fake.stored == ["image"]


@pytest.mark.requirement("ORT-10")
@pytest.mark.parametrize(
    ("details", "refused", "outage"),
    [
        ('DicomAssociation - connecting to AET "X": TCP Initialization Error: Connection refused', False, True),
        ('C-STORE SCU to AET "X" has failed with DIMSE status 0xA700', False, False),
        ('C-STORE SCU to AET "X" has failed with DIMSE status 0xC001', True, False),
        ("No valid presentation context was negotiated", True, False),
    ],
)
def test_only_a_refused_image_is_given_up(plugin, details, refused, outage):
    fake, clock = FakeOrthanc(plugin), [0.0]
    fake.outcome = {"State": "Failure", "ErrorDetails": details}
    fake.add("image", "CR", CR)
    follower = follower_of(plugin, fake, clock, Attempts=3)
    work_off(follower, clock, 100)
    assert ("4303" in fake.metadata["instances/image"]) is refused
    assert bool(follower.outage) is outage
    assert (len(fake.stored) == 3) is refused
    fake.outcome = {"State": "Success"}
    work_off(follower, clock, 100)
    assert ("4301" in fake.metadata["instances/image"]) is not refused


def test_an_image_that_comes_while_its_study_is_being_sent_is_sent_too(plugin):
    fake, clock = FakeOrthanc(plugin), [0.0]
    fake.add("first", "CR", CR)
    fake.add("second", "CR", CR)
    follower = follower_of(plugin, fake, clock)
    follower.step()
    fake.add("third", "CR", CR)
    work_off(follower, clock)
    assert fake.stored == ["first", "second", "third"]
