"""What is said of finished studies, and drawn of two stages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detsearch.arch.code import format_detector
from detsearch.arch.spaces.section import read_space
from detsearch.arch.spaces.structures import StructuresSpace
from detsearch.cli.main import MENDABLE, OK, run
from detsearch.errors import StudyError
from detsearch.report.study import write_report
from detsearch.runs.analyse import analyse_study
from detsearch.runs.modules import modular_recipe
from detsearch.runs.recipe import load_recipe
from detsearch.runs.settings import SearchRecipe
from tests.runs.made import write_study

Out = pytest.CaptureFixture[str]
REST = "fpn(levels=4-5,width=8)/retinanet(depth=1)"
BACKBONES = ("basicblock_4_1-2-2-2", "basicblock_4_1-2-2-21", "basicblock_8_1-2-2-2")
INSIDE = (
    "space.modules.base=[4,6]",
    "space.modules.width=[8]",
    "space.modules.depth=8",
    "space.modules.spread=[0.2,5]",
)
SWIN = f"timm(model=swin_tiny_patch4_window7_224)/{REST}@128x128"


@pytest.fixture
def one(tmp_path: Path, search_file: Path) -> Path:
    """Stage one: every detector of a small space twice as good at the larger input, whatever its backbone."""
    rows = [
        (f"{backbone}/{REST}/gn@{size}x{size}", 0.2 if size == 64 else 0.4, 5.0 + number + size)
        for number, backbone in enumerate(BACKBONES)
        for size in (64, 96)
    ]
    return write_study(tmp_path / "one", load_recipe(SearchRecipe, search_file), rows)


@pytest.fixture
def two(tmp_path: Path, one: Path) -> Path:
    """Stage two inside two structures of `one`: deeper is better."""
    recipe = modular_recipe(one, trials=[0, 1], settings=INSIDE)
    space = read_space(recipe.space)
    assert isinstance(space, StructuresSpace)
    codes = [format_detector(spec) for spec in space.baselines]
    deeper = ("21-2-2-1", "211-2-2-1", "2111-2-2-1", "21111-2-2-1")
    codes += [f"basicblock_4_{stages}/{REST}/gn_ws@{size}x{size}" for size in (64, 96) for stages in deeper]
    rows = [(code, 0.1 + 0.01 * number, 9.0) for number, code in enumerate(codes)]
    return write_study(tmp_path / "two", recipe, rows, [10**6 * (number + 1) for number in range(len(codes))])


def test_stage_one(one: Path, capsys: Out) -> None:
    assert run(["study", "analyse", str(one), "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert found["trials"] == 6
    ap = found["importances"][0]
    assert ap["figure"] == "ap"
    assert ap["shares"]["input"]["alone"]["mean"] == pytest.approx(1)
    assert ap["shares"]["backbone"]["alone"]["mean"] < 0.1
    assert ap["shares"]["head"]["reason"] == "the same in all"
    assert [effect["value"] for effect in found["effects"]["input"]] == ["96x96", "64x64"]
    all_trials, front = found["groups"]
    assert all_trials["correlations"]["dc1"]["reason"] is None
    assert all_trials["correlations"]["neck"] == {
        "count": 6, "spearman": None, "pearson": None, "reason": "it is the same in all",
    }  # fmt: skip
    assert front["correlations"]["depth"]["reason"] == "fewer than 4 trials"


def test_stage_two_by_structure(two: Path, capsys: Out) -> None:
    assert run(["study", "analyse", str(two), "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert [(group["kind"], group["structure"] is None) for group in found["groups"]] == [
        ("all", True), ("front", True), ("all", False), ("front", False), ("all", False), ("front", False),
    ]  # fmt: skip
    assert found["groups"][2]["correlations"]["depth"]["spearman"]["value"] > 0.9
    assert found["importances"] == []
    assert found["effects"] == {}


def test_it_is_written_in_every_form(one: Path, tmp_path: Path, capsys: Out) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.json", "a.md", "a.svg", "a.png"):
        assert run(["study", "analyse", str(one), "--out", str(tmp_path / "out" / name)]) == OK
        assert f"analysis: {tmp_path / 'out' / name}" in capsys.readouterr().out
        assert (tmp_path / "out" / name).stat().st_size > 100
    assert json.loads((tmp_path / "out" / "a.json").read_text())["accuracy"] == "ap"
    assert "### Correlation with AP" in (tmp_path / "out" / "a.md").read_text()
    assert run(["study", "analyse", str(one), "--out", str(tmp_path / "a.xls")]) == MENDABLE
    assert "a name that ends in .json, .md, .png" in capsys.readouterr().err


def test_what_cannot_be_analysed_is_told(tmp_path: Path, search_file: Path) -> None:
    recipe = load_recipe(SearchRecipe, search_file)
    with pytest.raises(StudyError, match="a complete trial, got none"):
        analyse_study(write_study(tmp_path / "none", recipe, []))
    with pytest.raises(StudyError, match=r"block code, or a choice.*swin_tiny.*has no block code"):
        analyse_study(write_study(tmp_path / "swin", recipe, [(SWIN, 0.3, 5.0)]))
    with pytest.raises(StudyError):
        analyse_study(tmp_path / "absent")
    sizes = [SWIN, SWIN.replace("128x128", "160x160"), SWIN.replace("128x128", "192x192")] * 2
    mixed = [(code, 0.3 + 0.01 * i, 5.0) for i, code in enumerate(sizes)]
    found = analyse_study(write_study(tmp_path / "sizes", recipe, mixed))
    assert not found.groups
    assert "input" in found.effects


def test_both_stages_are_drawn_together(one: Path, two: Path, capsys: Out) -> None:
    pytest.importorskip("matplotlib")
    assert run(["report", str(two), "--from", str(one), "--pictures", "svg", "--json"]) == OK
    written = [Path(path).name for path in json.loads(capsys.readouterr().out)["report"]]
    assert written == [
        "report.html", "report.md", "front-by-input.svg", "front-by-backbone.svg", "correlations.svg", "stages.svg",
    ]  # fmt: skip
    page = (two / "report.html").read_text()
    assert "Beside the search of structures" in page
    assert "2 epochs from scratch" in page
    assert "baseline 1" in page
    assert run(["report", str(one), "--modules", str(two)]) == OK
    assert "searched inside" in (one / "report.html").read_text()
    assert "## What goes with what" in (one / "report.md").read_text()
    capsys.readouterr()
    assert run(["report", str(two), "--modules", str(one)]) == MENDABLE
    assert "a search inside of structures, got one of another kind" in capsys.readouterr().err
    assert run(["report", str(two), "--from", str(two)]) == MENDABLE
    assert "one of others" in capsys.readouterr().err


def test_known_detectors_are_named(tmp_path: Path, search_file: Path) -> None:
    recipe = load_recipe(SearchRecipe, search_file, ["search.start=[retinanet_slim@96x96]"])
    slim = "basicblock_16_11-21-21-21/fpn(levels=3-4-5-6,width=64)/retinanet(depth=2)/gn_ws@96x96"
    folder = write_study(tmp_path / "known", recipe, [(slim, 0.3, 5.0), (f"{BACKBONES[0]}/{REST}@64x64", 0.2, 3.0)])
    write_report(folder)
    page = (folder / "report.html").read_text()
    assert "retinanet_slim@96x96" in page[page.index('id="front-data"') : page.index('class="key"')]
    assert "known detector" in page
