"""Tests of the project: a folder for each of its rooms."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"The project."
