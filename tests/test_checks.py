"""What of a teacher's answer is kept, and which answers are of no use."""

import signal

import pytest

from qedistill.generation.checks import CLEANED, PROBLEMS, examine
from qedistill.generation.endings import ending

ENGLISH = [
    # answer, text, cleaned
    ("list.sort sorts\n  in place.", "list.sort sorts in place.", []),
    ("<think>Let me see.\nHm.</think>\n\nlist.sort sorts.", "list.sort sorts.", ["thinking"]),
    ("Let me see.</think>list.sort sorts.", "list.sort sorts.", ["thinking"]),
    ("Passage: list.sort sorts.", "list.sort sorts.", ["label"]),
    ("**Passage:** list.sort sorts.", "list.sort sorts.", ["label"]),
    ("Here is the passage:\nlist.sort sorts.", "list.sort sorts.", ["preamble"]),
    ('"list.sort sorts."', "list.sort sorts.", ["wrapper"]),
    ('"a" and "b"', '"a" and "b"', []),
    ('"Passage: list.sort sorts."', "list.sort sorts.", ["wrapper", "label"]),
    ('Expansion: "list.sort sorts."', "list.sort sorts.", ["label", "wrapper"]),
    ("As an AI accelerator, the TPU multiplies.", "As an AI accelerator, the TPU multiplies.", []),
    ("Query: Sort a list!\nPassage: list.sort sorts.", "list.sort sorts.", ["query", "label"]),
    ("Sort a list\nlist.sort sorts.", "list.sort sorts.", ["query"]),
    ("Sort a list with list.sort.", "Sort a list with list.sort.", []),
    ("Sorry() is an exception class.", "Sorry() is an exception class.", []),
    ("42", "42", []),
]


@pytest.mark.parametrize(("answer", "text", "cleaned"), ENGLISH)
def test_what_is_safe_to_take_away_is_taken_away(answer: str, text: str, cleaned: list[str]) -> None:
    assert examine(answer, "sort a list", "en") == (text, cleaned, None)
    assert set(cleaned) <= set(CLEANED)


@pytest.mark.parametrize(
    ("answer", "language", "problem"),
    [
        (None, "en", "empty"),
        (" \n", "en", "empty"),
        ("Passage:", "en", "empty"),
        ('""', "en", "empty"),
        ('Expansion: "…"', "en", "empty"),
        ("---", "en", "empty"),
        ("Passage: I'm sorry, but I can't help.", "en", "refusal"),
        ("I apologize, but I cannot write that.", "en", "refusal"),
        ("Unfortunately, I'm unable to answer.", "en", "refusal"),
        ("<think>never comes to an end", "en", "thinking"),
        ("<think>all of it</think>", "en", "thinking"),
        ("I'm sorry, but I can't help with that.", "en", "refusal"),
        ("I’m sorry, but I can’t help with that.", "en", "refusal"),
        ("As an AI language model, I cannot know.", "en", "refusal"),
        ("I cannot assist with this request.", "en", "refusal"),
        ("抱歉，我无法回答这个问题。", "zh", "refusal"),
        ("作为一个人工智能模型，我不能提供该信息", "zh", "refusal"),
        ("Sort a list.", "en", "query"),
        ("云层放电产生雷声", "en", "language"),
        ("Thunder is the sound of lightning.", "zh", "language"),
    ],
)
def test_answers_of_no_use(answer: str | None, language: str, problem: str) -> None:
    assert examine(answer, "sort a list", language)[2] == problem
    assert problem in PROBLEMS


def test_chinese() -> None:
    query = "天上为什么会打雷"
    assert examine("段落：云层放电，pH 7。", query, "zh") == ("云层放电，pH 7。", ["label"], None)
    assert examine("天上为什么会打雷？\n云层放电。", query, "zh") == ("云层放电。", ["query"], None)
    assert examine("天上，为什么会打雷？", query, "zh")[2] == "query"


