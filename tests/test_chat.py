"""Chat templates as models bring them, and what is no chat template: settled once, the same in training and inference."""

from pathlib import Path
from typing import Any

import pytest
import trl
from tiny import make_tiny_student

from qedistill.chat import MARKS, _mend, encode, encode_turns, fit_query, settle
from qedistill.errors import UserError
from qedistill.training.model import load_tokenizer, settle_tokenizer

SHIPPED = Path(trl.__file__).parent / "chat_templates"
SYSTEM = [{"role": "system", "content": "Write the passage."}]
QUERY = [{"role": "user", "content": "sort a list"}]
ANSWER = [{"role": "assistant", "content": "list.sort sorts"}]

# Forms that no file of TRL's has, shortened to what roles and turns need.
FORMS = {
    # mistralai/Mistral-7B-Instruct-v0.1: no system turn, strictly alternating, no generation prompt
    "mistral-v0.1": (
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
    ),
    # Mistral-7B-Instruct-v0.3: the system's words stand before the last message, if that is the user's
    "mistral-v0.3": (
        "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
        "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}"
        "{{- bos_token }}{%- for message in loop_messages %}{%- if message['role'] == 'user' %}"
        "{%- if loop.last and system_message is defined %}"
        "{{- '[INST] ' + system_message + '\\n\\n' + message['content'] + '[/INST]' }}"
        "{%- else %}{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}"
        "{%- else %}{{- ' ' + message['content'] | trim + eos_token }}{%- endif %}{%- endfor %}\n"
    ),
    # meta-llama/Llama-2-7b-chat-hf
    "llama-2": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
        "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
        "{% if loop.index0 == 0 and system_message != false %}"
        "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
        "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    # One's own: nothing ends an answer, and system messages are passed over in silence
    "plain": (
        "{% for m in messages %}\n{% if m.role != 'system' %}\n{{ m.role }}: {{ m.content }}\n{% endif %}\n{% endfor %}\n"
        "{% if add_generation_prompt %}\nassistant:{% endif %}\n"
    ),
    # ChatML without a generation prompt
    "unasked": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
}
TEXT_ONLY = [
    "cohere", "cohere2", "deepseek_r1_distill", "deepseekv3", "gemma", "gemma3", "gemma4", "glm4moe", "gptoss", "lfm2",
    "llama3", "llama3_1", "llama3_2", "nemotron_3_nano", "phi3", "phi3_5", "qwen2_5", "qwen3", "qwen3_5_think",
    "qwen3_instruct_2507",
]  # fmt: skip


def template(name: str) -> str:
    return FORMS.get(name) or (SHIPPED / f"{name}.jinja").read_text(encoding="utf-8")


def render(text: str, chat: list[dict[str, str]], asked: bool = False, **more: Any) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    variables = {"enable_thinking": False, "add_generation_prompt": asked} | MARKS | more
    return str(render_jinja_template([chat], chat_template=text, **variables)[0][0])


@pytest.mark.parametrize("name", [*TEXT_ONLY, *FORMS])
def test_after_settling_an_answer_follows_its_prompt_and_ends(name: str) -> None:
    settled = _mend(template(name), MARKS)["template"]
    for chat in (QUERY, SYSTEM + QUERY):
        prompt, whole = render(settled, chat, asked=True), render(settled, chat + ANSWER)
        assert all(message["content"] in prompt for message in chat)
        before, answer, closing = whole.partition(ANSWER[0]["content"])
        assert answer and before.startswith(prompt) and not before[len(prompt) :].strip()
        assert closing.strip()
        assert not prompt.rstrip().endswith("<think>")


@pytest.mark.parametrize("name", ["llama3_1", "phi3", "qwen2_5", "qwen3", "llama-2", "gemma3"])
def test_a_template_that_serves_stays_as_it_is(name: str) -> None:
    mended = _mend(template(name), MARKS)
    assert mended["template"] == template(name) and mended["notes"] == []


@pytest.mark.parametrize(
    ("name", "note", "prompt"),
    [
        ("gemma", "takes no system message (System role not supported)", "<start_of_turn>user\nWrite the passage.\n\nsort"),
        ("mistral-v0.1", "takes no system message (Conversation roles must alt", "[INST] Write the passage.\n\nsort a list [/"),
        ("mistral-v0.3", "takes no system message", "[INST] Write the passage.\n\nsort a list[/INST]"),
        ("plain", "does not end an answer: </s> does", "user: Write the passage.\n\nsort a list\nassistant:"),
        ("unasked", "generation prompt is not", "sort a list<|im_end|>\n<|im_start|>assistant\n"),
        ("deepseek_r1_distill", "generation prompt is not", "sort a list<｜Assistant｜>"),
        ("gptoss", "tells the date; it is always 2024-07-26", "<|start|>assistant<|channel|>final<|message|>"),
        ("llama3_2", "tells the date", "Today Date: 2024-07-26"),
    ],
)  # fmt: skip
def test_what_is_mended_is_told(name: str, note: str, prompt: str) -> None:
    mended = _mend(template(name), MARKS)
    assert note in "; ".join(mended["notes"])
    assert prompt in render(mended["template"], SYSTEM + QUERY, asked=True)


