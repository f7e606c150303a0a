"""Data sets and how they are read: start in data_loaders.py."""

from data_loader.engine.base_data_loader import BaseDataLoader

__all__ = ["BaseDataLoader"]
