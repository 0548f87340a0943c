"""When the work happens: Prefect flows around the DVC stages."""
