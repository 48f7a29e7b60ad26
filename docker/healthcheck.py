#!/opt/dicom-gam/bin/python -I
"""Whether the node in this container serves: exit status 0, or 1 and one line that says why not.

It reads the node's configuration, knocks at the DICOM door, and asks /live where the dashboard is on. Standard library
only: it runs twice a minute and must not load PyTorch.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import struct
import sys
import tomllib
from pathlib import Path

CONFIGURATION = "/etc/dicom-gam/node.toml"
TIMEOUT_S = 4.0
EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 (compared, not bound)
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def main() -> int:
    """Look, and say what is wrong."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("DICOM_GAM_CONFIG", CONFIGURATION))
    try:
        settings = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        print(f"the configuration {path} can't be read: {error}")
        return 1
    return knock(settings.get("node", {})) or ask(settings.get("web", {}))


def knock(node: dict) -> int:
    """Connect to the DICOM port. The connection is reset, which no listener takes for a failed TLS handshake."""
    address = local(node), node.get("port", 11112)
    try:
        with socket.create_connection(address, TIMEOUT_S) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    except OSError as error:
        print(f"the DICOM port {address[0]}:{address[1]} does not answer: {error}")
        return 1
    return 0


def ask(web: dict) -> int:
    """Ask /live, if there is a dashboard. Its certificate is for others' eyes: this never leaves the container."""
    if not web.get("enabled", False):
        return 0
    address = local(web), web.get("port", 8180)
    connection = http.client.HTTPConnection(*address, timeout=TIMEOUT_S)
    if web.get("certificate"):
        believing = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        believing.check_hostname, believing.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(*address, timeout=TIMEOUT_S, context=believing)
    try:
        connection.request("GET", "/live", headers={"Host": "localhost"})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print(f"the dashboard at {address[0]}:{address[1]} does not answer: {error}")
        return 1
    finally:
        connection.close()
    if status != http.client.OK:
        print(f"the dashboard at {address[0]}:{address[1]} answers {status} to /live")
    return int(status != http.client.OK)


def local(section: dict) -> str:
    """Where this container reaches what listens as a section of the configuration says."""
    host = section.get("host", "127.0.0.1")
    return EVERY_ADDRESS.get(host, host)


if __name__ == "__main__":
    sys.exit(main())
