"""Data sets and how they are read: start in data_loaders.py."""

from data_loader.engine.base_data_loader import BaseDataLoader
from data_loader.engine.mixture import MixtureDataLoader

__all__ = ["BaseDataLoader", "MixtureDataLoader"]
