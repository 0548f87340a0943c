"""A fine-tuned GPT as an MLflow model: MLflow copies this file into the model and runs it there, with what it imports."""

from mlflow.models import set_model

from gpt.finetuning.registering.answering import FineTunedModel

set_model(FineTunedModel())
