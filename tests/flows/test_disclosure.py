"""Prefect gets to know no secret, whoever says one: a stage, a library, the flow itself. Neither does who sees the terminal."""

import sqlite3
import subprocess
from pathlib import Path

import pytest

from gpt.processes.trees.running import run, without_secrets
from tests.flows.conftest import Api, Project

SECRET = "s3cr3t" + "Xk7vQ2pL9"
IN_ENVIRONMENT = "0th3r" + "Zw4bN8cR6"
FLOW = ("-m", "flows.pretrain")
KEY = ["-----BEGIN " + "PRIVATE KEY-----", f"MIIE{SECRET}", f"{SECRET}==", "-----END " + "PRIVATE KEY-----"]
SAYS = f"""
print("connecting to postgresql://u:{SECRET}@db/mlflow and redis://:{SECRET}@h", flush=True)
print("Authorization: Bearer {SECRET}", file=sys.stderr, flush=True)
print({chr(10).join(KEY)!r}, flush=True)
print(os.environ["WANDB_API_KEY"], flush=True)
print("step 1\\rstep 2 https://me:{SECRET}@host\\r", flush=True)
print("x " * 32768 + "https://me:{SECRET}@host/" + "y" * 65536, flush=True)
"""


def everything(database: Path) -> str:
    with sqlite3.connect(database) as connection:
        return "\n".join(connection.iterdump())


def logs(database: Path) -> str:
    with sqlite3.connect(database) as connection:
        return "\n".join(message for (message,) in connection.execute("select message from log"))


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(
            f"print('error: data: https://me:{SECRET}@host is away', file=sys.stderr); sys.exit(2)",
            id="user's error",
            marks=pytest.mark.slow,
        ),
        pytest.param(f"raise RuntimeError('mysql://u:{SECRET}@h')", id="traceback"),
        pytest.param("", id="success", marks=pytest.mark.slow),
    ],
)
def test_what_a_stage_says_reaches_prefect_and_the_terminal_without_secrets(
    project: Project, api: Api, ending: str
) -> None:
    ending = ending or "Path('data/documents').mkdir(parents=True); Path('data/documents/a').touch()"
    project.break_stage("prepare", SAYS + ending)
    if "touch" in ending:
        project.break_stage("tokenizer", "print('error: stop here', file=sys.stderr); sys.exit(2)")
    address = api.url.replace("http://", f"http://me:{IN_ENVIRONMENT}@")
    done = project.run(
        *FLOW,
        PREFECT_API_URL=address,
        PREFECT_API_KEY=f"pnu_{IN_ENVIRONMENT}",
        PREFECT_API_AUTH_STRING=f"admin:{IN_ENVIRONMENT}",
        WANDB_API_KEY=IN_ENVIRONMENT,
    )
    assert done.returncode == (1 if "raise" in ending else 2), done.stderr
    assert not any(secret in done.stdout + done.stderr for secret in (SECRET, IN_ENVIRONMENT))
    database = api.home / "prefect.db"
    told = logs(database)
    assert "connecting to postgresql://u:***@db/mlflow and redis://:***@h" in told, "the rest is told"
    assert "mysql://u:***@h" in told or "https://me:***@host is away" in told or "stop here" in told
    assert not any(secret in everything(database) for secret in (SECRET, IN_ENVIRONMENT))


def test_the_flow_refuses_a_secret_in_uncommitted_code_before_any_stage(project: Project, api: Api) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=project.root, check=True)

    git("init", "-q")
    git("add", "params.yaml", "dvc.yaml")
    git("commit", "-qm", "start")
    with (project.root / "dvc.yaml").open("a") as file:
        file.write(f"# mysql://u:{SECRET}@h\n")
    done = project.run(*FLOW)
    assert done.returncode == 2
    assert "dvc.yaml: line " in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert not (project.root / "data").exists()


def test_lines_of_a_private_key_are_left_out_and_what_follows_is_told(tmp_path: Path) -> None:
    lines: list[str] = []
    pass_on = without_secrets(lines.append)
    for line in ["before", *KEY, "after", " ".join(KEY), "after"]:
        pass_on(line)
    assert lines == ["before", "***", "after", "***", "after"]


def test_a_line_that_is_passed_on_in_pieces_is_not_cut_within_a_word(tmp_path: Path) -> None:
    lines: list[str] = []
    command = ["printf", "%s", "word " * 13106 + f"mysql://u:{SECRET}@h " + "word " * 13107]
    script = tmp_path / "say"
    script.write_text(f"#!/bin/sh\nprintf '%s' '{command[2]}'\n")
    script.chmod(0o755)
    assert run([str(script)], cwd=tmp_path, on_line=lines.append) == 0
    assert len(lines) > 1
    assert SECRET not in "".join(lines)
    assert "".join(lines) == command[2].replace(SECRET, "***")
