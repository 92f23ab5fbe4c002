"""Speed of policy optimisation, always beside a rival in the same run: `python -m benchmarks.policy [--prompts 32]`.

On one small random Llama and three reward models of its shape, HH-RLHF first messages as prompts: sampling against
`transformers.generate`, and against vLLM where this runs in its environment (`.venv-vllm/bin/python -m benchmarks.policy
--sampling-only`); a whole CRRAFT iteration, phase by phase, with its FLOPs over time; and TRL's GRPOTrainer with the same
models, generations and lengths (extra `bench`). The policy is random, so replies hardly ever end early on either side.
Threads, gradient checkpointing and dtype are alike on both sides: bfloat16 passes, of the reward models too (autocast in
TRL, bfloat16 weights here), float32 weights of what is trained. Processor seconds count what other work on the machine
does not disturb; with one thread they are the wall time of an idle machine.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rluf_assets.chat import CHAT_TEMPLATE, END, PAD, SPECIAL_TOKENS
from rluf_assets.policy.config import OptimisationConfig
from rluf_assets.policy.engine import TransformersEngine
from rluf_assets.policy.loop import optimise_policy
from rluf_assets.rewards.calibration import Calibration
from rluf_assets.rewards.model import load_network, save_network
from rluf_assets.rewards.scoring import RewardModel

if TYPE_CHECKING:
    from rluf_assets.policy.vllm_engine import VLLMEngine

HH = Path(__file__).parents[2] / "shared" / "data" / "hh_rlhf" / "helpful-base.jsonl.gz"
OBJECTIVES = ("helpfulness", "safety", "love")
MAX_LENGTH = 512
ITERATIONS = 3  # the first is warm-up on both sides


def read_prompts(count: int) -> list[str]:
    with gzip.open(HH, "rt") as stream:
        first = [json.loads(line)["chosen"].split("\n\nHuman: ")[1].split("\n\nAssistant:")[0] for line in stream]
    return [text for text in first if 0 < len(text.split()) <= 60][:count]


def make_models(root: Path, texts: list[str], hidden: int, layers: int, vocabulary: int) -> None:
    """A policy folder and one reward-model folder per objective, random weights."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    raw.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=PAD, eos_token=END, chat_template=CHAT_TEMPLATE, padding_side="left"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=8 * hidden // 3 // 16 * 16,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        head_dim=32,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(root / "policy")
    tokenizer.save_pretrained(root / "policy")
    for i, objective in enumerate(OBJECTIVES):
        torch.manual_seed(1 + i)
        network = load_network(root / "policy")
        save_network(network.model, network.tokenizer, root / objective)
        Calibration(objective="bce", signal=objective, temperature=1.0, shift=0.0, max_length=MAX_LENGTH).save(
            root / objective
        )


def sampling(root: Path, texts: list[str], n: int, new_tokens: int) -> dict[str, float]:
    """Tokens per second of the engine and of `generate` with num_return_sequences, best of three each (so: warm)."""
    engine = TransformersEngine(root / "policy", dtype=torch.bfloat16)
    prompts = [[{"role": "user", "content": text}] for text in texts]
    tokenizer = engine.encoder.tokenizer
    tokenizer.padding_side = "left"
    tokens = len(texts) * n * new_tokens
    found = {"engine": 0.0, "generate": 0.0}
    rival = vllm_engine(root)
    for _ in range(3):
        if rival is not None:
            begin = time.perf_counter()
            replies = rival.sample(prompts, n=n, max_new_tokens=new_tokens, seed=0)
            drawn = sum(len(reply.token_ids) for row in replies for reply in row)
            found["vllm"] = max(found.get("vllm", 0.0), drawn / (time.perf_counter() - begin))
        begin = time.perf_counter()
        replies = engine.sample(prompts, n=n, max_new_tokens=new_tokens, seed=0)
        drawn = sum(len(reply.token_ids) for row in replies for reply in row)
        found["engine"] = max(found["engine"], drawn / (time.perf_counter() - begin))
        begin = time.perf_counter()
        batch = tokenizer([engine.encoder.render(p) for p in prompts], return_tensors="pt", padding=True)
        batch.pop("token_type_ids", None)
        with torch.inference_mode():
            engine.model.generate(
                **batch, do_sample=True, num_return_sequences=n, max_new_tokens=new_tokens, min_new_tokens=new_tokens
            )
        found["generate"] = max(found["generate"], tokens / (time.perf_counter() - begin))
    return found


