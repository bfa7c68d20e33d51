"""One HTTP request with a deadline, for probes from threads: status and body, or None."""

import http.client
import json
import time
from typing import Any
from urllib.parse import urlsplit

from pdctl.engines.api_key import authorization

MAX_BODY_BYTES = 8 << 20


def request(
    method: str, url: str, *, timeout_s: float, body: object = None, is_authorized: bool = True
) -> tuple[int, bytes] | None:
    """Status and body of the answer; None when nobody answered in time.

    is_authorized: the API key goes along, if there is one.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    data = None if body is None else json.dumps(body)
    headers = {} if body is None else {"content-type": "application/json"}
    if is_authorized:
        headers |= authorization()
    try:
        connection.request(method, target, body=data, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(MAX_BODY_BYTES)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def get_object(url: str, *, timeout_s: float) -> dict[str, Any] | None:
    """The JSON object behind `url`; None for anything else."""
    answer = request("GET", url, timeout_s=timeout_s)
    if answer is None or answer[0] != 200:
        return None
    return json_object(answer[1])


def json_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in `body`; None for anything else."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def first_event(url: str, body: object, *, timeout_s: float) -> tuple[int, str, float] | None:
    """Status and first line of a streamed answer and the seconds until it came.

    The rest is read and dropped. None when nobody answered, or the stream broke off.
    """
    started = time.monotonic()
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        headers = {"content-type": "application/json", **authorization()}
        connection.request("POST", parts.path, body=json.dumps(body), headers=headers)
        answer = connection.getresponse()
        first = answer.readline(MAX_BODY_BYTES).decode("utf-8", errors="replace")
        first_s = time.monotonic() - started
        answer.read(MAX_BODY_BYTES)
        return answer.status, first.strip(), first_s
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
