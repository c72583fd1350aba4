"""Libraries that an extra brings, imported only when something needs them."""

from importlib import import_module
from typing import Any

from innerloop.errors import InnerloopError


def require(module: str, extra: str, who: str = "This adapter") -> Any:
    """Import a library, or say which extra brings it.

    Args:
        module: the module to import.
        extra: the extra of this package that installs it.
        who: what needs it, the subject of the sentence.

    Raises:
        InnerloopError: if it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InnerloopError(f"{who} needs {module}; install it with: pip install 'innerloop[{extra}]'") from error
