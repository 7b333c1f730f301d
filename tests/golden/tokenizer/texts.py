"""The strings whose ids are golden: what people write, and what only a tester would."""

import os
import random
import unicodedata

HERE = os.path.dirname(os.path.abspath(__file__))
DOCUMENT = os.path.join(HERE, "../../../deploy/quickstart/engineers-thumb.txt")

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "It's what they'd've said: we'll see, I'm sure you're right.",
    "Don't SHOUT: IT'S, WE'LL, THEY'RE, I'VE, I'M, HE'D, CAN'T.",
    "He said ’tis—“curly” quotes… and an n‑dash – here.",
    "Größere Äpfel fallen schneller, daß es nur so kracht.",
    "L'été dernier, j'ai mangé des crêpes à Nîmes.",
    "¿Dónde está la biblioteca? ¡Allí, señor Muñoz!",
    "Zażółć gęślą jaźń.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Съешь ещё этих мягких французских булок, да выпей чаю.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "いろはにほへと ちりぬるを。東京タワーは333メートルです。",
    "敏捷的棕色狐狸跳过了懒狗。价格是1,234.50元。",
    "다람쥐 헌 쳇바퀴에 타고파. 2024년 3월 5일",
    "صِف خَلقَ خَودِ كَمِثلِ الشَمسِ إِذ بَزَغَت ١٢٣٤٥",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण १२३",
    "สวัสดีชาวโลก ๑๒๓๔ ฿500",
    "Tôi có thể ăn thủy tinh mà không hại gì.",
    "მე მინას ვჭამ და არა მტკივა.",
    "Կրնամ ապակի ուտել և ինծի անհանգիստ չըներ։",
    "ມັນບໍ່ເຮັດໃຫ້ຂ້ອຍເຈັບ",
    "ខ្ញុំអាចញុំកញ្ចក់បាន",
    "Yağız şoföre İstanbul'da ıslak ılık çay.",
    "ⵜⴰⵎⴰⵣⵉⵖⵜ ᚠᛇᚻ ᛒᛦᚦ ᚠᚱᚩᚠᚢᚱ",
    "Ich 🍎 U+1F34E, du 👍🏽!",
    "x² + y³ = ½ · ∑ᵢ aᵢ ≤ ∞ Ⅳ ④ ㊿",
]
CODE = [
    "for (int i = 0; i < n; ++i) {\n\t\tsum += a[i] * 3.14e-5f;\n\t}\n",
    "def f(x):\n    return x**2 if x else None  # größer\n",
    "SELECT * FROM t WHERE id=42 AND name LIKE '%O''Brien%';",
    '<div class="a b">\r\n  &nbsp;<br/>\r\n</div>\r\n',
    "#!/bin/sh\nset -e; echo \"$HOME\" | sed 's/\\//_/g' >> out.log 2>&1",
    '{"a": [1, 22, 333, 4444], "b": null, "c": 1e-9}',
    'std::vector<std::pair<int, std::string>> v{{1, "x"}};',
    "0x7fffffff 0b1010 1_000_000 12345678901234567890 3.14159 1e10",
    "https://example.org/path?q=a%20b&r=1#frag",
    "a->b != c::d && e <= f || !g ? h : ~i ^ j",
    "\\section{Intro} $\\alpha_{i}^2$ % remark",
    "__init__.py kCamelCase SCREAMING_SNAKE kebab-case v1.2.3-rc4",
    "diff --git a/x b/y\n@@ -1,3 +1,4 @@\n-old\n+new\n",
]
MARKUP = [
    "<|im_end|>",
    "a<|im_start|>system\nb<|im_end|>\n",
    "<|endoftext|>",
    "<|eot_id|> <|start_header_id|>user<|end_header_id|>\n\n",
    "<|begin_of_text|>",
    "<tool_call>",
    "x<tool_call>y<tool_calls> <tool_call",
    "<|im_end",
    "|im_end|>",
    "<tool_call><tool_call>",
]
CONTRACTIONS = [
    "'s",
    "'S",
    "'ſ",
    "it'ſ",
    "'re're",
    "''ll",
    "'Ve",
    "'LL",
    "o'clock",
    "'d'",
    "'",
    " '",
    "' s",
    "'t's'm",
    "x's1",
    "1's",
    "'rex",
    "’s",
    "'K",
    "'\u212a",
]
EMOJI = [
    "👨‍👩‍👧‍👦",
    "🏳️‍🌈",
    "👩🏽‍🚀 in space",
    "🇩🇪🇫🇷🇯🇵",
    "1️⃣2️⃣#️⃣",
    "❤️‍🔥",
    "🧑‍💻🧑‍💻",
    "☺️☺",
    "😀😀😀😀",
    " 🙂 ",
    "🫠🥹",
]
COMBINING = [
    "e\u0301",
    "a\u0308\u0304\u0323x",
    "Z\u0351\u036b\u0343al\u0321go",
    "\u0301",
    " \u0301a",
    "क्षि",
    "ก็",
    "ẛ̣",
    "가각\u1100\u1161",
    "\u200d\u200c\u200b\u2060\ufeff",
]
SPACES = [
    " ",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "\x0b",
    "\x0c",
    "\x85",
    "\xa0",
    "\u1680",
    "\u180e",
    "\u2000",
    "\u2003",
    "\u2009",
    "\u200a",
    "\u2028",
    "\u2029",
    "\u202f",
    "\u205f",
    "\u3000",
    "\u200b",
    "\x1c",
    "\x1f",
]


