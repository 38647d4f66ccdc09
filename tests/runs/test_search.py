from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path

import pytest
import yaml

from detsearch import __version__
from detsearch.arch.spaces.section import read_space
from detsearch.errors import CheckpointError, DataError, RecipeError, ResourceError, StudyError
from detsearch.report.study import write_report
from detsearch.runs.latencies import measure_again
from detsearch.runs.recipe import load_recipe
from detsearch.runs.revision import commit
from detsearch.runs.search import read_test_scores, recipe_of_trial, search_structure
from detsearch.runs.settings import COSTS, FIGURES, SearchRecipe
from detsearch.search.ledger import read_study
from detsearch.search.objective import OF_MASKS
from detsearch.search.pareto import front
from detsearch.search.study import Ending
from detsearch.search.trial import TrialState
from tests.runs.conftest import FINDING, TINY, ap_by_split


def test_from_recipe_to_report(tmp_path: Path, search_file: Path) -> None:
    recipe = load_recipe(SearchRecipe, search_file, ["device=cpu"])
    out = tmp_path / "study"
    finished = search_structure(recipe, out)
    study = read_study(out)
    assert finished.ending is Ending.TRIALS
    assert finished.space == 6
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    for trial in study.trials:
        assert trial.cost is not None
        assert trial.cost.latency is not None
        assert {"ap", "latency_ms", "macs", "voc_ap50"} <= set(trial.values())
        assert trial.metrics is not None
        assert trial.metrics.provenance["split"] == "val"
        assert trial.metrics.provenance.get("commit") == commit()
        assert set(trial.cost.values()) == COSTS
        # Whatever is undefined without large objects in the set is left out.
        undefined = {"ap_medium", "ap_large", "ar_medium", "ar_large"}
        assert FIGURES - OF_MASKS - undefined <= set(trial.values()) <= FIGURES - OF_MASKS
    best = front(study.trials, study.objectives)
    assert set(read_test_scores(out)) == {trial.number for trial in best}

    html, markdown = write_report(out)
    number = best[0].number
    for text in (html.read_text(), markdown.read_text()):
        assert f"--trial {number}" in text
        assert (f"{__version__} ({commit()})" if commit() else __version__) in text.replace("\\", "")
    with chdir(Path(recipe.data.file).parent):  # a path below the working folder is shown as one would type it there
        _, markdown = write_report(out)
    assert f"file: {Path(recipe.data.file).name}\n" in markdown.read_text()
    assert recipe.data.file not in markdown.read_text()
    trained = recipe_of_trial(out, number, ["training.epochs=9"], {"seed": 5})
    assert (trained.detector, trained.training.epochs, trained.seed) == (best[0].code, 9, 5)
    assert trained.data == recipe.data
    with pytest.raises(StudyError, match="trial"):
        recipe_of_trial(out, 99)
    # The final training: the sections of another recipe, the study's detector (with that recipe's norm) and data.
    final = Path(__file__).parents[2] / "recipes" / "final.yaml"
    last = recipe_of_trial(out, number, ["training.workers=0"], {"device": "cpu"}, final)
    assert (last.detector, last.spec().network.norm, last.data) == (best[0].code, "bn", recipe.data)
    assert last.spec().network.backbone == best[0].spec.network.backbone
    assert (last.training.epochs, last.training.lr, last.training.sync_bn, last.devices) == (24, 0.04, True, 8)
    with pytest.raises(RecipeError, match="no detector, since --study has one"):
        recipe_of_trial(out, number, file=final.with_name("bccd-train.yaml"))

    # The same command again has nothing left to do; a larger budget goes on; another search is refused.
    assert search_structure(recipe, out).trained == 3
    # What no figure depends on may change meanwhile, and the recipe beside the results says the same from anywhere.
    harmless = ["training.workers=1", "training.log_steps=3", "data.cache_mb=0", "data.test=null", "evaluation.batch=3"]
    larger = load_recipe(SearchRecipe, out / "recipe.yaml", ["budget.trials=4", *harmless])
    assert search_structure(larger, out).trained == 4
    other = load_recipe(SearchRecipe, search_file, ["device=cpu", "training.epochs=1"])
    with pytest.raises(StudyError, match="training"):
        search_structure(other, out)


