"""The HTTP client of a server, and all that the environment settles about it: proxy and certificates."""

import ipaddress
import os
import ssl

import httpx2

from qedistill.errors import UserError
from qedistill.params import Api
from qedistill.words import one_line

_CONNECT = 10.0  # seconds to reach the server
_PROXIES = ("http", "https", "socks5", "socks5h")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
_REDIRECTS = 20  # on the way to one answer, as of servers that hold a slow request so


class Elsewhere(Exception):
    """The server sends a request to another address, which this one did not follow; says where."""


class Connection:
    """HTTP requests to one server.

    The server's own machine is reached without a proxy; any other through the one that HTTPS_PROXY, HTTP_PROXY or
    ALL_PROXY names for it (NO_PROXY excepts hosts), SOCKS 5 too. SSL_CERT_FILE and SSL_CERT_DIR name the authorities
    that are trusted. Nothing else of the environment counts, and no file (.netrc).

    Attributes:
        proxy: the variable that names the proxy in use; None where there is none.

    Raises:
        UserError: `base_url` is no address, or a variable that counts for it is wrong.
    """

    def __init__(self, api: Api, name: str, key: str) -> None:
        try:
            self._url = httpx2.URL(api.base_url.rstrip("/"))
        except httpx2.InvalidURL as error:
            raise UserError(f"{name} is no address: {one_line(error)}") from None
        self.proxy, address = _proxy(self._url)
        self._http = httpx2.AsyncClient(
            trust_env=False,
            proxy=address,
            verify=_trusted() if self._url.scheme == "https" else True,
            headers={"Authorization": f"Bearer {key}", "User-Agent": "qedistill"},
            timeout=httpx2.Timeout(None, connect=_CONNECT),
            limits=httpx2.Limits(max_connections=api.concurrency, max_keepalive_connections=api.concurrency),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def send(self, method: str, path: str, body: object = None) -> httpx2.Response:
        """The response to a request; redirects are followed as long as they stay on the server and keep what is sent.

        Raises:
            Elsewhere: the server redirects to another one, or in a way by which the body would be lost.
            httpx2.RequestError: there is no response.
        """
        request = self._http.build_request(method, f"{self._url}{path}", json=body)
        response = await self._http.send(request)
        for _ in range(_REDIRECTS):
            onward = response.next_request
            if onward is None:
                return response
            lost = method == "POST" and response.status_code in (301, 302)
            if lost or _origin(onward.url) != _origin(self._url):
                address = onward.url.copy_with(query=None, fragment=None, username=None, password=None)
                raise Elsewhere(one_line(str(address).removesuffix(path)))
            response = await self._http.send(onward)
        raise Elsewhere("itself, without end")


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port  # None where it is the scheme's own


def _proxy(url: httpx2.URL) -> tuple[str | None, httpx2.Proxy | None]:
    """The variable that names a proxy for an address, and the proxy; None for none."""
    from requests.utils import get_environ_proxies, select_proxy

    if _here(url.host):
        return None, None
    # The environment's, or the system's settings on macOS and Windows.
    address = select_proxy(str(url), get_environ_proxies(str(url), no_proxy=None))
    if not address:
        return None, None
    names = [name for name, value in os.environ.items() if name.lower().endswith("_proxy") and value == address]
    name = names[0] if names else "the system's settings"
    # GNOME's desktop sets socks://, which says no version; by now the fifth is all there is.
    scheme, mark, rest = address.partition("://")
    scheme, rest = (scheme, rest) if mark else ("http", address)
    scheme = "socks5" if scheme.lower() == "socks" else scheme.lower()
    try:
        if scheme not in _PROXIES:
            raise UserError(
                f"{name} names a proxy by {scheme}://, which is not known here: write http://, https:// or socks5:// "
                f"there, or except {url.host} in NO_PROXY"
            )
        return name, httpx2.Proxy(f"{scheme}://{rest}")
    except (httpx2.InvalidURL, ValueError):  # neither is told: the address may hold a password
        raise UserError(f"{name} holds no address of a proxy: mend it, or except {url.host} in NO_PROXY") from None


def _here(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.rstrip(".") == "localhost" or host.rstrip(".").endswith(".localhost")  # RFC 6761, 6.3


def _trusted() -> ssl.SSLContext:
    """The authorities that are trusted: those the environment names, else the system's.

    Raises:
        UserError: what a variable names is not there or holds no certificates.
    """
    folder = os.environ.get("SSL_CERT_DIR")
    if folder and not os.environ.get("SSL_CERT_FILE") and not os.path.isdir(folder):  # OpenSSL would say nothing
        raise UserError(f"SSL_CERT_DIR names {folder}, and there is no such folder: mend it or unset it")
    try:
        return httpx2.create_ssl_context()
    except (OSError, ssl.SSLError) as error:
        named = " and ".join(f"{name} ({os.environ[name]})" for name in _CERTIFICATES if os.environ.get(name))
        raise UserError(
            f"{named or 'the system'}: the certificates for https cannot be read there ({one_line(error)}): mend it or "
            "unset it"
        ) from None
