"""A small OpenID provider on loopback: discovery, authorisation with PKCE, tokens signed by RS256, keys."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

CLIENT_ID, CLIENT_SECRET = "dicom-gam", "the client's secret"


class OpenIdProvider:
    """Knows one person. `spoil` changes the claims before they are signed, `sign` how they are signed."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": "1", "use": "sig"})
        self.person: dict[str, Any] = {"sub": "248289", "preferred_username": "jane", "groups": ["radiographers"]}
        self.spoil: Callable[[dict[str, Any]], None] = lambda claims: None
        self.sign: Callable[[dict[str, Any]], str] = self.signed
        self.asked: dict[str, dict[str, str]] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                asked = {key: values[0] for key, values in parse_qs(url.query).items()}
                if url.path == "/authorize":
                    code = f"code{len(provider.asked)}"
                    provider.asked[code] = asked
                    back = {"code": code, "state": asked["state"]}
                    self.send_response(302)
                    self.send_header("Location", f"{asked['redirect_uri']}?{urlencode(back)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                pages = {"/.well-known/openid-configuration": provider.metadata, "/keys": provider.keys}
                self.answer(200, pages[url.path]())

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                said = {key: values[0] for key, values in form.items()}
                self.answer(*provider.token(said, self.headers.get("Authorization", "")))

            def answer(self, status: int, what: Any) -> None:
                body = json.dumps(what).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid", "profile", "groups"],
        }

    def keys(self) -> dict[str, Any]:
        return {"keys": [self.key.as_dict(private=False)]}

    def token(self, said: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """Give the tokens for a code once, to the client, when the verifier fits (RFC 7636 4.6)."""
        asked = self.asked.pop(said["code"], None)
        basic = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        if asked is None or authorization != f"Basic {basic}" or said["redirect_uri"] != asked["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        proof = base64.urlsafe_b64encode(hashlib.sha256(said["code_verifier"].encode()).digest()).rstrip(b"=").decode()
        if asked["code_challenge_method"] != "S256" or asked["code_challenge"] != proof:
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
        claims |= self.person
        self.spoil(claims)
        tokens = {"access_token": "an access token", "token_type": "Bearer", "expires_in": 300}
        if id_token := self.sign(claims):
            tokens["id_token"] = id_token
        return 200, tokens

    def signed(self, claims: dict[str, Any], key: RSAKey | None = None) -> str:
        key = key or self.key
        return jwt.encode({"alg": "RS256", "kid": key.kid}, claims, key)

    def signed_with_what_all_know(self, claims: dict[str, Any]) -> str:
        """HS256 with the public key as its secret: believed by those who let the token choose the algorithm."""
        secret = OctKey.import_key(self.key.as_pem(private=False).replace(b"PUBLIC KEY", b"PUBLIC_KEY"))
        return jwt.encode({"alg": "HS256", "kid": "1"}, claims, secret)

    def unsigned(self, claims: dict[str, Any]) -> str:
        parts = (json.dumps(part).encode() for part in ({"alg": "none"}, claims))
        return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."