def test_an_answer_cut_off_loses_its_broken_sentence_or_is_of_no_use() -> None:
    assert examine("list.sort sorts in place. It is sta", "q", "en", cut=True) == (
        "list.sort sorts in place.", ["cut"], None,
    )  # fmt: skip
    assert examine("云层放电。产生雷声。因", "q", "zh", cut=True) == ("云层放电。产生雷声。", ["cut"], None)
    assert examine("list.sort sorts in place and", "q", "en", cut=True)[2] == "cut"
    assert examine("Yes. " + "word " * 20, "q", "en", cut=True)[2] == "cut"
    # Beyond what was asked for, it lacks nothing but the word that broke.
    assert examine("one two three fo", "q", "en", cut=True, enough=3) == ("one two three", ["cut"], None)
    assert examine("one two three", "q", "en", cut=True, enough=3)[2] == "cut"
    assert examine("云层放电产生雷声", "q", "zh", cut=True, enough=3)[1:] == ([], None)
    # White space after a name is no end of a Chinese word.
    assert examine("Python 是解释型语言的一种", "q", "zh", cut=True, enough=3)[0] == "Python 是解释型语言的一种"
    assert examine("list.sort sorts in place.", "q", "en", cut=True) == ("list.sort sorts in place.", [], None)


# What chat models write around, before and behind a text, by the vendor's or the template's habit.
WRAPPED = [
    "Sure, here is the passage you requested:\n\nYeast makes dough rise.",
    "Absolutely! Here's a short paragraph that addresses your query:\n\nYeast makes dough rise.",
    "Here is a passage that would answer the query “what makes dough rise”:\n\nYeast makes dough rise.",
    "Certainly!\n\nYeast makes dough rise.",
    "Sure thing! Yeast makes dough rise.",
    "Okay, here's a passage:\nYeast makes dough rise.",
    "Great question! Yeast makes dough rise.",
    "**Answer:**\n\nYeast makes dough rise.",
    "## Answer\n\nYeast makes dough rise.",
    "# What makes dough rise?\n\nYeast makes dough rise.",
    "**What makes dough rise?**\n\nYeast makes dough rise.",
    'Passage: "Yeast makes dough rise."',
    "[Passage]\nYeast makes dough rise.",
    "Passage 1: Yeast makes dough rise.\n\nPassage 2: Baking powder is another.",
    "<passage>\nYeast makes dough rise.\n</passage>",
    "<answer>Yeast makes dough rise.",
    "Yeast makes dough rise.</answer>",
    "```text\nYeast makes dough rise.\n```",
    '```json\n{"passage": "Yeast makes dough rise."}\n```',
    'Here is the JSON:\n```json\n{"expanded_query": "Yeast makes dough rise."}\n```',
    '{"query": "what makes dough rise", "expansion": "Yeast makes dough rise."}',
    '[{"text": "Yeast makes dough rise."}]',
    '{"answer": {"text": "Yeast makes dough rise."}}',
    "> Yeast makes dough rise.",
    "---\nYeast makes dough rise.\n---",
    "**Yeast makes dough rise.**",
    "*Yeast makes dough rise.*",
    "«Yeast makes dough rise.»",
    '"""Yeast makes dough rise."""',
    "Yeast makes dough rise.\n\n**Note:** This passage is a hypothetical example.",
    "Yeast makes dough rise.\n\n(Note: I kept it under 60 words.)",
    "Yeast makes dough rise.\n\n*Word count: 4*",
    "Yeast makes dough rise.\n\n(4 words)",
    "Yeast makes dough rise.\n\n---\n\nLet me know if you'd like a longer version!",
    "Yeast makes dough rise. Let me know if you need anything else!",
    "Yeast makes dough rise.\n\nI hope this helps!",
    "Yeast makes dough rise.\n\nWould you like me to expand on this?",
    "Yeast makes dough rise.\n\nThis passage uses the exact terms such a text would use.",
    "Yeast makes dough rise.\n\nIs there anything else you'd like to know?",
    "Yeast makes dough rise.\n\nIf you need more details, just let me know.",
    "Yeast makes dough rise.\n\nQuery: where does salt come from",
    "Yeast makes dough rise.\nQuery: where does salt come from\nPassage: Sea",
    "Yeast makes dough rise. Query: where does salt come from Passage: Sea water",
    "Yeast makes dough rise.\n\nHuman: another",
    "Yeast makes dough rise.\n\n**Query:** x\n**Passage:** y",
    "Query: what makes dough rise\nPassage: Yeast makes dough rise.\n\nQuery: b\nPassage: c",
    "Yeast makes dough rise.<|im_end|>\n<|im_start|>user\nwhy",
    "Yeast makes dough rise.</s>",
    "Yeast makes dough rise.<|eot_id|>",
    "Yeast makes dough rise.<end_of_turn>",
    "Yeast makes dough rise.<｜end▁of▁sentence｜>",
    "Yeast makes dough rise. [/INST]",
    "[/INST] Yeast makes dough rise.</s>",
    "<|start_header_id|>assistant<|end_header_id|>\n\nYeast makes dough rise.<|eot_id|>",
    "<|im_start|>assistant\nYeast makes dough rise.",
    "<|assistant|>\nYeast makes dough rise.<|user|>\nWhy?",
    "Yeast makes dough rise.<|endoftext|>Human: b",
    "Yeast makes dough rise.<eos>",
    "<start_of_turn>model\nYeast makes dough rise.<end_of_turn>",
    "Yeast makes dough rise.<turn|>",
    "Yeast makes dough rise.<|return|>",
    "[INST] what makes dough rise [/INST] Yeast makes dough rise.",
    "<think>hm</think>Yeast makes dough rise.",
    "<thinking>\nhm\n</thinking>\nYeast makes dough rise.",
    "<reasoning>hm</reasoning>\n<answer>Yeast makes dough rise.</answer>",
    "◁think▷hm◁/think▷Yeast makes dough rise.",
    "[THINK]hm[/THINK]Yeast makes dough rise.",
    "<|channel|>analysis<|message|>We need a passage.<|end|><|start|>assistant<|channel|>final<|message|>Yeast makes dough rise.<|return|>",
    "<|channel|>final<|message|>Yeast makes dough rise.",
    "analysisWe need to write a passage.assistantfinalYeast makes dough rise.",
    "<|begin_of_thought|>hm<|end_of_thought|><|begin_of_solution|>Yeast makes dough rise.<|end_of_solution|>",
    "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>Yeast makes dough rise.<|END_RESPONSE|>",
    "<|channel>thought\nhm<channel|>Yeast makes dough rise.<turn|>",
    "<seed:think>hm</seed:think>Yeast makes dough rise.",
    "###Thinking\nhm\n###Response\nYeast makes dough rise.",
    "Here is my thought process: hm\n\nHere is my response: Yeast makes dough rise.",
    "Reasoning: The user asks about bread.\n\nPassage: Yeast makes dough rise.",
    "**Thought process:** hm.\n\n**Answer:** Yeast makes dough rise.",
    "Okay, the user wants a passage about dough. Let me write.\n\nPassage: Yeast makes dough rise.",
    "Let me think.\n</think>\n\nYeast makes dough rise.",
    "<thought>hm</thought>\n\nYeast makes dough rise.",
    '<details type="reasoning" done="true">\nhm</details>\nYeast makes dough rise.',
    "<think>\n\n</think>\n\nYeast makes dough rise.",
    "<THINK>hm</THINK> Yeast makes dough rise.",
    "Response: Yeast makes dough rise.",
    "Final answer: Yeast makes dough rise.",
    "Hypothetical document: Yeast makes dough rise.",
    "Generated Passage:\nYeast makes dough rise.",
    "**Passage**: Yeast makes dough rise.",
    "__Passage:__ Yeast makes dough rise.",
    "Expanded query: Yeast makes dough rise.",
    "Text:\nYeast makes dough rise.",
    "Output:\nYeast makes dough rise.",
    "Document:\nYeast makes dough rise.",
    "Of course. Here is the passage:\n\nYeast makes dough rise.",
    "I'd be happy to help! Here is a passage:\n\nYeast makes dough rise.",
    "Thank you for your query. Here is a passage that answers it:\n\nYeast makes dough rise.",
    "As requested, here is the passage:\n\nYeast makes dough rise.",
    "The following passage answers the query:\n\nYeast makes dough rise.",
    "Based on your query, here's an expansion:\nYeast makes dough rise.",
    "Here's the passage.\n\nYeast makes dough rise.",
    "Here you go:\n\nYeast makes dough rise.",
]

