"""The two kinds of experiment, supervised and by reinforcement, and what differs between them for the program."""

import json
from types import ModuleType
from typing import Any, TypeAlias

from innerloop.experiment import config as supervised
from innerloop.experiment.config import Config
from innerloop.experiment.rl import config as reinforced
from innerloop.experiment.rl.config import RLConfig

AnyConfig: TypeAlias = Config | RLConfig


def check(config: AnyConfig) -> None:
    """Refuse what cannot work.

    Raises:
        InnerloopError: for the first value that cannot, naming the flag and the mend.
    """
    return reinforced.check(config) if isinstance(config, RLConfig) else supervised.check(config)


def to_json(config: AnyConfig) -> str:
    """The configuration as JSON."""
    return reinforced.to_json(config) if isinstance(config, RLConfig) else supervised.to_json(config)


def from_json(text: str) -> Any:
    """The inverse of `to_json`.

    Raises:
        InnerloopError: if the text is not a configuration of this version.
    """
    with supervised.readable():
        kind = reinforced if "environment" in json.loads(text) else supervised
    return kind.from_json(text)


def session_of(config: AnyConfig) -> ModuleType:
    """The module that runs, evaluates and reports it."""
    from innerloop.experiment import session
    from innerloop.experiment.rl import session as rl_session

    return rl_session if isinstance(config, RLConfig) else session
