"""Does a model refuse, or ask back, instead of answering?

The words are those of the vendors' models as users report them, and of the lists by which research on refusals counts
them (AdvBench, JailbreakBench, XSTest). Such lists count a word wherever it stands; a passage may begin with "Sorry", too,
so here a refusal is said in the first person, or of the request. English patterns mind case: the titles of songs and films
do not write "I can't help" in small letters.
"""

import re

from qedistill.words import count_words

_SHORT = 60  # words; a question or a complaint at the beginning of a longer text is its beginning

# --- English: parts ---
_WELCOME = r"(?:(?:Hello|Hi|Hey|Greetings|Dear [Uu]ser|Hmm+|Oops|Well|Okay|OK)(?: there)?[!,.…]+ ?)?"
_SUBJECT = r"(?:I|[Ww]e)"
_CANNOT = (
    rf"\b{_SUBJECT}(?:'m|'re| am| are)?(?: (?:\w+ly|just|also|still|therefore|must|have to|do|am))*"
    r"(?: can(?:'t|not| not)\b| could(?:n't| not)\b| won't\b| will not\b"
    r"| (?:unable|not (?:able|allowed|permitted|authorized|programmed|designed|trained|equipped|in a position|going|willing"
    r"|qualified)) to\b"
    r"| decline\b| refuse\b| not comfortable\b| don't feel comfortable\b| not feel comfortable\b"
    r"|'d (?:rather|prefer) not\b| (?:would )?prefer not\b| would rather not\b)"
)
_ANSWERING = (
    r"(?: (?:\w+ly|in good conscience|and will not|or will not|be able to|proceed to))*"
    r"(?: (?:help(?! (?:but|feeling|wondering|noticing|thinking|myself)\b)|assist|comply|fulfil|fulfill|accommodate)\b"
    r"| (?:answer|provide|offer|give|write|create|generate|produce|share|discuss|engage|continue|respond|complete|do|support"
    r"|process|satisfy|participate|facilitate|verify|confirm|access|browse|recommend|speculate|comment|make|talk|search"
    r"|retrieve|address|advise|endorse|promote|describe|know|determine|predict|execute|perform)\b"
    r"(?: (?:to|on|in|with|about|up|you))*"
    r"(?: (?:that|this|so|it)(?=[.,!;:]|$)"
    r"|[^\n.]{0,60}\b(?:requests?|quer(?:y|ies)|questions?|contents?|information|instructions?|guidance|advice|assistance"
    r"|passages?|answers?|responses?|materials?|conversations?|topics?|the internet|real-time|internal|personal"
    r"|opinions?|code of conduct|guidelines|illegal|harmful|unethical|medical|legal)\b))"
)
_APOLOGY = (
    r"(?:(?:I'm|I am|We're|We are)(?: \w+ly| so| very)* sorry|(?:So |Very )?[Ss]orry|(?:My |Sincere |Sincerest |Many )?[Aa]pologies"
    r"|(?:I|We)(?: \w+ly| must| do)? apologi[sz]e|(?:I'm|I am) afraid|I regret|Unfortunately|Regrettably)"
    r"(?=[,.!:;…—– ]+(?:but|[Ii]|[Ww]e|[Yy]ou|that|[Tt]hat's|[Tt]his|it|[Yy]our|the|[Tt]he|for|about|to|if|there|as|[Nn]o|unable"
    r"|can't|cannot|not|[Ll]et's|something|an)\b)"
)
_OF_THE_REQUEST = (
    r"\b(?:[Tt]h(?:is|at|e)|[Yy]our|[Ss]uch)(?: \w+){0,2} (?:request|query|question|prompt|input|message|topic)s?"
)
_THIS_REQUEST = _OF_THE_REQUEST.replace("is|at|e", "is|at")
_INABILITY = (
    rf"(?:{_CANNOT}|\b{_SUBJECT} (?:do not|don't|did not|didn't|could not|couldn't|have no|need|am not|'m not)\b|\bI'm not\b"
    r"|(?:that|this|it)(?:'s| is| goes| falls)(?: \w+){0,3} (?:beyond|outside|against)\b|\bmy (?:current )?scope\b"
    rf"|{_OF_THE_REQUEST}\b|[Ll]et's (?:talk|try|change|discuss|move|chat)|[Aa]s an AI\b|(?:try|ask) again|went wrong"
    r"|\ban error\b|for (?:the|any) (?:confusion|inconvenience|misunderstanding|delay)"
    r"|\b(?:can't|cannot|unable to|not able to) (?:help|assist|answer|provide|comply)\b)"
)
_MACHINE = (
    r"(?:(?:helpful|harmless|honest|responsible|large|small|virtual|digital|ethical|neutral|safe|mere|text-based)[ ,]+(?:and )?)*"
    r"(?:A\.?I\.?(?:[ -](?:powered|based|driven))?|artificial intelligence|(?:AI |multimodal )?language model|LLM|chatbot)"
    r"(?: (?:language )?(?:model|assistant|system|chatbot|program|companion|agent|tool|entity))*(?: \([A-Z]+\))?"
)

