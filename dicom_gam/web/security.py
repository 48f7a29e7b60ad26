"""What protects the application: who is let in, cross-site posts, security headers, which hosts we answer for."""

from __future__ import annotations

import ipaddress
import logging
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cryptography import x509
from flask import Response, abort, current_app, g, request, session
from flask.sessions import SecureCookieSessionInterface
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_talisman import Talisman
from flask_wtf.csrf import CSRFProtect
from itsdangerous import BadSignature, SignatureExpired
from limits import parse
from werkzeug.middleware.proxy_fix import ProxyFix

from dicom_gam.service.accounts import LONGEST_SESSION_S, Accounts
from dicom_gam.storage.secret_file import kept_secret
from dicom_gam.web.access import Guard, Permission, Visitor, guard, record_refusal
from dicom_gam.web.oidc import prepare_directory
from dicom_gam.web.recently import Recently
from dicom_gam.web.refusals import answer_refusals, refusal
from dicom_gam.web.site import site

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from flask import Flask, Request
    from flask.sessions import SecureCookieSession

    from dicom_gam.oversight_sections import WebSettings
    from dicom_gam.web.site import Site

_log = logging.getLogger(__name__)

SECRET_FILE = "web-secret.key"  # noqa: S105 (its name, not the secret)
OPEN_BLUEPRINTS = frozenset({"login", "health"})  # their views let in strangers, or look themselves at who it is
LOOK_S, REFUSAL_S = 600.0, 60.0
HSTS_S = 86400  # short: it would turn every other port of the same host name to TLS too
LARGEST_FORM_BYTES = 64 * 1024  # of those who are not logged in
WRONG_TOKENS = parse("20 per minute")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CONTENT_POLICY = {
    "default-src": "'none'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "script-src": "'self'",
    "connect-src": "'self'",
    "font-src": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
}


def protect(app: Flask, site: Site) -> None:
    """Protect every view of the application. Raises StorageError and ConfigError."""
    web, folder = site.settings.web, site.store.folder
    accounts = Accounts(folder, site.store.audit)
    site.store.closing.callback(accounts.close)
    _set_cookies(app, web, kept_secret(folder / SECRET_FILE))
    names = served_names(web)

    @app.before_request
    def _host() -> Response | None:
        g.visitor = None
        return None if _is_served(request.host, names) else _foreign_host()

    Talisman(
        app,
        force_https=False,
        session_cookie_secure=_secure(web),
        content_security_policy=CONTENT_POLICY,
        frame_options="DENY",
        referrer_policy="same-origin",
        strict_transport_security_max_age=HSTS_S,
        strict_transport_security_include_subdomains=False,
        permissions_policy={"camera": "()", "geolocation": "()", "microphone": "()", "browsing-topics": "()"},
    )
    limiter = Limiter(get_remote_address, app=app, storage_uri="memory://", strategy="moving-window")
    app.extensions["dicom_gam_guard"] = Guard(accounts, limiter, Recently(LOOK_S), Recently(REFUSAL_S))
    CSRFProtect(app)
    app.before_request(_who)
    app.before_request(_admit)
    app.before_request(_check_origin)
    app.after_request(_finish)
    answer_refusals(app)
    prepare_directory(app, web)
    if web.public_url is not None:
        app.wsgi_app = _BehindProxy(app.wsgi_app)  # type: ignore[method-assign]


def served_names(web: WebSettings) -> frozenset[str]:
    """The host names that the dashboard answers to, lower case; any IP address is one too.

    A page of another name that resolves to our address (DNS rebinding) would else read with its visitor's rights.
    """
    names = {"localhost", socket.gethostname().lower(), web.host.lower()}
    if web.public_url is not None:
        names.add((urlsplit(web.public_url).hostname or "").lower())
    if web.certificate is not None:
        try:
            for certificate in x509.load_pem_x509_certificates(web.certificate.read_bytes())[:1]:
                found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
                names |= {name.lower() for name in found.value.get_values_for_type(x509.DNSName)}
        except (OSError, ValueError, x509.ExtensionNotFound) as error:
            _log.warning("web.certificate has no readable names (%s): %s", type(error).__name__, web.certificate)
    return frozenset(names)


