"""A student small enough to train within a test."""

from pathlib import Path

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
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


def make_tiny_student(folder: Path, template: str | None = TEMPLATE, seed: int = 0) -> Path:
    """Write a random two-layer Llama of about 300 tokens with its tokenizer and chat template; returns the folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(vocab_size=320, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
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
        max_position_embeddings=256,
        initializer_range=0.2,  # the default 0.02 gives so small a model next to no gradient
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
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
