"""The HTTP client for a DICOMweb server (PS3.18), whether results go there or studies come from there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

from dicom_gam.dicom.scu.requestor import describe
from dicom_gam.dicom.tls import client_context
from dicom_gam.errors import DeliveryError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dicom_gam.sections import Peer


def open_client(peer: Peer, headers: Mapping[str, str]) -> httpx.Client:
    """Open a client for this server alone: patients' data follow no redirect and no proxy of the environment.

    Raises DeliveryError when the authorization file can't be used, ConfigError for the files of the TLS settings.
    """
    verify: Any = client_context(peer) if root_url(peer).startswith("https:") else False
    return httpx.Client(
        headers={"Accept-Encoding": "identity", **headers, **_authorization(peer)},
        verify=verify,
        timeout=peer.timeout_s,
        follow_redirects=False,
        trust_env=False,
    )


def root_url(peer: Peer) -> str:
    """The root of its service, without a slash at the end."""
    return str(peer.url).rstrip("/")


def _authorization(peer: Peer) -> dict[str, str]:
    """Read anew each time, so that a token can be replaced while the node runs."""
    path = peer.authorization_file
    if path is None:
        return {}
    try:
        value = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds more than ASCII"
        msg = f"{describe(peer)}: authorization_file {path} can't be read ({reason})"
        raise DeliveryError(msg) from error
    if not value or not value.isprintable():
        msg = f"{describe(peer)}: authorization_file {path} must hold one line, such as `Bearer ...`"
        raise DeliveryError(msg)
    return {"Authorization": value}
