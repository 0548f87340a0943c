"""Accounts of MLflow, where the servers ask for passwords: who may do what, made right at every start.

`training` trains and registers candidates, `promotion` alone writes to the models that are served, `admin` may all. MLflow gives
whoever creates a registered model all rights on it: so the names that are promoted to are `promotion`'s before anybody trains.
"""

from importlib import import_module

from gpt.errors import UserError
from gpt.maintenance.project import Project
from gpt.params.project import load_params
from gpt.registry.trail import LOG
from infra.servers.place import (
    ADMIN,
    CANDIDATES,
    ENVIRONMENT,
    MLFLOW_ACCOUNTS,
    PROMOTION,
    PROMOTION_ENVIRONMENT,
    TRAINING,
    Settings,
    write_private,
)

_MODEL, _EXPERIMENT = "registered_model", "experiment"


def check_packages() -> None:
    """Raise `UserError` where MLflow's accounts cannot be had."""
    try:
        import_module("flask_wtf")
    except ImportError:
        raise UserError(
            "MLflow's accounts need Flask-WTF, which is not installed; run `pip install 'gpt-pretrain[servers]'`"
        ) from None


def prepare(settings: Settings) -> None:
    """Make the accounts with their passwords and rights; PostgreSQL must take connections."""
    check_packages()
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    write_private(MLFLOW_ACCOUNTS, _configuration(settings))
    store = SqlAlchemyStore()
    store.init_db(settings.database("mlflow_auth", "postgresql+psycopg2"))
    try:
        for name, password in settings.accounts.items():
            if not store.has_user(name):
                store.create_user(name, password)
            store.update_user(name, password, is_admin=name == ADMIN)
        store.grant_user_permission(TRAINING, _EXPERIMENT, "*", "EDIT")
        store.grant_user_permission(PROMOTION, _MODEL, "*", "MANAGE")
        # A name that is promoted to, which this account was the first to use, before it was promoted to.
        for permission in store.list_registered_model_permissions(TRAINING):
            if not permission.name.endswith(CANDIDATES):
                store.delete_registered_model_permission(permission.name, TRAINING)
    finally:
        store.engine.dispose()


def reserve_names(settings: Settings) -> None:
    """Let the names that are promoted to be `promotion`'s; MLflow must answer."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient(settings.mlflow)
    for name in sorted(Project(load_params()).promoted):
        for reserved in (name, name + LOG):
            try:
                client.create_registered_model(reserved)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise


def write_environments(settings: Settings) -> None:
    """Write what a shell reads to use the servers: by the account that trains and, where there are any, by that which promotes."""
    write_private(ENVIRONMENT, _exports(settings.environment()))
    if settings.auth:
        write_private(PROMOTION_ENVIRONMENT, _exports(settings.environment(PROMOTION)))
    else:
        PROMOTION_ENVIRONMENT.unlink(missing_ok=True)


def _exports(variables: dict[str, str]) -> str:
    return "".join(f"export {name}='{value}'\n" for name, value in variables.items())


def _configuration(settings: Settings) -> str:
    return (
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = {settings.database('mlflow_auth', 'postgresql+psycopg2')}\n"
        f"admin_username = {ADMIN}\nadmin_password = {settings.accounts[ADMIN]}\n"
        # A password is hashed slowly, and asked for with every request.
        "auth_cache_ttl_seconds = 60\n"
    )