REFUSALS = [
    "I cannot fulfill this request. I am programmed to be a helpful and harmless AI assistant.",
    "I'm sorry, but I can't assist with that request.",
    "I can't help with that.",
    "I can’t provide information or guidance on illegal or harmful activities.",
    "I'm not able to help with that, as I'm only a language model.",
    "I'm just a language model, so I can't help you with that.",
    "I don't feel comfortable writing that.",
    "I apologize, but I don't feel comfortable producing that kind of content.",
    "I aim to be helpful, but I can't provide that.",
    "I don't have enough context to answer.",
    "I do not have information about this query.",
    "I'm not sure what you mean. Could you clarify?",
    "It seems your query is incomplete. Please provide more details.",
    "Unfortunately, I don't have information on that.",
    "Unfortunately, I cannot answer.",
    "This request violates our content policy.",
    "Your query is unclear.",
    "Hello! How can I assist you today?",
    "Sure! Could you please provide the query?",
    "What would you like to know?",
    "I must respectfully decline.",
    "I won't be able to help with that.",
    "I will not provide that content.",
    "Sorry, I can't help with that.",
    "Sorry, something went wrong. Please try again.",
    "Sorry but I cannot comply.",
    "My apologies, but I am unable to answer that.",
    "As a responsible AI, I can't write this.",
    "As an AI assistant, I don't have personal opinions.",
    "I'm an AI language model and can't do that.",
    "I am Qwen, created by Alibaba Cloud.",
    "I'm unable to generate a response to this.",
    "It is not appropriate for me to discuss this.",
    "I understand you're looking for help, but I can't assist with that.",
    "Thank you for your question, but I'm not able to provide that.",
    "**I'm sorry**, but I can't help with that.",
    "I'm really sorry you're feeling this way, but I'm unable to provide the help that you need.",
    "I cannot write a passage about that topic.",
    "I can't discuss that topic. Let's talk about something else.",
    "Please provide more context for your query.",
    "There is not enough information provided to answer.",
    "I need more information to answer this.",
    "Could you tell me what you mean?",
    "Are you asking about bread or cake?",
    "Yeast makes dough rise by\n\nSorry, that's beyond my current scope. Let’s talk about something else.",
    "Yeast is a fungus. Sorry, that's beyond my current scope. Let’s talk about something else.",
    "The query appears to be incomplete.",
    "I'm afraid I can't help with that.",
    "I regret to inform you that I cannot provide this.",
    "I have to decline this request.",
    "As an artificial intelligence, I cannot answer.",
    "I’m sorry, I can’t help with that.",
    "I am sorry, but as an AI language model, I cannot.",
    "I'm not programmed to assist with that.",
    "I prefer not to continue this conversation.",
    "Hmm…let's try a different topic. Sorry about that. What's on your mind?",
    "I'm Claude, an AI assistant made by Anthropic.",
    "I can't engage with this request.",
    "I'm going to decline this.",
    "I would need more details to answer.",
    "I'm not familiar with that term.",
    "No relevant information was found.",
    "I do not understand the question.",
    "Request blocked by content filter.",
    "I can't create content that promotes violence.",
    "Lo siento, pero no puedo ayudar con eso.",
    "I cannot and will not provide instructions.",
    "I strive to be helpful, but I cannot provide that information.",
    "I'd prefer not to answer that.",
]

