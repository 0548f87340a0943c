"""Pretrain your own GPT: a model is a pure function of params.yaml, its data and its code."""

__version__ = "0.1.0"
