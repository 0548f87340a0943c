"""`make ui` or `python -m infra.ui`: the MLflow UI for this project's runs and models, on loopback, until Ctrl-C.

With MLFLOW_TRACKING_URI set to a server, that server has a UI already: this prints its address.
"""

import os
import signal
import subprocess
import sys

from flows.server import free_port
from gpt.entry import begin, end_with
from gpt.errors import UserError
from gpt.paths import ensure_user, enter_project
from gpt.secrets.hiding import public_uri, redact
from gpt.tracking.location import put_right
from gpt.tracking.pages.experiment import VIEW, VIEW_TAG
from gpt.tracking.store import check_reachable, client, database_file, tracking_uri

_PORT = 5000


def main() -> int:
    """Serve the UI until Ctrl-C; return 0, or 2 if there is nothing to show yet."""
    begin()
    return end_with(_show)


def _show() -> int:
    enter_project()
    ensure_user()
    uri = tracking_uri()
    if uri.startswith(("http://", "https://")):
        print(f"MLFLOW_TRACKING_URI is a server: open {public_uri(uri)}")
        return 0
    database = database_file(uri)
    if database is not None and not database.exists():
        raise UserError(
            f"{database}: no run has been recorded yet; run `python -m flows.pretrain` or `gpt pretrain` first"
        )
    check_reachable(uri)
    if database is not None:
        put_right(database)  # of a project that was moved, the server would show no artifact
    views = _views(uri)
    port = free_port(preferred=_PORT)
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    # The job subsystem serves features of MLflow that this project does not use.
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", **os.environ}
    environment["MLFLOW_BACKEND_STORE_URI"] = (
        uri  # not as an argument: whoever may list processes would see its password
    )
    server = subprocess.Popen(command, env=environment)
    # MLflow opens with its pages for language-model applications; the query chooses those for training.
    address = f"http://127.0.0.1:{port}/#/experiments"
    print(f"MLflow: {address}?workflowType=machine_learning  (Ctrl-C ends it)", flush=True)
    for name, view in views.items():
        print(f"  charts of {name}: {address}/{view}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        return server.wait()
    except KeyboardInterrupt:
        server.terminate()  # a terminal's Ctrl-C has reached it too, a signal to us alone has not
        server.wait()
        return 0


def _views(uri: str) -> dict[str, str]:
    """Return by each of our experiments the address of its charts in the order of its saved view."""
    from mlflow.exceptions import MlflowException

    try:
        experiments = client().search_experiments()
    except (MlflowException, UserError) as error:
        print(f"{public_uri(uri)}: experiments cannot be listed ({error})", file=sys.stderr)
        return {}
    query = f"workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={VIEW}"
    return {redact(each.name): f"{each.experiment_id}/runs?{query}" for each in experiments if VIEW_TAG in each.tags}


if __name__ == "__main__":
    sys.exit(main())
