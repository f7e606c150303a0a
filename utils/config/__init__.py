"""A run's config: read, checked, and the parts that it names. Imports no torch."""

from utils.config.config import Config, differences, load
from utils.config.files import ConfigError

__all__ = ["Config", "ConfigError", "differences", "load"]
