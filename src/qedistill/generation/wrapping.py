"""What chat models write around a text that was asked for, and how it is taken away.

Each function returns the text without one kind of wrapping, or the text as it is. What may belong to the text stays: a mark,
a tag or a label counts where a model puts it, at the beginning or end of a line, and not where a sentence speaks of it.
"""

import json
import re
from collections.abc import Callable
from typing import Any

# --- template marks ---
_MARK = (
    r"(?:<\|[^|<>\n]{1,40}\|>|<｜[^｜<>\n]{1,40}｜>|<\|[a-z]{1,20}>|<[a-z]{1,20}\|>|</?s>|\[/?INST\]|<</?SYS>>"
    r"|<(?:eos|bos|pad|unk|sop|eop|end_of_turn|start_of_turn|end_of_utterance|unused\d+|extra_id_\d+|reserved_\d+)>"
    r"|\[(?:gMASK|EOS|BOS|PAD|/?SYSTEM_PROMPT|/?TOOL_CALLS)\])"
)
_HEADER = re.compile(
    rf"^(?:\s*\[INST\][^\[]{{0,4000}}\[/INST\]|\s*{_MARK}(?:\s*(?:assistant|model|final|response)(?=\s*(?:\n|{_MARK})))?)+\s*"
)
_TURN_END = re.compile(rf"(?:(?<=[.!?…。！？\n])[ \t]*{_MARK}|(?<![`\"'“]){_MARK}(?=\s*(?:\Z|\n|{_MARK})))")

# --- reasoning: opening, closing, and whether the opening alone says that all behind it is reasoning ---
_TAGS = r"(?:seed:|longcat_|ant|inner_)?(?:think(?:ing)?|thoughts?|reasoning|reflection|analysis|scratchpad|monologue)"
_ANSWER_LABEL = r"(?:(?:final|my) )?(?:answer|passage|response|expansion)|(?:最终)?(?:段落|答案|回答|扩展)|正文"
_REASONING = [
    (re.compile(opening, re.IGNORECASE), re.compile(closing, re.IGNORECASE), sure)
    for opening, closing, sure in [
        (rf"<{_TAGS}(?:\s[^<>\n]{{0,80}})?>", rf"</{_TAGS}>", True),
        ("◁think▷", "◁/think▷", True),  # Kimi
        (r"\[THINK\]", r"\[/THINK\]", True),  # Magistral
        # OpenThinker, Cohere, Apertus
        (r"<\|(?:begin_of_thought|start_thinking|thinking|think|inner_prefix)\|>",
         r"<\|(?:end_of_thought|end_thinking|/thinking|/think|inner_suffix)\|>", True),
        # gpt-oss; the last as servers leave it that drop special tokens
        (r"(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)\b", r"<\|channel\|>final[^<>\n]{0,20}(?:<\|constrain\|>\w+)?<\|message\|>", True),
        (r"(?-i:analysis(?=[A-Z]))", r"(?-i:assistant\s?final(?=\W|[A-Z]))", False),
        (r"<\|channel>thought\b", r"<channel\|>", True),  # Gemma
        (r"<unused94>thought\b", "<unused95>", True),  # MedGemma
        (r"<details type=\"reasoning\"[^<>\n]{0,80}>", "</details>", True),  # Open WebUI
        (r"#{2,4} ?Thinking\b", r"#{2,4} ?Response\b", False),  # GLM-Z1
        ("Here is my thought process:", "Here is my response:", False),  # Granite
        # In plain words, where an answer is labelled behind them.
        (r"[#*_ ]*(?:reasoning|thinking|thoughts?(?: process)?|chain of thought|analysis|思考(?:过程)?|推理(?:过程)?|分析)[*_ ]*[:：]",
         rf"\n(?=[#*_ ]*(?:{_ANSWER_LABEL})[*_ ]*[:：])", False),
        ((r"(?:(?:okay|ok|alright|hmm|well|so|now)[,.…]+ )*(?:so,? )?(?:let me (?:think|see|start|figure)|let's think|the user (?:is asking|asks|asked|wants|want|needs|has)[^\n.]{0,60}\b(?:me to|passage|query|text|question|answer|information|to know)\b"
         r"|(?:we|i) (?:need|have|should|must|are asked) to (?:write|produce|output|generate|create|craft|answer|respond)[^\n.]{0,40}\b(?:passage|query|user|text|abstract|answer)\b)"),
         rf"\n(?=[#*_ ]*(?:{_ANSWER_LABEL})[*_ ]*[:：])", True),
        (r"(?:(?:好的?|嗯|首先)[，,。]\s*)*(?:用户(?:想|要|让|问|希望|需要|的(?:问题|查询|请求))|我(?:需要|要|得|应该)(?:先)?(?:写|撰写|生成|思考|分析|回答)|让我(?:想|思考|分析))",
         rf"\n(?=[#*_ ]*(?:{_ANSWER_LABEL})[*_ ]*[:：])", True),
    ]
]  # fmt: skip
# A closing mark alone: the opening one stood in the prompt, as in Qwen3's and DeepSeek-R1's templates.
_CLOSED = re.compile(
    rf"^(?:(?!<{_TAGS}[\s>]).)*(?:(?<=[.!?…:。！？：)\]*`\n])[ \t]*(?:</(?:seed:)?think(?:ing)?>|◁/think▷|\[/THINK\])|(?:</(?:seed:)?think(?:ing)?>|◁/think▷|\[/THINK\])(?=\s*(?:\n|\Z)))",
    re.DOTALL | re.IGNORECASE,
)
_LATER = re.compile(r"^(?=<think(?:ing)?>|◁think▷|\[THINK\])", re.MULTILINE | re.IGNORECASE)