# --- at the beginning ---
_ENGLISH = [
    rf"{_APOLOGY}[^\n]{{0,160}}?{_INABILITY}",
    rf"{_CANNOT}{_ANSWERING}",
    rf"{_SUBJECT} (?:must|have to|will have to|need to|am going to|'m going to|respectfully|politely)(?: \w+ly)? (?:decline|refuse)\b",
    rf"{_SUBJECT}(?:'m| am|'re| are| do|)?(?: \w+ly)? (?:don't feel comfortable|not (?:feel )?comfortable)\b",
    rf"{_SUBJECT}(?:'m|'d| am| would)? (?:going to decline|prefer not to (?:answer|continue|discuss|respond|write))\b",
    # Politeness first.
    (
        r"(?:Thank(?:s| you) for|I(?: \w+ly)? (?:understand|appreciate|see|realize|recognize|respect)|I(?:'d| would) (?:be (?:happy|glad)"
        rf"|love|like)|I (?:want|aim|strive|try) to|While|Although|Even though|As much as)\b[^\n]{{0,240}}?{_CANNOT}{_ANSWERING}"
    ),
    rf"As an? {_MACHINE}(?: (?:developed|created|trained|built|designed|made)\b[^\n.,]{{0,60}})?(?:, (?:I|my|it(?:'s| is) (?:not|im))\b| I\b)",
    rf"(?:I'm|I am)(?: \w+ly| just| only| simply| merely)* an? {_MACHINE}\b(?! (?:researcher|engineer|developer|scientist|student|enthusiast))",
    r"(?:I'm|I am) (?:ChatGPT|Claude|DeepSeek|Qwen|Gemini|Kimi|Llama|Mistral|Grok|Doubao|ERNIE)\b",
    r"My (?:knowledge (?:cutoff|is limited)|training data|programming|(?:safety )?guidelines|ethical guidelines)\b",
    (
        r"It (?:is|would be|'s|wouldn't be|would not be)(?: not| in| un| never)? ?(?:appropriate|inappropriate|ethical|unethical|possible|illegal"
        r"|legal|against)\b[^\n.]{0,40}\b(?:for me to|my (?:guidelines|programming|policy))\b"
    ),
    (
        rf"{_THIS_REQUEST}(?: \w+){{0,3}} (?:violates?|goes against|go against|(?:is|are|falls|was) (?:\w+ )?(?:beyond|outside|against"
        r"|inappropriate|blocked|flagged|filtered|denied|rejected|not (?:something|appropriate|allowed|permitted|supported|possible)))\b"
    ),
    r"(?:Content|Request|Response) (?:blocked|filtered|flagged|censored)(?: (?:by|due to) (?:the |our )?(?:content|safety|policy)|[.!]|$)",
    r"(?:Something went wrong|An error occurred while (?:processing|generating|handling)|[Ll]et's (?:talk about something else|try a different topic|change the (?:topic|subject)))",
]
# --- at the beginning of a short answer: it asks back, or knows nothing ---
_ASKING = [
    (r"(?:Could|Can|Would|Will) you (?:please |kindly )?(?:clarify|provide|specify|tell me|give me|share|elaborate|explain what|rephrase|be more"
    r"|let me know|confirm|resend)\b"),
    (r"(?:Please|Kindly|Feel free to)(?: \w+ly)? (?:clarify|rephrase|provide|specify|share|tell me|give me|send|enter|let me know|elaborate|ask|resubmit)\b"
    r"[^\n]{0,80}?\b(?:you|your|me|the (?:query|question|topic|text)|a (?:query|question|topic)|more (?:context|details?|information|specific))\b"),
    r"(?:What|Which|How|Where)\b[^\n.!?]{0,80}?\b(?:(?:do|would|are|did) you (?:mean|refer|want|like|need|looking|asking|referring|have in mind)|can I (?:help|assist))\b[^\n]*\?\W*$",
    r"(?:Are|Do|Did|Were) you (?:asking|looking|referring|mean|want|interested|talking|refer)\b[^\n]*\?\W*$",
    rf"{_SUBJECT}(?:'d| would| will|'ll| do| may| might)?(?: \w+ly)? need(?: \w+){{0,3}} (?:information|context|details?|clarification|specifics)\b",
    (r"I(?: \w+ly)? (?:do not|don't|did not|didn't)(?: \w+ly)? (?:understand|know (?:what|which|who|the|how|about|if|enough)|see (?:a|any|the|your)"
    r"|have (?:(?:any|enough|sufficient|specific|the|real-time|personal|direct|more|access|reliable|current|up-to-date|information)\b))"),
    rf"{_SUBJECT}(?:'m|'re| am| are) (?:not (?:\w+ly )?(?:sure|certain|familiar|aware)|unsure|having trouble)\b",
    rf"{_SUBJECT}(?:'d| would) (?:be (?:happy|glad|delighted)|love|like) to (?:help|assist|write|provide|answer|create)\b",
    (rf"{_OF_THE_REQUEST}(?: \w+){{0,3}} (?:is|are|seems?|appears?|was|lacks?|needs?|contains?)\b[^\n]{{0,40}}\b(?:unclear|not clear|incomplete|ambiguous|vague"
    r"|empty|typo|too broad|cut off|context|details|specific)\b"),
    r"(?:It (?:seems|looks|appears)|Looks like|Seems like)(?: like)?(?: that)? (?:you|your|there (?:is|was|may|might) (?:no|a typo|some)|the (?:query|question|message|input))",
    (r"(?:There (?:is|was|isn't|is not)(?: currently)?|No)(?: \w+){0,2} (?:information|passage|query|question|answer|results?|context)\b[^\n]{0,40}"
    r"\b(?:provided|available|found|given|to (?:answer|write|help))\b"),
    r"(?:Let me know (?:what|which|how|if)|How (?:can|may) I (?:help|assist)|What would you like)\b",
]  # fmt: skip