REFUSALS_ZH = [
    "抱歉，我无法提供相关内容。",
    "很抱歉，我不能协助完成该请求。",
    "你好，我无法给到相关内容。",
    "您的问题我无法回答。",
    "您好，我是Qwen，由阿里云开发。",
    "对不起，我还没有学会回答这个问题。",
    "作为AI助手，我无法讨论这个话题。",
    "我是一个人工智能助手，不能回答。",
    "根据相关法律法规和政策，部分搜索结果未予显示。",
    "抱歉，这个问题我暂时无法回答，我们聊聊别的吧。",
    "请问您具体想了解什么？",
    "请提供更多信息。",
    "有什么可以帮您的吗？",
    "我无法回答这个问题。",
    "我不能满足你的要求。",
    "很遗憾，我目前无法回答这个问题。",
    "对不起，我無法回答這個問題。",
    "作為一個語言模型，我無法提供。",
    "这个话题不太适合讨论。",
    "让我们换个话题吧。",
    "非常抱歉，我目前无法提供您需要的具体信息。",
    "尊敬的用户您好，让我们换个话题再聊聊吧。",
    "我没法对此进行回答",
    "抱歉，您的问题我无法识别。",
    "我暂时无法回答这个问题",
    "不好意思，我不太明白您的意思。",
    "您的问题不够明确，请提供更多细节。",
    "面团发酵。\n你好，这个问题我暂时无法回答，让我们换个话题再聊聊吧。",
    "这个问题超出了我的能力范围。",
    "对于这个问题，我无法给出答案。",
    "我还在学习中，暂时无法回答。",
    "抱歉，作为AI助手我不能讨论这个。",
    "该内容涉及敏感信息，无法提供。",
    "我没有足够的信息来回答这个问题。",
]

