"""Uploads dashboards through Grafana's HTTP API: a folder, and the dashboards in it.

    POST /api/folders        {uid, title}                     412 or 409: it is there already
    POST /api/dashboards/db  {dashboard, folderUid, overwrite, message}

Folder and dashboards have uids of their own, so that a second push updates what the first one
made. Dashboards that were changed by hand become what is generated: they are not editable, and
what differs would be lost unnoticed later.

Source:
    Grafana, HTTP API, "Folder API" and "Dashboard API".

Needs the extra `grafana`.
"""

import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from http import HTTPStatus
from urllib.parse import urlsplit

from outcome_exporter import __version__
from outcome_exporter.errors import GrafanaError, MissingExtra

try:
    import niquests
    from grafana_client.api import GrafanaApi
    from grafana_client.client import GrafanaException, TokenAuth
except ImportError as error:  # pragma: no cover  # the tests' environment has every extra
    raise MissingExtra("grafana", "pushing dashboards") from error

FOLDER_UID = "outcome-exporter"
TIMEOUT_SECONDS = 30.0

_EXISTS = {409, 412}
"""What Grafana answers for a folder that exists: newer versions 409, older ones 412."""
_REMEDIES = {
    401: "the token is wrong or has expired; make a new one for a service account",
    403: "the token may not do this; its service account needs the role Editor",
    404: "there is no Grafana at this address; give the address without /api, with its subpath",
    412: "another dashboard has its name or uid, or is provisioned from a file; remove that one",
}


def push(files: Mapping[str, str], url: str, *, token: str, folder: str) -> Iterator[str]:
    """Uploads dashboards, and says of each where it is.

    Args:
        files: Name → JSON of a dashboard.
        url: Where Grafana is, with its subpath if it has one.
        token: Of a service account. It is in no message, error or log.
        folder: Title of the folder; one that exists keeps its title.

    Raises:
        GrafanaError: Grafana cannot be reached or refuses; dashboards before that are uploaded.
    """
    api = _api(url, token)
    with closing(api.client.s):
        _call(url, "the folder", lambda: _make_folder(api, folder))
        for text in files.values():
            board = json.loads(text)
            answer = _call(url, f"dashboard {board['title']}", partial(_upload, api, board))
            yield f"{board['title']}: {_origin(url)}{answer.get('url', '')}"


def _api(url: str, token: str) -> GrafanaApi:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise GrafanaError(f"{url!r} is no address; write https://grafana.example.com") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise GrafanaError(f"{url!r} is no address; write https://grafana.example.com")
    if parts.username is not None or parts.query or parts.fragment:
        # Not repeated here: it may hold a password.
        raise GrafanaError("the address holds more than host and path; give a token instead")
    prefix = parts.path.strip("/")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return GrafanaApi(
        TokenAuth(token),
        host=host,
        port=port,
        protocol=parts.scheme,
        url_path_prefix=f"{prefix}/" if prefix else "",
        timeout=TIMEOUT_SECONDS,
        user_agent=f"outcome-exporter/{__version__}",
    )


def _make_folder(api: GrafanaApi, title: str) -> object:
    try:
        return api.folder.create_folder(title, uid=FOLDER_UID)
    except GrafanaException as error:
        if error.status_code not in _EXISTS:
            raise
    try:
        return api.folder.get_folder(FOLDER_UID)
    except GrafanaException as error:
        if error.status_code != HTTPStatus.NOT_FOUND:
            raise
        raise GrafanaError(
            f"a folder that is not ours is called {title!r}; give another title with --folder"
        ) from None


def _upload(api: GrafanaApi, board: dict[str, object]) -> object:
    return api.dashboard.update_dashboard(
        {
            "dashboard": board,
            "folderUid": FOLDER_UID,
            "overwrite": True,
            "message": f"outcome-exporter {__version__}",
        }
    )


def _call(url: str, what: str, function: Callable[[], object]) -> dict[str, object]:
    """Calls, and turns what goes wrong into one line with a remedy."""
    try:
        answer = function()
    except GrafanaException as error:
        if not error.status_code:
            raise GrafanaError(f"{url}: no answer within {TIMEOUT_SECONDS:g} s") from None
        remedy = _REMEDIES.get(error.status_code, "try again, or look at Grafana's log")
        raise GrafanaError(
            f"{url}: {what} was refused with {error.status_code} ({_said(error)}); {remedy}"
        ) from None
    except niquests.exceptions.SSLError as error:
        raise GrafanaError(
            f"{url}: its certificate is not trusted ({_innermost(error)}); set "
            "REQUESTS_CA_BUNDLE to the certificate of the authority that signed it"
        ) from None
    except niquests.exceptions.JSONDecodeError:
        answer = None
    except (niquests.exceptions.RequestException, OSError) as error:
        raise GrafanaError(
            f"{url}: cannot be reached ({_innermost(error)}); check the address and the network"
        ) from None
    if not isinstance(answer, dict):
        raise GrafanaError(f"{url}: the answer is not Grafana's; {_REMEDIES[404]}")
    return answer


def _said(error: GrafanaException) -> str:
    response = error.response
    message = response.get("message", "") if isinstance(response, dict) else ""
    return str(message)[:200] or "no reason given"


def _innermost(error: BaseException) -> str:
    """What a chain of exceptions began with, in a few words."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return str(getattr(error, "strerror", None) or error)[:200] or type(error).__name__


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
