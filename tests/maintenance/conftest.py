"""Projects with registered models, as in tests/registry, and with trainers, as in tests/training."""

from tests.registry.conftest import built, line_of_champions, make_champions, params, project

__all__ = ["built", "line_of_champions", "make_champions", "params", "project"]
