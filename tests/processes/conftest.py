"""Projects that train, as in tests/training."""

from tests.training.conftest import fresh_accelerate, make_project, params

__all__ = ["fresh_accelerate", "make_project", "params"]
