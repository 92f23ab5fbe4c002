"""What test_vllm.py runs in vLLM's environment: `python -m tests.rewards.vllm_scores MODEL ROWS OUT` writes logits as JSON.

ROWS is a JSON list of lists of token ids. vLLM's pooling runner reads the saved folder as it is; without an activation
it gives the raw logit.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(folder: str, rows: str, out: str) -> None:
    from vllm import LLM, PoolingParams

    token_ids = json.loads(Path(rows).read_text())
    llm = LLM(folder, runner="pooling", dtype="float32", enforce_eager=True, gpu_memory_utilization=0.1)
    outputs = llm.classify(
        [{"prompt_token_ids": ids} for ids in token_ids],
        pooling_params=PoolingParams(use_activation=False),
        use_tqdm=False,
    )
    Path(out).write_text(json.dumps([output.outputs.probs[0] for output in outputs]))


if __name__ == "__main__":
    main(*sys.argv[1:])
