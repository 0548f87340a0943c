"""A GPT that continues texts, as an MLflow model: MLflow copies this file into the model and runs it there.

What it imports from `gpt` travels with the model (see gpt/registry/imports.py): it loads without a checkout, and nothing is
unpickled.
"""

from mlflow.models import set_model

from gpt.registry.serving.completion import CompletionModel

set_model(CompletionModel())
