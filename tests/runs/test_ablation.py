"""The recipes of SM-NAS's ablation of training strategies say what the names of their arms say."""

from __future__ import annotations

from pathlib import Path

import pytest

from detsearch.arch.code import format_detector
from detsearch.arch.presets import resolve
from detsearch.runs.compare import runs_of
from detsearch.runs.comparison import column
from detsearch.runs.recipe import load_recipe
from detsearch.runs.settings import CompareRecipe

RECIPES = Path(__file__).parents[2] / "recipes"
PUBLISHED = (
    ("bn", "imagenet", 12, 2, 0.02),
    ("bn", "imagenet", 24, 2, 0.02),
    ("bn", "none", 12, 2, 0.02),
    ("bn", "none", 12, 8, 0.20),
    ("gn", "none", 12, 2, 0.02),
    ("gn_ws", "none", 12, 2, 0.02),
    ("gn_ws", "none", 12, 2, 0.10),
    ("gn_ws", "none", 16, 4, 0.16),
)
"""Norm, weights, epochs, images on each of 8 GPUs and learning rate of the rows of the paper's table."""


def test_arms_are_what_they_are_called() -> None:
    recipe = load_recipe(CompareRecipe, RECIPES / "ablation-bccd.yaml")
    assert len(recipe.seeds) >= 5
    kinds = set()
    for key, run in runs_of(recipe).items():
        name, _, _ = key.rpartition("-")
        norm, epochs, batch, lr = name.split("-")
        assert column(run, "norm") == norm
        assert (run.training.epochs, run.training.batch) == (int(epochs), int(batch))
        assert abs(run.training.scaled_lr - float(lr)) < 1e-9
        assert run.weights == "none"
        assert run.training.warmup_steps * run.training.batch == 160, "images, in batches of any size"
        kinds.add((norm, int(batch)))
    assert {("bn", 2), ("gn", 2), ("gn_ws", 2)} <= kinds, "norms are compared at batch 2"


def test_the_paper_s_ablation_has_the_rows_of_its_table() -> None:
    recipe = load_recipe(CompareRecipe, RECIPES / "ablation.yaml", ["base.data.file=any.yaml"])
    assert recipe.columns == ["norm", "weights", "training.epochs", "training.batch", "lr"]
    runs = runs_of(recipe)
    found = []
    for key, run in runs.items():
        training = run.training
        row = column(run, "norm"), run.weights, training.epochs, training.batch // run.devices
        found.append((*row, pytest.approx(training.scaled_lr)))
        norm, weights, epochs, batch, lr = key.removesuffix("-0").split("-")
        assert (norm, {"scratch": "none"}.get(weights, weights), int(epochs), batch) == (*row[:3], f"{row[3]}x8")
        assert float(lr) == pytest.approx(training.scaled_lr)
        assert run.devices == 8
        assert training.frozen_bn == bool(training.frozen_stages) == (run.weights != "none")
        assert not training.sync_bn, "small batches are what it is about"
    assert tuple(found) == PUBLISHED
    assert {str(run.detector) for run in runs.values() if column(run, "norm") == "bn"} == {
        format_detector(resolve("faster_rcnn_r50_fpn"))
    }