def vllm_engine(root: Path) -> VLLMEngine | None:
    """vLLM on the same weights, where it is installed."""
    try:
        import vllm  # noqa: F401
    except ImportError:
        return None
    from rluf_assets.policy.config import VllmConfig
    from rluf_assets.policy.vllm_engine import VLLMEngine

    return VLLMEngine(root / "policy", VllmConfig(dtype="bfloat16"))


def crraft(root: Path, texts: list[str], n: int, new_tokens: int) -> dict[str, float]:
    """Median seconds per phase over the iterations after the first, and processor seconds of a whole one."""
    prompts = pl.DataFrame(
        [
            {
                "prompt_id": str(i),
                "prompt": [{"role": "user", "content": text}],
                "use_case": "hh",
                "split": "optimisation",
            }
            for i, text in enumerate(texts)
        ]
    )
    prompts.write_parquet(root / "prompts.parquet")
    out = root / "run"
    out.mkdir()
    clock = [time.process_time()]
    optimise_policy(
        root / "policy",
        root / "prompts.parquet",
        {objective: RewardModel.load(root / objective, dtype="bfloat16") for objective in OBJECTIVES},
        OptimisationConfig(
            weights=dict.fromkeys(OBJECTIVES, 1.0),
            # The judges that random text passes: else nothing would be learned, and the update be skipped.
            judges=("unsafe_compliance", "false_refusal", "emotional_manipulation"),
            iterations=ITERATIONS,
            prompts_per_iteration=len(texts),
            completions_per_prompt=n,
            max_new_tokens=new_tokens,
            updates_per_iteration=1,
            learning_rate=1e-5,
            dtype="bfloat16",
            gradient_checkpointing=True,
            max_empty_iterations=99,
        ),
        out=out,
        progress=lambda done, total, figures: clock.append(time.process_time()),
    )
    lines = [json.loads(line) for line in (out / "logs" / "metrics.jsonl").read_text().splitlines()][1:]
    found = {key: statistics.median(line[key] for line in lines) for key in lines[0] if key.startswith("seconds")}
    return {**found, "processor": statistics.median(np.diff(clock[1:]))}


def grpo(root: Path, texts: list[str], n: int, new_tokens: int) -> tuple[float, float, float] | None:
    """Seconds of one GRPO step of TRL on the same models, of its sampling and scoring, and processor seconds of the step.

    None where TRL is not installed.
    """
    try:
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer
    except ImportError:
        return None
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

    class Clock(TrainerCallback):
        times: list[tuple[float, float]] = []  # noqa: RUF012

        def on_step_end(self, *args: object, **kwargs: object) -> None:
            self.times.append((time.perf_counter(), time.process_time()))

    class Timed(GRPOTrainer):
        sampled: list[float] = []  # noqa: RUF012

        def _generate_and_score_completions(self, inputs: object) -> object:
            begin = time.perf_counter()
            made = super()._generate_and_score_completions(inputs)
            self.sampled.append(time.perf_counter() - begin)
            return made

    tokenizer = AutoTokenizer.from_pretrained(root / "policy")
    trainer = Timed(
        model=LlamaForCausalLM.from_pretrained(root / "policy"),
        processing_class=tokenizer,
        reward_funcs=[
            AutoModelForSequenceClassification.from_pretrained(root / objective, num_labels=1)
            for objective in OBJECTIVES
        ],
        reward_processing_classes=[AutoTokenizer.from_pretrained(root / objective) for objective in OBJECTIVES],
        train_dataset=Dataset.from_dict(
            {"prompt": [[{"role": "user", "content": text}] for text in texts] * ITERATIONS}
        ),
        args=GRPOConfig(
            output_dir=str(root / "grpo"),
            per_device_train_batch_size=n * len(texts),
            num_generations=n,
            max_completion_length=new_tokens,
            max_steps=ITERATIONS,
            beta=0.01,
            learning_rate=1e-5,
            gradient_checkpointing=True,
            bf16=True,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        ),
        callbacks=[Clock()],
    )
    trainer.train()
    wall, processor = np.median(np.diff(Clock.times, axis=0), axis=0).tolist()
    return wall, statistics.median(Timed.sampled[1:]), processor


