"""supervisord, which keeps the servers running: its file, its start, what it knows of them, its end.

What it starts is `python -m infra.servers run NAME` for each: a name needs no quoting in its file, whatever the project's folder is
called. It takes orders on loopback with a password.
"""

import os
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from gpt.errors import UserError
from infra.servers.place import FOLDER, Settings, is_taken, write_private
from infra.servers.programs import Program

_FILE = "supervisord.conf"
_PID = "supervisord.pid"
_SECONDS = 30.0
_POLL_SECONDS = 0.2


def start(settings: Settings, programs: Mapping[str, Program]) -> None:
    """Start it, in the background; raise `UserError` where it did not start."""
    write_private(FOLDER / _FILE, _configuration(settings, programs))
    path = os.pathsep.join([str(Path(sys.prefix, "bin")), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", _FILE],
        cwd=FOLDER, env={**os.environ, "PATH": path}, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    deadline = time.monotonic() + _SECONDS
    while not is_running(settings):
        if done.returncode != 0 or time.monotonic() > deadline:
            said = (done.stderr or done.stdout).strip().splitlines() or ["without a word"]
            raise UserError(f"supervisord did not start: {said[-1]}; {FOLDER}/logs/supervisord.log may say more")
        time.sleep(_POLL_SECONDS)


def add_missing(settings: Settings, programs: Mapping[str, Program]) -> None:
    """Let it start what it was not told of: by a release that had fewer programs. What runs stays as it is."""
    if programs.keys() <= states(settings).keys():
        return
    write_private(FOLDER / _FILE, _configuration(settings, programs))
    supervisor = _ask(settings).supervisor
    ((added, _, _),) = supervisor.reloadConfig()
    for name in added:
        supervisor.addProcessGroup(name)


def is_running(settings: Settings) -> bool:
    """Whether it takes our orders; raise `UserError` if somebody else listens at its port."""
    try:
        return _ask(settings).supervisor.getState()["statename"] in ("RUNNING", "RESTARTING")
    except ConnectionRefusedError:
        return False
    except (OSError, xmlrpc.client.Error):
        if is_taken(settings.supervisor_port):
            raise UserError(
                f"port {settings.supervisor_port} of 127.0.0.1, which {FOLDER}/settings.json names for the supervisor, is another"
                " program's; end that, or write a free port there"
            ) from None
        return False


def states(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return by name what it knows of each server: `statename`, `pid`, `start`, `now`, `spawnerr`."""
    return {each["name"]: each for each in _ask(settings).supervisor.getAllProcessInfo()}  # type: ignore[union-attr]


def stop(settings: Settings) -> None:
    """End all servers, those that need others first, and then itself; return when it has gone."""
    supervisor = psutil.Process(int((FOLDER / _PID).read_text()))
    _ask(settings).supervisor.shutdown()
    supervisor.wait()


def _ask(settings: Settings) -> Any:
    return xmlrpc.client.ServerProxy(settings.supervisor)


def _configuration(settings: Settings, programs: Mapping[str, Program]) -> str:
    sections = [
        "[supervisord]\nlogfile=logs/supervisord.log\nlogfile_maxbytes=5MB\nlogfile_backups=3\n"
        f"pidfile={_PID}\nchildlogdir=logs\numask=077\n",
        f"[inet_http_server]\nport=127.0.0.1:{settings.supervisor_port}\nusername=gpt\npassword={settings.supervisor_password}\n",
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n",
    ]
    for priority, program in enumerate(programs.values()):
        sections.append(
            f"[program:{program.name}]\ncommand=python -m infra.servers run {program.name}\npriority={priority}\n"
            # It never gives up: what is needed may be away for long, and waits longer from one start to the next.
            "autorestart=true\nstartsecs=1\nstartretries=1000000\n"
            f"stopsignal={program.stop_signal.name.removeprefix('SIG')}\nstopwaitsecs={program.grace_seconds + 10:.0f}\n"
            "stopasgroup=false\nkillasgroup=true\nredirect_stderr=true\n"
            f"stdout_logfile=logs/{program.name}.log\nstdout_logfile_maxbytes=10MB\nstdout_logfile_backups=5\n"
        )
    return "\n".join(sections)