# --- Chinese: simplified; the characters that these patterns need are made so first ---
_SIMPLIFIED = str.maketrans(
    "對無這個該請問題為語話會沒們換還學習識別內關聽協幫寫滿許討論辦嗎麼於應據規則與違際態實難處資訊訓練開發僅僅",
    "对无这个该请问题为语话会没们换还学习识别内关听协帮写满许讨论办吗么于应据规则与违际态实难处资讯训练开发仅仅",
)
_HELLO = r"(?:(?:尊敬的)?(?:用户)?(?:您好|你好|嗨|哈喽)?[，,！!。~～ ]*)"
_SORRY = r"(?:我)?(?:很|非常|十分|真的|真|实在|深表|感到)*(?:抱歉|对不起|不好意思|遗憾|歉意)"
_UNABLE = r"(?:无法|不能|没办法|没法|不便|不会|不可以|难以|拒绝|不予|不宜|不支持)"
_STILL = r"(?:很|非常|暂时|目前|现在|恐怕|还|尚|真的|实在|确实|可能|也|并|暂|都|是|将|只能)*"
_REPLY = r"(?:回答|解答|作答|回应|回复|提供|协助|帮助|帮|写|完成|满足|处理|讨论|给出|给到|生成|执行|参与|谈论|评论|支持|告诉|访问|确定|理解|继续|对此|就此|为您|为你|识别)"
_CHINESE = [
    (rf"{_HELLO}{_SORRY}[，,。！!、：:\s]+[^\n]{{0,40}}?(?:{_UNABLE}|还?没有?(?:学会|学习|找到|相关|足够|听懂|理解|能)|不(?:太)?(?:了解|清楚|知道|明白|理解|确定)"
    r"|超出|违反|不适合|不允许|换个话题|聊(?:点|聊)?别的|打扰|出错|错误|失败|限制)"),
    rf"{_HELLO}{_SORRY}[，,]?我{_STILL}(?:{_UNABLE}|没有|不)",
    (rf"{_HELLO}(?:对于|关于)?(?:(?:您|你)(?:的|提出的|所?问的|提到的)?|这个|这些|该|此|这类|此类|本|上述)(?:问题|请求|话题|内容|查询|要求|输入|提问)"
    rf"[^\n。]{{0,10}}?(?:我{_STILL}(?:{_UNABLE}|还?没)|{_STILL}{_UNABLE}{_REPLY}|超出了?我|违反|涉及(?:敏感|违规|违法)|不太?适合讨论)"),
    rf"{_HELLO}(?:我们?|本人|本模型|本助手){_STILL}(?:{_UNABLE}[^\n。，,]{{0,14}}?{_REPLY}|还?没有?(?:学会|学习过?如何|相关(?:信息|资料)|足够(?:的)?(?:信息|上下文))|还在学习)",
    rf"{_HELLO}作为(?:一个|一名|一款|一种)?[^\n。，,]{{0,14}}(?:人工智能|AI|语言模型|大模型|助手|助理|模型)[^\n。，,]{{0,10}}[，,]?\s*(?:我|{_STILL}(?:{_UNABLE}|还没))",
    rf"{_HELLO}我(?:只?是|叫)(?:一个|一名|一款|由)?[^\n。，,]{{0,24}}(?:人工智能|AI|语言模型|大模型|智能助手|通义千问|文心一言|豆包|Qwen|DeepSeek|Kimi|ChatGPT|GLM)",
    rf"{_HELLO}(?:根据|依据|按照)(?:相关|有关|国家|中国)[^\n。]{{0,20}}?(?:法律|法规|规定|政策|要求)[^\n。]{{0,30}}?(?:{_UNABLE}|未予|不予)",
    rf"{_HELLO}(?:让)?我们?(?:还是)?(?:来)?(?:换个|换一个|聊聊?)(?:话题|别的|其他)",
]  # fmt: skip
_CHINESE_ASKING = [
    rf"{_HELLO}(?:请问|能否|能不能|可否|可以|麻烦)?(?:请)?(?:您|你)(?:能|可以|可否|能否|是|具体|想|需要|希望)*[^\n。]{{0,6}}?(?:具体|说明|提供|补充|澄清|明确|描述|指|问|了解|查询)[^\n。]*[？?吗]",
    rf"{_HELLO}(?:请|麻烦|烦请|您?需要)(?:您|你)?(?:再)?(?:提供|说明|补充|明确|澄清|告诉我|告知|描述|输入|给出)[^\n。]{{0,10}}?(?:更多|更?具体|更?详细|完整|您|你|查询|问题)",
    rf"{_HELLO}(?:您|你)(?:的|提供的|输入的)?(?:问题|查询|输入|提问|信息)[^\n。]{{0,8}}?(?:不完整|不明确|不清楚|不够|有误|似乎|可能|为空|太)",
    rf"{_HELLO}(?:我)?(?:不太?|没有?|未能)(?:明白|理解|确定|清楚|看到|收到|听懂)[^\n。]{{0,6}}?(?:您|你|问题|查询|意思)",
    rf"{_HELLO}(?:请问)?有什么(?:我)?(?:可以|能)(?:帮|为)",
]  # fmt: skip

