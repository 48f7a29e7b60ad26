"""What the courier asks before it offers an object: whether the set that it belongs to may leave the node."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from dicom_gam.dicom.checker.checker import Defect, check_results
from dicom_gam.errors import StorageError

if TYPE_CHECKING:
    from dicom_gam.storage.protocols import Blobs
    from dicom_gam.storage.rows import Delivery, NewDelivery

# Why one delivery of a job must not be sent, empty when it may be; the deliveries are all of that job's.
Check = Callable[["Delivery", "Sequence[Delivery]", "Blobs"], str]

_REMEMBERED = 4096  # sets
_LONGEST_MESSAGE = 300  # characters


class ResultCheck:
    """A `Check` that looks at each set once, however many destinations it goes to.

    Blobs are named by the digest of their bytes, so what was found for a set of names holds for good. A set that is no
    longer whole on the disk is looked at anew each time.
    """

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._remembered = remembered
        self._found: OrderedDict[frozenset[str], tuple[Defect, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, delivery: Delivery, siblings: Sequence[Delivery], results: Blobs) -> str:
        """Say why the delivery must not be sent; any defect in the set holds back the whole of it."""
        return _cause(delivery.what, self._defects(siblings, results))

    def _defects(self, siblings: Sequence[Delivery], results: Blobs) -> tuple[Defect, ...]:
        objects = {sibling.what.blob: sibling.what for sibling in siblings}
        key = frozenset(objects)
        with self._lock:  # one check at a time, so that a second courier finds what the first has found
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key]
            contents, absent = _read(objects, results)
            defects = check_results(contents, absent=absent)
            if not absent:
                self._found[key] = defects
                if len(self._found) > self._remembered:
                    self._found.popitem(last=False)
            return defects


def _read(objects: Mapping[str, NewDelivery], results: Blobs) -> tuple[list[bytes], dict[str, str]]:
    """The files of a set, and what of it is gone from the disk or damaged there, which the courier sees to itself."""
    contents, absent = [], {}
    for blob, what in objects.items():
        try:
            content = results.read(blob)
        except StorageError:
            content = b""
        if hashlib.sha256(content).hexdigest() == blob:
            contents.append(content)
        else:
            absent[what.sop_instance_uid] = what.sop_class_uid
    return contents, absent


def _cause(what: NewDelivery, defects: Sequence[Defect]) -> str:
    if not defects:
        return ""
    own = [defect for defect in defects if defect.sop_instance_uid in (what.sop_instance_uid, "")]
    first = own[0] if own else defects[0]
    told = f"{first.place}: {first.message}"[:_LONGEST_MESSAGE]
    more = f" (and {len(defects) - 1} more)" if len(defects) > 1 else ""
    held = "" if own else f"held back with object {first.sop_instance_uid} of the same result, "
    return f"check-result: {first.name}: {held}{told}{more}. Nothing of this result is sent; report this defect"


check_before_sending: Check = ResultCheck()  # one for all couriers of the process
