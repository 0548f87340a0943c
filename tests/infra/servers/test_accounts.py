"""Servers that ask for passwords: who trains cannot promote, whoever promotes can, and nobody sees anything without one."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from infra.servers.place import PROMOTION, TRAINING, Settings
from tests.e2e.conftest import Project
from tests.infra.conftest import choose_ports, settings_of

NAME = "shakespeare-gpt"
_DENIED = r"PERMISSION_DENIED|Permission denied"


def status_of(address: str, *account: str) -> int:
    """The status with which a server answers, asked without a password or with one."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if account:
        passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
        passwords.add_password(None, address, *account, is_authenticated=True)
        handlers.append(urllib.request.HTTPBasicAuthHandler(passwords))
    try:
        with urllib.request.build_opener(*handlers).open(address) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def use(project: Project, account: str) -> Settings:
    """Let the commands of a project, and MLflow in this process, be an account's."""
    settings = settings_of(project)
    project.environment.update(settings.environment(account))
    return settings


def client_of(settings: Settings, account: str, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    for name, value in settings.environment(account).items():
        monkeypatch.setenv(name, value)
    return MlflowClient(settings.mlflow)


@pytest.mark.long
def test_only_the_account_that_promotes_writes_to_the_model_in_service(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.change(register={"gate": {"max_bits_per_byte": 8.0}})
    choose_ports(project)
    output = project.run("infra.servers", "up", "--auth")
    settings = use(project, TRAINING)
    check_passwords(settings)
    for name in ("settings.json", "environment", "environment-promotion", "mlflow-accounts.ini"):
        assert (project.folder / "servers" / name).stat().st_mode & 0o077 == 0
    assert not any(password in output for password in settings.accounts.values())

    said = project.run("flows.pretrain")
    assert f"models:/{NAME}-candidates/1" in said
    refused = project.run("gpt", "promote", exit_code=2)
    assert "the account training may not do this" in refused
    assert "Traceback" not in refused
    training = client_of(settings, TRAINING, monkeypatch)
    candidate = training.get_model_version_by_alias(f"{NAME}-candidates", "candidate")
    source = candidate.source or ""
    for attempt in (
        lambda: training.create_model_version(NAME, source, candidate.run_id),
        lambda: training.create_model_version(f"{NAME}.decisions", source),
        lambda: training.set_registered_model_alias(NAME, "champion", "1"),
        lambda: training.delete_registered_model(NAME),
    ):
        with pytest.raises(MlflowException, match=_DENIED):
            attempt()

    use(project, PROMOTION)
    assert f"{NAME} version 1 is the champion now" in project.run("gpt", "promote")
    assert f"{NAME} version 1 is the champion already" in project.run("gpt", "promote")
    promoted = client_of(settings, PROMOTION, monkeypatch).get_model_version_by_alias(NAME, "champion")
    assert promoted.source == candidate.source
    assert promoted.tags["candidate_of"] == f"{NAME}-candidates/1"
    assert candidate.tags.items() <= promoted.tags.items()

    use(project, TRAINING)
    assert "to be" in project.run("gpt", "generate", "to be", "--model", f"models:/{NAME}@champion")
    record = json.loads(project.run("gpt", "lineage", "@champion", "--json"))
    assert record
    with pytest.raises(MlflowException, match=_DENIED):
        client_of(settings, TRAINING, monkeypatch).set_registered_model_alias(NAME, "champion", "1")
    assert "then choose again" in project.run("infra.servers", "up", "--no-auth", exit_code=2)


def check_passwords(settings: Settings) -> None:
    """Pages and interfaces answer nobody without a password, and the right ones."""
    experiments = f"{settings.mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    flows = f"{settings.prefect}/admin/settings"
    assert [status_of(address) for address in (f"{settings.mlflow}/", experiments, flows)] == [401, 401, 401]
    assert status_of(experiments, TRAINING, "wrong") == 401
    assert status_of(experiments, TRAINING, settings.training_password) == 200
    assert status_of(flows, "gpt", settings.prefect_password) == 200


def test_accounts_without_their_package_are_one_error_and_nothing_is_chosen(project: Project) -> None:
    without = project.folder / "without"
    without.mkdir()
    (without / "sitecustomize.py").write_text("import sys\nsys.modules['flask_wtf'] = None\n")
    project.environment["PYTHONPATH"] = f"{project.folder}:{without}"
    output = project.run("infra.servers", "up", "--auth", exit_code=2)
    assert "need Flask-WTF" in output
    assert not any(
        json.loads(path.read_text())["auth"] for path in Path(project.folder, "servers").glob("settings.json")
    )
