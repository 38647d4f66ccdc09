from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from detsearch.cli.main import DEFECT, MENDABLE, OK, run
from detsearch.errors import CheckpointError, DataError, RecipeError, ResourceError, StudyError, UserError
from detsearch.intervals import mean_interval
from detsearch.report.comparison import markdown_comparison
from detsearch.runs.compare import compare, runs_of
from detsearch.runs.comparison import Comparison, Row, Spread, column, varying
from detsearch.runs.data import load_split, open_datafile
from detsearch.runs.recipe import load_recipe, override
from detsearch.runs.settings import CompareRecipe
from tests.runs.conftest import FINDING, TINY

HEAD = "basicblock_4_1-1-2-2/fpn(levels=4-5,width=8)/fcos(tower=cells(width=8,repeats=1))@64x64"


def recipe(data_file: Path, **changes: Any) -> CompareRecipe:
    base = {
        "detector": FINDING,
        "data": {"file": str(data_file), "test": "test"},
        "device": "cpu",
        "training": {"epochs": 1, "batch": 4},
        "latency": {"runs": 3, "seconds": 0.01},
    }
    raw = {"base": base, "arms": {"plain": {}, "longer": {"training.epochs": 2}}, "seeds": [0, 1], **changes}
    return override(CompareRecipe, raw, ())


def test_arms_over_seeds(tmp_path: Path, data_file: Path) -> None:
    told: list[str] = []
    chosen = recipe(data_file, workers=2, latency=True)
    found = compare(chosen, tmp_path / "out", tell=told.append)
    assert [row.arm for row in found.rows] == ["plain", "longer"]
    assert [list(row.detectors) for row in found.rows] == [[0, 1], [0, 1]]
    assert found.names == ("val ap", "val ap50", "test ap", "test ap50")
    for row in found.rows:
        scores = [json.loads((tmp_path / "out" / f"{row.arm}-{seed}" / "metrics.json").read_text()) for seed in (0, 1)]
        assert [s["seed"] for s in scores] == [0, 1]
        figure = row.figures["test ap50"]
        assert figure is not None
        assert figure.mean == pytest.approx(sum(s["scores"]["test"]["ap50"] for s in scores) / 2)
        assert row.detectors == {0: scores[0]["code"], 1: scores[1]["code"]}
        assert row.costs["latency_ms"].least > 0
    plain, longer = (row.figures["val ap"] for row in found.rows)
    difference = found.rows[1].differences["val ap"]
    assert plain is not None and longer is not None and difference is not None  # noqa: PT018
    assert difference.mean == pytest.approx(longer.mean - plain.mean)
    assert not found.rows[0].differences

    # Done: nothing is run again; what is added is run, and only that.
    begun = len([line for line in told if line.endswith("begun")])
    assert begun == 4
    told.clear()
    more = recipe(data_file, arms={**chosen.arms, "flipped": {"augmentation.vertical_flip": 0.5}}, seeds=[0, 1])
    compare(more, tmp_path / "out", tell=told.append)
    assert [line for line in told if line.endswith("begun")] == ["flipped-0: begun", "flipped-1: begun"]


def test_the_table_reads(tmp_path: Path, data_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = recipe(data_file, seeds=[3])
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(chosen.model_dump(mode="json")))
    assert run(["compare", "--recipe", str(path), "--out", str(tmp_path / "out")]) == OK
    text = capsys.readouterr().out
    assert (tmp_path / "out" / "table.md").read_text().strip() in text
    header, rule, first, second = (tmp_path / "out" / "table.md").read_text().strip().splitlines()
    assert header.startswith(
        "| arm | training.epochs | val ap | val ap50 | test ap | test ap50 | M parameters | GMACs | seeds | detector |"
    )
    assert rule.count("|") == header.count("|") == first.count("|")
    assert first.startswith("| plain | 1 |")
    assert "±" not in first, "one seed has no spread"
    assert second.startswith("| longer | 2 |")
    assert "(" in second.split("|")[3], "a difference"


