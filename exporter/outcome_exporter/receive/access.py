"""Who may use a listener: certificates and bearer tokens, from files that may change.

A file is looked at when it is needed, at each handshake and each request: a `stat` costs
microseconds, and nothing has to be told that a secret was renewed. What its files make is made
anew when one of them changes; where that fails, as between the writing of a certificate and that
of its key, the last that worked stays, and the series and the log say so. Connections that are
open keep the certificate that they began with.

A token is sent as `Authorization: Bearer TOKEN`, or as the password of `Basic`, which browsers can
ask for. Tokens are compared as hashes, all of them and in constant time, so that neither their
length nor their beginning can be learned from how long an answer takes.

No secret is kept in an error, and none is logged: messages name files, never what is in them.
"""

import base64
import binascii
import hashlib
import hmac
import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import grpc

logger = logging.getLogger(__name__)

TOKEN_BYTES_MAX = 4_096
"""Of a header's value as well as of a file: more is no token."""

_T = TypeVar("_T")


class CredentialError(Exception):
    """A file does not hold what it must. The message names the file."""

    def __init__(self, key: str, path: Path, problem: str, remedy: str) -> None:
        self.key, self.path = key, path
        self.problem = f"{path} {problem}"
        self.remedy = remedy
        super().__init__(f"{self.problem}; {remedy}")


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of one listener."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class _FromFiles(Generic[_T]):
    """What is made of files, made anew when one of them changes; thread-safe."""

    def __init__(self, place: str, paths: Sequence[Path], make: Callable[[], _T]) -> None:
        self._place = place
        self._paths = paths
        self._make = make
        self._lock = threading.Lock()
        self._stamps = _stamps(paths)
        self._made = make()
        self.ok = True

    def __call__(self) -> _T:
        stamps = _stamps(self._paths)
        if stamps != self._stamps:
            with self._lock:
                if stamps != self._stamps:
                    self._renew()
                    self._stamps = stamps
        return self._made

    def _renew(self) -> None:
        try:
            self._made = self._make()
        except CredentialError as error:
            self.ok = False
            logger.error("%s: kept what was there before: %s", self._place, error)  # noqa: TRY400
        else:
            self.ok = True
            logger.info("%s: credentials renewed", self._place)


class Access:
    """Whom one listener serves: everybody where it has neither certificates nor tokens."""

    def __init__(
        self, place: str, *, tls: TlsFiles | None = None, token_files: Sequence[Path] = ()
    ) -> None:
        """Reads every file.

        Args:
            place: Path of the listener in the configuration, for messages.
            tls: Its certificates; without them it is not encrypted.
            token_files: Files of one token each.

        Raises:
            CredentialError: A file cannot be used.
        """
        self._tls: _FromFiles[ssl.SSLContext] | None = None
        self._tokens: _FromFiles[list[bytes]] | None = None
        self._mutual = tls is not None and tls.client_ca is not None
        self._files = tls
        if tls is not None:
            paths = [path for path in (tls.certificate, tls.key, tls.client_ca) if path]
            self._tls = _FromFiles(f"{place}.tls", paths, lambda: _context(tls))
        if token_files:
            self._tokens = _FromFiles(
                f"{place}.tokens",
                token_files,
                lambda: [_token(i, path) for i, path in enumerate(token_files)],
            )

    @property
    def ok(self) -> bool:
        """Whether the files are in use as they are now."""
        return all(made is None or made.ok for made in (self._tls, self._tokens))

    def allows(self, authorization: str | None) -> bool:
        """Whether a request with this `Authorization` may pass."""
        if self._tokens is None:
            return True
        given = _hash(_credential(authorization or ""))
        found = False
        for token in self._tokens():
            found |= hmac.compare_digest(given, token)
        return found

    def ssl_context(self) -> ssl.SSLContext | None:
        """For asyncio: each handshake takes the certificates as they are then."""
        return None if self._tls is None else _Latest(self._tls)

    def grpc_credentials(self) -> grpc.ServerCredentials | None:
        """For gRPC: each handshake takes the certificates as they are then."""
        if self._tls is None:
            return None
        latest, files = self._tls, self._files
        assert files is not None
        used = latest()

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal used
            if latest() is used:
                return None
            used = latest()
            return _grpc_certificates(files)

        return grpc.dynamic_ssl_server_credentials(
            _grpc_certificates(files), renewed, require_client_authentication=self._mutual
        )


class _Latest(ssl.SSLContext):
    """A context that stands for whichever is the latest: asyncio keeps one for good."""

    _latest: Callable[[], ssl.SSLContext]

    def __new__(cls, latest: Callable[[], ssl.SSLContext]) -> Self:
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        self._latest = latest
        return self

    def __init__(self, latest: Callable[[], ssl.SSLContext]) -> None:
        pass

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:  # noqa: ANN401 - ssl's own
        return self._latest().wrap_bio(*args, **kwargs)


def _stamps(paths: Sequence[Path]) -> list[tuple[int, int, int] | None]:
    return [_stamp(path) for path in paths]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for key, path in (("certificate", files.certificate), ("key", files.key)):
        _read(f"tls.{key}", path)
    try:
        # A key with a passphrase would ask for it on the terminal.
        context.load_cert_chain(files.certificate, files.key, password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError):
        raise CredentialError(
            "tls.key",
            files.key,
            f"is no key in PEM that belongs to {files.certificate}",
            "use the pair that was made together, the key without a passphrase",
        ) from None
    if files.client_ca is not None:
        _read("tls.client_ca", files.client_ca)
        try:
            context.load_verify_locations(files.client_ca)
        except (ssl.SSLError, OSError, ValueError):
            raise CredentialError(
                "tls.client_ca", files.client_ca, "holds no certificate in PEM", "put one in"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _grpc_certificates(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    authorities = files.client_ca.read_bytes() if files.client_ca else None
    pair = (files.key.read_bytes(), files.certificate.read_bytes())
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=authorities)


def _token(index: int, path: Path) -> bytes:
    key = f"tokens[{index}]"
    token = _read(key, path).strip()
    if not token or len(token) > TOKEN_BYTES_MAX or not all(0x21 <= c <= 0x7E for c in token):  # noqa: PLR2004 -- printable ASCII
        raise CredentialError(
            key, path, "holds no token", "put one line of printable characters without spaces in"
        )
    return _hash(token)


def _read(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CredentialError(
            key, path, f"cannot be read: {error.strerror}", "check the path and its permissions"
        ) from None


def _credential(authorization: str) -> bytes:
    """The token that a header carries; empty where it carries none."""
    if len(authorization) > 2 * TOKEN_BYTES_MAX:
        return b""
    scheme, _, value = authorization.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        return value.encode("utf-8", "replace")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


OPEN = Access("everybody")
"""A listener that asks for nothing."""
