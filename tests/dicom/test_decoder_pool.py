"""Decoding in processes gives what decoding in this one gives, and an image that kills its decoder harms no other."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom.uid as uids
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicom_gam.config import Settings, settings_from
from dicom_gam.dicom.image import decoder_pool
from dicom_gam.dicom.image.acceptance import ACCEPTED_TRANSFER_SYNTAXES
from dicom_gam.dicom.image.decode import decode_task, read_instance
from dicom_gam.dicom.image.decoder_pool import DecoderPool
from dicom_gam.dicom.image.rules import decide
from dicom_gam.errors import DicomGamError, StorageError
from dicom_gam.records import Decision, Radiograph, Reason, ReceivedInstance, Rejection, Task
from tests.dicom.radiograph_files import (
    COMPRESSED,
    NATIVE,
    frame_of,
    header,
    inflated,
    save,
    standard_pixels,
    with_frame,
    write,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)
REAL = ["RG1_UNCI.dcm", "RG1_UNCR.dcm", "RG1_J2KI.dcm", "RG1_J2KR.dcm", "RG3_UNCI.dcm", "RG3_J2KR.dcm"]
REFUSED = ["JPEG-lossy.dcm", "CT_small.dcm", "meta_missing_tsyntax.dcm"]


def settings(**sections) -> Settings:
    return settings_from({"decoding": {"processes": 1}, "intake": {"minimum_side": 2}} | sections)


def task(path: Path, bundle: str = "") -> Task:
    instance = read_instance(path)
    assert isinstance(instance, ReceivedInstance), instance
    return Task(instance, NOW, bundle)


def raw_task(path: Path, sop_instance_uid: str = "1.2.826.0.1.3") -> Task:
    """A task of a file that can't be read well enough to say who it is."""
    return Task(ReceivedInstance(path, "1.2", sop_instance_uid, "1.2", "", 0), NOW)


def in_process(item: Task, given: Settings):
    return decode_task(
        item,
        given,
        lambda dataset, instance, bundle: decide(given.rules, dataset, instance, bundle, "radiograph-anatomy"),
    )


def same(one, other) -> bool:
    """Whether two tasks became the same thing, bit by bit."""
    if one.decision != other.decision or type(one.outcome) is not type(other.outcome):
        return False
    if not isinstance(one.outcome, Radiograph):
        return one.outcome == other.outcome
    a, b = one.outcome, other.outcome
    return (
        a.instance == b.instance
        and a.pixels.dtype == b.pixels.dtype
        and np.array_equal(a.pixels, b.pixels)
        and a.pixel_sha256 == b.pixel_sha256
        and a.dataset == b.dataset
        and a.dataset.file_meta == b.dataset.file_meta
        and a.dataset.original_encoding == b.dataset.original_encoding
        and a.dataset.original_character_set == b.dataset.original_character_set
    )


@pytest.fixture(scope="module")
def pool():
    with DecoderPool(settings(decoding={"processes": 2, "timeout_s": 60})) as warm:
        yield warm


@pytest.fixture
def image(tmp_path) -> Path:
    return write(tmp_path / "image.dcm", standard_pixels())


# ---------------------------------------------------------------- the same as in one process


@pytest.mark.requirement("DEC-01")
def test_every_transfer_syntax_gives_the_same_radiograph_as_in_process(tmp_path, pool):
    paths = [write(tmp_path / f"{number}.dcm", standard_pixels(), s) for number, s in enumerate([*NATIVE, *COMPRESSED])]
    tasks = [task(path) for path in paths]
    decoded = pool(tasks)
    assert {item.instance.transfer_syntax_uid for item in tasks} == set(ACCEPTED_TRANSFER_SYNTAXES)
    for item, result in zip(tasks, decoded, strict=True):
        assert isinstance(result.outcome, Radiograph), item
        assert same(result, in_process(item, settings())), item


