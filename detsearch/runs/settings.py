"""Recipes: a run, described. One YAML file, checked, every field of which can be set on the command line.

Settings that belong to one package live there (`TrainingSettings`, `Augmentation`); here they are put together.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Set
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import Field, field_validator, model_validator

from detsearch.arch.presets import resolve
from detsearch.arch.spaces.modular import MODULES
from detsearch.arch.spec import DetectorSpec, Norm
from detsearch.data.transforms import Augmentation
from detsearch.errors import UserError
from detsearch.evaluation.voc import Convention
from detsearch.search.early import EARLY, Early
from detsearch.search.objective import MAXIMISED, MINIMISED, Limit, Objective, check_objectives
from detsearch.supernet.settings import CellSearchSettings
from detsearch.training.settings import TrainingSettings
from detsearch.types import InputSize
from detsearch.yamlfile import Section

FIGURES: Final = MAXIMISED | MINIMISED
"""What every trained candidate has, by the names that objectives use; `OF_MASKS` where it has a mask branch only."""

TRIALS: Final = 40
"""Candidates that are trained where a recipe does not say how many."""

SURVEYED: Final = 2
SURVEYED_AT_MOST: Final = 200
"""Members whose cost is measured first, for each training and at most, where a recipe does not say how many."""

FIRST_PAUSE: Final = 0.2
"""Share of a training after which it pauses for the first time with strategy surrogate, where a recipe does not say
when, ..."""
WARMED_UP: Final = 1.5
"""... or after so many times its warm-up, if that is later, as figures from within it say little; in whole epochs."""

COSTS: Final = MINIMISED - {"train_seconds"}
"""Those that are known before training: what limits may be about."""


class DataSettings(Section):
    """Which images. Split names may be joined: ``train+val``."""

    file: str = Field(description="Data file (YAML); a relative path is read from the working directory.")
    train: str = Field("train", description="Split that is trained on.")
    val: str = Field("val", description="Split that candidates are compared on.")
    test: str | None = Field(None, description="Split that the chosen ones are reported on; null: none.")
    cache_mb: int = Field(512, ge=0, description="Memory for decoded images, MiB per training process; 0: none kept.")


class LatencySettings(Section):
    """How long latency is measured: batch 1, image on the device, post-processing at a fixed load."""

    warmup: int = Field(5, ge=1, le=10_000, description="Runs in a group of warm-up runs; they go on until steady.")
    runs: int = Field(20, ge=3, le=100_000, description="Least number of runs whose median is the latency.")
    seconds: float = Field(1.0, gt=0, le=600, description="Least duration of the measurement.")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; null: one per core.")


class EvaluationSettings(Section):
    """How a trained detector is scored."""

    batch: int = Field(8, ge=1, le=4096, description="Images per forward pass.")
    voc: Convention = Field("area", description="VOC's AP: area under the curve (2010 on), or mean of 11points (2007).")


def check_shared(training: TrainingSettings, devices: int) -> None:
    """ValueError where devices, and the parts in which each has its images, could have no equal shares of a batch."""
    parts, batch = devices * training.accumulate, training.batch
    if batch % parts:
        what = "devices" if training.accumulate == 1 else "devices times training.accumulate"
        raise ValueError(f"training.batch: a multiple of {parts}, which is {what}, not {batch}")


class Run(Section):
    """What trainings and searches share."""

    data: DataSettings
    augmentation: Augmentation = Field(default_factory=Augmentation, description="Random changes of training images.")
    training: TrainingSettings = Field(default_factory=TrainingSettings, description="How a detector is trained.")
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings, description="How it is scored.")
    weights: str = Field(
        "none",
        description="What training begins with: none; imagenet or a file of weights, for the backbone; or a checkpoint "
        "of the same network, for the whole detector.",
    )
    latency: LatencySettings = Field(default_factory=LatencySettings, description="How latency is measured.")
    device: str = Field("auto", description="cpu, cuda:0, ...; auto: the first GPU if there is one.")
    devices: int = Field(
        1,
        ge=1,
        le=64,
        description="Devices that share each batch of a training: GPUs from `device` on, or processes on a CPU. The "
        "result is that of one device, but for batch norms (see training.sync_bn), which images are padded together, "
        "and random samples of two-stage detectors.",
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Of everything random in the run.")

    @model_validator(mode="after")
    def _batch_is_shared(self) -> Self:
        check_shared(self.training, self.devices)
        return self


class TrainRecipe(Run):
    """One detector, trained and scored."""

    detector: str = Field(description="Preset, code such as resnet18/fpn/retinanet@512x512, or a file that holds one.")
    norm: Norm | None = Field(
        None, description="Norm in place of the detector's own, such as bn for one that was searched with gn_ws."
    )

    def spec(self) -> DetectorSpec:
        """The detector that is trained; SpecError where there is no such one."""
        spec = resolve(self.detector)
        return spec if self.norm is None else spec.with_network(norm=self.norm)


class HeadSearchRecipe(Run):
    """A differentiable search of a head's cells. The section `cells` says how it is done; the others how the detector
    that it finds is trained and measured."""

    detector: str = Field(
        description="Preset or code with an fcos or retinanet head, or with a mask branch; the search replaces the "
        "convolutions there by cells."
    )
    cells: CellSearchSettings = Field(default_factory=CellSearchSettings, description="How cells are searched.")


class CompareRecipe(Section):
    """Runs that differ in what is compared, the arms, each over the same seeds."""

    kind: Literal["train", "head"] = Field(
        "train", description="What an arm is: train, a training; head, a search of a head's cells, then the training."
    )
    base: dict[str, Any] = Field(description="A recipe of that kind, as `detsearch schema` has it, without a seed.")
    arms: dict[str, dict[str, Any]] = Field(
        min_length=1,
        description="By name, fields of the recipe that the arm has in place of the base's, such as "
        "{bn: {detector: resnet18/fpn/retinanet@320x256, training.lr: 0.02}}. The first is what others are compared "
        "with. In place of `detector` an arm may have `study`, the folder of a search, with `trial`, a number, or "
        "`front`, a place among those of its front that together dominate most, 1 the first; or `checkpoint`, whose "
        "weights its training begins with as well.",
    )
    input: str | None = Field(
        None, description="Input size, WxH, of the detectors of all arms; null: each has its own."
    )
    seeds: list[Annotated[int, Field(ge=0, le=2**32 - 1)]] = Field([0], min_length=1, description="Of every arm.")
    figures: list[str] = Field(["ap", "ap50"], min_length=1, description="What the table shows, of each split.")
    columns: list[str] | None = Field(
        None,
        description="Fields of the arms' recipes that the table shows, such as training.batch or weights; norm is the "
        "detector's, lr the learning rate that the batch makes of training.lr; null: those in which arms differ.",
    )
    latency: bool = Field(False, description="Whether each arm's latency is measured too, when all are trained.")
    workers: int = Field(1, ge=1, le=1024, description="Runs at once, each in a process of its own.")

    @field_validator("arms")
    @classmethod
    def _names(cls, arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, fields in arms.items():
            if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", name) is None:
                raise ValueError(
                    f"names of letters, digits, dots, dashes and plus signs (folders are called so), not {name!r}"
                )
            if "seed" in fields:
                raise ValueError(f"{name}: a seed belongs to `seeds`, so that arms are compared at equal ones")
        return arms

    @field_validator("figures")
    @classmethod
    def _figures(cls, names: list[str]) -> list[str]:
        _known(names, MAXIMISED)
        return names

    @field_validator("input")
    @classmethod
    def _size(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                InputSize.parse(text)
            except UserError as error:
                raise ValueError(error.expected) from None
        return text

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("every seed once")
        return seeds


Weight: TypeAlias = Annotated[float, Field(gt=0, le=1000)]


class SearchSettings(Section):
    """How candidates are proposed and which are left out before training."""

    strategy: Literal["evolution", "surrogate", "random", "nsga2", "tpe", "all"] = Field(
        "surrogate",
        description="surrogate: what a model of the figures so far finds most promising; evolution (SM-NAS); random "
        "search; optuna's nsga2 or tpe, to compare with; all: every member of the space once, in order, none pruned.",
    )
    initial: int = Field(
        8, ge=1, description="Random members before the strategy begins, chosen so that every kind of part occurs."
    )
    survey: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="Members whose cost is measured before the first training, so that the model need not guess it; "
        f"null: {SURVEYED} for each training that the budget allows, at most {SURVEYED_AT_MOST}; only with strategy "
        "surrogate.",
    )
    start: list[str] = Field([], description="Members of the space that are tried first: presets or codes.")
    rungs: list[Annotated[int, Field(ge=1)]] | None = Field(
        None,
        description="Epochs, fewer than training.epochs, at which trainings pause and only the better ones go on, such "
        "as [4]; []: all are trained in full; null: with strategy surrogate after about a fifth of training.epochs, or "
        "one and a half times the warm-up if that is later, and at the geometric mean of that and training.epochs, "
        "else [].",
    )
    promote: Literal["rank", "model"] | None = Field(
        None,
        description="Who decides what goes on from a rung: rank, the best one in `eta` of those that reached it "
        "(successive halving); model, with strategy surrogate, what promises most for each further epoch, beside new "
        "candidates; null: the model where there is one.",
    )
    early: dict[str, Annotated[dict[str, Weight], Field(min_length=1)]] | None = Field(
        None,
        description="What strategy surrogate takes for an objective after fewer epochs than some training has had: "
        "weights of figures that tell more early, such as {ap: {ap50: 0.5, ar_10: 0.5}}; {}: the objective itself; "
        "null: for ap (and mask_ap) a quarter of it, a quarter of ap50 and a half of ar_10.",
    )
    eta: int = Field(
        3, ge=2, le=100, description="Of the candidates that reach a rung, one in so many is trained on by rank."
    )
    prune: bool = Field(True, description="Leave out what the partial order shows to be dominated.")
    slack: float = Field(0.01, ge=0, le=1, description="AP by which pruning must be sure, against noise.")
    inherit: bool = Field(
        False,
        description="Begin a training with the weights of its parent (evolution) or of the nearest trained candidate "
        "(surrogate), tensors of equal name and shape. Figures are then not those of training from scratch.",
    )

    @model_validator(mode="after")
    def _parents(self) -> Self:
        if self.inherit and self.strategy not in ("evolution", "surrogate"):
            raise ValueError(f"strategy evolution or surrogate beside inherit, not {self.strategy}")
        return self

    @model_validator(mode="after")
    def _promoting(self) -> Self:
        if self.promote == "model" and (self.strategy != "surrogate" or self.rungs == []):
            raise ValueError("strategy surrogate and rungs, at which trainings pause, beside promote: model")
        return self

    @model_validator(mode="after")
    def _surveying(self) -> Self:
        if self.survey and self.strategy != "surrogate":
            raise ValueError(f"strategy surrogate, whose model learns from costs, beside survey, not {self.strategy}")
        return self

    @field_validator("early")
    @classmethod
    def _early(cls, early: dict[str, dict[str, float]] | None) -> dict[str, dict[str, float]] | None:
        for objective, weights in (early or {}).items():
            _known([objective, *weights], MAXIMISED)
        return early

    @model_validator(mode="after")
    def _pausing(self) -> Self:
        if self.early and (self.strategy != "surrogate" or self.rungs == []):
            raise ValueError("strategy surrogate and rungs, whose figures its model sees, beside early")
        return self

    @property
    def standing(self) -> Early:
        """What stands for objectives at a rung."""
        return EARLY if self.early is None else self.early

    def surveyed(self, trainings: int, objectives: Iterable[str]) -> int:
        """Of how many members the cost is measured first, in a search for `objectives` by so many full trainings."""
        if self.strategy != "surrogate" or not COSTS.intersection(objectives):
            return 0
        return min(SURVEYED * trainings, SURVEYED_AT_MOST) if self.survey is None else self.survey

    @property
    def by_model(self) -> bool:
        """Does a model decide what is trained on from a rung?"""
        return self.strategy == "surrogate" and self.promote != "rank"

    def pauses(self, epochs: int, warmup: float) -> tuple[int, ...]:
        """After how many epochs a training of so many `epochs`, the first of which are its `warmup`, pauses, ascending;
        it may never. If the recipe does not say: where early figures begin to tell, and once on half of the way from
        there to the end, on a logarithmic scale."""
        if self.rungs is not None:
            return tuple(self.rungs)
        if self.strategy != "surrogate":
            return ()
        first = max(1.0, FIRST_PAUSE * epochs, WARMED_UP * warmup)
        return tuple(sorted({round(first), round(math.sqrt(round(first) * epochs))} & set(range(1, epochs))))


class BudgetSettings(Section):
    """When the search ends: whichever comes first."""

    trials: int | None = Field(
        None,
        ge=1,
        description="Candidates that are begun, failed ones included, pruned and costed ones not; null: 40, or every "
        "one under the strategy all or with `epochs`.",
    )
    epochs: int | None = Field(None, ge=1, description="Epochs of all trainings together; null: no limit.")
    hours: float | None = Field(None, gt=0, description="Wall time of one run of the command; null: no limit.")


class ExecutionSettings(Section):
    """Where trials run."""

    executor: Literal["processes", "ray"] = Field(
        "processes", description="processes of this machine, or the nodes of a Ray cluster that runs already."
    )
    address: str | None = Field(None, description="Address of the Ray cluster; null: the one of this machine.")
    workers: int = Field(1, ge=1, le=1024, description="Trials at once, each in a process of its own.")
    cpus: int = Field(1, ge=1, le=1024, description="CPUs that a trial on a Ray cluster holds, and threads it uses.")
    gpus: float = Field(
        0.0,
        ge=0,
        le=64,
        description="GPUs that a trial on a Ray cluster holds, all of one node: a share, such as 0.5, lets several use "
        "one; of several its training uses all, as `devices` of the recipe then says.",
    )
    trial_minutes: float | None = Field(None, gt=0, description="Time limit of one trial; null: none.")


class SearchRecipe(Run):
    """A structural search."""

    space: dict[str, list[Any] | dict[str, Any]] = Field(
        default_factory=dict,
        description="Lists of choices for backbone, neck, proposals, head, norm and input; parts not named keep the "
        "defaults. A choice is a module's text, such as fpn(levels=3-4-5), or a mapping that stands for the product of "
        "its lists: {fpn: {levels: [3-4-5, 2-3-4-5], width: [64, 128]}}. `detsearch modules` lists modules and fields. "
        "Or, in place of all these, `detectors`: a list of presets and codes, such as faster_rcnn_r50_fpn@800x600; or "
        "`cells`, which varies those of one detector's head: {detector: fcos_r18_fpn@512x512, operations: full}; or "
        "`modules`, which varies the block code of one detector's backbone and its neck's width (SM-NAS, stage two): "
        "{structure: faster_rcnn_r18_fpn@512x512, base: [48, 56, 64, 72], width: [128, 256, 512], depth: 102, "
        "doublings: [3], spread: [0.25, 2], stem: deep, norm: gn_ws}, of which all but the structure are defaults.",
    )
    objectives: list[str] = Field(
        ["ap:max", "latency_ms:min"],
        description="What the front is about: NAME:max or :min. In a space of `modules` ap:max and macs:min, those of "
        "the whole detector, unless others are named; backbone_macs are those of the backbone alone.",
    )
    limits: list[str] = Field([], description="Ceilings checked before training, such as latency_ms<=30.")
    search: SearchSettings = Field(default_factory=SearchSettings, description="How candidates are found.")
    budget: BudgetSettings = Field(default_factory=BudgetSettings, description="When to stop.")
    execution: ExecutionSettings = Field(default_factory=ExecutionSettings, description="Where trials run.")

    def pauses(self, images: int) -> tuple[int, ...]:
        """After how many epochs a training on so many `images` pauses."""
        return self.search.pauses(self.training.epochs, self.training.warmup_epochs(images))

    @property
    def trainings(self) -> int:
        """How many full trainings the budget is worth."""
        trials, epochs = self.budget.trials, self.budget.epochs
        if epochs is None:
            return trials or TRIALS
        affordable = max(1, epochs // self.training.epochs)
        return min(trials or affordable, affordable)

    @model_validator(mode="after")
    def _surveyed_for_something(self) -> Self:
        names = [Objective.parse(text).name for text in self.objectives]
        if self.search.survey and not COSTS.intersection(names):
            raise ValueError(f"search.survey: an objective that is known before training, not {', '.join(names)} alone")
        return self

    @model_validator(mode="after")
    def _early_of_objectives(self) -> Self:
        names = [Objective.parse(text).name for text in self.objectives]
        if others := set(self.search.early or ()).difference(names):
            raise ValueError(f"search.early: objectives ({', '.join(names)}), not {', '.join(sorted(others))}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _devices_of_gpus(cls, raw: Any) -> Any:
        """Several GPUs that a trial holds are there to be used."""
        execution = raw.get("execution") if isinstance(raw, dict) else None
        gpus = execution.get("gpus") if isinstance(execution, dict) else None
        # Within the field's bounds: an integer of hundreds of digits is no float.
        if isinstance(gpus, int | float) and 1 < gpus <= 64 and float(gpus).is_integer() and "devices" not in raw:
            return {**raw, "devices": int(gpus)}
        return raw

    @model_validator(mode="after")
    def _gpus_of_devices(self) -> Self:
        gpus = self.execution.gpus
        if (gpus > 1 and gpus != self.devices) or (self.devices > 1 and gpus not in (0, self.devices)):
            wanted = "a share of one, or the whole number that devices is" if gpus > 1 else "one for each device"
            raise ValueError(f"execution.gpus: {wanted} ({self.devices}), not {gpus:g}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _objectives_of_modules(cls, raw: Any) -> Any:
        """MACs rank the insides of one structure reliably, where time is needed to rank structures."""
        space = raw.get("space") if isinstance(raw, dict) else None
        if isinstance(space, dict) and MODULES in space and "objectives" not in raw:
            return {**raw, "objectives": ["ap:max", "macs:min"]}
        return raw

    @field_validator("objectives")
    @classmethod
    def _objectives(cls, texts: list[str]) -> list[str]:
        try:
            objectives = [Objective.parse(text) for text in texts]
            check_objectives(objectives)
        except UserError as error:
            raise ValueError(error.expected) from None
        _known([objective.name for objective in objectives], FIGURES)
        return texts

    @model_validator(mode="after")
    def _rungs(self) -> Self:
        rungs = [*(self.search.rungs or []), self.training.epochs]
        if rungs != sorted(set(rungs)):
            wanted = f"search.rungs: ascending epochs below training.epochs ({self.training.epochs})"
            raise ValueError(f"{wanted}, not {self.search.rungs}")
        return self

    @field_validator("limits")
    @classmethod
    def _limits(cls, texts: list[str]) -> list[str]:
        try:
            limits = [Limit.parse(text) for text in texts]
        except UserError as error:
            raise ValueError(error.expected) from None
        _known([limit.name for limit in limits], COSTS)
        return texts


class StagesRecipe(Section):
    """Both stages of SM-NAS with one budget."""

    structure: dict[str, Any] = Field(description="Recipe of the search of structures, without a budget.")
    modules: dict[str, Any] = Field(
        default_factory=dict,
        description="Recipe of the search inside of them, without structures and budget; sections of data, training "
        "and the like that it does not have are as in `structure`, but weights are none, and nothing is frozen.",
    )
    count: int = Field(
        6,
        ge=1,
        description="Structures along the front inside of which the second stage searches, chosen when it begins.",
    )
    budget: BudgetSettings = Field(
        default_factory=BudgetSettings,
        description="Of both stages together; once the second has begun, more is the second's.",
    )
    share: float = Field(
        0.5, gt=0, lt=1, description="Share of the budget that the first stage has at most; the second has the rest."
    )

    @field_validator("structure", "modules")
    @classmethod
    def _one_budget(cls, stage: dict[str, Any]) -> dict[str, Any]:
        if "budget" in stage:
            raise ValueError("no budget of its own: both stages share `budget`")
        return stage


def _known(names: list[str], figures: Set[str]) -> None:
    """ValueError, with a suggestion, for a name that is no figure."""
    for name in names:
        if name not in figures:
            near = difflib.get_close_matches(name, figures, 1)
            raise ValueError(
                f"one of {', '.join(sorted(figures))}; {name!r} is none"
                + (f", did you mean {near[0]}?" if near else "")
            )
