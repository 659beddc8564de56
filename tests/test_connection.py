"""What the environment does to the HTTP client: proxies, certificates, redirects, and nothing else."""

import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from asker import VARIABLE, make_requests, teacher
from fault_server import KEY, answer

from qedistill.errors import UserError
from qedistill.generation.api import ask
from qedistill.generation.ledger import Ledger
from qedistill.generation.request import Outcome

OF_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
Serve = Callable[..., "Server"]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*OF_PROXIES, "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv(VARIABLE, KEY)


class Server(ThreadingHTTPServer):
    """A server on loopback that answers every chat request, itself or as an HTTP proxy; `redirect` sends them on."""

    def __init__(self, redirect: tuple[int, str] | None = None) -> None:
        self.redirect, self.seen = redirect, list[tuple[str, str, dict[str, str]]]()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        if self.server.redirect and "/moved" not in self.path:
            status, where = self.server.redirect
            self.send_response(status)
            self.send_header("Location", where)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        said = answer(json.loads(body)["messages"][-1]["content"])
        reply = json.dumps({"choices": [{"message": {"content": said}, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Socks:
    """A SOCKS 5 proxy (RFC 1928, without authentication) that connects all to one port of this machine."""

    def __init__(self, target: int) -> None:
        self.target, self.asked = target, list[str]()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        _, methods = client.recv(2)
        client.recv(methods)
        client.sendall(b"\x05\x00")
        kind = client.recv(4)[3]
        host = client.recv(client.recv(1)[0] if kind == 3 else 4)
        client.recv(2)
        self.asked.append(host.decode() if kind == 3 else str(ip_address(host)))
        client.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
        server = socket.create_connection(("127.0.0.1", self.target))
        threading.Thread(target=self.copy, args=(client, server), daemon=True).start()
        self.copy(server, client)

    def copy(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError), target:  # the other direction may have ended
            while data := source.recv(65536):
                target.sendall(data)


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers = []

    def serve(redirect: tuple[int, str] | None = None) -> Server:
        servers.append(Server(redirect))
        return servers[-1]

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def asked(tmp_path: Path, address: str, **changes: Any) -> Outcome:
    with Ledger(tmp_path / "ledger.db") as ledger:
        return ask(make_requests(2), teacher(9, **{"base_url": address, "attempts": 2} | changes), "en", ledger)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks", "SOCKS5"])  # GNOME's desktop writes socks://
@pytest.mark.parametrize("name", ["ALL_PROXY", "http_proxy"])
def test_socks_proxies_are_served(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, name: str
) -> None:
    server = serve()
    proxy = Socks(server.server_port)
    monkeypatch.setenv(name, f"{scheme}://127.0.0.1:{proxy.port}/")
    assert len(asked(tmp_path, "http://teacher.test/v1").answers) == 2
    assert set(proxy.asked) == {"teacher.test"} and len(server.seen) == 2


@pytest.mark.parametrize("value", ["http://127.0.0.1:{}", "127.0.0.1:{}", "http://me:pass@127.0.0.1:{}"])
def test_http_proxies_are_served(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    server = serve()
    monkeypatch.setenv("HTTP_PROXY", value.format(server.server_port))
    monkeypatch.setenv("ALL_PROXY", "ftp://elsewhere")  # not the one for this address
    assert len(asked(tmp_path, "http://teacher.test/v1").answers) == 2
    assert {path for _, path, _ in server.seen} == {"http://teacher.test/v1/chat/completions"}
    assert all(("Proxy-Authorization" in headers) == ("pass" in value) for *_, headers in server.seen)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.7", "api.localhost"])
@pytest.mark.parametrize("value", ["socks5://127.0.0.1:9", "socks4://127.0.0.1:9", "http://127.0.0.1:9", "://", "x y"])
def test_this_machine_needs_no_proxy(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, value: str
) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, value)
    if host.endswith(".localhost"):  # as systemd-resolved and browsers resolve it; not every machine does
        found = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lambda name, *rest, **more: found("127.0.0.1", *rest, **more))
    server = serve()
    if host == "127.0.0.7":
        with pytest.raises(UserError, match="no server answers there") as error:
            asked(tmp_path, "http://127.0.0.7:9/v1")
        assert "PROXY" not in error.value.message
        return
    assert len(asked(tmp_path, f"http://{host}:{server.server_port}/v1").answers) == 2


@pytest.mark.parametrize("excepted", ["192.0.2.0/24", "192.0.2.7", "*", "other.test, 192.0.2.7"])
def test_no_proxy_excepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, excepted: str) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks4://127.0.0.1:9")
    with pytest.raises(UserError, match="^ALL_PROXY names a proxy by socks4://.*write http://.*NO_PROXY"):
        asked(tmp_path, "http://192.0.2.7:9/v1")
    monkeypatch.setenv("NO_PROXY", excepted)
    with pytest.raises(UserError, match="no server answers there") as error:
        asked(tmp_path, "http://192.0.2.7:9/v1", timeout=0.2)
    assert "ALL_PROXY" not in error.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [("https_proxy", "socks4a://127.0.0.1:9"), ("HTTPS_PROXY", "http://secretpass@[::1"), ("ALL_PROXY", "http://:hidden:x:9")],
)  # fmt: skip
def test_a_wrong_proxy_is_told_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^{name} ") as error:
        asked(tmp_path, "https://teacher.test/v1")
    assert "secretpass" not in error.value.message and "hidden" not in error.value.message


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_proxy_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"{scheme}://me:secretpass@127.0.0.1:9")
    with pytest.raises(UserError, match="no server answers there: .*through the proxy that HTTP_PROXY names") as error:
        asked(tmp_path, "http://teacher.test/v1")
    assert "secretpass" not in error.value.message