def test_real_files_and_refusals_come_out_as_in_process(pool):
    tasks = [task(Path(get_testdata_file(name))) for name in REAL]
    tasks += [raw_task(Path(get_testdata_file(name))) for name in REFUSED]
    decoded = pool(tasks)
    assert [isinstance(result.outcome, Radiograph) for result in decoded] == [True] * 6 + [False] * 3
    for item, result in zip(tasks, decoded, strict=True):
        assert same(result, in_process(item, settings())), item


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: uids.UID(syntax).keyword)
def test_sequences_private_elements_and_foreign_letters_come_through(tmp_path, pool, syntax):
    inner = Dataset()
    inner.CodeValue, inner.CodeMeaning = "1", "Röntgen"
    stored = standard_pixels()
    dataset = header(stored, SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
    dataset.AnatomicRegionSequence = Sequence([inner])
    dataset.private_block(0x0019, "SOMEONE", create=True).add_new(1, "OB", b"\x01\x02")
    big = syntax == uids.ExplicitVRBigEndian
    dataset.PixelData = stored.astype(stored.dtype.newbyteorder(">" if big else "<")).tobytes()
    dataset["PixelData"].VR = "OW"
    item = task(save(tmp_path / "image.dcm", dataset, syntax))
    (result,) = pool([item])
    assert str(result.outcome.dataset.PatientName) == "Müller^Jörg"
    assert result.outcome.dataset.AnatomicRegionSequence[0].CodeMeaning == "Röntgen"
    assert same(result, in_process(item, settings()))


def test_the_pixels_are_this_side_s_own_and_may_be_written(pool, image):
    (result,) = pool([task(image)])
    result.outcome.pixels[0, 0] = 0.5
    assert result.outcome.pixels[0, 0] == 0.5


def test_without_processes_the_same_comes_of_it_in_this_one(image):
    given = settings(decoding={"processes": 0})
    item = task(image)
    with DecoderPool(given) as none:
        assert same(none([item])[0], in_process(item, given))


def test_many_threads_each_get_their_own_images_in_their_order(tmp_path, pool):
    tasks = []
    for number in range(12):
        stored = standard_pixels() + np.uint16(number)
        tasks.append(task(write(tmp_path / f"{number}.dcm", stored, SOPInstanceUID=f"1.2.{number + 1}")))
    got: dict[int, list[str]] = {}

    def ask(first: int) -> None:
        got[first] = [result.outcome.dataset.SOPInstanceUID for result in pool(tasks[first : first + 3])]

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(0, 12, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {first: [f"1.2.{n + 1}" for n in range(first, first + 3)] for first in range(0, 12, 3)}


# ---------------------------------------------------------------- what the rules decide

RULES = [
    {"name": "hands", "when": {"body_part_examined": ["HAND"]}, "process": False},
    {"name": "rest", "bundle": "other", "destinations": ["pacs"]},
]
PACS = [{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}]


@pytest.mark.parametrize("processes", [0, 1])
def test_rules_decide_by_the_header_and_what_they_leave_out_is_not_decoded(tmp_path, processes):
    hand = write(tmp_path / "hand.dcm", standard_pixels(), uids.JPEGLSLossless, BodyPartExamined="HAND")
    with_frame(hand, b"no pixels at all")
    foot = write(tmp_path / "foot.dcm", standard_pixels(), BodyPartExamined="FOOT")
    broken = with_frame(write(tmp_path / "broken.dcm", standard_pixels(), uids.JPEGLSLossless), b"no pixels at all")
    own = write(tmp_path / "own.dcm", standard_pixels(), BodyPartExamined="HAND", ManufacturerModelName="dicom_gam")
    given = settings(decoding={"processes": processes}, rules=RULES, destinations=PACS)
    with DecoderPool(given) as decoders:
        skipped, taken, refused, looped, asked = decoders(
            [task(hand), task(foot), task(broken), task(own), task(hand, "radiograph-anatomy")]
        )
    assert skipped.outcome is None
    assert skipped.decision.rule == "hands"
    assert skipped.decision.skipped
    assert isinstance(taken.outcome, Radiograph)
    assert taken.decision == Decision("rest", "other", ("pacs",))
    assert refused.outcome.reason is Reason.UNDECODABLE_PIXELS
    assert refused.decision == Decision("rest", "other", ("pacs",))
    assert looped.outcome.reason is Reason.OWN_RESULT  # and no rule was asked
    assert looped.decision == Decision()
    assert same(asked, in_process(task(hand, "radiograph-anatomy"), given))


# ---------------------------------------------------------------- our own disk


@pytest.mark.parametrize("processes", [0, 2])
def test_a_file_that_changed_on_our_own_disk_is_never_a_result_nor_the_image_s_fault(image, pool, processes):
    item = task(image)
    content = bytearray(image.read_bytes())
    content[-1] ^= 1
    image.write_bytes(content)
    decoders = pool if processes else DecoderPool(settings(decoding={"processes": 0}))
    with pytest.raises(StorageError, match="changed on our own disk"):
        decoders([item])
    image.unlink()
    with pytest.raises(StorageError, match="check the disk"):
        decoders([item])


# ---------------------------------------------------------------- files made to do harm


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def private_bytes() -> int:
    """Anonymous memory of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def bomb(folder: Path) -> Path:
    """2.3 MB that inflate to 1.1 GB, in the pixels."""
    dataset = inflated(write(folder / "seed.dcm", standard_pixels()))
    start = dataset.find(b"\xe0\x7f\x10\x00OW\0\0") + 8
    size = 1100 * 1024**2
    path = write(folder / "bomb.dcm", standard_pixels(), uids.DeflatedExplicitVRLittleEndian)
    file = path.read_bytes()
    deflater = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [deflater.compress(dataset[:start] + size.to_bytes(4, "little"))]
    parts += [deflater.compress(bytes(1024**2)) for _ in range(1100)]
    path.write_bytes(b"".join([file[: 144 + int.from_bytes(file[140:144], "little")], *parts, deflater.flush()]))
    return path


def nested(folder: Path) -> Path:
    file = write(folder / "nested.dcm", standard_pixels()).read_bytes()
    start = file.find(b"\x28\x00\x02\x00US")
    opening = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    (folder / "nested.dcm").write_bytes(file[:start] + opening * 5000 + file[start:])
    return folder / "nested.dcm"


def many_elements(folder: Path) -> Path:
    file = write(folder / "many.dcm", standard_pixels()).read_bytes()
    start = file.find(b"\x28\x00\x02\x00US")
    elements = b"".join(
        group.to_bytes(2, "little") + number.to_bytes(2, "little") + b"CS\0\0"
        for group in (0x19, 0x21)
        for number in range(0x1000, 0xF000)
    )
    (folder / "many.dcm").write_bytes(file[:start] + elements + file[start:])
    return folder / "many.dcm"


def claiming_65535(folder: Path) -> Path:
    path = write(folder / "claim.dcm", standard_pixels(), uids.JPEG2000Lossless)
    stream = bytearray(frame_of(path))
    stream[8:16] = (65535).to_bytes(4, "big") * 2
    return with_frame(path, bytes(stream))


def attributes(folder: Path, **values) -> Path:
    return write(folder / "attributes.dcm", standard_pixels(), **values)


def wrong_character_set(folder: Path, **values) -> Path:
    path = attributes(folder, SpecificCharacterSet="ISO_IR 100", **values)
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"ISO_IR 999"))
    return path


def without_pixels() -> Dataset:
    dataset = header(standard_pixels())
    dataset.PixelData = b""
    dataset["PixelData"].VR = "OW"
    return dataset


HOSTILE = {
    "a deflate bomb": (bomb, Reason.ABSURD_DIMENSIONS),
    "5000 nested sequences": (nested, Reason.UNREADABLE),
    "100,000 elements": (many_elements, Reason.TOO_COSTLY),
    "a JPEG 2000 header of 65535 x 65535": (claiming_65535, Reason.UNDECODABLE_PIXELS),
    "65535 x 65535 pixels": (lambda f: attributes(f, Rows=65535, Columns=65535), Reason.ABSURD_DIMENSIONS),
    "two thousand million frames": (lambda f: attributes(f, NumberOfFrames=2**31 - 1), Reason.MULTI_FRAME),
    "an unknown character set": (wrong_character_set, Reason.INVALID_ATTRIBUTES),
    "zero rows": (lambda f: attributes(f, Rows=0), Reason.INVALID_ATTRIBUTES),
    "zero pixels": (lambda f: save(f / "zero.dcm", without_pixels()), Reason.NO_PIXELS),
    "no pixels": (lambda f: save(f / "none.dcm", header(standard_pixels())), Reason.NO_PIXELS),
}


@pytest.mark.requirement("DEC-07")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_by_name_and_costs_the_service_no_memory(tmp_path, pool, name):
    make, reason = HOSTILE[name]
    item = raw_task(make(tmp_path))
    gc.collect()
    before, open_before = private_bytes(), descriptors()
    (result,) = pool([item])
    assert isinstance(result.outcome, Rejection)
    assert result.outcome.reason is reason
    assert private_bytes() - before < 16 * 1024**2
    assert descriptors() <= open_before


@pytest.mark.requirement("DEC-07")
def test_an_image_that_needs_more_memory_than_allowed_is_refused_and_its_neighbours_are_not(tmp_path, image):
    large = write(tmp_path / "large.dcm", np.tile(standard_pixels(), (150, 140)), SOPInstanceUID="1.2.9")
    with DecoderPool(settings(decoding={"processes": 1, "memory_bytes": 256 * 1024**2})) as decoders:
        first, costly, last = decoders([task(image), task(large), task(image)])
    assert isinstance(first.outcome, Radiograph)
    assert costly.outcome.reason is Reason.TOO_COSTLY
    assert "decoding.memory_bytes" in costly.outcome.message
    assert isinstance(last.outcome, Radiograph)


# ---------------------------------------------------------------- decoders that hang, die, or never start


def decoder_that(folder: Path, behaviours: dict[str, str]) -> tuple[str, ...]:
    """A decoder that does what is said to the images of these names, and what is right to all others."""
    script = folder / "decoder.py"
    script.write_text(
        "import os, signal, time\n"
        "from dicom_gam.dicom.image import decoder_process\n"
        f"behaviours = {behaviours!r}\n"
        "real = decoder_process.decode_with_header\n"
        "def decode(instance, *rest):\n"
        "    exec(behaviours.get(instance.path.name, ''))\n"
        "    return real(instance, *rest)\n"
        "decoder_process.decode_with_header = decode\n"
        "decoder_process.main()\n"
    )
    return (sys.executable, str(script))


STAND_IN = """
import ctypes, json, os, signal, socket, struct, time
channel = socket.socket(fileno=0)

def receive():
    head = channel.recv(4)
    if not head:
        raise SystemExit
    return json.loads(channel.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL))

def send(message):
    content = json.dumps(message).encode()
    channel.sendall(struct.pack(">I", len(content)) + content)

receive()
send({"ready": True})
while True:
    if receive()["instance"]["path"].endswith("harmful.dcm"):
        BEHAVIOUR
    send({"rejection": {"reason": "blank-image", "message": "in order"}})
"""


def stand_in(behaviour: str = "") -> tuple[str, ...]:
    """A process that does `behaviour` to harmful.dcm, calls all other images blank, and starts quickly."""
    return (sys.executable, "-S", "-c", STAND_IN.replace("BEHAVIOUR", behaviour or "pass"))


def outcomes(decoders: DecoderPool, *paths: Path) -> list[Radiograph | Rejection | None]:
    return [result.outcome for result in decoders([raw_task(path) for path in paths])]


@pytest.mark.requirement("DEC-07")
@pytest.mark.parametrize(
    ("behaviour", "reason", "message"),
    [
        ("time.sleep(600)", Reason.TOO_COSTLY, "decoding.timeout_s"),
        ("channel.sendall(bytes(3)); time.sleep(600)", Reason.TOO_COSTLY, "decoding.timeout_s"),
        ("os.kill(os.getpid(), signal.SIGKILL)", Reason.TOO_COSTLY, "SIGKILL"),
        ("ctypes.string_at(0)", Reason.UNDECODABLE_PIXELS, "SIGSEGV"),
        ("os.abort()", Reason.UNDECODABLE_PIXELS, "SIGABRT"),
        ("os._exit(3)", Reason.UNDECODABLE_PIXELS, "exit status 3"),
        ("channel.sendall(b'raving' * 9)", Reason.UNDECODABLE_PIXELS, "exit status"),
        ("send({'rejection': 5})", Reason.UNDECODABLE_PIXELS, "exit status"),
        ("send({'rows': 10**9, 'columns': 9, 'header': 1})", Reason.UNDECODABLE_PIXELS, "exit status"),
        ("send({'memory': True})", Reason.TOO_COSTLY, "decoding.memory_bytes"),
        ("send({'fault': 'KeyError, display.py line 12'})", Reason.UNDECODABLE_PIXELS, "display.py line 12"),
    ],
)
def test_an_image_that_harms_its_decoder_is_refused_and_its_neighbours_are_not(behaviour, reason, message):
    given = settings(decoding={"processes": 1, "timeout_s": 4})
    with DecoderPool(given, stand_in(behaviour)) as decoders:
        first, refused, last = outcomes(decoders, Path("a.dcm"), Path("harmful.dcm"), Path("b.dcm"))
    assert first == last == Rejection(Reason.BLANK_IMAGE, "in order")
    assert isinstance(refused, Rejection)
    assert refused.reason is reason
    assert message in refused.message


@pytest.mark.requirement("DEC-07")
def test_the_real_decoder_survives_nothing_that_it_should_not_and_writes_no_file(tmp_path, image):
    harmful = [write(tmp_path / f"{name}.dcm", standard_pixels()) for name in ("kill", "fault", "file")]
    leak = tmp_path / "leak"
    behaviours = {
        "kill.dcm": "os.kill(os.getpid(), signal.SIGKILL)",
        "fault.dcm": "{}['no such key']",
        "file.dcm": f"open({str(leak)!r}, 'w').write('x' * 10**6)",
    }
    with DecoderPool(settings(), decoder_that(tmp_path, behaviours)) as decoders:
        tasks = [task(path) for path in (*harmful, image)]
        killed, faulty, filed, last = (result.outcome for result in decoders(tasks))
    assert killed.reason is Reason.TOO_COSTLY
    assert faulty.reason is Reason.UNDECODABLE_PIXELS
    assert "KeyError, " in faulty.message
    assert filed.reason is Reason.UNDECODABLE_PIXELS
    assert leak.stat().st_size == 0
    assert isinstance(last, Radiograph)


def test_a_decoder_killed_between_two_images_is_replaced_and_no_image_is_blamed():
    before = children()
    with DecoderPool(settings(), stand_in()) as decoders:
        outcomes(decoders, Path("a.dcm"))
        (pid,) = children() - before
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: ended(pid))
        assert outcomes(decoders, Path("a.dcm")) == [Rejection(Reason.BLANK_IMAGE, "in order")]
    assert children() == before


@pytest.mark.parametrize("command", [("/no/such/program",), (sys.executable, "-c", "raise SystemExit('broken')")])
def test_a_decoder_that_can_not_start_is_our_fault_and_not_the_image_s(command):
    with DecoderPool(settings(), command) as decoders, pytest.raises(DicomGamError, match="can't be started"):
        outcomes(decoders, Path("a.dcm"))


def test_a_decoder_is_replaced_after_its_share_of_images(monkeypatch):
    monkeypatch.setattr(decoder_pool, "IMAGES_PER_PROCESS", 2)
    before = children()
    seen = []
    with DecoderPool(settings(), stand_in()) as decoders:
        for _ in range(5):
            outcomes(decoders, Path("a.dcm"))
            seen.append(children() - before)
    assert [len(pids) for pids in seen] == [1] * 5
    assert seen[0] == seen[1] != seen[2] == seen[3] != seen[4]


def test_memory_and_descriptors_stay_flat_over_many_images(image, pool):
    pool([task(image)] * 8)
    gc.collect()
    before, open_before = private_bytes(), descriptors()
    for _ in range(8):
        pool([task(image)] * 8)
    gc.collect()
    assert private_bytes() - before < 4 * 1024**2
    assert descriptors() <= open_before


@pytest.mark.parametrize("step", ["shared_memory", "mapped"])
def test_memory_that_the_service_itself_lacks_is_not_the_image_s_fault(image, pool, monkeypatch, step):
    def refuse(*_):
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(decoder_pool, step, refuse)
        with pytest.raises(StorageError, match=r"Cannot allocate memory.*processing\.batch_size"):
            pool([task(image)])
    assert all(isinstance(result.outcome, Radiograph) for result in pool([task(image)] * 3))


def test_closed_decoders_leave_no_process_and_take_no_work():
    before = children()
    decoders = DecoderPool(settings(decoding={"processes": 2}), stand_in())
    outcomes(decoders, Path("a.dcm"))
    decoders.close()
    decoders.close()
    assert children() == before
    with pytest.raises(DicomGamError, match="shut down"):
        outcomes(decoders, Path("a.dcm"))


def test_a_decoder_ends_with_its_parent_even_in_the_midst_of_an_image(tmp_path, image):
    started = tmp_path / "started"
    os.mkfifo(started)
    command = decoder_that(tmp_path, {image.name: f"open({str(started)!r}, 'w').close(); time.sleep(600)"})
    program = (
        "import datetime, os, pathlib, threading\n"
        "from dicom_gam.config import settings_from\n"
        "from dicom_gam.dicom.image.decoder_pool import DecoderPool\n"
        "from dicom_gam.records import ReceivedInstance, Task\n"
        f"pool = DecoderPool(settings_from({{'decoding': {{'processes': 1, 'timeout_s': 500}}}}), {command!r})\n"
        f"instance = ReceivedInstance(pathlib.Path({str(image)!r}), '1.2', '1.2', '1.2', '', 0)\n"
        "task = Task(instance, datetime.datetime.now())\n"
        "threading.Thread(target=pool, args=([task],), daemon=True).start()\n"
        f"open({str(started)!r}).read()\n"  # opens when the decoder is at it
        "print(*(pid for t in os.listdir('/proc/self/task') for pid in "
        "open(f'/proc/self/task/{t}/children').read().split()), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    (pid,) = done.stdout.split()
    wait_until(lambda: ended(int(pid)))


def children() -> set[int]:
    """The processes that threads of this one have started."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for thread in tasks for pid in (thread / "children").read_text().split()}


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] == "Z"
    except OSError:
        return True


def wait_until(condition, limit_s: float = 60) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
