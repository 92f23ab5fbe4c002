"""Play the simulated production: daily logs and expert pairs, in the store layout that SimulatedProduction reads.

python -m rluf_assets.jobs.play_production SPEC.json
"""

from __future__ import annotations

from rluf_assets.jobs.runner import Job, main
from rluf_assets.lake import Produced


def run(job: Job) -> Produced:
    from rluf_assets.simulation.config import SimulationConfig
    from rluf_assets.simulation.production import play_production

    return play_production(SimulationConfig.model_validate(job.config), job.seed, job.out, job.progress)


if __name__ == "__main__":
    main(run)
