"""What an error means to a sender: HTTP status, gRPC code, and whether to send it again.

| error | HTTP | gRPC | again? |
| --- | --- | --- | --- |
| DecodeError | 400 | INVALID_ARGUMENT | no |
| Unauthenticated | 401 | UNAUTHENTICATED | no |
| Unsupported | 415 | INVALID_ARGUMENT | no |
| TooSlow | 408 | DEADLINE_EXCEEDED | as the client likes |
| TooLarge | 413 | RESOURCE_EXHAUSTED, without RetryInfo | no |
| Overloaded, StorageError | 503 + Retry-After | UNAVAILABLE + RetryInfo | yes |
| anything else is a defect | 500 | INTERNAL | no: it would fail alike |

Overload is 503 and not 429: older clients drop on 429.

Source:
    OTLP specification 1.9, "Failures", "OTLP/gRPC Throttling", "OTLP/HTTP Throttling".
"""

import logging
from dataclasses import dataclass

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, status_pb2
from google.rpc.error_details_pb2 import RetryInfo

from outcome_exporter.errors import (
    DecodeError,
    InputError,
    Overloaded,
    StorageError,
    TooLarge,
)

logger = logging.getLogger(__name__)

RETRY_AFTER_STORAGE_SECONDS = 10
"""The exporter is about to stop, and to be started again."""


class Unauthenticated(InputError):
    """No token, or one that does not open."""

    def __init__(self) -> None:
        super().__init__("no token that opens; send `Authorization: Bearer TOKEN`")


class Unsupported(InputError):
    """A content type or an encoding that is not understood."""


class TooSlow(InputError):
    """A body that does not come."""


@dataclass(frozen=True)
class Refusal:
    """What a sender is told."""

    result: str
    """The label's value of `outcome_exporter_requests_total`."""
    http_status: int
    code: int
    """google.rpc.Code, and gRPC's own."""
    message: str
    retry_after_seconds: int | None = None

    def status(self) -> status_pb2.Status:
        """As the body of HTTP and in the trailer of gRPC."""
        status = status_pb2.Status(code=self.code, message=self.message)
        if self.retry_after_seconds is not None:
            detail = AnyMessage()
            detail.Pack(RetryInfo(retry_delay=Duration(seconds=self.retry_after_seconds)))
            status.details.append(detail)
        return status


_MEANING: dict[type[Exception], tuple[str, int, int]] = {
    DecodeError: ("invalid", 400, code_pb2.INVALID_ARGUMENT),
    Unauthenticated: ("unauthenticated", 401, code_pb2.UNAUTHENTICATED),
    Unsupported: ("unsupported", 415, code_pb2.INVALID_ARGUMENT),
    TooSlow: ("too_slow", 408, code_pb2.DEADLINE_EXCEEDED),
    TooLarge: ("too_large", 413, code_pb2.RESOURCE_EXHAUSTED),
    Overloaded: ("overloaded", 503, code_pb2.UNAVAILABLE),
    StorageError: ("failed", 503, code_pb2.UNAVAILABLE),
}


def refusal(error: Exception) -> Refusal:
    """What `error` means to a sender; an error that nobody foresaw is logged with its traceback."""
    for kind, meaning in _MEANING.items():
        if isinstance(error, kind):
            return Refusal(*meaning, str(error), _retry_after(error))
    logger.error("refused a request because of a defect", exc_info=error)
    return Refusal("failed", 500, code_pb2.INTERNAL, "internal error; the exporter's log has it")


def _retry_after(error: Exception) -> int | None:
    if isinstance(error, StorageError):
        logger.error("refused a request: %s", error)
        return RETRY_AFTER_STORAGE_SECONDS
    return error.retry_after_seconds if isinstance(error, Overloaded) else None
