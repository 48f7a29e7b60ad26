"""Log-in by the hospital's own directory: OpenID Connect, code flow with PKCE, state and nonce."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from authlib.common.errors import AuthlibBaseError
from authlib.integrations.flask_client import OAuth
from flask import current_app, request, session
from joserfc.errors import JoseError

from dicom_gam.errors import ConfigError
from dicom_gam.service.accounts import DIRECTORY_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask import Flask
    from werkzeug.wrappers import Response

    from dicom_gam.oversight_sections import OidcSettings, WebSettings

_log = logging.getLogger(__name__)

CLIENT = "directory"
TIMEOUT_S = 10.0
LEEWAY_S = 60  # between the directory's clock and ours
LONGEST_NAME = 64
_UNREACHABLE = (
    "The hospital's directory can't be reached, or answers what makes no sense. Try again in a while; "
    "the administrator finds the reason in the node's log."
)
_NOT_BELIEVED = "What the directory answered could not be verified. Start the log-in again from the log-in page."


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody for whom the directory vouches."""

    name: str
    subject: str
    roles: tuple[str, ...]


class Directory:
    """The hospital's OpenID provider. It is asked for its metadata at the first log-in."""

    def __init__(self, app: Flask, web: WebSettings, oidc: OidcSettings) -> None:
        self._oidc = oidc
        self._public_url = web.public_url
        self._client: Any = OAuth(app).register(
            CLIENT,
            client_id=oidc.client_id,
            client_secret=_secret(oidc),
            server_metadata_url=oidc.discovery_url,
            client_kwargs={
                "scope": "openid profile",
                "code_challenge_method": "S256",
                "default_timeout": TIMEOUT_S,
            },
        )

    def send_there(self, back: str) -> Response | str:
        """Send the visitor to the provider, which sends them `back`; words for the visitor when it can't be reached."""
        for key in [key for key in session if key.startswith("_state_")]:
            session.pop(key)  # only the last try counts: the cookie must stay small
        if self._public_url is not None:
            back = self._public_url.rstrip("/") + urlsplit(back).path
        try:
            metadata = self._client.load_server_metadata()
            scopes = metadata.get("scopes_supported") or ()
            extra = {"scope": "openid profile groups"} if "groups" in scopes else {}
            answer: Response = self._client.authorize_redirect(back, **extra)
        except (AuthlibBaseError, OSError, ValueError, RuntimeError) as error:
            _log.error("oidc.unreachable %s: %s", self._oidc.discovery_url, _reason(error))
            return _UNREACHABLE
        return answer

    def person(self) -> Person | str:
        """Who came back from the provider; words for the visitor when nobody did who may come in."""
        if "error" in request.args:
            _log.warning("oidc.refused error=%r", request.args["error"][:80])
            return "The directory did not let you log in. Try again, or ask its administrator."
        try:
            metadata = self._client.load_server_metadata()
            token = self._client.authorize_access_token(
                claims_options={
                    "iss": {"essential": True, "values": [metadata["issuer"]]},
                    "aud": {"essential": True, "values": [self._oidc.client_id]},
                },
                leeway=LEEWAY_S,
            )
            claims = token["userinfo"]
        except (JoseError, AuthlibBaseError) as error:
            _log.warning("oidc.not_believed %s", _reason(error))
            return _NOT_BELIEVED
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            _log.error("oidc.unreachable %s: %s", self._oidc.discovery_url, _reason(error))
            return _UNREACHABLE
        return self._let_in(claims)

    def _let_in(self, claims: Mapping[str, Any]) -> Person | str:
        subject, called = str(claims.get("sub", "")), claims.get("preferred_username")
        if not _fits(called):
            called = subject
        if not _fits(called):
            return _NOT_BELIEVED
        groups = claims.get(self._oidc.roles_claim, ())
        held = {groups} if isinstance(groups, str) else {one for one in groups or () if isinstance(one, str)}
        wanted = {"viewer": self._oidc.viewers, "operator": self._oidc.operators, "auditor": self._oidc.auditors}
        roles = tuple(role for role, names in wanted.items() if held & set(names))
        if not roles:
            return (
                f"The directory knows you as {called}, but none of your groups has a role here. "
                "Ask the administrator of this node to put you into one of the groups that web.oidc names."
            )
        return Person(DIRECTORY_PREFIX + str(called), subject[:255], roles)


def prepare_directory(app: Flask, web: WebSettings) -> None:
    """Prepare log-in by the directory where the settings want it. Raises ConfigError."""
    if web.oidc is None:
        return
    url = urlsplit(web.oidc.discovery_url)
    if url.scheme != "https" and url.hostname not in ("127.0.0.1", "::1", "localhost"):
        msg = (
            f"web.oidc.discovery_url {web.oidc.discovery_url} is not https: whoever sits between could log in as anyone"
        )
        raise ConfigError(msg)
    app.extensions["dicom_gam_directory"] = Directory(app, web, web.oidc)


def directory() -> Directory | None:
    """The directory of the current application, None without web.oidc."""
    found: Directory | None = current_app.extensions.get("dicom_gam_directory")
    return found


def _secret(oidc: OidcSettings) -> str:
    try:
        secret = oidc.client_secret_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"web.oidc.client_secret_file {oidc.client_secret_file} can't be read ({error}): correct path or rights"
        raise ConfigError(msg) from error
    if not secret:
        msg = f"web.oidc.client_secret_file {oidc.client_secret_file} is empty: put the client's secret into it"
        raise ConfigError(msg)
    return secret


def _fits(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and name.isprintable()


def _reason(error: Exception) -> str:
    """What went wrong, without values of claims."""
    return f"{type(error).__name__}: {str(error)[:200]!r}"