# --- preambles ---
_WANTED = (
    r"(?:passages?|texts?|paragraphs?|answers?|responses?|abstracts?|excerpts?|(?:pseudo-?)?documents?|expansions?|quer(?:y|ies)"
    r"|questions?|requests?|descriptions?|summar(?:y|ies)|explanations?|terms|keywords|phrases|snippets?|entr(?:y|ies)"
    r"|articles?|definitions?|versions?|attempt|docstrings?|documentation|overview|contents?|write-up|information|JSON)"
)
_YES = (
    r"(?:(?:Sure(?: thing)?|Certainly|Of course|Absolutely|Definitely|Great(?: question)?|Good question|Okay|OK|Alright|All right"
    r"|Yes|No problem|Got it|Understood|Gladly|Happy to help|Thank you[^\n.!:]{0,60}|Thanks[^\n.!:]{0,60}|Hello|Hi)(?: there)?[!,.:;—–]+\s*)"
)
_HERE = (
    r"(?:[Hh]ere(?:'s|’s| is| are|'re| you go| it is)|[Bb]elow (?:is|are)|[Tt]he following|[Tt]his is|(?:I|We)(?:'ve|’ve| have|'ll|’ll| will)?"
    r" (?:written|wrote|write|created?|generated?|prepared?|provided?|composed?|crafted?)|I(?:'d|’d| would) be (?:happy|glad) to|I can \w+"
    r"|[Ll]et me|[Aa]s requested|[Bb]ased on|[Ii]n response to|[Tt]o answer|[Ff]or (?:the|your))"
)
_OTHER_YES = (
    r"(?:¡?Claro|¡?Por supuesto|Aquí (?:está|tienes?|hay)|A continuación|Bien sûr|Certainement|Voici|Natürlich|Gerne|Hier (?:ist|sind)|Certo|Certamente"
    r"|Ecco|Aqui (?:está|estão|vai)|Конечно|Вот|Ниже|はい|もちろん|承知|以下(?:は|に|が|の)|こちら|물론|네[,.]|다음은|여기)"
)
_ZH_YES = r"(?:(?:好的?|当然(?:可以)?|没问题|可以的?|明白了?|收到|了解|您好|你好|嗯|谢谢[^\n，。！]{0,10})[，,！!。：:~～\s]+)"
_ZH_WANTED = r"(?:段落|文本|扩展|回答|答案|内容|描述|文档|文件|摘要|说明|介绍|解释|短文|文章|查询|问题|术语|关键词|词|片段|条目|版本|请求|要求)"
_ZH_HERE = r"(?:以下|下面|如下|这里|这(?:就)?是|根据|按照|针对|为(?:您|你)|我(?:将|来|已|为))"
_PREAMBLES = [
    # A line of its own; of a text that only begins so, the line says what follows, and stays.
    re.compile(rf"^[*_]*(?:{_YES}[^\n]{{0,300}}|{_HERE}[^\n]{{0,200}}?\b{_WANTED}\b[^\n]{{0,300}}|[Hh]ere you go[^\n]{{0,20}}):[*_ \t]*\n"),
    re.compile(rf"^{_ZH_YES}?{_ZH_HERE}[^\n]{{0,80}}{_ZH_WANTED}[^\n]{{0,80}}[：:][* \t]*\n|^{_ZH_YES}[^\n]{{0,120}}[：:][* \t]*\n"),
    re.compile(rf"^{_OTHER_YES}[^\n]{{0,200}}[:：][* \t]*\n"),
    # A paragraph of its own.
    re.compile(rf"^(?:{_YES}(?:{_HERE}[^\n]{{0,300}}[.!])?|{_HERE}[^\n]{{0,200}}?\b{_WANTED}\b[^\n]{{0,200}}[.!])[ \t]*\n\s*\n"),
    re.compile(rf"^(?:{_YES}|{_ZH_YES})\n+"),
    re.compile(rf"^{_ZH_YES}?{_ZH_HERE}[^\n]{{0,80}}{_ZH_WANTED}[^\n]{{0,80}}[。！][ \t]*\n\s*\n"),
    # Before the text, on its line.
    re.compile(
        rf"^{_YES}?(?:[Hh]ere(?:'s|’s| is| are)|[Bb]elow is|[Tt]he following is|[Tt]his is) (?:an?|the|my|one|your|some) (?:[\w-]+ ){{0,4}}"
        r"(?:passage|paragraph|expansion|answer|response|excerpt|abstract|text|document|query)\b[^\n:]{0,120}:[*_]* "
    ),
    re.compile(
        rf"^{_ZH_YES}?(?:以下|下面|这)(?:就)?(?:是|为)[^\n：:。]{{0,40}}(?:段落|文本|扩展|回答|答案|文档|摘要|短文|片段)[^\n：:。]{{0,20}}[：:][* ]*"
    ),
    re.compile(r"^(?:Sure(?: thing)?|Certainly|Of course|Absolutely|Definitely|Got it|Understood|No problem|Great question|Good question)! (?=[A-Z])"),
    re.compile(r"^(?:好的|当然(?:可以)?|没问题)[！!] ?"),
]  # fmt: skip

