"""Random environments in which something is wrong: variables unset, empty, malformed, or naming what cannot be written."""

import random
from collections.abc import Mapping
from pathlib import Path

UNSET = None
# Of the first two nobody may make anything, also not root, whom no permission stops.
UNWRITABLE = ("/dev/null/x", "/proc/x")
FOLDER = ("", "relative/folder", "not there", "\udcff", *UNWRITABLE)
ADDRESS = (
    "", "nonsense", "127.0.0.1:5055", "http://127.0.0.1:PORT", "http://127.0.0.1:1", "http://127.0.0.1:99999", "http://",
    "http://[::1", "http://ho st", "ftp://127.0.0.1/x", "sqlite:mlflow.db", "sqlite:///", "\udcff", "http://\udcff:80", "${URI}",
)  # fmt: skip
NUMBER = ("", "abc", "-1", "1e9", "0", "\udcff")
SWITCH = ("", "maybe", "-1", "\udcff")

VARIABLES: Mapping[str, tuple[str | None, ...]] = {
    "HOME": (UNSET, *FOLDER),
    "PREFECT_HOME": (UNSET, *FOLDER),
    "GPT_CACHE": (UNSET, *FOLDER),
    "XDG_CACHE_HOME": FOLDER,
    "XDG_CONFIG_HOME": FOLDER,
    "TMPDIR": FOLDER,
    "TIKTOKEN_CACHE_DIR": FOLDER,
    "MPLCONFIGDIR": FOLDER,
    "DVC_SITE_CACHE_DIR": FOLDER,
    "DVC_GLOBAL_CONFIG_DIR": FOLDER,
    "PREFECT_PROFILES_PATH": FOLDER,
    "MLFLOW_TRACKING_URI": (
        *ADDRESS,
        "sqlite:////proc/x/mlflow.db",
        "sqlite:////dev/null/mlflow.db",
        "./mlruns",
        "databricks",
    ),
    "MLFLOW_REGISTRY_URI": ADDRESS,
    "PREFECT_API_URL": ADDRESS,
    "HTTP_PROXY": (*ADDRESS, "socks://127.0.0.1:1"),
    "https_proxy": (*ADDRESS, "http://127.0.0.1:1"),
    "ALL_PROXY": (*ADDRESS, "socks5://127.0.0.1:1"),
    "NO_PROXY": ("", "*", ",,", "[::1", "\udcff"),
    "MLFLOW_HTTP_REQUEST_TIMEOUT": NUMBER,
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": NUMBER,
    "MLFLOW_TRACKING_INSECURE_TLS": SWITCH,
    "MLFLOW_LOGGING_LEVEL": ("", "LOUD"),
    "MLFLOW_EXPERIMENT_ID": NUMBER,
    "MLFLOW_RUN_ID": ("", "none", "\udcff"),
    "MLFLOW_ENABLE_ASYNC_LOGGING": SWITCH,
    "PREFECT_PROFILE": ("", "missing"),
    "PREFECT_LOGGING_LEVEL": ("", "LOUD"),
    "PREFECT_API_REQUEST_TIMEOUT": NUMBER,
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": ("", "nonsense", "sqlite+aiosqlite:////proc/x/prefect.db"),
    "LC_ALL": ("", "C", "POSIX", "xx_YY.ISO-8859-1", "\udcff"),
    "LANG": ("", "nonsense"),
    # A name that is none ends Python before any code of ours.
    "PYTHONIOENCODING": ("", "ascii", "ascii:strict", "latin-1", "utf-16", "cp437:strict"),
    "PYTHONUTF8": ("", "0", "1"),
    "PYTHONCOERCECLOCALE": ("", "0", "nonsense"),
    "VIRTUAL_ENV": FOLDER,
    "PATH": (UNSET, *FOLDER),
    "SHELL": (UNSET, *FOLDER),
    "TERM": (UNSET, "", "nonsense"),
    "COLUMNS": NUMBER,
    "OMP_NUM_THREADS": ("", "abc", "-1", "0"),
    "RANK": NUMBER,
    "WORLD_SIZE": NUMBER,
    "LOCAL_RANK": NUMBER,
    "MASTER_PORT": NUMBER,
    "MASTER_ADDR": ("", "not.there.invalid"),
    "CUDA_VISIBLE_DEVICES": ("", "abc", "-1", "99"),
    "GPT_RENDEZVOUS": ("", "nonsense", "host:PORT"),
    "USER": (UNSET, "", "nobody-here"),
    "PWD": (UNSET, "", "/not/there"),
    "DVC_ROOT": FOLDER,
    "DVC_EXP_NAME": ("", "nonsense"),
    "SSL_CERT_FILE": FOLDER,
    "GIT_DIR": FOLDER,
}


def break_environment(
    environment: Mapping[str, str], choose: random.Random
) -> tuple[dict[str, str], dict[str, str | None]]:
    """Return the environment with one to five variables broken, and which these are."""
    names = choose.sample(sorted(VARIABLES), k=choose.randint(1, 5))
    broken = {name: choose.choice(VARIABLES[name]) for name in names}
    kept = {name: value for name, value in environment.items() if name not in broken}
    return kept | {name: value for name, value in broken.items() if value is not None}, broken


def entries(folder: Path) -> set[str]:
    """Return the names of what lies in a folder."""
    return {path.name for path in folder.iterdir()}
