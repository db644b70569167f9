"""TLS of all ports: the certificate, its key, and who may issue clients' certificates."""

import logging
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from service.settings import Settings

# gRPC's clients insist on being told that they may speak HTTP/2.
PROTOCOLS = ["h2", "http/1.1"]

logger = logging.getLogger(__name__)


class InvalidTls(ValueError):
    """The message names the setting, the file, and what is wrong."""


class _Files(NamedTuple):
    cert: str
    key: str
    client_ca: str


class Tls:
    """Connections that begin now have what the files say now.

    `context`: for the listeners. It stays; each connection changes to `latest`, of the files as they are now.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises InvalidTls."""
        self._files = _Files(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        self._stamps = self._read_stamps()
        self.context = self.latest = _context(self._files)
        self.context.sni_callback = self._take_latest

    def poll(self) -> None:
        """Read the files again if one has changed. While they do not fit together, those before go on to count."""
        stamps = self._read_stamps()
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            self.latest = _context(self._files)
        except InvalidTls as error:
            logger.error("%s; the certificates before go on to count", error)
        else:
            logger.info("the TLS certificates are read again")

    def _take_latest(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self.latest

    def _read_stamps(self) -> list[tuple[int, int] | None]:
        return [_stamp(Path(path)) for path in self._files if path]


def tls(settings: Settings) -> Tls | None:
    """None where there is none. Raises InvalidTls."""
    if settings.tls_cert:
        return Tls(settings)
    for name, value in (("SERVING_TLS_KEY", settings.tls_key), ("SERVING_TLS_CLIENT_CA", settings.tls_client_ca)):
        if value:
            raise InvalidTls(f"{name}={value!r} needs SERVING_TLS_CERT, the server's certificate")
    return None


def _context(files: _Files) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(PROTOCOLS)
    if not files.key:
        raise InvalidTls("SERVING_TLS_CERT needs SERVING_TLS_KEY, the certificate's private key")
    _load("SERVING_TLS_CERT", files.cert, lambda: context.load_cert_chain(files.cert, files.key, password=""))
    if files.client_ca:
        _load("SERVING_TLS_CLIENT_CA", files.client_ca, lambda: context.load_verify_locations(files.client_ca))
        context.verify_mode = ssl.CERT_REQUIRED
        # A session that goes on is not asked for its certificate again, whatever the file says by then.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _load(setting: str, path: str, load: Callable[[], None]) -> None:
    try:
        load()
    except ssl.SSLError as error:
        what = error.reason or str(error)
        raise InvalidTls(f"{setting}={path!r} is no certificate that goes with its key (PEM): {what}") from None
    except OSError as error:
        raise InvalidTls(f"{setting}={path!r} or its key cannot be read: {error.strerror}") from None


def _stamp(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        stat = path.stat()
        return stat.st_mtime_ns, stat.st_ino
    return None
