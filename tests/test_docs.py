"""What the documents say of the code is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from detsearch.cli.main import OK, run
from tests.cli.test_cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]


def test_the_tree_of_the_architecture_names_every_file() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    tree = text[text.index("    detsearch/\n") : text.index("\nImports go one way")]
    named: list[str] = []
    place: list[str] = []
    for line in tree.splitlines():
        indent, name = re.fullmatch(r"    ( *)([\w./]+).*", line).groups()  # type: ignore[union-attr]
        place = [*place[: len(indent) // 2], name]
        named.append("".join(place))
    files = (p.relative_to(ROOT).as_posix() for p in (ROOT / "detsearch").rglob("*.py") if p.name != "__init__.py")
    assert sorted(name for name in named if name.endswith(".py")) == sorted(files)
    assert all((ROOT / name).is_dir() for name in named if name.endswith("/"))
    assert len(set(named)) == len(named)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_but_schema_prints_json_if_asked(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == OK
    assert ("--json" in capsys.readouterr().out) == (command != "schema")


def test_the_changelog_and_readme_name_every_command() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert [command for command in COMMANDS if f"`{command}`" not in changes] == []
    readme = (ROOT / "README.md").read_text()
    assert "`schema` prints JSON anyway" in readme


@pytest.mark.parametrize("command", COMMANDS)
def test_help_on_recipes_names_their_schema(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == OK
    text = " ".join(re.sub("[^ -~]", " ", capsys.readouterr().out).split())
    kinds = re.findall("detsearch schema ([a-z]+) prints", text)
    assert len(kinds) == (" --recipe -r " in text)
    assert [run(["schema", kind]) for kind in kinds] == [OK] * len(kinds)


def test_commands_quote_what_some_shells_would_read() -> None:
    files = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").glob("*.yaml")]
    assert [found for file in files for found in re.findall(r"--set [\w.]+=[\[{].*", file.read_text())] == []
