"""The MLflow store and the Prefect server that the environment names."""

import os
from collections.abc import Iterator

from gpt.commands.checks.finding import Finding
from gpt.errors import UserError


def servers() -> Iterator[Finding]:
    from gpt.tracking.store import client, tracking_uri

    try:
        client()
        yield (
            "ok",
            "MLflow",
            f"{tracking_uri()}" + ("" if "MLFLOW_TRACKING_URI" in os.environ else " (no server needed)"),
        )
    except UserError as error:
        yield "missing", "MLflow", str(error)
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        yield "ok", "Prefect", "PREFECT_API_URL is not set: a flow starts its own server while it runs"
        return
    import httpx

    try:
        httpx.get(f"{address.rstrip('/')}/health", timeout=5).raise_for_status()
        yield "ok", "Prefect", address
    except httpx.HTTPError as error:
        yield "missing", "Prefect", f"{address}: {error}; start it, or unset PREFECT_API_URL"
