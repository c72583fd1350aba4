"""The kinds of experiment (supervised, by reinforcement, on one's own tasks), and what differs between them."""

import json
from types import ModuleType
from typing import Any, TypeAlias

from innerloop.workloads.episodes import config as supervised
from innerloop.workloads.episodes.config import Config
from innerloop.workloads.reinforcement import config as reinforced
from innerloop.workloads.reinforcement.config import RLConfig
from innerloop.workloads.tabular import config as own
from innerloop.workloads.tabular.config import OwnConfig

AnyConfig: TypeAlias = Config | RLConfig | OwnConfig


def check(config: AnyConfig) -> None:
    """Refuse what cannot work.

    Raises:
        InnerloopError: for the first value that cannot, naming the flag and the mend.
    """
    if isinstance(config, RLConfig):
        return reinforced.check(config)
    return own.check(config) if isinstance(config, OwnConfig) else supervised.check(config)


def to_json(config: AnyConfig) -> str:
    """The configuration as JSON."""
    if isinstance(config, RLConfig):
        return reinforced.to_json(config)
    return own.to_json(config) if isinstance(config, OwnConfig) else supervised.to_json(config)


def from_json(text: str) -> Any:
    """The inverse of `to_json`.

    Raises:
        InnerloopError: if the text is not a configuration of this version.
    """
    with supervised.readable():
        values = json.loads(text)
        kind = reinforced if "environment" in values else own if "data" in values else supervised
    return kind.from_json(text)


def session_of(config: AnyConfig) -> ModuleType:
    """The module that runs, evaluates and reports it."""
    from innerloop.workloads.episodes import session
    from innerloop.workloads.reinforcement import session as rl_session
    from innerloop.workloads.tabular import session as own_session

    if isinstance(config, RLConfig):
        return rl_session
    return own_session if isinstance(config, OwnConfig) else session
