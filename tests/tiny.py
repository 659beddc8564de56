"""Models small enough to train within a test."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STEPS = 60  # of make_tiny_qwen3
SENTENCES = [
    "sort a list of numbers in place",
    "read a file line by line and close it",
    "join two paths into one relative path",
    "count how often each word occurs in a text",
    "list.sort sorts the list in ascending order and returns None",
    "collections.Counter counts hashable objects",
    "os.path.relpath returns a relative file path",
    "system user assistant",
]


def train_bpe(bpe: Any, texts: Iterable[str], vocab_size: int) -> Any:
    """Train a byte-level `tokenizers.Tokenizer`, the marks of a chat's turns among its tokens; returns it."""
    from tokenizers import pre_tokenizers, trainers

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    bpe.train_from_iterator(texts, trainer)
    return bpe


def make_tiny_student(folder: Path, template: str | None = TEMPLATE, seed: int = 0, positions: int = 256) -> Path:
    """Write a random two-layer Llama of about 300 tokens with its tokenizer and chat template; returns the folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    train_bpe(bpe, SENTENCES, 320)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = template
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.2,  # the default 0.02 gives so small a model next to no gradient
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tiny_qwen3(folder: Path, chats: list[tuple[str, str]], texts: Iterable[str], seed: int = 0) -> Path:
    """Write a two-layer Qwen3 that has learnt some chats (what the user says, the answer); returns the folder.

    Its tokenizer has learnt these and the texts.

    As of Qwen3-4B are the architecture (heads wider than the model, their norms, tied embeddings, more rows of these than
    tokens), the tokenizer's class, the chat template (TRL's copy) and its thinking: where the prompt does not end with an
    empty thought, it writes one of its own first.
    """
    import json

    import torch
    import trl
    from tokenizers import AddedToken
    from transformers import DataCollatorForSeq2Seq, GenerationConfig, Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

    trained = train_bpe(Qwen2Tokenizer()._tokenizer, ["\n\n", *texts, *map(" ".join, chats)], 1000)
    bpe = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in bpe["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=bpe["vocab"], merges=merges, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates/qwen3.jinja").read_text(encoding="utf-8")
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer) + 64,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=1024,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.6, top_k=20, top_p=0.95, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
    )  # fmt: skip
    rows = []
    for said, answer in chats:
        for thought, options in (("<think>\nHm.\n</think>\n\n", {}), ("", {"enable_thinking": False})):
            asked = [{"role": "user", "content": said}]
            prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False, **options)
            begin, end = tokenizer([prompt, f"{thought}{answer}<|im_end|>\n"], add_special_tokens=False)["input_ids"]
            rows.append({"input_ids": begin + end, "labels": [-100] * len(begin) + end})
    collate = DataCollatorForSeq2Seq(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(STEPS):
        some = [rows[i] for i in torch.randint(len(rows), (16,)).tolist()]
        model(**collate(some)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_encoder(
    folder: Path, vectors: dict[str, list[float]], prompts: dict[str, str] | None = None, similarity: str = "cosine"
) -> Path:
    """Write a sentence-transformers encoder whose vector of a text is the mean of the vectors of its words, or of its
    characters where those are the keys; unknown ones count as zeros. Returns the folder."""
    import numpy as np
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    characters = all(len(word) == 1 for word in vectors)
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(["?", *vectors])}, unk_token="?"))
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Split(Regex("."), "isolated") if characters else pre_tokenizers.WhitespaceSplit()
    )
    rows = list(vectors.values())
    weights = np.array([[0.0] * len(rows[0]), *rows], np.float32)
    module = StaticEmbedding(tokenizer, embedding_weights=weights)
    SentenceTransformer(modules=[module], prompts=prompts, similarity_fn_name=similarity, device="cpu").save(
        str(folder)
    )
    return folder
