from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from detsearch.report.study import trained_with
from detsearch.runs import revision
from detsearch.runs.revision import commit, commit_of, named, versions
from detsearch.types import Metrics
from tests.report.fakes import trial


def git(folder: Path, *command: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", *who, "-C", str(folder), *command], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_checkout_says_its_commit_and_whether_it_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "--quiet")
    assert commit_of(tmp_path) is None, "no commit yet"
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    git(tmp_path, "tag", "-m", "v1", "v1")
    short = git(tmp_path, "rev-parse", "HEAD")[:7]
    (tmp_path / "notes").write_text("untracked")
    monkeypatch.setenv("GIT_DIR", "/nosuch")  # as in a hook
    assert commit_of(tmp_path) == short
    (tmp_path / "a").write_text("2")
    assert commit_of(tmp_path) == f"{short}+changes"
    (tmp_path / "site-packages").mkdir()
    assert commit_of(tmp_path / "site-packages") is None, "a repository around an installed package is not its own"


def test_without_git_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    assert commit_of(tmp_path) is None, "a damaged repository"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(tmp_path) is None


def test_git_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(revision, "commit_of", lambda root: asked.append(root) or "abc1234")
    commit.cache_clear()
    try:
        assert (commit(), commit()) == ("abc1234", "abc1234")
        assert len(asked) == 1
        assert (asked[0] / "detsearch" / "__init__.py").is_file()
    finally:
        commit.cache_clear()


def test_a_report_says_what_its_trials_were_trained_with() -> None:
    trials = [trial(number, 0.5, 10.0) for number in range(4)]
    made = [{"detsearch": "0.1.0", "commit": "abc1234"}, {"detsearch": "0.1.0"}, {"detsearch": "0.1.0"}]
    for number, provenance in enumerate(made):
        known = trials[number].metrics
        assert known is not None
        found = Metrics(values=known.values, fidelity=known.fidelity, provenance=provenance)
        trials[number] = replace(trials[number], metrics=found)
    assert trained_with(trials) == "0.1.0 (abc1234), 0.1.0"
    assert trained_with([]) == ""


def test_what_runs_is_said_with_its_commit_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revision, "commit", lambda: "abc1234")
    assert set(versions()) == {"detsearch", "commit", "torch", "python"}
    assert named(versions()).endswith(" (abc1234)")
    monkeypatch.setattr(revision, "commit", lambda: None)
    assert "commit" not in versions()
    assert "(" not in named(versions())
