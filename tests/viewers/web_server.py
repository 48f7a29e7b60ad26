"""The web server in front of OHIF: hands out the viewer and passes its DICOMweb calls on to Orthanc, on loopback."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CONFIGURATION = Path(__file__).parents[2] / "plugins" / "ohif" / "app-config.js"
_PASSED_ON = ("Accept", "Content-Type", "Host")  # Orthanc makes its links from Host


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *args, orthanc: str, **kwargs) -> None:
        self._orthanc = orthanc
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        if self.path.startswith(("/dicom-web/", "/wado")):
            return self._pass_on()
        if self.path.partition("?")[0] == "/app-config.js":
            return self._answer(200, "text/javascript", CONFIGURATION.read_bytes())
        if not Path(self.translate_path(self.path)).is_file():
            self.path = "/index.html"  # the viewer's own addresses
        return super().do_GET()

    def _pass_on(self) -> None:
        headers = {name: self.headers[name] for name in _PASSED_ON if name in self.headers}
        request = urllib.request.Request(self._orthanc + self.path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                self._answer(answer.status, answer.headers.get_content_type(), answer.read(), answer.headers)
        except urllib.error.HTTPError as error:
            self._answer(error.code, "text/plain", error.read())

    def _answer(self, status: int, content_type: str, body: bytes, headers=None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", headers["Content-Type"] if headers else content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args) -> None:
        """Silent."""


@contextmanager
def viewer_server(viewer: Path, orthanc_port: int) -> Iterator[str]:
    """Serve the built viewer in folder `viewer`; gives the address."""
    handler = partial(_Handler, directory=str(viewer), orthanc=f"http://127.0.0.1:{orthanc_port}")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
