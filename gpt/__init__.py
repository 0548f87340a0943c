"""Pretrain your own GPT: a model is a pure function of params.yaml, its data and its code.

From Python: `gpt.load` gives a trained model, to write text with and to score text by.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt.loading import LanguageModel, load

__all__ = ["LanguageModel", "__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # torch takes seconds, and a command that only shows its help needs none of it.
    if name in ("LanguageModel", "load"):
        from gpt import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