def test_the_record_holds_what_pairs_any_two_arms(tmp_path: Path, data_file: Path) -> None:
    arms = {"plain": {}, "longer": {"training.epochs": 2}, "faster": {"training.lr": 0.05}}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe(data_file, arms=arms, workers=2).model_dump(mode="json")))
    assert run(["compare", "--recipe", str(path), "--out", str(tmp_path / "out")]) == OK
    rows = {row["arm"]: row for row in json.loads((tmp_path / "out" / "table.json").read_text())["rows"]}
    assert list(rows) == list(arms)
    figure = "test ap50"
    by_seed = {arm: row["figures"][figure]["by_seed"] for arm, row in rows.items()}
    for arm, values in by_seed.items():
        for seed, value in values.items():
            metrics = json.loads((tmp_path / "out" / f"{arm}-{seed}" / "metrics.json").read_text())
            assert value == metrics["scores"]["test"]["ap50"]
        assert list(values) == ["0", "1"]
        held = mean_interval(list(values.values()))
        assert held is not None
        assert {**asdict(held), "by_seed": values} == rows[arm]["figures"][figure]
    assert len({tuple(values.values()) for values in by_seed.values()}) == 3, "arms differ"
    paired = mean_interval([by_seed["longer"][seed] - by_seed["plain"][seed] for seed in ("0", "1")])
    assert paired is not None
    assert asdict(paired) == rows["longer"]["differences"][figure]


def test_heads_are_searched_then_trained(tmp_path: Path, data_file: Path) -> None:
    base = {
        "detector": HEAD,
        "data": {"file": str(data_file)},
        "device": "cpu",
        "cells": {"iterations": 2, "check": 1, "batch": 2, "operations": "rf5", "stop": False},
        "training": {"epochs": 1, "batch": 4},
    }
    arms = {"searched": {}, "random": {"cells.method": "random"}}
    found = compare(recipe(data_file, kind="head", base=base, arms=arms, seeds=[0]), tmp_path)
    assert found.names == ("val ap", "val ap50")
    assert not found.failed
    assert all("fcos(tower=cells(" in code for row in found.rows for code in row.detectors.values())


WILD = {
    "training.lr": 100.0,
    "training.weight_decay": 1.0,
    "training.clip_norm": None,
    "training.warmup_steps": 0,
    "training.epochs": 40,
}
"""Each step takes 100 times a weight from it: whatever the loss is, 20 of 80 steps are beyond float32."""


def test_an_arm_that_fails_ends_itself(tmp_path: Path, data_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = recipe(data_file, arms={"plain": {}, "wild": WILD}, seeds=[0], columns=[])
    found = compare(chosen, tmp_path / "out")
    assert list(found.failed) == ["wild-0"]
    assert "lower training.lr" in found.failed["wild-0"]
    assert list(found.rows[0].detectors) == [0]
    assert found.rows[1].figures["val ap"] is None
    assert "wild-0 failed" in markdown_comparison(found)

    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(chosen.model_dump(mode="json")))
    command = ["compare", "--recipe", str(path), "--out", str(tmp_path / "out")]
    assert run(command) == DEFECT
    printed = capsys.readouterr()
    assert "| plain |" in printed.out
    assert "wild-0 failed" in printed.out
    assert printed.err.splitlines()[-1].startswith("detsearch: 1 of 2 runs failed: wild-0;")
    assert "plain-0: begun" not in printed.err
    assert run([*command, "--json"]) == DEFECT
    record = json.loads(capsys.readouterr().out)
    assert list(record["failed"]) == ["wild-0"]
    assert record["rows"][0]["figures"]["val ap"]["count"] == 1


LATE = [
    ({"weights": "nosuch.pt"}, CheckpointError, "nosuch.pt"),
    ({"weights": "DATA"}, CheckpointError, "a file of weights"),
    ({"data.val": "nosuch"}, DataError, "data.val: expected a split"),
    ({"data.file": "nosuch.yaml"}, DataError, "nosuch.yaml"),
    ({"device": "tpu"}, ResourceError, "device"),
    ({"devices": 64, "training.batch": 64}, ResourceError, "devices: expected at most"),
    ({"training.frozen_stages": 2}, RecipeError, "training.frozen_stages"),
    ({"detector": TINY.replace("/gn@64x64", "@32x32"), "training.batch": 1}, RecipeError, "two images"),
]


