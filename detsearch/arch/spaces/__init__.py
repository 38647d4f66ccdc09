"""Sets of detectors that a search may propose."""
