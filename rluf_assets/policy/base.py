"""The base policy: the starting and reference policy of every candidate.

Either a small Llama-architecture model trained on the logged replies, one-turn examples first and whole conversations
after (else so small a model never learns to answer), or a checkpoint given by path, normalised. Run by the job
train_base_policy; a killed run goes on from its last checkpoint and ends with the same bytes.
"""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from rluf_assets.chat import CHAT_TEMPLATE, END, PAD, SPECIAL_TOKENS
from rluf_assets.distributed import device
from rluf_assets.errors import ConfigError, TrainingError
from rluf_assets.policy.config import BasePolicyConfig
from rluf_assets.policy.conversations import Conversation, Example, encode, load_conversations, load_corpus, one_turn
from rluf_assets.policy.engine import check_shared, longest_shared, positions_of, room
from rluf_assets.policy.prompts import PromptEncoder
from rluf_assets.policy.reply_tokens import ReplyTokens, all_end_ids, end_ids
from rluf_assets.policy.state import load_state, newest_state, save_state
from rluf_assets.rewards.attention import position_limit
from rluf_assets.rewards.chat_tokens import DATE_KEY, template_of

Report = Callable[[int, int, float], None]
POOL_CONVERSATIONS = 512


def train_base_policy(
    folders: Sequence[Path],
    out: Path,
    config: BasePolicyConfig,
    *,
    seed: int = 0,
    checkpoints: Path | None = None,
    report: Report = lambda step, steps, loss: None,
    corpora: Sequence[str] = (),
) -> dict[str, float]:
    """Train (or take over) the base policy and write it to `out` as a Hugging Face folder; returns its metrics.

    `folders` hold the validated logs of the training period, `corpora` is where those of the config lie;
    `report(step, steps, loss)` is called now and then. Raises DataError without conversations, TrainingError if the
    loss is not finite.
    """
    if config.checkpoint is not None:
        check_checkpoint(config.checkpoint)
        model, tokenizer = load_checkpoint(config.checkpoint)
        model.to(device())
        if "strftime_now" in template_of(tokenizer):
            tokenizer.init_kwargs[DATE_KEY] = config.chat_date.isoformat()
        heldout = load_conversations(folders, config.heldout_conversations, seed) if folders else []
    else:
        conversations = load_conversations(folders, config.max_conversations + config.heldout_conversations, seed)
        cut = min(config.heldout_conversations, max(1, len(conversations) // 10))
        heldout, training = conversations[:cut], conversations[cut:]
        for corpus, source in zip(config.corpora, corpora, strict=True):
            training = balanced(training, load_corpus(corpus, source, config.max_conversations, seed), seed)
        tokenizer = train_tokenizer(training[: config.tokenizer_conversations], config)
        model = new_model(tokenizer, config, seed).to(device())
        with _kept_or_not(checkpoints) as place:
            fit(model, tokenizer, training, config, seed=seed, checkpoints=place, report=report)
    encoder = PromptEncoder(tokenizer)
    ends = all_end_ids(model.generation_config, model.config, encoder)
    ReplyTokens.of(ends, encoder, model.get_input_embeddings().num_embeddings, config.checkpoint or "base policy")
    metrics: dict[str, float] = {"parameters": sum(p.numel() for p in model.parameters()), "vocabulary": len(tokenizer)}
    if heldout:
        room = position_limit(model.config) or 2**30
        loss, tokens = reply_loss(model, encode(heldout, encoder, room))
        metrics |= {"heldout_loss": loss, "heldout_perplexity": math.exp(min(loss, 50)), "heldout_reply_tokens": tokens}
    save_policy(model, tokenizer, out, ends=ends)
    return metrics


@contextmanager
def _kept_or_not(checkpoints: Path | None) -> Iterator[Path]:
    """The folder for checkpoints that was named; else one that goes when training is over."""
    if checkpoints is not None:
        yield checkpoints
        return
    with tempfile.TemporaryDirectory(prefix="rluf-checkpoints-") as folder:
        yield Path(folder)


def balanced(ours: list[Conversation], others: list[Conversation], seed: int) -> list[Conversation]:
    """Both together, shuffled, the fewer ones repeated until they are about as many as the others."""
    fewer, more = sorted((ours, others), key=len)
    together = fewer * (len(more) // len(fewer)) + more
    random.Random(seed).shuffle(together)
    return together


def train_tokenizer(conversations: Sequence[Conversation], config: BasePolicyConfig) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the toolkit's special tokens, template, and a pad token of its own."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator((m["content"] for conversation in conversations for m in conversation), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=PAD,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        model_max_length=config.max_positions,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, config: BasePolicyConfig, seed: int) -> LlamaForCausalLM:
    """A randomly initialised Llama of the configured size."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.mlp_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.max_positions,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def fit(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    conversations: Sequence[Conversation],
    config: BasePolicyConfig,
    *,
    seed: int,
    checkpoints: Path,
    report: Report,
) -> None:
    """Train `model` in place for `config.steps` steps, from the newest checkpoint if there is one."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    newest = newest_state(checkpoints)
    start = int(load_state(newest, model, optimizer)["step"]) if newest else 0
    batches = training_batches(conversations, PromptEncoder(tokenizer), config, seed)
    model.train()
    for step, batch in enumerate(batches):
        if step < start:
            continue
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(step, config.steps)
        loss = batch_loss(model, batch)
        if not torch.isfinite(loss):
            raise TrainingError(f"base policy: loss {loss.item()} at step {step}. Lower learning_rate.")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % config.checkpoint_every == 0 and step + 1 < config.steps:
            save_state(checkpoints / f"{step + 1:06d}.safetensors", model, optimizer, {"step": step + 1})
        if (step + 1) % 50 == 0 or step + 1 == config.steps:
            report(step + 1, config.steps, loss.item())
    model.eval()


def schedule(step: int, steps: int) -> float:
    """Learning-rate factor: linear warm-up over 3% of the steps, then a cosine down to a twentieth."""
    warmup = max(1, steps * 3 // 100)
    if step < warmup:
        return (step + 1) / warmup
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def training_batches(
    conversations: Sequence[Conversation], encoder: PromptEncoder, config: BasePolicyConfig, seed: int
) -> Iterator[list[Example]]:
    """`config.steps` batches of like length: one-turn examples for the first share of them, then whole conversations."""
    rng = random.Random(f"base policy {seed}")
    single = round(config.steps * config.single_turn_share)
    for steps, cut in ((single, True), (config.steps - single, False)):
        while steps > 0:
            chosen = [conversations[rng.randrange(len(conversations))] for _ in range(POOL_CONVERSATIONS)]
            pool = encode([one_turn(c, rng) if cut else c for c in chosen], encoder, config.max_positions)
            if not pool:
                raise ConfigError(f"base policy: no conversation fits max_positions {config.max_positions}. Raise it.")
            batches = list(_by_length(pool, config.batch_tokens))
            rng.shuffle(batches)
            yield from batches[:steps]
            steps -= len(batches)


def _by_length(pool: list[Example], batch_tokens: int) -> Iterator[list[Example]]:
    """Batches of like length, of at most `batch_tokens` tokens with their padding (one example at least)."""
    pool = sorted(pool, key=lambda example: -len(example.token_ids))
    while pool:
        size = max(1, batch_tokens // len(pool[0].token_ids))
        yield pool[:size]
        pool = pool[size:]


def batch_loss(model: PreTrainedModel, batch: Sequence[Example], *, reduction: str = "mean") -> torch.Tensor:
    """Cross-entropy of the reply tokens of a batch, each given everything before it."""
    width = max(len(example.token_ids) for example in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    learned = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, example in enumerate(batch):
        ids[row, : len(example.token_ids)] = torch.tensor(example.token_ids)
        learned[row, : len(example.token_ids)] = torch.tensor(example.learned)
    ids, learned = ids.to(model.device), learned.to(model.device)
    # Padding stands on the right and attention is causal, so no mask; the output layer sees learned positions only, and
    # what the model makes of its logits (a cap, a scale) is in them.
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, :-1][learned[:, 1:]],))
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    return torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][learned[:, 1:]], reduction=reduction)


@torch.inference_mode()
def reply_loss(model: PreTrainedModel, examples: Sequence[Example], batch_size: int = 32) -> tuple[float, int]:
    """Mean negative log-likelihood per reply token over all examples, and the number of those tokens."""
    model.eval()
    ordered = sorted(examples, key=lambda example: len(example.token_ids))
    total, tokens = 0.0, 0
    for i in range(0, len(ordered), batch_size):
        batch = ordered[i : i + batch_size]
        total += batch_loss(model, batch, reduction="sum").item()
        tokens += sum(sum(example.learned[1:]) for example in batch)
    return total / max(1, tokens), tokens


def check_checkpoint(folder: str, *, shares_prompts: bool = False, max_new_tokens: int = 0) -> None:
    """Raise ConfigError for what a folder's config and tokenizer say against it as a policy; no weight is read.

    `shares_prompts`: TransformersEngine will sample it. `max_new_tokens`: replies of so many tokens.
    """
    try:
        config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"base policy: {folder} is no causal LM that transformers loads ({error}).") from error
    encoder = PromptEncoder(complete(tokenizer))
    vocabulary = max(config.get_text_config().vocab_size, len(tokenizer))
    ReplyTokens.of(end_ids(folder, encoder), encoder, vocabulary, folder)
    room(folder, positions_of(config, folder), max_new_tokens)
    if shares_prompts:
        check_shared(longest_shared(config), 1, folder)