def test_limits_and_bad_data_come_before_training(tmp_path: Path, search_file: Path) -> None:
    none = load_recipe(SearchRecipe, search_file, ["device=cpu", "limits=['params<=10']"])
    finished = search_structure(none, tmp_path / "study")
    assert (finished.ending, finished.trained) == (Ending.EXHAUSTED, 0)
    assert "params" in (finished.reason or "")
    assert all("params" in (trial.reason or "") for trial in read_study(tmp_path / "study").trials)
    missing = load_recipe(SearchRecipe, search_file, ["data.val=nosuch"])
    with pytest.raises(DataError, match="nosuch"):
        search_structure(missing, tmp_path / "other")
    impossible = load_recipe(SearchRecipe, search_file, ["space.input=[16x16]"])
    with pytest.raises(RecipeError, match="space"):
        search_structure(impossible, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_all_trials_share_is_looked_at_first(tmp_path: Path, search_file: Path, data_file: Path) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text(data_file.read_text() + "objects: [0, 0]\n")
    for setting, error, named in (
        ("weights=nosuch.pt", CheckpointError, "nosuch.pt"),
        ("weights=imagenet", ResourceError, "imagenet"),
        (f"data.file={empty}", DataError, "split train: expected objects"),
    ):
        with pytest.raises(error, match=named):
            search_structure(load_recipe(SearchRecipe, search_file, ["device=cpu", setting]), tmp_path / "study")
        assert not (tmp_path / "study").exists()


def test_other_data_are_another_search(tmp_path: Path, search_file: Path, data_file: Path) -> None:
    settings = ["device=cpu", f"space={{detectors: ['{TINY}']}}", "limits=['params<=10']"]  # nothing is trained
    out = tmp_path / "study"
    search_structure(load_recipe(SearchRecipe, search_file, settings), out)
    raw = yaml.safe_load(data_file.read_text())

    def again(changed: str) -> None:
        """The same command on data elsewhere, of which a split is `changed`."""
        splits = {name: split | {"seed": 9} if name == changed else split for name, split in raw["splits"].items()}
        other = tmp_path / f"{changed}.yaml"
        other.write_text(yaml.safe_dump(raw | {"splits": splits}))
        search_structure(load_recipe(SearchRecipe, search_file, [*settings, f"data.file={other}"]), out)

    again("nothing")
    for split in ("train", "val"):
        with pytest.raises(StudyError, match=rf"images\b.*{split}|{split}.*images"):
            again(split)
    again("test")


def test_the_front_is_scored_on_the_test_split_and_a_score_that_failed_is_tried_again(
    tmp_path: Path, search_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = yaml.safe_load(search_file.read_text())
    search_file.write_text(yaml.safe_dump(raw | {"space": {"detectors": [FINDING]}}))
    recipe = load_recipe(SearchRecipe, search_file, ["device=cpu", "budget.trials=1", "training.epochs=1"])
    out = tmp_path / "study"
    monkeypatch.chdir(tmp_path)
    relative = recipe.model_copy(update={"data": recipe.data.model_copy(update={"file": "data.yaml"})})
    search_structure(relative, out)
    (good,) = read_test_scores(out).values()
    ap = ap_by_split(out / "trials/0000/checkpoint.pt", recipe)["test"]
    assert good["ap"] == pytest.approx(ap, rel=1e-6)
    assert ap > 0
    assert good["split"] == "test"
    (out / "test.json").write_text(json.dumps({"0": {"error": "the disk was away"}}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    finished = search_structure(load_recipe(SearchRecipe, out / "recipe.yaml"), out)
    assert (finished.trained, finished.reason) == (1, None)
    assert read_test_scores(out) == {0: good}


def test_modules_of_a_third_party_are_searched(tmp_path: Path, search_file: Path, toy_package: Path) -> None:
    raw = yaml.safe_load(search_file.read_text())
    raw["space"] |= {"backbone": ["toynet", "basicblock_4_1-2-2-2"], "head": ["centre", "retinanet(depth=1)"]}
    raw["budget"]["trials"], raw["training"]["epochs"] = 8, 1
    search_file.write_text(yaml.safe_dump(raw))
    search_structure(load_recipe(SearchRecipe, search_file, ["device=cpu"]), tmp_path / "study")
    trials = read_study(tmp_path / "study").trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 8, [trial.reason for trial in trials]
    assert any(trial.code.startswith("toynet") and "/centre" in trial.code for trial in trials)


def test_early_comparison_a_start_and_a_budget_of_epochs(tmp_path: Path, search_file: Path) -> None:
    start = "basicblock_8_1-2-2-2/fpn(levels=4-5,width=8)/retinanet(depth=1)/gn@64x64"
    settings = ["device=cpu", "search.strategy=surrogate", "search.rungs=[1]", "search.promote=rank", "search.eta=2"]
    settings += ["budget.trials=null", "search.survey=0"]
    recipe = load_recipe(SearchRecipe, search_file, [*settings, f"search.start=['{start}']", "budget.epochs=6"])
    finished = search_structure(recipe, tmp_path / "study")
    trials = read_study(tmp_path / "study").trials
    assert finished.ending is Ending.EPOCHS
    assert (trials[0].code, trials[0].origin) == (start, "given")
    assert any(trial.origin == "model" for trial in trials)
    continued = [trial for trial in trials if trial.continues is not None]
    assert continued
    assert all(trial.fidelity.epochs == 2 for trial in continued)
    assert finished.trained == len(trials) - len(continued), "a training that is continued is one"
    assert trials[0].fidelity.epochs == 2, "what is given does not pause"
    assert len(trials) - 1 == 4, "each other trial added an epoch"
    outside = recipe.model_copy(update={"search": recipe.search.model_copy(update={"start": ["retinanet_r50_fpn"]})})
    with pytest.raises(RecipeError, match=r"search\.start\[0\].*a member of the space"):
        search_structure(outside, tmp_path / "other")


def test_a_model_decides_what_is_trained_on(tmp_path: Path, search_file: Path) -> None:
    settings = ["device=cpu", "search.strategy=surrogate"]  # with which a model decides, if nothing else is said
    recipe = load_recipe(SearchRecipe, search_file, [*settings, "budget.trials=4"])
    assert search_structure(recipe, tmp_path / "study").ending is Ending.TRIALS
    trials = read_study(tmp_path / "study").trials
    costed = {trial.spec: trial.cost for trial in trials if trial.state is TrialState.COSTED}
    assert len(costed) == min(2 * 4, read_space(recipe.space).size())
    assert all(cost is not None and cost.latency is not None for cost in costed.values())
    new = [trial for trial in trials if trial.continues is None and trial.state is not TrialState.COSTED]
    assert len(new) == 4
    for trial in new:
        known = costed.get(trial.spec)
        if known is not None and known.latency is not None and known.latency.steady:
            assert trial.cost == known, "measured once"
    again = measure_again(tmp_path / "study", tmp_path / "latencies.json")
    assert set(again.by_code) == {trial.code for trial in new}, "of what was tried"
    assert {trial.fidelity.epochs for trial in new} == {1}
    continued = [trial for trial in trials if trial.continues is not None]
    assert continued
    assert all(trial.fidelity.epochs == 2 and trial.origin == "promotion" for trial in continued)


def test_interrupted_on_the_command_line_and_gone_on_with(tmp_path: Path, search_file: Path) -> None:
    out = tmp_path / "study"
    command = [
        sys.executable,
        "-m",
        "detsearch",
        "search",
        "structure",
        "--recipe",
        str(search_file),
        "--out",
        str(out),
    ]
    command += ["--set", "training.epochs=12", "--device", "cpu", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 120
    while not list(out.glob("trials/*/checkpoint.pt")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert json.loads(output)["ending"] == "interrupted"
    states = [trial.state for trial in read_study(out).trials]
    assert TrialState.PREEMPTED in states
    finished = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["trained"] == 3
    assert len({trial.code for trial in read_study(out).trials}) == len(read_study(out).trials)
