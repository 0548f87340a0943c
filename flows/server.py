"""A Prefect API for a flow that is run by hand: the configured one, else an embedded one for as long as we live.

Prefect can start a temporary server itself, but only after its own imports, and that server dies of the terminal's
Ctrl-C before the flow's end is recorded, and outlives a SIGKILL of the flow. Ours starts beside them and is owned.
"""

import atexit
import logging
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import IO

from gpt import addresses
from gpt.entry import begin
from gpt.errors import UserError
from gpt.paths import make_writable
from gpt.processes.trees.running import started
from gpt.secrets.hiding import public_uri

_START_SECONDS = 120.0  # the first start on a machine makes the database: 10 to 20 seconds
_STOP_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
_PROFILE = "PREFECT_API_URL of Prefect's profile"
_CORRECT = "correct or unset it, in the environment or in Prefect's profile"
_DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # tries the network
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",  # no flow here uses blocks
    "DO_NOT_TRACK": "1",
}


def ensure_api() -> None:
    """Leave PREFECT_API_URL pointing to a server that answers; call it before Prefect is imported.

    An embedded server is stopped when this process ends, after Prefect has delivered its last events and logs.
    Raises `UserError` for an address that is none or not Prefect's, and for settings that Prefect cannot read.
    """
    prepare_prefect()
    configured = addresses.prefect_address()
    silence = _silence(addresses.PREFECT, configured) if configured else None
    if configured and silence is None:
        import_settings()
        return
    stack = ExitStack()
    atexit.register(stack.close)  # before Prefect registers its own exit work, hence run after it
    url, wait_until_healthy = stack.enter_context(embedded_server())

    # Slow, and needed anyway. Only Prefect knows whether a profile or a prefect.toml names an API; then we need none.
    in_profile = import_settings()
    import prefect.flow_engine  # noqa: F401
    from prefect.context import refresh_global_settings_context

    if not configured and in_profile:
        configured, silence = in_profile, _silence(_PROFILE, in_profile)
        if silence is None:
            stack.close()
            return
    if configured:
        print(
            f"warning: {public_uri(configured)}: no Prefect server answers ({silence}); an embedded one records this run;"
            f" start that one, or unset {addresses.PREFECT}",
            file=sys.stderr,
        )
    wait_until_healthy()
    os.environ["PREFECT_API_URL"] = url
    refresh_global_settings_context()
    # The embedded server has no UI to view a run at.
    logging.getLogger("prefect.flow_runs").addFilter(lambda record: not record.getMessage().startswith("View at "))


def configured_api() -> str | None:
    """Return the address of the API that the environment or Prefect's profile names, None if none is named.

    Raises `UserError` if Prefect's API does not answer there.
    """
    name, url = addresses.PREFECT, addresses.prefect_address()
    if not url:
        name, url = _PROFILE, import_settings()
    if not url:
        return None
    if silence := _silence(name, url):
        raise UserError(
            f"{name} = {public_uri(url)!r}: no Prefect server answers ({silence}); start it, or unset {name}"
        )
    return url


def prepare_prefect() -> None:
    """Set what Prefect shall find in the environment; raise `UserError` for what it would fail of without a clear word."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    addresses.check_proxies()
    named = os.environ.get("PREFECT_HOME")
    home = Path(named or "~/.prefect").expanduser()
    reason = make_writable(home)
    if reason is None:
        database = home / "prefect.db"
        reason = None if os.access(database, os.W_OK) or not database.exists() else f"{database} is not writable"
    if reason is None:
        if named == "":
            del os.environ["PREFECT_HOME"]  # Prefect would take the current folder for it
        return
    if named:
        raise UserError(f"PREFECT_HOME = {named!r}: {reason}; name a folder that can be written, or unset it")
    instead = Path(".cache/prefect").absolute()
    instead.mkdir(parents=True, exist_ok=True)
    os.environ["PREFECT_HOME"] = str(instead)
    print(
        f"warning: {reason}; Prefect keeps its record in {instead} (PREFECT_HOME names another place)", file=sys.stderr
    )


def import_settings() -> str | None:
    """Import Prefect's settings; return the address of the API that its profile or the environment names.

    Raises `UserError` for what Prefect cannot read, by the name of the variable if it is one.
    """
    from pydantic import ValidationError

    try:
        import prefect.context  # noqa: F401 (reads them)
        from prefect.settings import PREFECT_API_URL

        url = PREFECT_API_URL.value()
    except ValidationError as error:
        faults = [fault for fault in error.errors(include_url=False) if fault["type"] != "default_factory_not_called"]
        lines = [
            f"{_name_of(fault['input'], fault['loc'])} = {fault['input']!r}: {fault['msg']}; {_CORRECT}"
            for fault in faults
        ]
        raise UserError("\n".join(lines)) from None
    except (OSError, ValueError) as error:  # a profile that cannot be read, or is none
        raise UserError(f"Prefect's settings cannot be read ({' '.join(str(error).split())}); {_CORRECT}") from None
    if url:
        addresses.check_web_address(_PROFILE, url)
    return url


def _name_of(value: object, place: tuple[int | str, ...]) -> str:
    """Return the variable that a value of Prefect's settings is from, else the name that Prefect has for it."""
    names = (
        name for name, text in os.environ.items() if name.startswith("PREFECT_") and text.lower() == str(value).lower()
    )
    return next(names, f"Prefect's setting {'.'.join(map(str, place))}")


def _silence(name: str, url: str) -> str | None:
    """Return why no server answers at an address, None if Prefect's does; raise `UserError` if another one does."""
    try:
        if addresses.is_prefect(url, _ANSWER_SECONDS):
            return None
    except addresses.Unreachable as error:
        return str(error)
    raise addresses.not_prefect(name, url)


@contextmanager
def embedded_server(env: Mapping[str, str] | None = None) -> Iterator[tuple[str, Callable[[], None]]]:
    """Begin to start a server on a free port; yield its API's address and a function that waits until it answers."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "flows.server", str(port)]
    env = {name: value for name, value in (env or os.environ).items() if name != "PREFECT_API_URL"}
    with tempfile.TemporaryFile() as log:
        output = log.fileno()
        with started(command, cwd=Path.cwd(), env=env, output=output, grace_seconds=_STOP_SECONDS) as server:
            yield url, lambda: _wait_until_healthy(url, server, log)


def free_port(preferred: int = 0) -> int:
    """Return a loopback port that nobody listens on now, the preferred one if it is such."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            return free_port()
        return probe.getsockname()[1]


def is_healthy(url: str) -> bool:
    """Whether a server that we have started is ready at its API address."""
    try:
        return addresses.ask(f"{url}/health", _ANSWER_SECONDS).status == 200
    except addresses.Unreachable:
        return False


def _wait_until_healthy(url: str, server: Popen[bytes], log: IO[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not is_healthy(url):
        if server.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            raise not_started(log.read())
        time.sleep(0.05)


def not_started(said: bytes) -> UserError:
    """Return the error of a server of ours that did not start, with the last of what it said."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    errors = [
        line for line in lines if re.match(r"([a-z_]\w*\.)*\w*(Error|Exception): ", line)
    ]  # the last of a traceback
    last = (errors or lines or ["without a word"])[-1]
    return UserError(f"Prefect's server did not start ({last}); if a setting of its own is wrong, {_CORRECT}")


def _serve(port: int) -> None:
    import uvicorn
    from prefect.server.api.server import create_app

    # Ephemeral: the services that record runs and events, no scheduler, no UI.
    app = create_app(ephemeral=True)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=2)


if __name__ == "__main__":
    begin()
    _serve(int(sys.argv[1]))
