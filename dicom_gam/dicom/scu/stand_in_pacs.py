"""A small archive for the demonstration: accepts everything by C-STORE and keeps it as files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, StoragePresentationContexts, evt

if TYPE_CHECKING:
    from pynetdicom.presentation import PresentationContext

AE_TITLE = "STAND_IN_PACS"


class StandInPacs:
    """A C-STORE and C-ECHO SCP on loopback; a context manager. `files` lists what has arrived, in order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files: list[Path] = []

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        ae = AE(ae_title=AE_TITLE)
        for context in StoragePresentationContexts[:120]:
            ae.add_supported_context(_class_of(context), ALL_TRANSFER_SYNTAXES)
        self._server: Any = ae.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.socket.getsockname()[1])

    def _store(self, event: Any) -> int:
        name = hashlib.sha256(str(event.request.AffectedSOPInstanceUID).encode()).hexdigest()[:16]
        path = self._folder / f"{name}.dcm"
        path.write_bytes(event.encoded_dataset())
        self.files.append(path)
        return 0x0000


def _class_of(context: PresentationContext) -> str:
    return str(context.abstract_syntax)