def iteration_flops(root: Path, texts: list[str], n: int, new_tokens: int) -> float:
    """2 FLOPs per parameter and token of each forward pass, 6 of a forward and backward pass, attention left out."""
    engine = TransformersEngine(root / "policy")
    parameters = sum(p.numel() for p in engine.model.parameters())
    prompt = sum(map(len, engine.encoder.encode([[{"role": "user", "content": text}] for text in texts], MAX_LENGTH)))
    replies, chosen = len(texts) * n * new_tokens, len(texts) * new_tokens
    sampled = prompt + replies
    scored = len(OBJECTIVES) * (prompt + replies)
    tested = 2 * (prompt + chosen)  # candidates of the KL test, and the sample for the record
    return parameters * (2.0 * (sampled + scored + tested) + 6.0 * (prompt + chosen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (
        ("prompts", 32), ("n", 4), ("new-tokens", 64), ("hidden", 256), ("layers", 4), ("vocabulary", 4096), ("threads", 1),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--sampling-only", action="store_true", help="the engines alone, as in vLLM's environment")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    texts = read_prompts(given.prompts)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_models(root, texts, given.hidden, given.layers, given.vocabulary)
        speed = sampling(root, texts, given.n, given.new_tokens)
        print(f"\n{len(texts)} prompts x {given.n} x {given.new_tokens}, {given.hidden} wide, {given.layers} layers\n")
        print("| measured | value |\n|---|---|")
        for name, value in speed.items():
            print(f"| sampling, {name} | {value:,.0f} tokens/s, engine over it {speed['engine'] / value:.2f}x |")
        if given.sampling_only:
            return
        seconds = crraft(root, texts, given.n, given.new_tokens)
        rival = grpo(root, texts, given.n, given.new_tokens)
        flops = iteration_flops(root, texts, given.n, given.new_tokens)
    whole, processor = seconds.pop("seconds"), seconds.pop("processor")
    print(f"| CRRAFT iteration | {whole:.2f} s, {len(texts) / whole:.2f} prompts/s |")
    for phase, value in seconds.items():
        print(f"| - {phase.removeprefix('seconds_')} | {value:.2f} s, {value / whole:.0%} |")
    print(f"| useful FLOPs over time | {flops / whole / 1e9:.1f} GFLOP/s |")
    if rival is None:
        print("| TRL GRPO step | trl is not installed: pip install 'rluf[bench]' |")
        return
    step, sampled, step_processor = rival
    ours = seconds["seconds_sample"] + seconds["seconds_score"]
    print(f"| TRL GRPO step | {step:.2f} s, {len(texts) / step:.2f} prompts/s |")
    print(f"| - of it sampling and scoring | {sampled:.2f} s |")
    print(f"| CRRAFT over GRPO, whole iteration | {step / whole:.2f}x |")
    print(
        f"| CRRAFT over GRPO, processor seconds | {processor:.2f}, {step_processor:.2f}, {step_processor / processor:.2f}x |"
    )
    print(f"| CRRAFT over GRPO, sampling and scoring | {sampled / ours:.2f}x |")


if __name__ == "__main__":
    main()