def stable_characters():
    """Assigned in this Python's Unicode, or never to be: later additions are letters to some libraries only."""
    return [
        c
        for c in range(0x110000)
        if not 0xD800 <= c < 0xE000
        and (unicodedata.category(chr(c)) != "Cn" or c & 0xFFFE == 0xFFFE or 0xFDD0 <= c < 0xFDF0)
    ]


def random_texts(rng):
    characters = stable_characters()
    by_plane = [[c for c in characters if c >> 16 == plane] for plane in range(17)]
    latin = [c for c in characters if c < 0x250]
    scripts = [c for c in characters if c < 0x3000]
    ascii_mix = "aZ09 '’sStTmdDlLrReEvV.,-_\n\r\t!?"
    for _ in range(150):  # all planes, each as likely
        yield "".join(
            chr(rng.choice(rng.choice([p for p in by_plane if p]))) for _ in range(rng.randint(1, 8))
        )
    for pool in (latin, scripts):
        for _ in range(120):
            yield "".join(chr(rng.choice(pool)) for _ in range(rng.randint(1, 12)))
    for _ in range(600):
        yield "".join(rng.choice(ascii_mix) for _ in range(rng.randint(1, 24)))
    for _ in range(300):  # runs of white space between things
        parts = []
        for _ in range(rng.randint(1, 4)):
            parts.append(rng.choice(["a", "Z9", "9", "!", "", "é", "中"]))
            parts.append(
                "".join(
                    rng.choice(SPACES[:5] if rng.random() < 0.6 else SPACES) for _ in range(rng.randint(0, 5))
                )
            )
        yield "".join(parts)
    digits = [c for c in characters if unicodedata.category(chr(c)) in ("Nd", "Nl", "No")]
    for _ in range(80):
        yield "".join(
            chr(rng.choice(digits)) if rng.random() < 0.3 else rng.choice("0123456789")
            for _ in range(rng.randint(1, 9))
        )
    everything = SENTENCES + CODE + MARKUP + CONTRACTIONS + EMOJI + COMBINING
    for _ in range(500):  # cut and joined: pieces that no one wrote on purpose
        a, b = rng.choice(everything), rng.choice(everything)
        yield a[rng.randrange(len(a)) :][:20] + b[: rng.randint(1, 20)]


def all_texts():
    rng = random.Random(20240607)
    texts = [""] + SENTENCES + CODE + MARKUP + CONTRACTIONS + EMOJI + COMBINING
    texts += (
        [chr(c) for c in range(0x100)]
        + SPACES
        + [s * 7 for s in SPACES]
        + ["a" + s + s + "b" for s in SPACES]
    )
    texts += ["a" * 100, "ab" * 60, "=" * 80, " " * 90, "\n" * 40, "1" * 50, "🙂" * 20, "中" * 50]
    with open(DOCUMENT, encoding="utf-8") as document:
        texts += [line for line in document.read().split("\n") if line][:300]
    texts += list(random_texts(rng))
    return list(dict.fromkeys(texts))
