"""Where the trials of a recipe run."""

from __future__ import annotations

from typing import Final

from detsearch.errors import RecipeError
from detsearch.runs.device import resolve_device, several, threads_each
from detsearch.runs.settings import ExecutionSettings, SearchRecipe
from detsearch.search.execution.base import Executor
from detsearch.search.execution.processes import ProcessExecutor

PRELOAD: Final = ("detsearch.runs.candidate",)
"""What a trial's process needs; imported once, in the parent that all of them are forked from."""


def resolve_devices(recipe: SearchRecipe) -> tuple[str, str]:
    """The device of this process, and the one that trials see; they are the same but on a cluster, where a trial sees
    the GPU that it holds and no other. RecipeError where the recipe wants another, ResourceError where it is not here.
    """
    if recipe.execution.executor == "processes":
        device = resolve_device(recipe.device)
        return device, device
    held = "cuda:0" if recipe.execution.gpus else "cpu"
    if recipe.device not in ("auto", held):
        raise RecipeError("device", f"auto, or {held}, as execution.gpus has it on a Ray cluster", repr(recipe.device))
    return resolve_device("auto"), held


def make_executor(settings: ExecutionSettings, device: str, devices: int = 1) -> Executor:
    """The executor that a recipe asks for, for trials on `device`, or on so many `devices` each, of which `device` is
    the first one's first; ResourceError where there are fewer, no such cluster, or one without the room."""
    limit = None if settings.trial_minutes is None else settings.trial_minutes * 60
    if settings.executor == "ray":
        from detsearch.search.execution.ray_cluster import RayExecutor  # an extra, which not everyone has

        return RayExecutor(
            settings.workers,
            address=settings.address,
            cpus=settings.cpus,
            gpus=settings.gpus,
            threads=settings.cpus,
            time_limit=limit,
            preload=PRELOAD,
        )
    threads = threads_each(settings.workers)
    slots = [device] * settings.workers
    if devices > 1:
        slots = list(several(device, devices * settings.workers, "devices times execution.workers")[::devices])
    return ProcessExecutor(slots, threads=threads, time_limit=limit, preload=PRELOAD)
