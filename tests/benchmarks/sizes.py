"""How much of each thing is done, and how little of it by ``--quick``."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["QUICK", "Sizes"]


@dataclass(frozen=True)
class Sizes:
    """How much of each thing is done."""

    calls: int = 20_000
    blocks: int = 5  # of so many calls, each beside the floor's
    rest_calls: int = 100
    async_calls: int = 2_000
    wandb_calls: int = 5_000
    others: dict[str, int] = field(
        default_factory=lambda: {
            "log_metric(run_id=…)": 5000,
            "log_metrics of 10": 2000,
            "log_param": 500,
            "log_text": 200,
        }
    )
    points: int = 20_000
    million: int = 1_000_000
    million_deadline: float = 1800.0
    runs: int = 100
    points_of_run: int = 200
    swept_runs: int = 1_000
    swept_by: int = 4
    rounds: int = 500
    trained_rows: tuple[int, ...] = (200_000, 1_000_000)  # some seconds, and a quarter of a minute
    pairs: int = 5
    interpreters: int = 7
    served: int = 2_000
    live_calls: int = 60_000
    compared_runs: int = 10_000
    compared_metrics: int = 100
    copied_runs: int = 200
    models: int = 20
    repeats: int = 5  # of a command
    firsts: int = 3
    scored: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)
    scored_repeats: int = 3
    distances: tuple[tuple[int, int], ...] = ((0, 0), (20, 60), (60, 20))
    quick: bool = False


QUICK = Sizes(
    calls=300,
    blocks=1,
    rest_calls=5,
    async_calls=50,
    wandb_calls=50,
    others={"log_metric(run_id=…)": 20, "log_metrics of 10": 20, "log_param": 20, "log_text": 5},
    points=2_000,
    million=5_000,
    runs=5,
    points_of_run=20,
    swept_runs=8,
    swept_by=2,
    rounds=20,
    trained_rows=(5_000,),
    pairs=1,
    interpreters=1,
    served=16,
    live_calls=5_000,
    compared_runs=60,
    compared_metrics=5,
    copied_runs=12,
    models=3,
    repeats=1,
    firsts=1,
    scored=(2_000,),
    scored_repeats=1,
    distances=((20, 60),),
    quick=True,
)
