"""Projects that train and that register, as in tests/training and tests/registry."""

from tests.registry.conftest import built, project
from tests.training.conftest import fresh_accelerate, make_project, params

__all__ = ["built", "fresh_accelerate", "make_project", "params", "project"]
