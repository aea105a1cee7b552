"""TLS on our own sockets: the certificate and its key, read again when their files change."""

import os
import ssl
from collections.abc import Sequence
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)


class CannotServeTls(Exception):
    """The certificate or its key cannot be used; the text is for the operator."""


class Certificates:
    """A context for listening sockets, whose connections begin with the newest certificate."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """`certificate` is a file with the whole chain, in PEM. Raises CannotServeTls."""
        self._certificate = certificate
        self._key = key
        self._seen = self._look()
        self._newest = self.context = _load(certificate, key)
        # A new context for new connections: whoever is connected keeps the one of the handshake, and a pair
        # of files that does not fit together never gets near a connection.
        self.context.sni_callback = self._choose

    def look_after(self) -> None:
        """Read the files again if they have changed; with a mistake, the certificate before stays in use."""
        try:
            now = self._look()
            if now == self._seen:
                return
            self._seen = now
            self._newest = _load(self._certificate, self._key)
        except CannotServeTls as error:
            # Once for each change: the next look finds what this one has seen.
            log.error("the new TLS certificate is not used; the one before is", error=str(error))
        else:
            log.info("a new TLS certificate is in use", certificate=str(self._certificate))

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext
    ) -> None:
        connection.context = self._newest

    def _look(self) -> Sequence[object]:
        found: list[object] = []
        for path in (self._certificate, self._key):
            try:
                # What a link leads to: that is how new certificates are often put in place.
                state = path.stat()
            except OSError:
                found.append(None)
            else:
                found.append((state.st_ino, state.st_mtime_ns, state.st_size))
        return found


def _load(certificate: Path, key: Path) -> ssl.SSLContext:
    try:
        if key.stat().st_mode & 0o077:
            raise CannotServeTls(f"{key} can be read by others; run: chmod 600 {key}")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # A password would be asked for on a terminal that nobody looks at.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        reason = (error.reason or "they cannot be read").replace("_", " ").lower()
        raise CannotServeTls(f"{certificate} and {key} are no certificate with its key: {reason}") from error
    except OSError as error:
        missing = next((path for path in (certificate, key) if not os.access(path, os.R_OK)), certificate)
        raise CannotServeTls(f"cannot read {missing}: {error.strerror}") from error
    return context
