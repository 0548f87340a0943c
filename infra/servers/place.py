"""Where the servers of one machine keep what is theirs: the folder `servers/` of the project, with ports and passwords made once.

Everything under it is theirs alone and readable by nobody else: `settings.json` holds the passwords, `environment` is what a shell
reads to use the servers.
"""

import json
import secrets
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flows.server import free_port
from gpt.errors import UserError
from gpt.files import fsync_path
from gpt.registry.packaging.offer import SUFFIX

FOLDER = Path("servers")
SETTINGS = FOLDER / "settings.json"
ENVIRONMENT = FOLDER / "environment"
PROMOTION_ENVIRONMENT = FOLDER / "environment-promotion"
MLFLOW_ACCOUNTS = FOLDER / "mlflow-accounts.ini"
LOGS = FOLDER / "logs"
POSTGRES = FOLDER / "postgres"
ARTIFACTS = FOLDER / "artifacts"
PREFECT_HOME = FOLDER / "prefect"
BACKUPS = FOLDER / "backups"
"Of the databases alone, before their schemas are upgraded."
RESTORING = FOLDER / ".restoring"
"There while a restore is at work, and after one that was cut off."
LOADING = FOLDER / ".restoring-databases"
"The same of the databases alone."

DATABASES = ("mlflow", "mlflow_auth", "prefect")
USER = "gpt"
# Accounts of MLflow, and what it registers for the second of them to promote.
ADMIN, TRAINING, PROMOTION = "admin", "training", "promotion"
CANDIDATES = "-candidates"
_PASSWORDS = ("_password", "_secret")
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
    public: str = ""
    'The domain under which a proxy serves MLflow and Prefect, as mlflow.DOMAIN and prefect.DOMAIN; none if "".'
    auth: bool = False
    "Whether MLflow and Prefect ask for passwords, which are these:"
    admin_password: str = ""
    training_password: str = ""
    promotion_password: str = ""
    prefect_password: str = ""
    mlflow_secret: str = ""
    "By which MLflow signs its forms."

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

    @property
    def accounts(self) -> dict[str, str]:
        """Return the passwords of MLflow's accounts."""
        return {ADMIN: self.admin_password, TRAINING: self.training_password, PROMOTION: self.promotion_password}

    def environment(self, account: str = TRAINING) -> dict[str, str]:
        """Return the variables by which commands use these servers, with an account where they ask for one."""
        addresses = {"MLFLOW_TRACKING_URI": self.mlflow, "PREFECT_API_URL": self.prefect}
        if not self.auth:
            return addresses
        return addresses | {
            "MLFLOW_TRACKING_USERNAME": account,
            "MLFLOW_TRACKING_PASSWORD": self.accounts[account],
            "PREFECT_API_AUTH_STRING": f"{USER}:{self.prefect_password}",
            SUFFIX: CANDIDATES,
        }


def load_settings() -> Settings | None:
    """Return what the first start chose, None before it; raise `UserError` for a file that cannot be understood.

    A port that is 0 is not chosen yet: the file is of a release without that server.
    """
    try:
        values = json.loads(SETTINGS.read_text(encoding="utf-8"))
        known = _LATER | values
        # What else a file of an earlier release does not say is as it was then.
        named = [field for field in fields(Settings) if field.default is MISSING or field.name in known]
        settings = Settings(**{field.name: field.type(known[field.name]) for field in named})  # type: ignore[operator]
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
    chosen: dict[str, Any] = {name: _make_password() for name in ("postgres_password", "supervisor_password")}
    if known:
        chosen |= {name: value for name, value in asdict(known).items() if value}
    for name, preferred in _PREFERRED.items():
        port = chosen.get(name) or free_port(preferred=preferred)
        while name not in chosen and port in chosen.values():
            port = free_port()
        chosen[name] = port
    made = Settings(**chosen)
    return made if made == known else _keep(made)


def choose(settings: Settings, *, auth: bool, public: str) -> Settings:
    """Let the servers ask for passwords, and know the domain of a proxy, from their next start on."""
    missing = {
        key: _make_password() for key, value in asdict(settings).items() if key.endswith(_PASSWORDS) and not value
    }
    return _keep(replace(settings, auth=auth, public=public, **missing))


def _make_password() -> str:
    return secrets.token_urlsafe(24)


def _keep(settings: Settings) -> Settings:
    write_private(SETTINGS, json.dumps(asdict(settings), indent=2) + "\n")
    return settings


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
