"""Speed of reward models beside a rival in the same run: `python -m benchmarks.rewards [--pairs 256] [--dtype float32]`.

Training: pairs per second on HH-RLHF against TRL's `RewardTrainer` (where `trl` is installed), the same small random
Llama, rows, dtype, optimiser, threads, batch and gradient checkpointing on both sides; then both as they come, with
their own defaults. Scoring: every reply of ten-turn conversations in one pass, against one window per reply.
Seconds are processor seconds (give both sides one thread), so that other work on the machine does not count; on a GPU,
seconds. The work done counts every token once and no masked key; `--peak-tflops` makes a share of the peak of it (MFU).
Every pair counts once, however many tokens it is padded to; rows that TRL would drop as too long are left out for both.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rluf_assets.chat import CHAT_TEMPLATE, END, PAD, SPECIAL_TOKENS
from rluf_assets.distributed import device
from rluf_assets.feedback.config import PairsConfig
from rluf_assets.feedback.pairs import build_pairs
from rluf_assets.rewards.batching import Unit
from rluf_assets.rewards.calibration import Calibration
from rluf_assets.rewards.config import RewardConfig
from rluf_assets.rewards.encoding import Encoder
from rluf_assets.rewards.model import load_network, save_network
from rluf_assets.rewards.scoring import RewardModel
from rluf_assets.rewards.trainer import RewardTrainer
from rluf_assets.rewards.training import fit_reward

DATA = Path(__file__).parents[2] / "shared" / "data"
MAX_LENGTH = 512
BATCH = 16
TURNS = 10


def hh_pairs() -> pl.DataFrame:
    pairs = build_pairs(
        PairsConfig(format="transcripts", source=str(DATA / "hh_rlhf" / "helpful-base.jsonl.gz")), seed=0
    )
    return pl.concat([pairs.train, pairs.eval])


def make_base(folder: Path, texts: list[str], hidden: int, layers: int) -> None:
    """A random Llama and a BPE tokenizer trained on the benchmark's own texts."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8192,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=PAD, eos_token=END, chat_template=CHAT_TEMPLATE, padding_side="right"
    )
    torch.manual_seed(0)
    shape = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers}
    heads = {"num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 64}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, **shape, **heads, **ids)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def fitting(base: Path, pairs: pl.DataFrame, count: int) -> tuple[pl.DataFrame, float]:
    """The first `count` pairs of which neither side is cut, and the mean tokens of one with its prompt counted once."""
    encoder = Encoder(load_network(base).tokenizer, MAX_LENGTH)
    prompts = pairs["prompt"].to_list()
    sides = [
        encoder.encode(prompts, [r[0]["content"] for r in pairs[side].to_list()]) for side in ("chosen", "rejected")
    ]
    whole = np.all([(s.turns_dropped == 0) & ~s.too_long for s in sides], axis=0)
    kept = np.flatnonzero(whole)[:count]
    lengths = [[len(s.token_ids[i]) for i in kept] for s in sides]
    shared = [
        int((np.cumprod(a[: len(b)] == b[: len(a)])).sum())
        for a, b in ((sides[0].token_ids[i], sides[1].token_ids[i]) for i in kept)
    ]
    return pairs[kept], float(np.sum(lengths) - np.sum(shared)) / len(kept)


# On a GPU the processor waits: there its seconds would say nothing.
clock = time.perf_counter if torch.cuda.is_available() else time.process_time


def training_flops(units: Iterable[Unit], config: LlamaConfig) -> float:
    """Floating-point operations of one epoch: three times the forward pass (Kaplan et al. 2020), nothing for padding,
    masked keys, passes made again by gradient checkpointing, or what the last layer leaves out."""
    width, inner = config.hidden_size, config.intermediate_size
    keys_values = 2 * width * config.num_key_value_heads * config.head_dim
    others = 2 * width * config.num_attention_heads * config.head_dim + 3 * width * inner
    total = 0.0
    for tree in (tree for unit in units for tree in unit.trees):
        seen = tree.depths.astype(np.float64) + 1
        ends = np.unique(tree.ends)
        whole = len(tree) * (keys_values + others) + 2 * width * seen.sum()
        last = len(tree) * keys_values + len(ends) * others + 2 * width * seen[ends].sum()
        total += 2 * ((config.num_hidden_layers - 1) * whole + last)
    return 3 * total


def our_rate(
    name: str, base: Path, pairs: pl.DataFrame, root: Path, config: RewardConfig, peak_tflops: float | None
) -> float:
    """Pairs per second of the training loop, its last checkpoint included; prints tokens and operations a second."""
    seconds: list[float] = []
    flops: list[float] = []
    train = RewardTrainer.train

    def timed(self: RewardTrainer, **options: Any) -> Any:
        started = clock()
        result = train(self, **options)
        seconds.append(clock() - started)
        flops.append(training_flops(self.train_dataset, self.model.config) * config.epochs)
        return result

    RewardTrainer.train = timed  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory(dir=root) as out:
            done = fit_reward(base, pairs, config, seed=0, out=Path(out), checkpoints=Path(out) / "checkpoints")
    finally:
        RewardTrainer.train = train  # type: ignore[method-assign]
    share = f", {flops[0] / seconds[0] / peak_tflops / 1e12:.1%} of {peak_tflops:g} TFLOP/s" if peak_tflops else ""
    print(
        f"{name}: {done.metrics['tokens'] / seconds[0]:,.0f} tokens/s, {flops[0] / seconds[0] / 1e9:.1f} GFLOP/s{share}"
    )
    return done.rows["train"] / seconds[0]


def trl_rate(base: Path, pairs: pl.DataFrame, root: Path, **options: Any) -> float | None:
    """Pairs per processor second of TRL's RewardTrainer, or None without `trl`. Tokenising is not timed, as for ours."""
    try:
        from datasets import Dataset
        from trl import RewardConfig as TrlConfig
        from trl import RewardTrainer as TrlTrainer
    except ImportError as error:
        print(f"TRL left out: {error}")
        return None
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows = Dataset.from_list(pairs.select("prompt", "chosen", "rejected").to_dicts())
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    args = TrlConfig(
        output_dir=str(root / "trl"), num_train_epochs=1, max_length=MAX_LENGTH, report_to=[], save_strategy="no",
        use_cpu=not torch.cuda.is_available(), dataloader_pin_memory=False, disable_tqdm=True, **options,
    )  # fmt: skip
    trainer = TrlTrainer(
        model=model, args=args, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(base)
    )
    if len(trainer.train_dataset) != len(pairs):
        raise RuntimeError(f"TRL kept {len(trainer.train_dataset)} of {len(pairs)} pairs: not the same work.")
    started = clock()
    trainer.train()
    return len(pairs) / (clock() - started)


def training(root: Path, pairs_wanted: int, hidden: int, layers: int, dtype: str, peak: float | None) -> None:
    every = hh_pairs()
    base = root / "base"
    make_base(base, [m["content"] for row in every["prompt"].to_list()[:2000] for m in row], hidden, layers)
    pairs, tokens = fitting(base, every, pairs_wanted)
    common = {"objective": "bradley_terry", "epochs": 1, "max_length": MAX_LENGTH, "checkpoint_steps": 100_000}
    same = {"dtype": dtype, "gradient_checkpointing": True, "batch_tokens": round(BATCH * tokens)}
    config = RewardConfig.model_validate({**common, **same, "learning_rate": 1e-4})
    ours = our_rate("equal settings", base, pairs, root, config, peak)
    equal = {"per_device_train_batch_size": BATCH, "optim": "adamw_torch_fused", "gradient_checkpointing": True}
    theirs = trl_rate(base, pairs, root, bf16=dtype == "bfloat16", **equal)
    report("training, equal settings", ours, theirs, "pairs/s")
    config = RewardConfig.model_validate({**common, "learning_rate": 1e-4})
    defaults = our_rate("defaults", base, pairs, root, config, peak)
    report("training, defaults of each", defaults, trl_rate(base, pairs, root), "pairs/s")


def ten_turn_conversations(count: int) -> tuple[list[list[dict[str, str]]], list[str]]:
    """Prompts and replies: the first ten replies of each of `count` Topical-Chat conversations."""
    prompts, replies = [], []
    with gzip.open(DATA / "topical_chat" / "conversations.jsonl.gz", "rt") as stream:
        for _, line in zip(range(count), stream, strict=False):
            said = json.loads(line)["messages"][: 2 * TURNS]
            texts = [{"role": ("user", "assistant")[i % 2], "content": m["content"]} for i, m in enumerate(said)]
            for end in range(1, len(texts), 2):
                prompts.append(texts[:end])
                replies.append(texts[end]["content"])
    return prompts, replies


def scoring(root: Path, conversations: int) -> None:
    network = load_network(root / "base")
    save_network(network.model, network.tokenizer, root / "reward")
    Calibration(objective="bce", signal="love", temperature=1.0, shift=0.0, max_length=2048).save(root / "reward")
    prompts, replies = ten_turn_conversations(conversations)
    rates, logits = [], []
    for share in (True, False):
        model = RewardModel.load(root / "reward", share_prefixes=share, device=device())
        ids = model.encoder.encode(prompts, replies).token_ids
        model.score_token_ids(ids[:TURNS])  # warm up
        started = clock()
        logits.append(model.score_token_ids(ids))
        rates.append(len(replies) / (clock() - started))
    print(f"largest difference of scores: {np.abs(logits[0] - logits[1]).max():.1e}")
    report("scoring ten-turn conversations, against one window per reply", rates[0], rates[1], "replies/s")


def report(name: str, ours: float, theirs: float | None, unit: str) -> None:
    ratio = "" if theirs is None else f", rival {theirs:.2f}: {ours / theirs:.1f}x"
    print(f"{name}: {ours:.2f} {unit}{ratio}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--conversations", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--peak-tflops", type=float, help="of the device in --dtype, dense, to print MFU")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        training(root, options.pairs, options.hidden, options.layers, options.dtype, options.peak_tflops)
        scoring(root, options.conversations)


if __name__ == "__main__":
    main()