WRAPPED_ZH = [
    "好的，以下是一段回答该查询的段落：\n\n酵母使面团发起来。",
    "当然可以！以下是段落：\n酵母使面团发起来。",
    "以下是扩展：酵母使面团发起来。",
    "段落：酵母使面团发起来。",
    "**段落：**\n酵母使面团发起来。",
    "【段落】酵母使面团发起来。",
    "### 段落\n酵母使面团发起来。",
    "“酵母使面团发起来。”",
    "「酵母使面团发起来。」",
    "酵母使面团发起来。\n\n希望以上内容对您有所帮助！",
    "酵母使面团发起来。\n\n（注：以上内容仅供参考）",
    "酵母使面团发起来。\n\n查询：盐从哪里来\n段落：海水。",
    "查询：面团为什么发酵\n段落：酵母使面团发起来。",
    "<think>嗯</think>酵母使面团发起来。",
    "嗯，用户想要一段话。\n\n段落：酵母使面团发起来。",
    "```\n酵母使面团发起来。\n```",
    '{"段落": "酵母使面团发起来。"}',
    "酵母使面团发起来。<|im_end|>",
    "酵母使面团发起来。\n\n如果您需要更多信息，请随时告诉我。",
    "酵母使面团发起来。\n（字数：9）",
    "酵母使面团发起来。如需更多信息，请随时告诉我。",
    "好的！酵母使面团发起来。",
    "根据您的查询，以下是相关段落：\n酵母使面团发起来。",
    "思考过程：先想。\n\n答案：酵母使面团发起来。",
    "问：面团为什么发酵\n答：酵母使面团发起来。",
    "回答：酵母使面团发起来。",
    "酵母使面团发起来。\n\n注：本段使用了确切术语。",
    "好的，这是一段关于面团的文本：\n\n酵母使面团发起来。",
    "下面是为您生成的文档：\n酵母使面团发起来。",
    "针对查询“面团为什么发酵”，生成的段落如下：\n酵母使面团发起来。",
]

