"""Synthetic points: what a run would leave on disk, without a run."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerprune.prune.distance_matrix import DistanceMatrix
from layerprune.record.point import SCHEMA, Point
from layerprune.record.store import Store

VOCABULARY = 49152


def make_profile(
    num_layers: int = 8, key: str = "abcabcabcabc", metric: str = "angular"
) -> DistanceMatrix:
    """Distances that grow with the block and shrink with depth, with some ties."""
    side = num_layers + 1
    distances = [
        [
            round(abs(to - at) * (1.1 - at / side) / side / 2, 2) if at != to else 0.0
            for to in range(side)
        ]
        for at in range(side)
    ]
    return DistanceMatrix(key, {"metric": metric, "sequences": 4}, 4, distances)


def make_speed(layers: int, kept: int) -> dict[str, Any]:
    """A speed that depends on the layers by three quarters only; the rest is the head, say."""

    def spread(value: float) -> dict[str, float]:
        return {"median": value, "low": 0.9 * value, "high": 1.2 * value}

    def timed(count: int) -> dict[str, Any]:
        time = 0.25 + 0.75 * count / layers
        return {
            "prefill": spread(600 / time),
            "decode": spread(30 / time),
            "first_token_s": spread(0.2 * time),
            "weight_bytes": round(2**30 * time),
            "peak_bytes": round(2**30 * (time + 0.5)),
            "flops_per_token": 1e9 * (0.1 + 0.9 * count / layers),
            "flops_per_new_token": 1e9 * (0.3 + 0.7 * count / layers),
        }

    ratio = 1 / (0.25 + 0.75 * kept / layers)
    return {
        "dense": timed(layers),
        "pruned": timed(kept),
        "prefill_ratio": spread(ratio),
        "decode_ratio": spread(ratio),
        "rounds": 5,
        "batch_size": 2,
        "prompt_tokens": 64,
        "new_tokens": 16,
    }


def make_healing(recipe: str, before: float, num_steps: int, share: float = 1.0) -> dict[str, Any]:
    """A healing that takes the held-out loss towards 3, faster by some recipes than by others.

    Its steps take 2.5 seconds for a dense model, and less for a cut one: `share` of the layers.
    """
    step = {"learning_rate": None, "loss": None, "seconds": None}
    if recipe == "linear":
        after = 3 + (before - 3) * 0.8
        return {
            "recipe": recipe,
            "tokens": 16384,
            "seconds": 4.0,
            "trainable_parameters": 0,
            "peak_memory_bytes": 2**30,
            "heldout_before": before,
            "heldout_after": after,
            "steps": [
                {**step, "step": 0, "heldout": before},
                {**step, "step": 1, "heldout": after},
            ],
            "details": {"ridge": 0.01, "explained": 0.4321987},
        }
    speed = 1.0 if recipe == "lora" else 2.0
    losses = [3 + (before - 3) * math.exp(-speed * at / num_steps) for at in range(num_steps + 1)]
    every = max(1, num_steps // 3)
    steps = [
        {
            "step": at,
            # Its noise is made up, but the same each time.
            "loss": loss + 0.2 * math.sin(7 * at * speed) if at else None,
            "learning_rate": 3e-4 * (1 - at / num_steps) if at else None,
            "seconds": 2.5 * share + at / 1000 if at else None,
            "heldout": loss if at % every == 0 or at == num_steps else None,
        }
        for at, loss in enumerate(losses)
    ]
    return {
        "recipe": recipe,
        "tokens": num_steps * 2048,
        "seconds": num_steps * 2.5,
        "trainable_parameters": 4_423_680,
        "peak_memory_bytes": round(3 * 2**30 * (0.25 + 0.75 * share)),
        "heldout_before": before,
        "heldout_after": losses[-1],
        "steps": steps,
        "details": {},
    }


@dataclass
class Maker:
    """Makes points and writes them as a study."""

    study: Path
    made: list[Point] = field(default_factory=list)

    def point(
        self,
        dropped: Sequence[int] = (),
        *,
        model: str = "tiny",
        strategy: str = "block",
        heal: str = "none",
        seed: int = 0,
        num_layers: int = 8,
        tasks: Sequence[str] = ("facts",),
        subjects: Sequence[str] = ("capitals", "physics"),
        questions: int = 20,
        chance: float | None = 0.25,
        limit: int | None = 20,
        steps: int = 6,
        speed: bool = False,
        measure: str = "acc",
        write: bool = True,
    ) -> Point:
        """A point whose accuracy and loss get worse with every layer dropped, and heal in part."""
        count = len(dropped)
        steepness = {"block": 1.0, "deepest": 3.0}.get(strategy, 2.0)
        share = math.exp(-steepness * count / num_layers)
        cut = 3.0 + (1 - share) * 9
        healing = None if heal == "none" else make_healing(heal, cut, steps, 1 - count / num_layers)
        if healing is not None:
            share += 0.4 * (1 - share)
        scores = []
        for task in tasks:
            rights = [
                round(questions * (0.25 + 0.5 * share) * (1 - 0.1 * (at % 7)))
                for at in range(max(1, len(subjects)))  # a task without subjects is one itself
            ]
            total = questions * len(rights)
            # Who answers more questions answers the same ones and more; a group has no digits.
            digits = [f"{'1' * right}{'0' * (questions - right)}" for right in rights]
            alone = None if subjects else digits[0]
            scores.append(self._score(task, None, sum(rights), total, chance, alone, measure))
            scores += [
                self._score(f"{task}_{subject}", task, right, questions, chance, digit, measure)
                for subject, right, digit in zip(subjects, rights, digits, strict=False)
            ]
        nats = cut if healing is None else healing["heldout_after"]
        identity = {
            "schema": 1,
            "seed": seed,
            "model": {"fingerprint": f"weights of {model}", "dtype": "float32"},
            "metric": "angular",
            "prune": {"strategy": strategy, "count": count, "layers": None},
            "heal": {"recipe": heal},
            "eval": {
                "tasks": sorted(tasks), "num_fewshot": None, "limit": limit, "include_path": None,
            },
            "data": {
                "text": "0123456789ab",
                "sequence_length": 128,
                "calibration_sequences": 4,
                "heldout_sequences": 16,
            },
        }  # fmt: skip
        content = {
            "schema": SCHEMA,
            "key": f"p{len(self.made):03d}-{strategy}-{count:02d}",
            "identity": identity,
            "config": {"study": self.study.name},
            "model": {
                "name": model,
                "family": "llama",
                "num_layers": num_layers,
                "parameters_kept": 1000 - count,
                "weight_bytes": 4 * (1000 - count),
            },
            "plan": {
                "strategy": strategy,
                "metric": "angular",
                "fraction_asked": count / num_layers,
                "fraction": count / num_layers,
                "num_layers": num_layers,
                "dropped": list(dropped),
                "kept": [layer for layer in range(num_layers) if layer not in dropped],
                "score": None,
                "reason": "made up",
                "profile": "abcabcabcabc",
            },
            "scores": scores,
            "loss": {
                "nats": nats,
                "normalised": nats / math.log(VOCABULARY),
                "stderr": 0.0625 + 0.01 * count,
                "num_sequences": 16,
            },
            "costs": {
                "seconds": {"answers": 1.5, "heldout": 0.5},
                "shared_by": 1,
                "peak_memory_bytes": 10**9,
            },
            "provenance": {
                "time": f"2025-01-01T00:00:{len(self.made) % 60:02d}+00:00",
                "arguments": ["experiment=demo", "prune=block,deepest"],
                "commit": "0" * 40,
                "python": "3.11.7",
                "platform": "Linux",
                "cpus": 2,
                "threads": 2,
                "deterministic": False,
                "device": "cpu",
                "versions": {"torch": "2.13.0", "wandb": None},
            },
            "healing": healing,
            "speed": make_speed(num_layers, num_layers - count) if speed else None,
        }
        point = Point.from_json(content)
        self.made.append(point)
        if write:
            Store(self.study).write(point)
        return point

    def curve(
        self, strategy: str = "block", counts: Sequence[int] = (0, 2, 4), **more: Any
    ) -> None:
        """A point for each number of layers."""
        num_layers = more.get("num_layers", 8)
        for count in counts:
            last = num_layers - 1 if strategy == "deepest" else num_layers - 2
            self.point(range(last - count, last), strategy=strategy, **more)

    @contextmanager
    def editing(self, at: int = -1) -> Iterator[Any]:
        """Yield the JSON of a point that was made, to be changed in place."""
        content = json.loads(json.dumps(self.made[at].to_json()))
        yield content
        self.made[at] = Point.from_json(content)

    def profile(self, **more: Any) -> DistanceMatrix:
        """Keep a matrix of distances for the points."""
        profile = make_profile(**more)
        Store(self.study).write_distances(profile)
        return profile

    @staticmethod
    def _score(
        task: str,
        parent: str | None,
        right: int,
        total: int,
        chance: float | None,
        correct: str | None,
        measure: str,
    ) -> dict[str, Any]:
        share = right / total
        stderr = math.sqrt(share * (1 - share) / (total - 1))
        return {
            "task": task,
            "parent": parent,
            "measures": {
                measure: {"value": share, "stderr": stderr},
                f"{measure}_norm": {"value": share / 3, "stderr": None},
            },
            "num_samples": total,
            "num_fewshot": 0,
            "version": "1.0",
            "chance": chance,
            "majority": None,
            "correct": correct,
            "accuracy": measure,
        }
