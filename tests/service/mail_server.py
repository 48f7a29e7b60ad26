"""A small SMTP server (RFC 5321) on loopback that keeps what it is sent; by choice with TLS, log-in and refusals."""

from __future__ import annotations

import base64
import socketserver
import ssl
import threading
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Self, cast


class MailServer:
    """`mails` are those that came; `answers` replaces the answer to a command, such as {"RCPT": "550 no"}."""

    def __init__(self, tls: ssl.SSLContext | None = None, *, login: str = "", port: int = 0) -> None:
        self.mails: list[EmailMessage] = []
        self.logins: list[str] = []
        self.answers: dict[str, str] = {}
        self.tls, self.login = tls, login

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            house = self

        self._server = Server(("127.0.0.1", port), _Session)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Session(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        house = cast("MailServer", self.server.house)  # type: ignore[attr-defined]
        self._say("220 test")
        encrypted = False
        while line := self.rfile.readline().decode("ascii").strip():
            command = line[:4].upper()
            if command in house.answers:
                self._say(house.answers[command])
            elif command == "EHLO":
                self._say("250-test")
                if house.tls is not None and not encrypted:
                    self._say("250-STARTTLS")
                if house.login:
                    self._say("250-AUTH PLAIN")
                self._say("250 8BITMIME")
            elif command == "STAR" and house.tls is not None:
                self._say("220 go on")
                self.connection = house.tls.wrap_socket(self.connection, server_side=True)
                self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")  # type: ignore[assignment]
                encrypted = True
            elif command == "AUTH":
                given = base64.b64decode(line.split()[-1]).decode()
                house.logins.append(given)
                self._say("235 welcome" if given == f"\0{house.login}" else "535 no: " + given.replace("\0", "/"))
            elif command == "DATA":
                self._say("354 go on")
                house.mails.append(self._mail())
                self._say("250 taken")
            elif command == "QUIT":
                self._say("221 bye")
                break
            else:
                self._say("250 well")
        if encrypted:
            self.connection.close()

    def _mail(self) -> EmailMessage:
        lines: list[bytes] = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        return cast("EmailMessage", message_from_bytes(b"".join(lines), policy=default))

    def _say(self, words: str) -> None:
        self.wfile.write(words.encode() + b"\r\n")
        self.wfile.flush()
