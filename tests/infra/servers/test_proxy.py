"""The committed configuration of nginx, run by nginx, before real servers: TLS, names, models of any size, events."""

import base64
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server import free_port
from infra.servers.place import Settings
from tests import ROOT
from tests.e2e.conftest import Project
from tests.infra.conftest import choose_ports, settings_of, wait_for

DOMAIN = "mlops.test"
_MAIN = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


class Proxy:
    """A proxy that listens on this machine, asked by the names that it serves."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.port, self.plain_port = folder, free_port(), free_port()
        site = (ROOT / "infra/proxy/nginx.conf").read_text(encoding="utf-8")
        for old, new in (
            ("/etc/ssl/certs/example.org.pem", f"{folder}/cert.pem"),
            ("/etc/ssl/private/example.org.key", f"{folder}/key.pem"),
            ("example.org", DOMAIN),
            ("listen 443 ", f"listen 127.0.0.1:{self.port} "),
            ("listen 80;", f"listen 127.0.0.1:{self.plain_port};"),
            ("http://127.0.0.1:5000", settings.mlflow),
            ("http://127.0.0.1:4200", settings.prefect.removesuffix("/api")),
        ):
            assert old in site
            site = site.replace(old, new)
        (folder / "site.conf").write_text(site)
        (folder / "nginx.conf").write_text(_MAIN.format(folder=folder))
        names = f"subjectAltName=DNS:mlflow.{DOMAIN},DNS:prefect.{DOMAIN}"
        made = ("-keyout", folder / "key.pem", "-out", folder / "cert.pem")
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            f"/CN={DOMAIN}",
            "-addext",
            names,
            *made,
        ]
        subprocess.run(command, check=True, capture_output=True)

    def connect(self, service: str) -> ssl.SSLSocket:
        """Connect as a browser does that trusts the certificate and no other."""
        context = ssl.create_default_context(cafile=str(self.folder / "cert.pem"))
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        return context.wrap_socket(plain, server_hostname=f"{service}.{DOMAIN}")

    def ask(
        self, service: str, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        """Return status, content and headers of an answer."""
        connection = http.client.HTTPConnection(f"{service}.{DOMAIN}")
        connection.sock = self.connect(service)
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers


@pytest.fixture
def proxy(project: Project, tmp_path: Path) -> Iterator[Proxy]:
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    choose_ports(project)
    project.run("infra.servers", "up", "--public", DOMAIN)
    folder = tmp_path / "nginx"
    folder.mkdir()
    made = Proxy(folder, settings_of(project))
    with subprocess.Popen([program, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"]) as nginx:
        wait_for(lambda: (folder / "pid").exists() or nginx.poll() is not None)
        assert nginx.poll() is None, (folder / "error.log").read_text()
        yield made
        nginx.terminate()


@pytest.mark.long
def test_browsers_and_clients_use_both_through_nginx(proxy: Proxy, project: Project) -> None:
    status, page, headers = proxy.ask("mlflow", "GET", "/")
    assert (status, b"<html" in page) == (200, True)
    assert "max-age" in headers["Strict-Transport-Security"]
    create = ("mlflow", "POST", "/api/2.0/mlflow/experiments/create")
    assert proxy.ask(*create, b'{"name": "a"}', Origin=f"https://mlflow.{DOMAIN}")[0] == 200
    assert proxy.ask(*create, b'{"name": "b"}', Origin="https://elsewhere.example")[0] == 403
    model = os.urandom(5_000_000)
    place = "/api/2.0/mlflow-artifacts/artifacts/1/models/model.safetensors"
    assert proxy.ask("mlflow", "PUT", place, model)[0] == 200
    assert proxy.ask("mlflow", "GET", place)[1] == model

    assert proxy.ask("prefect", "GET", "/api/health")[:2] == (200, b"true")
    assert json.loads(proxy.ask("prefect", "GET", "/ui-settings")[1])["api_url"] == f"https://prefect.{DOMAIN}/api"
    with proxy.connect("prefect") as connection:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            "GET /api/events/out HTTP/1.1", f"Host: prefect.{DOMAIN}", "Connection: Upgrade", "Upgrade: websocket",
            f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: prefect", "", "",
        )  # fmt: skip
        connection.sendall("\r\n".join(lines).encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 101")

    plain = http.client.HTTPConnection("127.0.0.1", proxy.plain_port)
    plain.request("GET", "/x", headers={"Host": f"mlflow.{DOMAIN}"})
    moved = plain.getresponse()
    assert (moved.status, moved.headers["Location"]) == (301, f"https://mlflow.{DOMAIN}/x")
    direct = http.client.HTTPConnection("127.0.0.1", settings_of(project).mlflow_port)
    direct.request("GET", "/api/2.0/mlflow/experiments/search?max_results=1", headers={"Host": "rebound.example"})
    assert direct.getresponse().status == 403
    assert "a domain as example.org" in project.run("infra.servers", "up", "--public", "https://x", exit_code=2)
