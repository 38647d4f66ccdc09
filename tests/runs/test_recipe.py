from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from detsearch.arch.spaces.section import read_space
from detsearch.errors import RecipeError, ResourceError
from detsearch.evaluation.coco import Accuracy
from detsearch.evaluation.voc import VocAccuracy
from detsearch.runs.compare import runs_of
from detsearch.runs.modules import modular_recipe
from detsearch.runs.pretrain_recipe import PretrainRecipe
from detsearch.runs.recipe import builtin, load_recipe, to_yaml, write_recipe
from detsearch.runs.settings import (
    COSTS,
    FIGURES,
    CompareRecipe,
    HeadSearchRecipe,
    SearchRecipe,
    SearchSettings,
    StagesRecipe,
    TrainRecipe,
)
from detsearch.search.objective import OF_MASKS, Objective
from detsearch.training.schedule import WARMUP_LIMIT
from detsearch.yamlfile import Section, read_yaml
from tests.runs.made import write_study

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
FOUND = {"checkpoint", "study", "trial", "front"}
"""What may stand for the detector of an arm; it is read when the comparison is made."""
STRUCTURE = "resnet18/fpn/rpn/2fc@512x512"


def test_settings_and_options_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("detector: retinanet_slim\ndata: {file: d.yaml}\ntraining: {epochs: 3, lr: 0.5}\n")
    recipe = load_recipe(TrainRecipe, path, ["training.epochs=5", "data.train=train+val"], {"seed": 7, "device": None})
    assert (recipe.training.epochs, recipe.training.lr) == (5, 0.5)
    assert (recipe.data.train, recipe.seed, recipe.device) == ("train+val", 7, "auto")


def test_a_float_of_yaml_1_1_that_reads_as_text_is_a_number() -> None:
    recipe = load_recipe(TrainRecipe, None, ["detector=x", "data.file=d", "training.lr=1e-3", "training.momentum=0"])
    assert (recipe.training.lr, recipe.training.momentum) == (0.001, 0)
    assert load_recipe(TrainRecipe, None, ["detector=x", "data.file=d", "training.decay_norm_bias=false"])


def test_options_are_named_and_what_is_missing_is_asked_for() -> None:
    with pytest.raises(RecipeError, match=r"^command line: training\.epochs"):
        load_recipe(TrainRecipe, None, ["detector=x", "data.file=d"], {"training.epochs": 0})
    with pytest.raises(RecipeError, match="give DETECTOR and --data"):
        load_recipe(TrainRecipe, None)
    with pytest.raises(RecipeError, match="give --data"):
        load_recipe(SearchRecipe, None, ["data.train=train"])


@pytest.mark.parametrize("rungs", ["[12]", "[4, 2]", "[2, 2]", "[0]", "[20]"])
def test_rungs_ascend_to_the_full_training(rungs: str) -> None:
    with pytest.raises(RecipeError, match=r"rungs"):
        load_recipe(SearchRecipe, None, ["data.file=d", "training.epochs=12", f"search.rungs={rungs}"])
    assert load_recipe(SearchRecipe, None, ["data.file=d", "training.epochs=12", "search.rungs=[2, 4]"])


@pytest.mark.parametrize("settings", ["search.rungs=[]", "search.strategy=evolution"])
def test_a_model_promotes_where_there_are_one_and_rungs(settings: str) -> None:
    with pytest.raises(RecipeError, match="strategy surrogate and rungs"):
        load_recipe(SearchRecipe, None, ["data.file=d", "training.epochs=12", "search.promote=model", settings])