def test_variables_of_openai_count_for_nothing(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, other = serve(), serve()
    for name, value in {
        "OPENAI_BASE_URL": f"http://127.0.0.1:{other.server_port}/v1", "OPENAI_API_KEY": "sk-of-another",
        "OPENAI_ORG_ID": "org-mine", "OPENAI_PROJECT_ID": "proj-mine", "OPENAI_CUSTOM_HEADERS": "Authorization: mine",
        "OPENAI_ADMIN_KEY": "sk-admin", "OPENAI_LOG": "debug",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    asked(tmp_path, f"http://127.0.0.1:{server.server_port}/v1")
    assert other.seen == [] and len(server.seen) == 2
    for _, _, headers in server.seen:
        assert headers["Authorization"] == f"Bearer {KEY}"
        assert not {name for name in headers if name.lower().startswith(("openai", "x-stainless"))}


# Redirects.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_prompt_goes_to_another_server(serve: Serve, tmp_path: Path, status: int) -> None:
    other = serve()
    server = serve((status, f"http://127.0.0.1:{other.server_port}/v1/chat/completions?key=1"))
    with pytest.raises(UserError, match=rf"redirects requests to http://127.0.0.1:{other.server_port}/v1, and none is"):
        asked(tmp_path, f"http://127.0.0.1:{server.server_port}/v1", concurrency=1)
    assert other.seen == [] and len(server.seen) == 1


@pytest.mark.parametrize("status", [307, 308])
def test_redirects_on_the_server_are_followed(serve: Serve, tmp_path: Path, status: int) -> None:
    server = serve((status, "/moved/chat/completions"))
    assert len(asked(tmp_path, f"http://127.0.0.1:{server.server_port}/v1").answers) == 2
    assert {headers["Authorization"] for *_, headers in server.seen} == {f"Bearer {KEY}"}


@pytest.mark.parametrize("status", [301, 302])
def test_redirects_that_lose_the_prompt_are_told(serve: Serve, tmp_path: Path, status: int) -> None:
    server = serve((status, "/moved/chat/completions"))
    with pytest.raises(UserError, match=r"redirects requests to http://127.0.0.1:\d+/moved, .* teacher.api.base_url"):
        asked(tmp_path, f"http://127.0.0.1:{server.server_port}/v1", concurrency=1)
    assert len(server.seen) == 1


def test_redirects_without_end(serve: Serve, tmp_path: Path) -> None:
    server = serve((307, "/v1/chat/completions"))
    with pytest.raises(UserError, match="redirects requests to itself, without end"):
        asked(tmp_path, f"http://127.0.0.1:{server.server_port}/v1", concurrency=1)


# Certificates.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of localhost by nobody but itself, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1)).not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = tmp_path_factory.mktemp("certificate") / "both.pem"
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM)
                     + key.private_bytes(serialization.Encoding.PEM, *private))  # fmt: skip
    return path


def test_an_authority_of_ones_own_is_named_by_ssl_cert_file(
    serve: Serve, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    address = f"https://localhost:{server.server_port}/v1"
    with pytest.raises(UserError, match="certificate that is not trusted .*environment variable SSL_CERT_FILE"):
        asked(tmp_path, address, attempts=8)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert len(asked(tmp_path, address).answers) == 2


def test_certificates_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.pem").write_text("")
    for name, value in {
        "SSL_CERT_FILE": tmp_path / "none.pem", "SSL_CERT_DIR": tmp_path / "none", "SSL_CERT_FILE ": tmp_path / "empty.pem",
    }.items():  # fmt: skip
        monkeypatch.setenv(name.strip(), str(value))
        with pytest.raises(UserError, match=f"{name.strip()}.*{value}.*mend it or unset it"):
            asked(tmp_path, "https://teacher.test/v1")
        monkeypatch.delenv(name.strip())
    assert "SSL_CERT_FILE" not in os.environ


def test_an_address_that_is_none(tmp_path: Path) -> None:
    for address in ("http://[::1/v1", "http://teacher.test:99999/v1", "http://" + "a" * 70 + ".test/v1"):
        with pytest.raises(UserError, match="teacher.api.base_url"):
            asked(tmp_path, address)
