"""What a detector is, as data. Imports no torch."""