# --- other languages that teachers write: said in the first person, or as a machine ---
_OTHERS = [
    r"(?:Lo siento|Lo lamento|Disculp\w+|Perd[oó]n\w*|Lamentablemente|Desafortunadamente)\b[^\n]{0,80}?\b(?:no (?:puedo|podr[eé]|tengo|me es|estoy|es posible))\b",
    r"No (?:puedo|me es posible) (?:ayudar|proporcionar|responder|cumplir|asistir|ofrecer)|Como (?:un )?(?:modelo de lenguaje|IA|asistente|inteligencia)\b[^\n]{0,60}?\bno\b",
    r"(?:(?:Je suis )?(?:vraiment )?[Dd]ésolée?|Malheureusement|Je regrette|Je m'excuse)\b[^\n]{0,80}?\bje ne\b|Je ne (?:peux|suis) pas (?:en mesure|vous|répondre|fournir|aider|répondre)",
    r"En tant qu(?:'|e )(?:IA|modèle de langage|intelligence artificielle|assistant)\b[^\n]{0,60}?\bje\b",
    r"(?:Es tut mir (?:\w+ )?leid|Tut mir (?:\w+ )?leid|Entschuldig\w+|Leider)\b[^\n]{0,80}?\b(?:ich|kann ich)\b[^\n]{0,60}?\b(?:nicht|keine?n?)\b",
    r"Ich (?:kann|darf) [^\n.]{0,40}?nicht (?:helfen|beantworten|erfüllen|bereitstellen|weiterhelfen)|Als (?:ein )?(?:KI|Sprachmodell|künstliche Intelligenz)[^\n]{0,60}?\bich\b",
    r"(?:Mi dispiace|Purtroppo|Mi scuso|Desculpe|Lamento|Sinto muito|Infelizmente)\b[^\n]{0,80}?\b(?:non (?:posso|sono)|não (?:posso|consigo|tenho))\b|Non posso (?:aiutar|fornire|rispondere)|Não posso (?:ajudar|fornecer|responder)",
    r"(?:Извините|К сожалению|Прошу прощения|Простите)[^\n]{0,80}?(?:не мог|не име|не в состоянии)|Я не могу (?:помочь|ответить|предоставить|выполнить)|Как (?:языковая модель|ИИ|искусственный интеллект)",
    r"(?:申し訳(?:ありません|ございません|ない)|すみません|ごめんなさい|残念ながら)[^\n]{0,80}?(?:できません|できかね|お答え|いたしかね|わかりません)|AI(?:アシスタント|言語モデル)?として",
    r"(?:죄송합니다|죄송하지만|미안하지만|유감스럽게도)[^\n]{0,80}?(?:수 없|어렵|못|않)|저는 (?:AI|인공지능|언어 모델)",
]  # fmt: skip