# --- labels ---
_KIND_OF = (
    r"(?:(?:relevant|generated|hypothetical|example|sample|possible|expanded|rewritten|final|my|the|your|draft|original|short|ideal|target"
    r"|suggested|search|expansion|query|model|document|answer) )*"
)
_LABELLED = (
    rf"(?:{_KIND_OF}(?:passage|expansion|answer|response|paragraph|abstract|excerpt|pseudo-?document)|(?:relevant|generated|hypothetical|sample"
    rf"|example) (?:document|text)|(?:expanded|rewritten|reformulated) query|expansion terms|assistant|(?:相关|生成的?|假设(?:性)?的?|示例|最终|查询)*"
    r"(?:段落|扩展|回答|答案|文档|摘要|文本|正文|片段)|扩展查询|pasaje|respuesta|réponse|abschnitt|antwort|passaggio|risposta|passagem|resposta|ответ|отрывок"
    r"|回答文|答え|文章|답변|단락|答)"
)
# A text may begin with these words, as in "Output: an array"; alone on their line they are labels.
_HEADED = rf"(?:{_LABELLED}|{_KIND_OF}(?:text|output|result|content|document|summary|description|explanation|definition|docstring|documentation|entry|body)|内容|输出|结果|说明|描述)"
_NUMBER = r"(?: ?(?:#|no\. ?)?\d{1,2})?"
_LABELS = [
    re.compile(rf"^[#>*_\s]*{_LABELLED}{_NUMBER}[*_ ]*[:：][*_]*\s*", re.IGNORECASE),
    re.compile(rf"^(?:[#>*_\s]+|[\[【「]){_HEADED}{_NUMBER}[\]】」*_ ]*[:：]?[*_]*\s*(?:\n|\Z)", re.IGNORECASE),
    re.compile(rf"^{_HEADED}{_NUMBER}[:：]?[ \t]*[|>]?-?[ \t]*\n", re.IGNORECASE),
    re.compile(rf"^[\[【]{_LABELLED}{_NUMBER}[\]】][:：]?\s*", re.IGNORECASE),
    re.compile(rf"^\*\*{_HEADED}{_NUMBER}(?:[:：]\*\*|\*\*[:：])\s*", re.IGNORECASE),
]  # fmt: skip

