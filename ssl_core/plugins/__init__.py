"""Installed plugins: their discovery, and the catalogue of what they register."""

from ssl_core.plugins.catalogue import KINDS, Catalogue, Entry, Kind, Origin, SetAside
from ssl_core.plugins.discover import BLOCK_VARIABLE, GROUP, load

__all__ = ["BLOCK_VARIABLE", "GROUP", "KINDS", "Catalogue", "Entry", "Kind", "Origin", "SetAside", "load"]