@pytest.mark.parametrize(("fields", "error", "message"), LATE)
def test_what_is_wrong_in_a_later_arm_ends_all_before_time_is_spent(
    tmp_path: Path,
    data_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    error: type[UserError],
    message: str,
) -> None:
    monkeypatch.setattr("detsearch.runs.device.cpus", lambda: 2)
    told: list[str] = []
    wrong = {name: str(data_file) if value == "DATA" else value for name, value in fields.items()}
    with pytest.raises(error, match=f"^arm late: .*{re.escape(message)}"):
        compare(recipe(data_file, arms={"plain": {}, "late": wrong}), tmp_path / "out", tell=told.append)
    assert not told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"cells.batch": 100}, DataError, "two halves of 100 images"),
        ({"cells.input": "16x16"}, UserError, "at least 32 pixels"),
        ({"cells.frozen_stages": 2}, RecipeError, "cells.frozen_stages"),
        ({"devices": 64, "training.batch": 64}, ResourceError, "devices: expected at most"),
        ({"data.test": "nosuch"}, DataError, "data.test: expected a split"),
    ],
)
def test_what_is_wrong_in_a_later_search_ends_all_before_time_is_spent(
    tmp_path: Path,
    data_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    error: type[UserError],
    message: str,
) -> None:
    monkeypatch.setattr("detsearch.runs.device.cpus", lambda: 2)
    cells = {"iterations": 2, "check": 1, "batch": 2, "operations": "rf5"}
    base = {"detector": HEAD, "data": {"file": str(data_file)}, "device": "cpu", "cells": cells}
    arms = {"plain": {"cells.method": "none"}, "late": fields}
    told: list[str] = []
    with pytest.raises(error, match=f"^arm late: .*{re.escape(message)}"):
        compare(recipe(data_file, kind="head", base=base, arms=arms), tmp_path / "out", tell=told.append)
    assert not told
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_is_one_line_for_the_command(
    tmp_path: Path, data_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    chosen = recipe(data_file, arms={"plain": {}, "late": {"weights": "nosuch.pt"}})
    path.write_text(json.dumps(chosen.model_dump(mode="json")))
    assert run(["compare", "--recipe", str(path), "--out", str(tmp_path / "out")]) == MENDABLE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("detsearch: arm late: nosuch.pt: expected a file of weights")


def test_what_is_done_is_shown_without_its_data(tmp_path: Path, data_file: Path) -> None:
    chosen = recipe(data_file, arms={"plain": {}}, seeds=[0])
    found = compare(chosen, tmp_path / "out")
    data_file.unlink()
    open_datafile.cache_clear()
    load_split.cache_clear()
    assert compare(chosen, tmp_path / "out") == found
    with pytest.raises(DataError, match=r"^arm plain: "):
        compare(chosen.model_copy(update={"seeds": [0, 1]}), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": {}}, "arms"),
        ({"arms": {"a/b": {}}}, "names of letters"),
        ({"arms": {"..": {}}}, "names of letters"),
        ({"arms": {"a": {"seed": 1}}}, "belongs to `seeds`"),
        ({"seeds": [1, 1]}, "every seed once"),
        ({"seeds": []}, "seeds"),
        ({"figures": ["ap", "ap_50"]}, "'ap_50' is none, did you mean ap50"),
    ],
)
def test_recipes_that_cannot_be(data_file: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(data_file, **changes)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({"a": {"training.epoch": 3}}, r"arm a.*did you mean 'epochs'"),
        ({"a": {}, "b": {"detector": "resnet19/fpn/retinanet@64x64"}}, "arm b"),
    ],
)
def test_arms_that_cannot_be_end_before_time_is_spent(
    tmp_path: Path, data_file: Path, arms: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        compare(recipe(data_file, arms=arms), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_columns_show_what_arms_are_made_of(tmp_path: Path, data_file: Path) -> None:
    arms = {"a": {}, "b": {"training.batch": 2, "training.base_batch": 4, "training.lr": 0.02}}
    chosen = recipe(data_file, arms=arms, seeds=[0], columns=["norm", "training.batch", "lr", "weights"])
    found = compare(chosen, tmp_path / "out")
    first, _, _, second = markdown_comparison(found).splitlines()
    assert first.startswith("| arm | norm | training.batch | lr | weights | val ap |")
    assert second.startswith("| b | gn | 2 | 0.01 | none |"), "half the images, half the learning rate"
    assert [row.settings["training.batch"] for row in found.rows] == ["4", "2"]


BASE = {"training.batch": 4, "training.base_batch": 4}
VARIED: list[tuple[dict[str, dict[str, Any]], dict[str, list[str]]]] = [
    ({"a": {}, "b": {}}, {}),
    ({"a": {}}, {}),
    ({"a": {}, "b": {"detector": TINY}}, {}),
    ({"a": {}, "b": {"norm": "bn"}, "c": {"norm": "gn"}}, {"norm": ["gn", "bn", "gn"]}),
    ({"a": {}, "b": {"augmentation.scale": [0.5, 2.0]}}, {"augmentation.scale": ["[1.0, 1.0]", "[0.5, 2.0]"]}),
    (
        {"a": {}, "b": {"training.epochs": 2, "training.clip_norm": None}},
        {"training.clip_norm": ["10", "null"], "training.epochs": ["1", "2"]},
    ),
    ({"a": BASE, "b": {**BASE, "training.lr": 0.03}}, {"lr": ["0.01", "0.03"]}),
    ({"a": BASE, "b": {**BASE, "training.batch": 8}}, {"training.batch": ["4", "8"], "lr": ["0.01", "0.02"]}),
    (
        {"a": BASE, "b": {"training.batch": 8, "training.base_batch": 8}},
        {"training.batch": ["4", "8"], "training.base_batch": ["4", "8"]},
    ),
    (
        {"a": {"training.batch": "auto"}, "b": {"training.batch": "auto", "training.lr": 0.02}},
        {"training.lr": ["0.01", "0.02"]},
    ),
]
"""Arms, and the columns in which they differ."""


@pytest.mark.parametrize(("arms", "columns"), VARIED)
def test_fields_in_which_arms_differ(
    data_file: Path, arms: dict[str, dict[str, Any]], columns: dict[str, list[str]]
) -> None:
    runs = list(runs_of(recipe(data_file, arms=arms, seeds=[3])).values())
    found = varying(runs)
    assert {field: [column(run, field) for run in runs] for field in found} == columns


def test_a_column_that_is_not_there_ends_before_time_is_spent(tmp_path: Path, data_file: Path) -> None:
    with pytest.raises(RecipeError, match=r"columns: .*training\.rate"):
        compare(recipe(data_file, columns=["training.rate"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_arm_of_different_detectors_shows_the_range_of_their_costs() -> None:
    """As arms that search have them: one for each seed."""
    row = Row(
        arm="searched",
        settings={},
        figures={},
        differences={},
        costs={"macs": Spread.of([2e9, 4e9, 3e9]), "params": Spread.of([1e6, 1e6, 1e6])},
        detectors={0: "x", 1: "y", 2: "x"},
    )
    plain = Row("plain", {}, {}, {}, {"macs": Spread.of([5e9]), "search_seconds": Spread.of([1800.0])}, {0: "z"})
    text = markdown_comparison(Comparison((plain, row), (), {}, "a device")).splitlines()
    assert text[0] == "| arm | M parameters | GMACs | hours of search | seeds | detector |"
    assert text[2] == "| plain | - | 5 | 0.5 | 1 | `z` |"
    assert text[3] == "| searched | 1 | 3 (2 to 4) | - | 3 | 2 different |"
    assert text[5:] == ["- searched, seed 0: `x`", "- searched, seed 1: `y`", "- searched, seed 2: `x`"]


@pytest.mark.parametrize("steady", [True, False])
def test_a_latency_that_was_not_steady_is_marked(steady: bool) -> None:
    row = Row("plain", {}, {}, {}, {"latency_ms": Spread.of([5.0])}, {0: "z"}, steady=steady)
    text = markdown_comparison(Comparison((row,), (), {}, "a device"))
    assert ("| 5† |" in text) is not steady
    assert ("not steady" in text) is not steady


def test_an_arm_that_was_changed_is_not_shown_with_its_old_figures(tmp_path: Path, data_file: Path) -> None:
    compare(recipe(data_file, seeds=[0]), tmp_path)
    for changed in ({"training.epochs": 3}, {"training.epochs": 2, "norm": "bn"}):
        other = recipe(data_file, seeds=[0], arms={"plain": {}, "longer": changed})
        with pytest.raises(StudyError, match="longer-0: expected a run of the settings that its arm has now"):
            compare(other, tmp_path)
    head = {**recipe(data_file).base, "detector": HEAD, "cells": {"method": "random"}, "training": {"epochs": 1}}
    heads = {"kind": "head", "base": head, "seeds": [0]}
    compare(recipe(data_file, arms={"random": {}}, **heads), tmp_path / "heads")
    for changed in ({"cells.operations": "rf5"}, {"training.epochs": 2}):
        with pytest.raises(StudyError, match="random-0: expected a run of the settings"):
            compare(recipe(data_file, arms={"random": changed}, **heads), tmp_path / "heads")


def test_the_norm_of_an_arm_is_that_of_its_detector(data_file: Path) -> None:
    runs = runs_of(recipe(data_file, arms={"plain": {}, "bn": {"norm": "bn"}}, seeds=[0]))
    assert [column(run, "norm") for run in runs.values()] == ["gn", "bn"]
    assert str(runs["bn-0"].detector).endswith("2fc(width=16)@64x64")


def test_what_a_search_warns_of_is_told(tmp_path: Path, data_file: Path) -> None:
    """Two images, so that a half has one, without some of the classes."""
    few = yaml.safe_load(data_file.read_text())
    few["splits"]["train"]["images"] = 2
    data_file.write_text(yaml.safe_dump(few))
    base = {
        "detector": HEAD,
        "data": {"file": str(data_file)},
        "device": "cpu",
        "cells": {"iterations": 1, "check": 1, "batch": 1, "operations": "rf5", "stop": False},
        "training": {"epochs": 1, "batch": 2},
    }
    told: list[str] = []
    compare(recipe(data_file, kind="head", base=base, arms={"a": {}}, seeds=[0]), tmp_path / "out", tell=told.append)
    assert any(line.startswith("a-0: the half of the ") and "has no object of" in line for line in told), told


def test_another_comparison_in_the_folder_is_refused(
    tmp_path: Path, data_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    compare(recipe(data_file, arms={"plain": {}}, seeds=[0]), out)
    other = recipe(data_file, arms={"plain": {}}, seeds=[0])
    other = other.model_copy(update={"base": {**other.base, "detector": HEAD}})
    with pytest.raises(StudyError, match="got another run's; choose another --out; only arms and seeds may be added"):
        compare(other, out)
    path = tmp_path / "recipe.yaml"
    path.write_text("base: {}\narms: {a: {}}\n")
    assert run(["compare", "--recipe", str(path), "--out", str(out)]) == MENDABLE
    assert "detsearch:" in capsys.readouterr().err


def test_a_recipe_as_written_is_read_again(tmp_path: Path, data_file: Path) -> None:
    found: Comparison = compare(recipe(data_file, arms={"plain": {}}, seeds=[0]), tmp_path / "out")
    assert list(found.rows[0].detectors) == [0]
    assert load_recipe(CompareRecipe, tmp_path / "out" / "recipe.yaml") == recipe(
        data_file, arms={"plain": {}}, seeds=[0]
    )