def _is_served(host: str, names: frozenset[str]) -> bool:
    try:
        name = (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return False
    if name in names or f"*.{name.partition('.')[2]}" in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _foreign_host() -> Response:
    record_refusal("the Host header names none of our hosts")
    return refusal(
        400,
        "This dashboard doesn't answer to the host name in the address. Use the address that the administrator "
        "gave you; for a new name, the administrator sets web.public_url or puts the name into web.certificate.",
    )


def _secure(web: WebSettings) -> bool:
    return web.certificate is not None or (web.public_url or "").startswith("https://")


def _set_cookies(app: Flask, web: WebSettings, secret: bytes) -> None:
    app.secret_key = secret
    app.session_interface = _Cookies()
    app.config.update(
        SESSION_COOKIE_NAME="__Host-dicom_gam" if _secure(web) else "dicom_gam",
        SESSION_COOKIE_SECURE=_secure(web),
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",  # Strict would lose the session on the way back from the directory
        SESSION_COOKIE_PATH="/",
        PERMANENT_SESSION_LIFETIME=timedelta(seconds=LONGEST_SESSION_S),
        MAX_FORM_MEMORY_SIZE=1024 * 1024,
        WTF_CSRF_CHECK_DEFAULT=False,  # `_check_origin` asks for it, where there is a session to abuse
        WTF_CSRF_TIME_LIMIT=None,  # a form holds as long as the session
        WTF_CSRF_SSL_STRICT=False,  # `_check_origin` looks at Origin and Sec-Fetch-Site instead of Referer
    )


class _Cookies(SecureCookieSessionInterface):
    """Flask's signed cookie; one that was tampered with goes on record."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        found = super().open_session(app, request)
        shown = request.cookies.get(self.get_cookie_name(app))
        signer = self.get_signing_serializer(app)
        if shown and signer is not None and not found:
            try:
                signer.loads(shown, max_age=int(LONGEST_SESSION_S))
            except SignatureExpired:
                pass
            except BadSignature:
                request.environ["dicom_gam.forged"] = True
        return found


class _BehindProxy:
    """Believe what a proxy on this machine says about the visitor; from elsewhere anybody could say it."""

    def __init__(self, inner: WSGIApplication) -> None:
        self._direct = inner
        self._behind = ProxyFix(inner, x_for=1, x_proto=1, x_host=0, x_prefix=1)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        inner = self._behind if is_loopback(environ.get("REMOTE_ADDR", "")) else self._direct
        return inner(environ, start_response)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address; a name other than `localhost` counts as one that others reach."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _who() -> None:
    if request.environ.get("dicom_gam.forged"):
        record_refusal("the session cookie was not made by us")
        session.clear()
        session.modified = True  # has the browser forget it
    kind, _, text = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer":
        g.visitor = _token_holder(text.strip())
        return
    web, session_id = site().settings.web, session.get("id")
    if not isinstance(session_id, str):
        return
    found = guard().accounts.session(session_id, web.session_minutes * 60)
    if found is None:
        session.pop("id")
        return
    if "X-Live" not in request.headers:  # a page that refreshes itself is no sign of a person
        guard().accounts.touch_session(session_id, found, web.session_minutes * 60)
    g.session_id = session_id
    g.user = found.user
    if found.user is not None and found.user.must_change:
        g.must_change = True
        return
    g.visitor = Visitor(found.name, _roles(found.roles), request.remote_addr or "")


def _token_holder(text: str) -> Visitor:
    limiter, address = guard().limiter.limiter, request.remote_addr or ""
    if not limiter.test(WRONG_TOKENS, "token", address):
        abort(429)
    found = guard().accounts.token(text)
    if found is None:
        limiter.hit(WRONG_TOKENS, "token", address)
        record_refusal("the bearer token is not one of ours, was revoked, or its user is disabled")
        abort(401, "The token is not known here, was revoked, or its user is disabled: ask the administrator.")
    return Visitor(found.name, _roles(found.roles), address, found.label)


def _roles(names: Iterable[str]) -> frozenset[Any]:
    return frozenset(names)


def _admit() -> None:
    """Refuse strangers before anything of their request is read; `needs` stands behind it."""
    if request.endpoint is None or request.endpoint == "static" or request.blueprint in OPEN_BLUEPRINTS:
        if g.visitor is None:
            request.max_content_length = LARGEST_FORM_BYTES
        return
    if g.visitor is None:
        abort(401)
    view = current_app.view_functions[request.endpoint]
    if not g.visitor.may(getattr(view, "permission", Permission.LOOK)):
        record_refusal("no role of the visitor allows it")
        abort(403)


def _check_origin() -> Response | None:
    """Refuse what another site has a browser send; a program with a token sends no cookies that could be abused."""
    if request.method in SAFE_METHODS or request.endpoint is None or (g.visitor is not None and g.visitor.token):
        return None
    fetch_site = request.headers.get("Sec-Fetch-Site", "same-origin")
    origin = request.headers.get("Origin")
    if fetch_site not in ("same-origin", "none") or (origin is not None and not _own_origin(origin)):
        record_refusal("cross-site post")
        return refusal(
            403,
            "Another site had your browser send this. Nothing was done. If you were on the dashboard itself, open it "
            "by the address that the administrator gave you, and try again.",
        )
    current_app.extensions["csrf"].protect()
    return None


def _own_origin(origin: str) -> bool:
    own = {f"{request.scheme}://{request.host}"}
    public = urlsplit(site().settings.web.public_url or "")
    if public.netloc:
        own.add(f"{public.scheme}://{public.netloc}")
    return origin.lower() in {one.lower() for one in own}


def _finish(response: Response) -> Response:
    """Keep what pages show out of caches and other sites' windows."""
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    if response.status_code >= 400 and (request.content_length or 0) > LARGEST_FORM_BYTES:
        response.headers["Connection"] = "close"  # else the server reads all that was refused
    return response
