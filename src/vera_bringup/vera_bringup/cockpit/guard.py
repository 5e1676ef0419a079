"""Who may see the cockpit: decided from the head of each request, before anything is served.

The page can move a robot, so three kinds of strangers are kept out. Other machines: it listens on
localhost, and elsewhere only with a token. Other pages in the same browser, which may open
websockets to anything: their `Origin` is not ours. And pages whose name was made to mean localhost
(DNS rebinding): their `Host` is not ours.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

LOCAL_NAMES = ('localhost', '127.0.0.1', '::1')
SHORTEST_TOKEN = 12


class TokenError(ValueError):
    """A token that is too easily guessed, or cannot stand in an address."""


@dataclass(frozen=True)
class Answer:
    """What becomes of a request.

    Attributes:
        status: 200: go on; 303: likewise, but a page first takes the cookie and comes back without
            the token in its address; else refused.
        reason: of a refusal, in words for the person before the browser.
        cookie: to be set.
    """

    status: int = 200
    reason: str = ''
    cookie: str = ''


def is_local(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    if host == 'localhost':
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make_token(given: str, host: str) -> str:
    """The token of a cockpit that listens on `host`: the given one, or a new one where it is due.

    Returns:
        '' where none is needed: on localhost, unless one was given.

    Raises:
        TokenError: the given one is no good.
    """
    if not given:
        return '' if is_local(host) else secrets.token_urlsafe(16)
    if len(given) < SHORTEST_TOKEN or not all(c.isalnum() or c in '-_.~' for c in given):
        raise TokenError(
            f'the token of the cockpit needs {SHORTEST_TOKEN} letters, digits, - or _ at least; '
            'leave it out to have one made'
        )
    return given


class Guard:
    """Judges requests.

    Args:
        host: that is listened on.
        port: likewise.
        token: that everybody needs; '' for none, on localhost only.

    Raises:
        TokenError: no token on an address that others can reach.
    """

    def __init__(self, host: str, port: int, token: str = '') -> None:
        if not token and not is_local(host):
            raise TokenError(f'{host} can be reached by others: it needs a token')
        self._token = token
        # Cookies belong to a machine, not to a port: two cockpits keep two.
        self._cookie = f'vera_cockpit_{port}'

    def judge(self, headers: Mapping[str, str], target: str) -> Answer:
        """Of one request, page or websocket.

        Args:
            headers: by name, whatever the case.
            target: path and query.
        """
        host = headers.get('Host') or ''
        name = _hostname(host)
        if not name:
            return Answer(400, 'the request names no host')
        if not self._token and name not in LOCAL_NAMES:
            return Answer(
                403, f'this cockpit is for its own machine, by the name localhost; not for {name}'
            )
        origin = headers.get('Origin')
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return Answer(403, 'another page asked for the cockpit; it answers its own only')
        if not self._token:
            return Answer()
        given = parse_qs(urlsplit(target).query).get('token', [''])[0]
        if self._is_token(given):
            cookie = f'{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/'
            return Answer(303, cookie=cookie)
        if self._is_token(self._from_cookie(headers.get('Cookie') or '')):
            return Answer()
        return Answer(
            401, 'the cockpit needs its token: open the address that `vera up` printed, whole'
        )

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors='replace'), self._token.encode())

    def _from_cookie(self, header: str) -> str:
        # Not http.cookies: it gives up at the first odd cookie, and localhost has many tenants.
        pairs = (pair.strip().partition('=') for pair in header.split(';'))
        return next((value for name, _, value in pairs if name == self._cookie), '')


def _hostname(host: str) -> str:
    """Of a Host header, without port and brackets; '' for none."""
    try:
        return urlsplit(f'//{host}').hostname or ''
    except ValueError:
        return ''


__all__ = ['Answer', 'Guard', 'TokenError', 'is_local', 'make_token']
