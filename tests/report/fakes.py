"""Studies that look real, for reports: specs of a small space, closed-form figures with noise, every state."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from detsearch.arch.code import format_detector, parse_detector
from detsearch.report.view import StudyView
from detsearch.search.objective import Limit, Objective
from detsearch.search.trial import Trial, TrialState
from detsearch.types import CostMetrics, Fidelity, Latency, LatencyProtocol, Metrics

BACKBONES = (
    "basicblock_16_11-21-21-21",
    "basicblock_32_11-21-21-21",
    "bottleneck_16_11-21-211-21(stem=7x7)",
    "resnet18",
    "mobilenetv2",
)
INPUTS = ("256x192", "320x256", "416x320", "512x384")
OBJECTIVES = (Objective("ap", True), Objective("latency_ms", False))
START = datetime(2026, 3, 4, 9, 12, tzinfo=UTC)


def latency(ms: float, size: str = "320x256", iqr: float = 0.2, steady: bool = True) -> Latency:
    return Latency(
        median_ms=ms,
        iqr_ms=iqr,
        steady=steady,
        protocol=LatencyProtocol(
            device="cpu",
            device_name="Example CPU 3.1 GHz",
            runtime="eager",
            precision="float32",
            threads=2,
            batch=1,
            input=size,
            warmup=10,
            runs=50,
            includes="normalisation, network, decoding of boxes, NMS",
            excludes="image decoding, resizing",
        ),
    )


def trial(
    number: int,
    ap: float | None = None,
    ms: float | None = None,
    *,
    state: TrialState = TrialState.COMPLETE,
    code: str = "resnet18/fpn(levels=3-4-5,width=64)/retinanet(depth=2)@320x256",
    epochs: int = 12,
    shown: str | None = None,
    reason: str | None = None,
    origin: str = "random",
    parents: tuple[int, ...] = (),
    iqr: float = 0.2,
    steady: bool = True,
    macs: int = 2_000_000_000,
) -> Trial:
    """One trial; `shown` is a code as text that need not be one (a hostile ledger)."""
    spec = parse_detector(code)
    cost = None
    if ms is not None:
        measured = latency(ms, str(spec.input), iqr, steady)
        cost = CostMetrics(params=macs // 400, macs=macs, memory_access=macs // 100, latency=measured)
    fidelity = Fidelity(epochs)
    metrics = None
    if ap is not None:
        metrics = Metrics(
            values={"ap": ap, "ap50": min(1.0, ap * 1.6), "train_seconds": 90.0 + number}, fidelity=fidelity
        )
    began = START + timedelta(minutes=4 * number)
    return Trial(
        number=number,
        code=format_detector(spec) if shown is None else shown,
        spec=spec,
        state=state,
        fidelity=fidelity,
        seed=number,
        origin=origin,
        parents=parents,
        cost=cost,
        metrics=metrics,
        reason=reason,
        started=began,
        finished=began + timedelta(minutes=3),
        attempts=0 if state in (TrialState.PRUNED, TrialState.WAITING) else 1,
    )


def study(count: int = 32, seed: int = 0) -> list[Trial]:
    """Trials as a search would leave them: most complete, some pruned, a few failed."""
    rng = np.random.default_rng(seed)
    found: list[Trial] = []
    for number in range(count):
        backbone, size = int(rng.integers(len(BACKBONES))), int(rng.integers(len(INPUTS)))
        width, depth = int(rng.choice([48, 64, 96])), int(rng.integers(1, 4))
        levels = str(rng.choice(["3-4-5", "3-4-5-6", "2-3-4-5"]))
        code = f"{BACKBONES[backbone]}/fpn(levels={levels},width={width})/retinanet(depth={depth})/gn_ws@{INPUTS[size]}"
        macs = int(4e8 * (1 + backbone) * (1 + size) ** 1.4 * width / 64 * (1 + depth / 4))
        ms = 3.0 + macs / 1.9e8 * float(rng.uniform(0.75, 1.3))
        ap = 0.58 - 0.42 * np.exp(-macs / 1.6e9) + float(rng.normal(0, 0.025)) - 0.02 * (backbone == 2)
        complete = [other.number for other in found if other.state is TrialState.COMPLETE]
        evolved = number >= 8 and bool(complete)
        origin = ("mutation" if evolved else "random", (int(rng.choice(complete)),) if evolved else ())
        common = {"code": code, "origin": origin[0], "parents": origin[1], "macs": macs}
        if ms > 60:
            reason = f"latency_ms={ms:.6g} is above the limit latency_ms<=60"
            found.append(trial(number, None, ms, state=TrialState.PRUNED, reason=reason, **common))  # type: ignore[arg-type]
        elif evolved and rng.random() < 0.15:
            reason = f"deeper and wider than trial {complete[-1]}, which trial {complete[0]} beats by 0.031 AP"
            found.append(trial(number, None, ms, state=TrialState.PRUNED, reason=reason, **common))  # type: ignore[arg-type]
        elif number % 13 == 11:
            reason = "loss is not finite at epoch 3, step 41: classification=nan; lower training.lr"
            found.append(trial(number, None, ms, state=TrialState.FAILED, reason=reason, **common))  # type: ignore[arg-type]
        else:
            iqr, steady = ms * float(rng.uniform(0.01, 0.12)), bool(rng.random() > 0.06)
            found.append(trial(number, float(ap), ms, iqr=iqr, steady=steady, **common))  # type: ignore[arg-type]
    return found


def view(trials: list[Trial], **changes: object) -> StudyView:
    known: dict[str, object] = {
        "name": "Blood cells on a laptop",
        "folder": "runs/bccd",
        "objectives": OBJECTIVES,
        "limits": (Limit("latency_ms", 60.0),),
        "space_size": 2160,
        "seed": 7,
        "created": START,
        "finished": START + timedelta(hours=2, minutes=9),
        "device": "cpu, 2 trials at a time with 1 thread each",
        "recipe": "search:\n  trials: 32\n  objectives: [ap:max, latency_ms:min]\ntraining:\n  epochs: 12\n",
        "data": {"Data": "bccd.yaml, 3 classes", "Images": "train 205, val 87, test 72"},
        "versions": {"detsearch": "0.1.0", "PyTorch": "2.11.0", "Python": "3.11.7"},
        "commands": {
            "Search again": "detsearch search structure recipe.yaml --seed 7",
            "This report": "detsearch report runs/bccd",
        },
        "train_commands": {
            t.number: f"detsearch train '{t.code}' --data bccd.yaml --split train+val --set training.epochs=50"
            for t in trials
            if t.state is TrialState.COMPLETE
        },
        "test": {
            t.number: {"ap": v["ap"] - 0.013, "ap50": v["ap50"] - 0.02} for t in trials if "ap" in (v := t.values())
        },
    }
    return StudyView(**(known | changes))  # type: ignore[arg-type]