@pytest.mark.parametrize(
    ("settings", "pauses", "by_model"),
    [
        ([], (4, 7), True),  # 25 steps each, so that the warm-up is cut to 60 steps, 2.4 epochs
        (["training.warmup_steps=20"], (2, 5), True),
        (["training.warmup_steps=40", "training.epochs=100"], (20, 45), True),
        (["training.warmup_steps=0", "training.epochs=10"], (2, 4), True),
        (["training.batch=auto", "training.base_batch=64"], (4, 7), True),
        (["training.batch=512"], (3, 6), True),  # more than the images: a step each, two of the warm-up
        (["search.rungs=[4]"], (4,), True),
        (["search.promote=rank"], (4, 7), False),
        (["search.rungs=[]"], (), True),
        (["training.epochs=1"], (), True),
        (["training.epochs=2"], (1,), True),
        (["training.epochs=3"], (1, 2), True),
        (["search.strategy=evolution"], (), False),
        (["search.strategy=evolution", "search.rungs=[4]"], (4,), False),
    ],
)
def test_where_trainings_pause(settings: list[str], pauses: tuple[int, ...], by_model: bool) -> None:
    recipe = load_recipe(SearchRecipe, None, ["data.file=d", "training.epochs=12", "training.batch=8", *settings])
    assert recipe.pauses(205) == pauses
    assert recipe.search.by_model is by_model


@given(epochs=st.integers(1, 1000), share=st.floats(0, WARMUP_LIMIT))
def test_a_training_pauses_after_its_warmup_and_before_its_end(epochs: int, share: float) -> None:
    pauses = SearchSettings().pauses(epochs, share * epochs)
    assert list(pauses) == sorted(set(pauses))
    assert all(max(1, share * epochs) <= pause < epochs for pause in pauses)
    assert len(pauses) == min(2, epochs - 1)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ([], 80),
        (["budget.trials=12"], 24),
        (["budget.epochs=130"], 20),
        (["budget.epochs=130", "budget.trials=5"], 10),
        (["budget.epochs=5"], 2),
        (["search.survey=7"], 7),
        (["search.survey=0"], 0),
        (["search.strategy=evolution"], 0),
        (["objectives=[ap:max,macs:min]"], 80),
        (["objectives=[ap:max,train_seconds:min]"], 0),
        (["budget.trials=1000"], 200),
    ],
)
def test_how_many_are_costed_first(settings: list[str], count: int) -> None:
    recipe = load_recipe(SearchRecipe, None, ["data.file=d", "training.epochs=12", *settings])
    names = [Objective.parse(text).name for text in recipe.objectives]
    assert recipe.search.surveyed(recipe.trainings, names) == count


def test_costs_are_surveyed_for_an_objective() -> None:
    with pytest.raises(RecipeError, match=r"search\.survey.*known before training, not ap, train_seconds alone"):
        load_recipe(SearchRecipe, None, ["data.file=d", "search.survey=3", "objectives=[ap:max,train_seconds:min]"])