# --- the vendor's filter takes over at the end of an answer that had begun (deepseek-ai/DeepSeek-V3 #411) ---
_TAKEN_OVER = re.compile(
    r"(?:^|[.!?…。！？]\s*|\n)(?:Sorry, that's beyond my current scope|Sorry, I'm not sure how to approach this"
    r"|(?:Sorry, )?[Ll]et's (?:talk|chat) about something else|(?:你好，)?这个问题我暂时无法回答|(?:让我们)?换个话题(?:再)?聊聊吧|我们聊聊别的吧)[^\n]{0,80}$"
)


def _any(patterns: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


_REFUSING = re.compile(f"{_WELCOME}(?:{_any(_ENGLISH).pattern})|{_any(_CHINESE).pattern}|{_any(_OTHERS).pattern}")
_ASKING_BACK = re.compile(f"{_WELCOME}(?:{_any(_ASKING).pattern})|{_any(_CHINESE_ASKING).pattern}")
_DECORATION = re.compile(r"^[^\w\"'“‘「『(<\[`]+")  # emphasis, emoji; what is quoted is not said
_LOOKED_AT = 2000  # characters of the beginning and of the last line


def is_refusal(text: str) -> bool:
    """Whether a text refuses, asks back or speaks of itself as a machine, by its beginning or its last line.

    Example:
        >>> is_refusal("I’m sorry, but I can’t help with that."), is_refusal("Sorry-ness is not an emotion.")
        (True, False)
    """
    text = text.replace("\u2019", "'").replace("**", "").translate(_SIMPLIFIED).strip()
    first, last = text[:_LOOKED_AT], text[text.rfind("\n") + 1 :][-_LOOKED_AT:]
    for part in {first, last}:
        if _REFUSING.match(" ".join(_DECORATION.sub("", part).split())):
            return True
    if count_words(text) <= _SHORT and _ASKING_BACK.match(" ".join(_DECORATION.sub("", first).split())):
        return True
    return bool(_TAKEN_OVER.search(last))