def complete(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A checkpoint's tokenizer, given the toolkit's chat template and a pad token of its own where it has none."""
    if tokenizer.chat_template is None:
        tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
        tokenizer.eos_token, tokenizer.chat_template = END, CHAT_TEMPLATE
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def load_checkpoint(folder: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A causal LM from a folder, given a chat template and a pad token of its own if it has none.

    Without a template of its own the toolkit's is set; its special tokens are then added, each starting from the mean
    embedding. Raises ConfigError if the folder holds no causal LM.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        tokenizer = complete(AutoTokenizer.from_pretrained(folder))
    except (OSError, ValueError) as error:
        raise ConfigError(f"base policy: {folder} is no causal LM that transformers loads ({error}).") from error
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        # To a multiple that matrix products and vLLM's tensor parallelism like; rows without a token are never sampled.
        # New rows are drawn about the mean of the old ones: always the same, so that a base is the same bytes again.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    return model, tokenizer


def save_policy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
    weights: dict[str, torch.Tensor] | None = None,
    ends: frozenset[int] | None = None,
) -> None:
    """Write a policy folder that transformers, TRL and vLLM load as it is; `weights`: where the model's own are sharded.

    `ends`: the tokens that end a reply, where they are known; else all that model, tokenizer and template name.
    """
    transformers_logging.disable_progress_bar()
    if ends is None:
        ends = all_end_ids(model.generation_config, model.config, PromptEncoder(tokenizer))
    named = sorted(ends)
    model.config.pad_token_id, model.config.eos_token_id = tokenizer.pad_token_id, named if len(named) > 1 else named[0]
    model.generation_config = GenerationConfig(
        eos_token_id=model.config.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True, temperature=1.0
    )
    model.save_pretrained(out, state_dict=weights)
    tokenizer.save_pretrained(out)