# --- wrappers ---
_FENCE = re.compile(r"^(```+|~~~+)[^\n`]{0,30}\n(.*?)(?:\n[ \t]*\1[`~]*|\Z)(?:\s*)\Z", re.DOTALL)
_INLINE_FENCE = re.compile(r"^```([^`\n]*)```\Z")
_QUOTE = re.compile(r"^> ?(?!>)", re.MULTILINE)
_RULE = re.compile(r"^(?:\s*(?:-{3,}|\*{3,}|_{3,}|={3,})[ \t]*\n)+|(?:\n[ \t]*(?:-{3,}|\*{3,}|_{3,}|={3,})\s*)+\Z")
_ELEMENT = r"(answer|final_answer|passage|text|output|response|expansion|expanded_query|query_expansion|result|document|doc|solution|content|paragraph|abstract|p)"
_TAGGED = re.compile(
    rf"^<{_ELEMENT}>(.*?)</\1>\s*\Z|^<(answer|final_answer|passage|expansion|response)>(.*)\Z",
    re.DOTALL | re.IGNORECASE,
)
_TAGGED_LATER = re.compile(
    r"^.*?^<(answer|final_answer|passage|output|response|solution)>(.*?)</\1>\s*\Z", re.DOTALL | re.MULTILINE | re.IGNORECASE
)  # fmt: skip
_CLOSING_TAG = re.compile(rf"(?<=[.!?。！？\s])</{_ELEMENT}>\s*\Z", re.IGNORECASE)
_QUOTES = {'"': '"', "'": "'", "“": "”", "„": "“", "«": "»", "‹": "›", "「": "」", "『": "』", "`": "`", "**": "**", "*": "*", '"""': '"""', "'''": "'''"}  # fmt: skip
_KEYS = (
    "passage", "passages", "text", "answer", "final_answer", "expansion", "expansions", "content", "output", "response", "document",
    "expanded_query", "query_expansion", "result", "abstract", "paragraph", "pseudo_document", "hypothetical_document", "excerpt",
    "generated_passage", "refusal", "error", "message", "段落", "扩展", "回答", "答案", "文本", "内容",
)  # fmt: skip
_BESIDE = {
    "query", "question", "title", "id", "query_id", "language", "score", "confidence", "reasoning", "thought", "thoughts", "explanation",
    "note", "notes", "keywords", "word_count", "type", "role", "查询", "问题",
}  # fmt: skip
_JSON_CUT = re.compile(rf'^\{{\s*"(?:{"|".join(_KEYS)})"\s*:\s*"((?:[^"\\]|\\.)*)', re.DOTALL)