@pytest.mark.parametrize("strategy", ["evolution", "random", "nsga2", "tpe", "all"])
def test_costs_are_surveyed_where_a_model_learns_from_them(strategy: str) -> None:
    fields = ["data.file=d", f"search.strategy={strategy}"]
    with pytest.raises(RecipeError, match=f"strategy surrogate, .* beside survey, not {strategy}"):
        load_recipe(SearchRecipe, None, [*fields, "search.survey=3"])
    assert load_recipe(SearchRecipe, None, [*fields, "search.survey=0"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["search.early={ap: {ar10: 1}}"], "search.early.*'ar10' is none, did you mean ar_10"),
        (["search.early={map: {ar_10: 1}}"], "search.early.*'map' is none"),
        (["search.early={latency_ms: {ar_10: 1}}"], "search.early.*'latency_ms' is none"),
        (["search.early={ap: {}}"], "search.early.ap.*at least 1"),
        (["search.early={ap: {ar_10: 0}}"], "search.early.ap.ar_10.*greater than 0"),
        (["search.early={ap: {ar_10: .nan}}"], "search.early.ap.ar_10"),
        (["search.early={ap75: {ar_10: 1}}"], r"search.early: objectives \(ap, latency_ms\), not ap75"),
        (["search.early={ap: {ar_10: 1}}", "search.strategy=evolution"], "strategy surrogate and rungs.*beside early"),
        (["search.early={ap: {ar_10: 1}}", "search.rungs=[]"], "strategy surrogate and rungs.*beside early"),
    ],
)
def test_what_stands_for_an_objective_early_is_one_of_its_figures(settings: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(SearchRecipe, None, ["data.file=d", "training.epochs=12", *settings])


def test_what_was_used_can_be_read_again(tmp_path: Path) -> None:
    recipe = load_recipe(SearchRecipe, builtin("demo"), ["seed=3"])
    write_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(SearchRecipe, tmp_path / "recipe.yaml") == recipe
    assert yaml.safe_load(to_yaml(recipe)) == json.loads(recipe.model_dump_json())


@pytest.mark.parametrize(
    ("text", "settings", "named"),
    [
        (
            "detector: x\ndata: {file: d}\ntrainin: {}\n",
            [],
            "'trainin'; did you mean 'training'?",
        ),
        ("detector: x\ndata: {fil: d}\n", [], "data.fil: expected no such key, got 'fil'; did you mean 'file'?"),
        (
            "detecto: x\n",
            [],
            "r.yaml: detecto: expected no such key, got 'detecto'; did you mean 'detector'?",
        ),
        ("detector: x\ndata: {file: d}\n", ["training.epoch=1"], "--set: training.epoch: expected no such key"),
        ("detector: x\ndata: {file: d}\n", ["training.epoch=1"], "; did you mean 'epochs'?"),
        ("detector: x\ndata: {file: d}\ncake: 1\n", [], "cake: expected no such key, got 'cake'"),
        ("detector: x\ndata: {file: d}\ntraining: {epochs: many}\n", [], "training.epochs"),
        ("detector: x\ndata: {file: d}\ntraining: {epochs: 0}\n", [], "training.epochs"),
        ("detector: x\n", [], "data"),
        ("detector: x\ndata: [1]\n", [], "data"),
        ("detector: x\ndata: {file: d}\n", ["training.lr=.nan"], "training.lr"),
        ("detector: x\ndata: {file: d}\n", ["training"], "--set"),
        ("detector: x\ndata: {file: d}\n", ["seed=1", "seed.epochs=1"], "seed"),
        ("detector: x\ndata: {file: d}\n", ["training.lr=[1"], "training.lr"),
        ("detector: x\ndata: {file: d}\ntraining: {batch: 8, accumulate: 3}\n", [], "accumulate"),
        ("detector: x\ndata: {file: d}\n", ["seed=2001-99-99"], "--set seed"),
        ("detector: x\ndata: {file: d}\n", ['seed=!!int ""'], "--set seed"),
        ("detector: x\ndata: {file: d}\n", ["seed=" + "[" * 5000], "--set seed"),
        ("detector: x\ndata: {file: d}\n", ["training.epochs=true"], "--set: training.epochs"),
        ("detector: x\ndata: {file: d}\n", ["augmentation.scale=[0.5, true]"], "--set: augmentation.scale"),
        ("detector: x\ndata: {file: d}\ntraining: {lr: true}\n", ["training.epochs=2"], "r.yaml: training.lr"),
        ("detector: x\ndata: {file: d}\ntraining: {batch: 8}\n", ["training.accumulate=3"], "r.yaml, --set"),
        ("- a\n", [], "r.yaml"),
        ("a: [\n", [], "r.yaml"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path: Path, text: str, settings: list[str], named: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(TrainRecipe, path, settings)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_of_many_digits_are_named_in_one_line() -> None:
    for field in ("execution.gpus", "training.momentum", "cake"):
        for number in ("9" * 400, "0x" + "f" * 9000):  # past a float, and past what Python prints
            with pytest.raises(RecipeError, match=field) as caught:
                load_recipe(SearchRecipe, None, ["data.file=d", f"{field}={number}"])
            assert len(str(caught.value)) < 300


def test_fields_are_a_few_levels_deep() -> None:
    for first in ("a", "data.file"):
        with pytest.raises(RecipeError, match="at most 16 levels"):
            load_recipe(SearchRecipe, None, [".".join([first, *"a" * 2000]) + "=1"])


def test_what_a_section_finds_does_not_repeat_the_section() -> None:
    for settings, message in (
        (
            ["search.rungs=[12]"],
            r"recipe: expected search\.rungs: ascending .* below training\.epochs \(12\), not \[12\]",
        ),
        (["devices=3"], r"recipe: expected training\.batch: a multiple of 3, which is devices, not \d+"),
        (
            ["search={inherit: true, strategy: random}"],
            r"--set: search: expected strategy .* beside inherit, not random",
        ),
    ):
        with pytest.raises(RecipeError, match=f"^{message}$"):
            load_recipe(SearchRecipe, None, ["data.file=d", "training.epochs=12", *settings])


@pytest.mark.parametrize(
    ("kind", "setting", "message"),
    [
        (SearchRecipe, "objectives=[ap,ap]", "objectives: expected every name once, got ['ap', 'ap']"),
        (SearchRecipe, "objectives=[foo]", "objectives: expected foo:max or foo:min, got ['foo']"),
        (SearchRecipe, "limits=[foo]", "limits: expected NAME<=NUMBER, such as latency_ms<=30, got ['foo']"),
        (HeadSearchRecipe, "cells.input=64x", "cells.input: expected WxH in pixels such as 512x512, got '64x'"),
        (CompareRecipe, "input=64x", "input: expected WxH in pixels such as 512x512, got '64x'"),
    ],
)
def test_a_field_is_named_once(kind: type[Section], setting: str, message: str) -> None:
    needed = ["base={}", "arms={a: {}}"] if kind is CompareRecipe else ["data.file=d"]
    needed += ["detector=x"] if kind is HeadSearchRecipe else []
    with pytest.raises(RecipeError) as caught:
        load_recipe(kind, None, [*needed, setting])
    assert str(caught.value) == f"--set: {message}"


def test_limits_stay_as_they_were_written(tmp_path: Path) -> None:
    recipe = load_recipe(SearchRecipe, None, ["data.file=d", "limits=[params<=1234564, macs<=16734567890]"])
    write_recipe(recipe, tmp_path / "recipe.yaml")
    assert load_recipe(SearchRecipe, tmp_path / "recipe.yaml").limits == ["params<=1234564", "macs<=16734567890"]


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("objectives=[ap]", None),
        ("objectives=[goodness]", "objectives"),
        ("objectives=['goodness:max']", "objectives"),
        ("objectives=['latency:min']", "did you mean latency_ms"),
        ("objectives=['ar_100:max', macs]", None),
        ("limits=[latency<=3]", "did you mean latency_ms"),
        ("limits=[train_seconds<=3]", "limits"),
        ("objectives=[ap,ap]", "objectives"),
        ("limits=[latency_ms>3]", "limits"),
        ("limits=[latency_ms<=3]", None),
        ("search.strategy=magic", "search.strategy"),
    ],
)
def test_fields_of_a_search(setting: str, named: str | None) -> None:
    if named is None:
        load_recipe(SearchRecipe, None, ["data.file=x", setting])
        return
    with pytest.raises(RecipeError, match=named):
        load_recipe(SearchRecipe, None, ["data.file=x", setting])


def test_the_names_that_objectives_may_use_are_those_that_evaluations_give() -> None:
    accuracy = {field.name for field in fields(Accuracy)} - {"per_class"}
    of_masks = {f"mask_{name}" for name in accuracy}
    assert {*accuracy, *of_masks, *VocAccuracy(ap50=0.5, per_class={}).values(), "train_seconds"} == FIGURES - COSTS
    assert of_masks == OF_MASKS


def test_recipes_of_the_project_are_valid(tmp_path: Path) -> None:
    """A recipe begins with its command, which says of which kind it is; of a comparison every arm is valid."""
    kinds = {
        "train": TrainRecipe,
        "pretrain": PretrainRecipe,
        "compare": CompareRecipe,
        "search structure": SearchRecipe,
        "search modules": SearchRecipe,  # on the recipe of a study
        "search head": HeadSearchRecipe,
        "search all": StagesRecipe,
    }
    given = {
        TrainRecipe: {"detector": "detector=E0"},
        PretrainRecipe: {"backbone": "backbone=E0", "data": "data.root=x"},
    }
    found = sorted(RECIPES.glob("*.yaml"))
    assert found
    for path in found:
        text = path.read_text()
        first, _, _ = text.partition("\n")
        assert first.startswith("# detsearch ")
        kind = next(kind for command, kind in kinds.items() if f" detsearch {command} " in first)
        wanted = given.get(kind, {}) | ({} if kind is PretrainRecipe else {"data": "data.file=any.yaml"})
        missing = [setting for field, setting in wanted.items() if f"{field}:" not in text]  # given with the command
        recipe = load_recipe(kind, path, missing)
        if " detsearch search modules " in first:
            study = load_recipe(SearchRecipe, None, ["data.file=any.yaml"])
            write_study(tmp_path / path.stem, study, [(STRUCTURE, 0.3, 9.0)])
            read_space(modular_recipe(tmp_path / path.stem, raw=read_yaml(path, RecipeError), where=str(path)).space)
        if isinstance(recipe, CompareRecipe):
            # What is found by a search is not here; a known detector stands in its place.
            arms = {
                name: {"detector": "E0", **{field: value for field, value in fields.items() if field not in FOUND}}
                if FOUND & fields.keys()
                else fields
                for name, fields in recipe.arms.items()
            }
            runs = runs_of(recipe.model_copy(update={"arms": arms}))
            assert len(runs) == len(recipe.arms) * len(recipe.seeds)


def test_the_training_of_stage_two_is_that_of_the_paper() -> None:
    """9 epochs from 0.24 to 0.0001, here for 64 images, and in proportion for what fits the device."""
    recipe = load_recipe(SearchRecipe, RECIPES / "modules.yaml", ["data.file=any.yaml"])
    assert (recipe.search.prune, recipe.search.slack) == (True, 0), "as the paper prunes"
    training = recipe.training
    assert training.finds_batch
    assert training.epochs == 9
    for images in (64, 32, 8):
        found = training.with_batch(images)
        assert found.scaled_lr == pytest.approx(0.24 * images / 64)
        assert found.scaled_lr * found.schedule(1000).factor(999) == pytest.approx(0.0001 * images / 64, rel=0.02)


def test_the_searches_of_heads_at_full_size_are_those_of_the_paper() -> None:
    """From ImageNet's weights, with what FCOS's code freezes, all 12,500 iterations; then 1x. Loading has processes."""
    alone = load_recipe(HeadSearchRecipe, RECIPES / "head-fcos.yaml")
    arms = runs_of(load_recipe(CompareRecipe, RECIPES / "heads-space.yaml"))
    searched = [alone, *(arm for arm in arms.values() if isinstance(arm, HeadSearchRecipe))]
    assert len(searched) == 1 + len(arms)
    wanted = {"input": "693x416", "batch": 4, "iterations": 12_500, "check": 2_500, "stop": False, "lr": 0.004}
    wanted |= {"drops": [0.8], "clip_norm": 20, "cells": 1, "gradient": "first", "cost_weight": 0}
    frozen = {"frozen_stages": 2, "frozen_bn": True, "workers": 4}
    for recipe in searched:
        assert recipe.cells.model_dump(include={*wanted, *frozen}) == wanted | frozen
    sizes = runs_of(load_recipe(CompareRecipe, RECIPES / "heads-size.yaml"))
    trained = {"epochs": 12, "batch": 16, "lr": 0.01, "drops": [0.6667, 0.8889], **frozen}
    for run in [*searched, *sizes.values()]:
        assert run.weights == "imagenet"
        assert run.training.model_dump(include={*trained}) == trained
        assert run.detector.endswith("@1333x800")


def test_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="file"):
        write_recipe(load_recipe(SearchRecipe, builtin("demo")), tmp_path / "file" / "recipe.yaml")
