"""How a TOML file, the environment and the command line become typed, frozen models.

The relay and the bridge describe their settings with `Table`; the file above both joins them to one
`Settings` and calls `load`. Every mistake is found in one go.
"""

from relay.settings.differences import Difference, differences, keeping_fixed
from relay.settings.example import changes, example
from relay.settings.lazy import LazyGroup
from relay.settings.loading import Loader, config_option, load
from relay.settings.mistakes import ConfigError, Mistake
from relay.settings.table import ANYTIME, RESTART, LogConfig, Settings, Table, variable

__all__ = [
    "ANYTIME",
    "RESTART",
    "ConfigError",
    "Difference",
    "LazyGroup",
    "Loader",
    "LogConfig",
    "Mistake",
    "Settings",
    "Table",
    "changes",
    "config_option",
    "differences",
    "example",
    "keeping_fixed",
    "load",
    "variable",
]