# --- behind ---
_MINE = (
    r"(?:\bI(?:'ve|’ve|'m|’m)?\b|\b(?:my|me)\b|\byou(?:r|'d|’d)?\b|\b(?:[Tt]his|[Tt]he|[Tt]he above|[Aa]bove)(?: \w+)? (?:passage|text|response|answer|expansion|paragraph"
    r"|excerpt|abstract|query)\b|hypothetical|fictional|illustrative|\bword (?:count|limit)|\b\d+ words\b)"
)
_OFFER = (
    r"(?:(?:Please )?(?:[Ll]et me know|[Ff]eel free to (?:ask|reach|let|contact|modify|adjust))\b|(?:I )?[Hh]ope (?:this|that|it) |Would you like (?:me|more)\b"
    r"|Do you (?:want|need) me\b|Is there anything else|If you(?:'d|’d)? (?:need|want|have|would like|like)[^\n.]{0,100}(?:let me know|feel free|just ask|I can |I'd |I'll )"
    r"|希望(?:以上|这|上述|对您|对你|能|本|我的)[^\n]{0,40}(?:帮助|帮到|有用|满足|参考|解答)|如果?(?:您|你)?[^\n。]{0,40}(?:告诉我|随时|联系我|继续提问|我可以|我会|我很乐意)"
    r"|(?:请|欢迎)(?:您|你)?随时|需要我[^\n]{0,40}[吗？?]|(?:还)?有(?:其他|什么)[^\n]{0,20}(?:吗|随时))"
)
_NOTE = (
    rf"(?:(?:\*{{1,2}}|_|\(|\[|（)*(?:(?:Please )?[Nn]ote|N\.?B\.?|Disclaimer|Explanation|Remark)(?:[:：]| that\b)[*_]*[^\n]{{0,300}}?{_MINE}"
    r"|[*_(（\[]*(?:This|The(?: above)?) (?:passage|text|response|expansion|excerpt|abstract|paragraph) (?:above )?(?:is|was|uses|contains|includes|covers|provides|answers"
    r"|addresses|should|incorporates|stays|aims)\b|[*_(（\[]*I(?:'ve|’ve| have)? (?:used|written|wrote|included|kept|tried|made sure|avoided|focused)\b"
    r"|[*_(（\[]*(?:Word count|Words|Length|字数)[*_]*[:：] ?\d+|[(（\[](?:~|共|约|about |approximately )*\d+ ?(?:words|字|个词|词)[^\n]{0,10}[)）\]]"
    r"|[*_(（\[]*(?:注意|注|说明|备注|提示)[*_]*[:：][^\n]{0,200}?(?:以上|上述|本段|该段|此段|这段|本回答|我|您|你|字数|查询)"
    r"|[(（]?以上(?:内容|段落|文本|回答|信息|是|为|仅供)|(?:这|该|本)段(?:落|文字)?(?:使用|包含|符合|回答|涵盖))"
)
_BEHIND = re.compile(
    rf"\n[#>*_\s-]*(?:{_OFFER}|{_NOTE}).*\Z|(?<=[.!?。！？”\"])[ \t]+{_OFFER}[^\n]*\Z|(?<=[。！？]){_OFFER}[^\n]*\Z",
    re.DOTALL,
)
_LONGEST_BEHIND = 800  # characters; what is longer is text

# --- an invented next exemplar, or another answer ---
_ASKED = r"(?:(?:user|search|next|new|test) )*(?:query|question)|q|user|human|查询|问题|用户(?:查询)?|问"
_ANSWERED = r"(?:passage|answer|a|expansion|assistant|response|段落|答案?|回答|扩展)"
_NEXT = re.compile(
    rf"\n[#>*_ \t]*(?:{_ASKED}){_NUMBER}[*_]*[ \t]*[:：][^\n]{{0,600}}\n\s*[#>*_ \t]*{_ANSWERED}{_NUMBER}[*_ ]*[:：]"
    rf"|\n[ \t]*(?:-{{3,}}[ \t]*)?\n\s*[#>*_ \t]*(?:{_ASKED}){_NUMBER}[*_]*[ \t]*[:：]"
    r"|(?<=[.!?。！？])\s*(?:Query|Question|查询|问题)[:：][^\n]{1,300}?\s*(?:Passage|Answer|段落|答案|回答)[:：]"
    rf"|\n[ \t]*(?:-{{3,}}[ \t]*)?\n\s*[#>*_ \t]*(?:passage|expansion|段落|扩展){_NUMBER}[*_ ]*[:：]",
    re.IGNORECASE,
)
_ECHO = re.compile(rf"^[#>*_\s]*(?:{_ASKED})[*_ ]*[:：]", re.IGNORECASE)
_SEEN = 20_000  # characters before which a passage has come to its end


def without_reasoning(text: str) -> str:
    """The text without what the model thought before it, in whatever marks; nothing where it never came to an end.

    Example:
        >>> without_reasoning("[THINK]Let me see.[/THINK]Yeast makes dough rise.")
        'Yeast makes dough rise.'
    """
    rest = text.strip()
    if closed := _CLOSED.match(rest):
        rest = rest[closed.end() :].strip()
    while (after := _after_thought(rest)) is not None:
        rest = after.strip()
    if later := next((match for match in _LATER.finditer(rest) if match.start()), None):
        before, behind = rest[: later.start()], _after_thought(rest[later.start() :]) or ""
        rest = f"{before.rstrip()}\n{behind.lstrip()}"
    return rest.strip()


def _after_thought(text: str) -> str | None:
    """What follows reasoning at the beginning; nothing where it never ends, None where there is none."""
    for opening, closing, sure in _REASONING:
        if opened := opening.match(text):
            closed = closing.search(text, opened.end())
            if closed or sure:
                return text[closed.end() :] if closed else ""
    return None


