"""A receiver of notifications, for which a URL of Apprise's stands, and projects that learn from files of their own."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ruamel.yaml import YAML


class Receiver:
    """What was posted to it, and where."""

    def __init__(self) -> None:
        received = self.received = list[dict[str, str]]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.server.server_port}/s3cret-token"

    def told(self, words: str) -> bool:
        return any(words in f"{each['title']}\n{each['message']}" for each in self.received)


def set_sources(project: Path, *sources: dict[str, str]) -> None:
    """Let a project learn from these."""
    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    params["fetch"]["sources"] = [*sources]
    yaml.dump(params, project / "params.yaml")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever)
    thread.start()
    yield receiver
    receiver.server.shutdown()
    thread.join()
    receiver.server.server_close()
