"""What runs: versions, and which commit of detsearch, where it runs from a git checkout."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

import torch

import detsearch

TIMEOUT: Final = 10.0
"""Seconds that git may take, on a slow disk; a commit that is not found out in time is left out."""


@cache
def commit() -> str | None:
    """The short hash of this package's checkout, with ``+changes`` where tracked files differ from it; None where there
    is no checkout or no git. Asked once in a process."""
    return commit_of(Path(detsearch.__file__).resolve().parent.parent)


def versions() -> dict[str, str]:
    """Of detsearch, with its `commit` where there is one, PyTorch and Python, by name."""
    known = commit()
    return {
        "detsearch": detsearch.__version__,
        **({} if known is None else {"commit": known}),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def named(found: Mapping[str, object]) -> str:
    """detsearch's version of `versions`, with its commit."""
    return f"{found['detsearch']}" + (f" ({found['commit']})" if found.get("commit") is not None else "")


def commit_of(root: Path) -> str | None:
    """The same of any folder that is itself the root of a checkout."""
    if not (root / ".git").exists():  # an installed package may lie in a repository that is not its own
        return None
    # What git hands to the hooks that it runs would lead to another repository; and a look takes no lock.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--abbrev=7", "--dirty=+changes"]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