def without_marks(text: str) -> str:
    """The text without marks of chat templates, and without the turns that were invented behind one.

    Example:
        >>> without_marks("<|im_start|>assistant\\nYeast makes dough rise.<|im_end|>\\n<|im_start|>user\\nWhy?")
        'Yeast makes dough rise.'
    """
    text = _HEADER.sub("", text, count=1)
    end = _TURN_END.search(text)
    return (text[: end.start()] if end else text).strip()


def without_preamble(text: str) -> str:
    """The text without a sentence that announces it."""
    for pattern in _PREAMBLES:
        if (match := pattern.match(text)) and match.end() < len(text):
            return text[match.end() :].strip()
    return text


def without_label(text: str) -> str:
    """The text without what it is called, as "Passage:", as a heading or in brackets."""
    for pattern in _LABELS:
        if match := pattern.match(text):
            return text[match.end() :].strip()
    return text


def without_wrapper(text: str) -> str:
    """The text out of a fence, a block quote, rules, a tag, JSON or quotation marks around the whole."""
    for unwrap in (_unfenced, _untagged, _out_of_json, _unquoted):
        if (inside := unwrap(text)) != text:
            return inside.strip()
    return text


def without_what_follows(text: str) -> str:
    """The text without notes on it, offers and kind regards behind it."""
    match = _BEHIND.search(text, max(1, len(text) - _LONGEST_BEHIND))
    return text[: match.start()].strip() if match else text


def without_next(text: str) -> str:
    """The text without further queries and passages, invented after the model of a few-shot prompt."""
    match = _NEXT.search(text, 1, _SEEN)
    return text[: match.start()].strip() if match and text[: match.start()].strip() else text


def without_echo(text: str, repeats: Callable[[str], bool]) -> str:
    """The text without the query before it, where that stands on a line of its own or is all there is.

    Args:
        repeats: whether a text is the query.
    """
    first, _, rest = text.partition("\n")
    label = _ECHO.match(first)
    line = first[label.end() :] if label else first
    # A query in other words is an echo, too, where it is labelled and the passage is.
    paraphrase = label and _LABELS[0].match(rest.strip())
    if paraphrase or repeats(line.strip("#>*_ \t")):
        return rest.strip()
    return text


def _unfenced(text: str) -> str:
    if match := _INLINE_FENCE.match(text):
        return match[1]
    if (match := _FENCE.match(text)) and not re.search(rf"^{re.escape(match[1])}", match[2], re.MULTILINE):
        return match[2]
    if re.match(r"> ?[^\sa-z>]", text) and all(_QUOTE.match(line) for line in text.splitlines() if line.strip()):
        return _QUOTE.sub("", text)
    return _RULE.sub("", text)


def _untagged(text: str) -> str:
    if match := _TAGGED.match(text) or _TAGGED_LATER.match(text):
        *_, tag, inside = (group for group in match.groups() if group is not None)
        return inside if f"<{tag}>" not in inside else text
    return _CLOSING_TAG.sub("", text)


def _out_of_json(text: str) -> str:
    if text[:1] not in "{[":
        return text
    try:
        return _only_text(json.loads(text, strict=False)) or text
    except (ValueError, RecursionError):
        pass
    if match := _JSON_CUT.match(text):  # cut off, or broken behind
        try:
            return str(json.loads(f'"{match[1]}"', strict=False)) or text
        except ValueError:
            pass
    return text


def _only_text(value: Any) -> str | None:
    """The one text in a JSON value that is called an answer; other keys must be such as models put beside it."""
    if isinstance(value, list) and len(value) == 1:
        return _only_text(value[0])
    if not isinstance(value, dict):
        return None
    called = [key for key in value if str(key).casefold() in _KEYS]
    if len(called) != 1 or not all(str(key).casefold() in _BESIDE for key in value if key not in called):
        return None
    inside = value[called[0]]
    if isinstance(inside, list) and inside and all(isinstance(part, str) for part in inside):
        return "\n".join(inside)
    return inside if isinstance(inside, str) else _only_text(inside)


def _unquoted(text: str) -> str:
    for opening, closing in sorted(_QUOTES.items(), key=lambda pair: -len(pair[0])):
        inside = text[len(opening) : -len(closing)]
        if len(text) >= len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
            # Quotes around two parts of it are no quotes around the whole.
            return text if opening in inside else inside
    return text