GENUINE = [
    "Sorry-based exceptions are a running joke.",
    "Sorry is a song by Justin Bieber.",
    "Sorry, Wrong Number is a 1948 American film noir.",
    '"I cannot tell a lie" is a phrase attributed to George Washington.',
    "Note: list.sort sorts in place.",
    "Note that sort is stable. It does not copy.",
    "list.sort sorts in place.\n\nNote: The list must hold comparable items.",
    "Chat models refuse with \"I'm sorry, but I can't help with that.\"",
    "A refusal such as 'I cannot assist with that' is counted by string matching.",
    "Qwen3 wraps its reasoning in <think> and </think> tags; strip them.",
    "The </think> tag ends reasoning.",
    "The token <|im_end|> ends a turn in ChatML.",
    'BERT uses [CLS] and [SEP]; GPT-2 uses "<|endoftext|>" as its end.',
    "cursor.execute(operation): Execute a database operation. Query: the SQL text; parameters follow.",
    '["a", "b"] is a JSON array of two strings.',
    '["a", "b"]',
    '{"name": "Ann", "age": 3}',
    "Here is how to sort a list:\nuse list.sort.",
    "Here are the methods of list: append, sort and reverse.",
    "Unfortunately, the method cannot sort in place.",
    "As an AI accelerator, the TPU multiplies.",
    "As a language model, GPT-3 predicts the next word.",
    "Abstract base classes cannot be instantiated.",
    "Output: ndarray of the same shape as the input.",
    "Text: a widget that shows text.",
    "Of course, yeast makes dough rise.",
    "Yes, lists can be sorted in place with list.sort.",
    "Reasoning: the process of drawing conclusions from premises.",
    "Analysis: the study of limits.",
    "I Can't Help Falling in Love with You is a song by Elvis Presley.",
    "I can't help but notice that the dough rises.",
    "If you need a stable sort, use sorted.",
    "The query is parsed, planned and executed by the database in that order.",
    "This request header tells the server what the client accepts.",
    "Content filtered by the firewall is logged.",
    "What do you mean by entropy? In physics, entropy measures disorder.",
    "Could you freeze dough? Yes: yeast survives freezing.",
    "How can I sort a list? Use list.sort, which sorts in place.",
    "We need to write the matrix as a product of two triangular ones.",
    "The user wants a list; list() makes one.",
    "No results are cached by default; pass maxsize to change that.",
    "There is no information loss in lossless compression.",
    "I am Legend is a 1954 horror novel.",
    "Hello, World! is a program that prints a greeting.",
    "Hello is a greeting in the English language.",
    "x = 1\nprint(x)",
    "class A:\n    pass",
    "<p> is the HTML paragraph element.",
    "<output> is an HTML element for results.",
    "**kwargs collects keyword arguments.",
    "*args and **kwargs collect arguments.",
    "`a` and `b`",
    "'a' or 'b'",
    "__init__ is the constructor.",
    ">>> sorted([3, 1])\n[1, 3]",
    "> is the greater-than operator.",
    "--- a/file\n+++ b/file",
    "$ git commit -m 'x'",
    "# comment\nx.sort()",
    "Question: a sentence that asks for something in linguistics.",
    "Q: quantum number of charge.",
    "It is not possible for a set to hold lists.",
    "The request is denied if the token is missing; HTTP 403 is sent.",
    "The response was blocked by CORS policy because of a missing header.",
    "We cannot determine the position and momentum at once.",
    "We do not know the initial condition, so a shooting method is used.",
    "Please provide a valid dtype, e.g. float64.",
    "Which one is faster: list or tuple?",
    "Bonjour is a French greeting.",
    "The German word Schadenfreude means joy at the harm of others.",
    "Expansion joints absorb heat-induced expansion.",
    'OpenAPI\'s schema:\n{"text": {"type": "string"}}',
    '{"text": {"type": "string"}}',
    "numpy.sort(a, axis=-1): Return a sorted copy. Answer: none.",
]

GENUINE_ZH = [
    "对不起是一个汉语词语，用于道歉。",
    "《对不起，我爱你》是一部韩国电视剧。",
    "该问题无法在多项式时间内求解。",
    "作为人工智能的一个分支，机器学习研究算法。",
    "好的代码应该可读。",
    "以下是列表的方法：append、sort。",
    "如果需要稳定排序，请使用sorted。",
    "我不能没有你是一首歌曲。",
    "注意：列表会被就地修改。",
    "查询语句SELECT用于读取数据。",
    "这个问题称为旅行商问题。",
    "用户的权限由管理员设置。",
    "分析：数学的一个分支。",
    "抱歉信的写法：先说明原因。",
    "无法识别的字符会被替换。",
    "请问是一个敬辞，用于询问。",
    "人工智能助手无法替代医生。",
    "你好是汉语中最常用的问候语。",
]


@pytest.mark.parametrize("answer", WRAPPED)
def test_what_models_write_around_a_text(answer: str) -> None:
    assert examine(answer, "what makes dough rise", "en")[::2] == ("Yeast makes dough rise.", None)


@pytest.mark.parametrize("answer", WRAPPED_ZH)
def test_what_models_write_around_a_chinese_text(answer: str) -> None:
    assert examine(answer, "面团为什么发酵", "zh")[::2] == ("酵母使面团发起来。", None)