def test_mending_changes_nothing_else() -> None:
    """Jinja trims around blocks: what is put around a template must not change what it writes."""
    text = "  {% if true %}\nA\n{% endif %}\n" + FORMS["plain"]
    mended = _mend(text, MARKS)["template"]
    assert render(mended, QUERY + ANSWER) == render(text, QUERY + ANSWER).removesuffix("\n") + "\n</s>"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "does not come to an end"),
        ("{{ 'a' * 10**10 }}", "takes too much memory"),
        ("{{ 'a' * 10**6 }}{{ messages[0].content }}", "1,000,012 characters of a few words"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("\n{% for m in messages %}", r"\(line 2\)"),
        ("", r"messages are missing in what it renders \(user, assistant\)"),
        ("{% for m in messages %}{{ m.content[0].text.strip() }}{% endfor %}", "no attribute 'text'"),
    ],
)
def test_a_faulty_template_is_a_sentence(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=f"^student.model x: no chat template: .*{problem}"):
        settle(text, MARKS, "student.model x")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_student(tmp_path_factory.mktemp("chat") / "tiny")


def test_words_that_spell_a_control_token_are_words(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    prompt = [{"role": "user", "content": "what does <|im_end|> mean"}]
    (asked,) = encode(tokenizer, [prompt])
    assert asked.count(end) == 1 and "what does <|im_end|> mean<|im_end|>" in tokenizer.decode(asked)
    trained, (answered,) = encode_turns(tokenizer, prompt, [[{"role": "assistant", "content": "a turn's <|im_end|>"}]])
    assert trained == asked and answered.count(end) == 1
    assert tokenizer.decode(answered) == "a turn's <|im_end|><|im_end|>\n"


def test_plain_words_have_the_tokens_of_the_tokenizer_itself(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    text = "<|im_start|>system\nWrite the passage.<|im_end|>\n<|im_start|>user\nsort a list<|im_end|>\n<|im_start|>assistant\n"
    assert encode(tokenizer, [SYSTEM + QUERY]) == [tokenizer(text)["input_ids"]]
    asked, (answered,) = encode_turns(tokenizer, SYSTEM + QUERY, [ANSWER])
    assert asked + answered == tokenizer(f"{text}list.sort sorts<|im_end|>\n")["input_ids"]


def test_a_long_query_is_cut_to_the_room(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)

    def ask(query: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": query}]

    query = "sort a list of numbers in place " * 20
    cut = fit_query(tokenizer, query, ask, 40)
    assert query.startswith(cut) and 30 < len(encode(tokenizer, [ask(cut)])[0]) <= 40
    assert fit_query(tokenizer, "sort a list", ask, 40) == "sort a list"
    with pytest.raises(UserError, match="no room for a query within 3 tokens"):
        fit_query(tokenizer, query, ask, 3)


def unmarked(special: bool | None = None) -> Any:
    """A tokenizer that knows <|endoftext|> alone as a special token, and <|im_end|> as a token of its own if not None;
    a space before a w is one token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġw"]
    bpe = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, [("Ġ", "w")]))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>")
    if special is not None:
        tokenizer.add_tokens([AddedToken("<|im_end|>", special=special)])
    return tokenizer


CHATML = Path(__file__).parents[1] / "prompts/chatml.jinja"


def test_chatml_without_its_tokens_stops() -> None:
    with pytest.raises(
        UserError, match=r"student.chat_template .*chatml.jinja: an answer ends with '<\|im_end\|>', which"
    ):
        settle_tokenizer(unmarked(), "m/base", CHATML)


@pytest.mark.parametrize("special", [True, False])
def test_the_end_of_a_turn_becomes_the_end_token(tmp_path: Path, special: bool) -> None:
    tokenizer = unmarked(special)
    settle_tokenizer(tokenizer, "m/base", CHATML)
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    ids = again("words<|im_end|>")["input_ids"]
    assert again.eos_token == "<|im_end|>" and ids[-1] == again.eos_token_id
    assert again.decode(ids, skip_special_tokens=True) == "words"


def test_a_generation_prompt_within_a_token_is_named() -> None:
    tokenizer = unmarked()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ' '}}{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}"
    )
    with pytest.raises(UserError, match=r"student.model m: the generation prompt .*assistant ' ends within a token"):
        settle_tokenizer(tokenizer, "m", None)
