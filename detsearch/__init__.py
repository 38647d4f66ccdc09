"""detsearch designs object detectors: from a dataset, a device and a budget to a Pareto front of whole detectors."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("detsearch")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
