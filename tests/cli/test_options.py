from __future__ import annotations

from pathlib import Path

import pytest

from detsearch.cli.main import MENDABLE, run


@pytest.mark.parametrize(("command", "what"), [("train", "detector"), ("pretrain", "backbone")])
def test_a_trial_is_named_by_study_and_number_and_by_nothing_else(
    tmp_path: Path, command: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    for given, message in (
        (["--study", "runs/blood"], "--study: expected --study and --trial together, got one of them"),
        (["--trial", "0"], "--study: expected --study and --trial together, got one of them"),
        (["E0", "--study", "runs/blood", "--trial", "0"], f"--study: expected no {what} beside it, got E0"),
    ):
        assert run([command, *given, *out]) == MENDABLE
        assert capsys.readouterr().err.strip() == f"detsearch: {message}"
    assert not (tmp_path / "out").exists()