@pytest.mark.parametrize(("answer", "language"), [(a, "en") for a in REFUSALS] + [(a, "zh") for a in REFUSALS_ZH])
def test_refusals_in_the_models_own_words(answer: str, language: str) -> None:
    assert examine(answer, "a query", language)[2] == "refusal"


@pytest.mark.parametrize(("answer", "language"), [(a, "en") for a in GENUINE] + [(a, "zh") for a in GENUINE_ZH])
def test_texts_that_only_look_like_one_stay(answer: str, language: str) -> None:
    assert examine(answer, "a query", language) == (" ".join(answer.split()), [], None)


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        ("Дрожжи поднимают тесто.", "ru", "en"),
        ("La levadura hace subir la masa.", "es", "en"),
        ("Mit pandas.DataFrame.groupby werden Zeilen nach Schlüsseln gruppiert.", "de", "en"),
        ("La fonction renvoie une nouvelle liste triée.", "fr", "en"),
        ("효모가 반죽을 부풀린다.", "ko", "en"),
        ("الخميرة ترفع العجين.", "ar", "en"),
        ("खमीर से आटा फूलता है।", "hi", "en"),
        ("ยีสต์ทำให้แป้งขึ้นฟู", "th", "en"),
        ("酵母は生地を膨らませる働きがある。", "ja", "zh"),
        ("酵母使面团发起来。", "zh", "en"),
        ("Thunder is the sound of lightning.", "en", "fr"),
        ("numpy.linalg.solve(a, b)：求解线性方程组 ax = b。", "zh", "ja"),
        ("Donner ist der Schall des Blitzes.", "de", "zh"),
    ],
)
def test_the_language_of_a_text(text: str, right: str, wrong: str) -> None:
    assert examine(text, "q", right)[2] is None
    assert examine(text, "q", wrong)[2] == "language"


@pytest.mark.parametrize(
    "text",
    [
        "collections.deque.appendleft: Add an element to the left side of the deque.",
        "x = [i for i in range(10)]",
        "Johann Sebastian Bach, Wolfgang Amadeus Mozart, Franz Liszt",
        "São Paulo, Brazil; Rio de Janeiro, Brazil",
        "Escherichia coli, Staphylococcus aureus",
        "The Chinese word for thunder is 雷 (léi).",
        "Ω(n log n)",
    ],
)
def test_names_code_and_quoted_words_are_no_other_language(text: str) -> None:
    assert examine(text, "q", "en") == (text, [], None)


def test_a_language_that_is_not_known_is_not_checked() -> None:
    assert examine("Yeast makes dough rise.", "q", "xx")[2] is None


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        ("stop", "whole"), (None, "whole"), ("STOP", "whole"), ("end_turn", "whole"), ("tool_calls", "whole"),
        ("length", "cut"), ("model_length", "cut"), ("MAX_TOKENS", "cut"), ("FinishReason.MAX_TOKENS", "cut"),
        ("max_output_tokens", "cut"), ("model_context_window_exceeded", "cut"), ("maxTokens", "cut"),
        ("content_filter", "refusal"), ("content-filter", "refusal"), ("SAFETY", "refusal"), ("RECITATION", "refusal"),
        ("sensitive", "refusal"), ("refusal", "refusal"), ("guardrail_intervened", "refusal"), ("ERROR_TOXIC", "refusal"),
        ("insufficient_system_resource", "broken"), ("network_error", "broken"), ("abort", "broken"), ("ERROR", "broken"),
    ],
)  # fmt: skip
def test_finish_reasons_of_the_vendors(reason: str | None, meaning: str) -> None:
    assert ending(reason) == meaning


@pytest.mark.parametrize(
    "answer", ["word " * 20_000, "\n" * 100_000, "“「" * 50_000, "<think>" * 15_000, "I can't " * 12_500, "\n\nQuery: " * 10_000, "抱歉，" * 33_000, "{" * 100_000]
)  # fmt: skip
def test_a_long_answer_is_read_in_moments(answer: str) -> None:
    signal.setitimer(signal.ITIMER_REAL, 20)  # backtracking would take hours
    try:
        examine(answer, "q", "en")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
