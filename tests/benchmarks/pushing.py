"""Four modalities that push, each sending again what was not acknowledged, and what the archive must have then."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Self

from pydicom.filereader import read_file_meta_info

from tests.benchmarks.modality import SUCCESS, Modality, encoded_image, new_uids
from tests.service.fakes import result_uids

PATIENCE_S = 0.05  # of a modality between two tries; real ones wait for minutes
IMAGES_PER_STUDY, STUDIES_AHEAD = 4, 5000


@dataclass
class Ledger:
    """What the senders saw, written by all of them."""

    acknowledged: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    sent_again: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Senders:
    """Threads that push images to a port until told to stop; each then finishes the image in hand."""

    def __init__(
        self, port: int, ledger: Ledger, *, count: int = 4, seed: int = 0, sides: Sequence[int], pause_s: float = 0.0
    ) -> None:
        self._port, self._ledger, self._sides, self._pause_s = port, ledger, sides, pause_s
        self._ended, self._given_up = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=self._push, args=(f"{seed}/{number}",), daemon=True) for number in range(count)
        ]

    def begin_no_more(self) -> None:
        """Only the images in hand are still tried."""
        self._ended.set()

    def finish(self, timeout_s: float) -> None:
        """Begin no further image and wait for those in hand to be acknowledged. Raises TimeoutError."""
        self.begin_no_more()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            msg = f"a sender's image was not acknowledged within {timeout_s:.0f} s of trying"
            raise TimeoutError(msg)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._given_up.set()
        for thread in self._threads:
            thread.join(60)

    def _push(self, seed: str) -> None:
        random, number = Random(seed), 0
        studies = new_uids(STUDIES_AHEAD, f"studies {seed}")
        association: Modality | None = None
        while not self._ended.is_set():
            uid = new_uids(1, f"image {seed} {number}")[0]
            study = studies[number // IMAGES_PER_STUDY % STUDIES_AHEAD]
            encoded = encoded_image(uid, study, random.choice(self._sides))
            association = self._until_acknowledged(association, uid, encoded, random)
            number += 1
            self._ended.wait(random.uniform(0, 2 * self._pause_s))
        if association:
            association.close()

    def _until_acknowledged(
        self, association: Modality | None, uid: str, encoded: bytes, random: Random
    ) -> Modality | None:
        tries = 0
        while not self._given_up.is_set():
            try:
                association = association or Modality(self._port, timeout_s=20)
                tries += 1
                status = association.store(uid, encoded)
            except OSError:
                association = self._broke(association)
            else:
                self._note(uid, status, tries)
                if status == SUCCESS:
                    return association
            self._given_up.wait(random.uniform(0, 2 * PATIENCE_S))
        return association

    def _broke(self, association: Modality | None) -> None:
        if association:
            association.close()
        with self._ledger.lock:
            self._ledger.broken += 1

    def _note(self, uid: str, status: int, tries: int) -> None:
        with self._ledger.lock:
            self._ledger.statuses[f"{status:04X}"] += 1
            if status == SUCCESS:
                self._ledger.acknowledged.append(uid)
                self._ledger.sent_again += tries > 1


@dataclass(frozen=True)
class Outcome:
    """What the archive has, set against what was acknowledged."""

    images: int
    images_with_exactly_one_result_set: int
    lost: int
    doubled: int
    unexpected_objects: int
    objects: int
    identical_objects_sent_again: int

    @property
    def sound(self) -> bool:
        """Every acknowledged image has exactly one result set, and nobody else has any."""
        return self.images_with_exactly_one_result_set == self.images and not self.unexpected_objects

    def __str__(self) -> str:
        return (
            f"{self.images} images acknowledged, {self.images_with_exactly_one_result_set} with exactly one result set "
            f"at the archive, {self.lost} lost, {self.doubled} doubled, {self.unexpected_objects} objects of no image; "
            f"{self.objects} objects came, {self.identical_objects_sent_again} of them once more and identical"
        )


def outcome(acknowledged: Sequence[str], received: Sequence[Path]) -> Outcome:
    """Count what an archive that keeps every copy has.

    An image is lost when one of its two objects is missing, and doubled when one of them came with two contents. The
    same bytes under the same UID once more are no double: an archive keeps one, and a crash between the archive's
    answer and our note of it leaves nothing else to do.
    """
    contents: dict[str, set[bytes]] = {}
    for path in received:
        uid = str(read_file_meta_info(path).MediaStorageSOPInstanceUID)
        contents.setdefault(uid, set()).add(blake2b(path.read_bytes()).digest())
    images = set(acknowledged)
    versions = {image: [len(contents.get(uid, ())) for uid in result_uids(image)] for image in images}
    expected = {uid for image in images for uid in result_uids(image)}
    return Outcome(
        images=len(images),
        images_with_exactly_one_result_set=sum(v == [1, 1] for v in versions.values()),
        lost=sum(0 in v for v in versions.values()),
        doubled=sum(max(v) > 1 for v in versions.values()),
        unexpected_objects=len(contents.keys() - expected),
        objects=len(received),
        identical_objects_sent_again=len(received) - sum(map(len, contents.values())),
    )
