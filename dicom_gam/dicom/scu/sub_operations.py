"""The C-STORE sub-operations of our own C-GET: taken in when asked for, watched for silence and size."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dicom_gam.dicom.scu.retrieve import Taken, take
from dicom_gam.dicom.statuses import StoreStatus, status_of
from dicom_gam.errors import DicomGamError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dicom_gam.dicom.scu.retrieve import Listed, Station

_LOOKS = 20  # at the clock, in the time that a source may be silent


class SubOperations:
    """The storage SCP on our own association. `came` has the UIDs that `done` was told of.

    pynetdicom limits the time for a whole message, which a slow line needs for a large image; `watched` limits the
    silence instead. `fault` says why the association was ended from here.
    """

    def __init__(self, station: Station, asked: Sequence[Listed], done: Callable[[Taken], None]) -> None:
        self._station = station
        self._asked = {item.sop_instance_uid: item for item in asked}
        self._done = done
        self._heard = time.monotonic()
        self._storing = False
        self.came: set[str] = set()
        self.fault = ""

    def store(self, event: Any) -> int:
        """Answer Success only when the instance is durable (EVT_C_STORE)."""
        self._storing = True
        try:
            return self._store(event.request, str(event.context.transfer_syntax))
        finally:
            self._heard = time.monotonic()
            self._storing = False

    def received(self, event: Any) -> None:
        """End the association when more comes than we take, before it fills the memory (EVT_PDU_RECV)."""
        self._heard = time.monotonic()
        message = event.assoc.dimse.message
        limit = self._station.maximum_instance_bytes
        if message is not None and message.data_set.tell() > limit and not self.fault:
            self.fault = (
                f"it sends an instance of more than {limit} bytes: if that is a radiograph, raise "
                "node.maximum_instance_bytes"
            )
            _end(event.assoc)

    @contextmanager
    def watched(self, assoc: Any, silence_s: float) -> Iterator[None]:
        """End the association when nothing comes for `silence_s`."""
        over = threading.Event()
        self._heard = time.monotonic()

        def watch() -> None:
            while not over.wait(silence_s / _LOOKS):
                if not self._storing and time.monotonic() - self._heard > silence_s:
                    self.fault = f"it has been silent for {silence_s:g} s: look at its log, or raise timeout_s"
                    _end(assoc)
                    return

        thread = threading.Thread(target=watch, name="silence", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _store(self, request: Any, transfer_syntax_uid: str) -> int:
        uid = str(request.AffectedSOPInstanceUID)
        announced = self._asked.get(uid)
        if announced is None:
            return StoreStatus.DATA_SET_MISMATCH  # nobody asked for it, so nobody will miss it
        said = (str(request.AffectedSOPClassUID), uid, transfer_syntax_uid)
        status = StoreStatus.SUCCESS
        try:
            with request.DataSet.getbuffer() as dataset:
                taken = Taken(uid, take(self._station, announced, said, [dataset]))
        except DicomGamError as error:
            taken, status = Taken(uid, why=str(error)), status_of(error)
        if uid not in self.came:
            self.came.add(uid)
            self._done(taken)
        return status


def _end(assoc: Any) -> None:
    """Have the thread that waits for a message find that there is none, upon which it aborts (pynetdicom does so)."""
    assoc.dimse.msg_queue.put((None, None))
