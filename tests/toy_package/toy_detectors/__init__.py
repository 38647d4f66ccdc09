"""A third party's package: what it takes to bring modules of one's own to detsearch."""
