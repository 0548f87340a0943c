"""Where the servers of one machine keep what is theirs: the folder `servers/` of the project, with ports and passwords made once.

Everything under it is theirs alone and readable by nobody else: `settings.json` holds the passwords, `environment` is what a shell
reads to use the servers.
"""

import json
import secrets
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flows.server import free_port
from gpt.errors import UserError
from gpt.files import fsync_path

FOLDER = Path("servers")
SETTINGS = FOLDER / "settings.json"
ENVIRONMENT = FOLDER / "environment"
LOGS = FOLDER / "logs"
POSTGRES = FOLDER / "postgres"
ARTIFACTS = FOLDER / "artifacts"
PREFECT_HOME = FOLDER / "prefect"

DATABASES = ("mlflow", "prefect")
USER = "gpt"
_PREFERRED = {
    "postgres_port": 5432, "mlflow_port": 5000, "prefect_port": 4200, "supervisor_port": 9001, "metrics_port": 9400,
}  # fmt: skip
_LATER = {"metrics_port": 0}
"What files of earlier releases do not have."


@dataclass(frozen=True)
class Settings:
    """What was chosen at the first start, and stays: addresses that others have noted remain right."""

    postgres_port: int
    mlflow_port: int
    prefect_port: int
    supervisor_port: int
    metrics_port: int
    postgres_password: str
    supervisor_password: str

    @property
    def mlflow(self) -> str:
        """The address of MLflow."""
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def prefect(self) -> str:
        """The address of Prefect's API."""
        return f"http://127.0.0.1:{self.prefect_port}/api"

    @property
    def metrics(self) -> str:
        """The address at which Prometheus finds the metrics."""
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    @property
    def supervisor(self) -> str:
        """The address at which the supervisor takes orders, with its password."""
        return f"http://{USER}:{self.supervisor_password}@127.0.0.1:{self.supervisor_port}/RPC2"

    def database(self, name: str, driver: str = "postgresql") -> str:
        """Return the address of one of our databases, with its password."""
        return f"{driver}://{USER}:{quote(self.postgres_password)}@127.0.0.1:{self.postgres_port}/{name}"

    def environment(self) -> dict[str, str]:
        """Return the variables by which commands use these servers."""
        return {"MLFLOW_TRACKING_URI": self.mlflow, "PREFECT_API_URL": self.prefect}


def load_settings() -> Settings | None:
    """Return what the first start chose, None before it; raise `UserError` for a file that cannot be understood.

    A port that is 0 is not chosen yet: the file is of a release without that server.
    """
    try:
        values = json.loads(SETTINGS.read_text(encoding="utf-8"))
        known = _LATER | values
        settings = Settings(**{field.name: field.type(known[field.name]) for field in fields(Settings)})  # type: ignore[operator]
        for name in _PREFERRED:
            port = getattr(settings, name)
            if not 0 < port < 1 << 16 and port != _LATER.get(name):
                raise ValueError(f"{name} is {port}, and no port")
        return settings
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{SETTINGS}: cannot be understood ({error}); restore it, or delete {FOLDER}/ with all it holds"
        ) from None


def make_settings(known: Settings | None) -> Settings:
    """Choose free ports, those that people know where they can be had, and passwords; keep them for all later starts.

    What is known from an earlier start stays.
    """
    FOLDER.mkdir(exist_ok=True)
    chosen: dict[str, Any] = {name: secrets.token_urlsafe(24) for name in ("postgres_password", "supervisor_password")}
    if known:
        chosen |= {name: value for name, value in asdict(known).items() if value}
    for name, preferred in _PREFERRED.items():
        port = chosen.get(name) or free_port(preferred=preferred)
        while name not in chosen and port in chosen.values():
            port = free_port()
        chosen[name] = port
    made = Settings(**chosen)
    if made != known:
        write_private(SETTINGS, json.dumps(asdict(made), indent=2) + "\n")
    return made


def write_private(path: Path, text: str) -> None:
    """Write a file whole or not at all, which its owner alone can read from its first moment on."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600, exist_ok=False)
    partial.write_text(text, encoding="utf-8")
    fsync_path(partial)
    partial.replace(path)


def is_taken(port: int) -> bool:
    """Whether somebody listens on a port of this machine's loopback."""
    return free_port(preferred=port) != port
