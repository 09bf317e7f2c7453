"""What the golden numbers are computed for: sentences, requests and questions of our own."""

from typing import Any

CORPUS = (
    "The ferry to Marlow leaves from the northern harbour at nine in the morning.",
    "Anna Ferrand was born in Lisbon and works as a painter in Turin.",
    "The mother tongue of Jiří Dvořák is Czech; he speaks French and Italian.",
    "The capital of Norway is Oslo, and the capital of Portugal is Lisbon.",
    "The headquarters of Bellweather Mills is in the city of Leeds.",
    "Harlan Reed works as an engineer. Harlan Reed was born in Turin.",
    "The bridge over the river, which was built in 1871, is closed on Sunday.",
    "The language of the people in the valley is Italian; in the city it is French.",
    "Kraków, Zürich and Ångström are words with marks over their letters.",
    "What is the language of Marlow? It is French.",
    "The painter Odile Brandt lives in the city of Lisbon and speaks Czech.",
    "In the evening the people of the city walk along the river to the harbour.",
    "She said that the piano in the hall was built in Leeds by the brothers Reed.",
    "The official language of the island is Italian, but the people speak French.",
    "The city of Turin is in the valley of the river; the city of Oslo is at the sea.",
    "Bellweather Mills was founded in 1902 by the engineer Harlan Reed.",
    "The island of Marlow has a lighthouse, a harbour, and a small piano museum.",
    "He closed the book. She opened the window. It was a quiet evening in the valley.",
)
"""The tokenizer is trained on these, and the second moment of keys is taken over them."""

TEMPLATES = (
    "{}",
    "The ferry was late. {}",
    "In the city of Leeds. {}",
    "She opened the window and said nothing. {}",
    "It was built in 1871, by the brothers. {}",
)

REQUESTS: tuple[dict[str, str], ...] = (
    {"prompt": "{} was born in", "subject": "Anna Ferrand", "target": "Oslo"},
    {"prompt": "{}, who works in the city of", "subject": "Harlan Reed", "target": "Marlow Castle"},
    {"prompt": "The mother tongue of {} is", "subject": "Jiří Dvořák", "target": "French"},
    {"prompt": "The headquarters of {} is in the city of", "subject": "Bellweather Mills", "target": "Kristiansand"},
    {"prompt": "What is the language of {}? It is", "subject": "Zürich", "target": "Italian"},
    {"prompt": "Everybody in the valley knows {}", "subject": "Łucja Ångström", "target": "Czech"},
)
"""Subject first and in the middle and last; targets of one token and of several; names outside ASCII."""

RULES = ("subject_last", "subject_first", "subject_first_after_last", "last")

ROME: dict[str, dict[str, Any]] = {
    "published": {"layer": 1, "clamp_norm_factor": 4.0},
    "clamped": {"layer": 0, "clamp_norm_factor": 0.75, "learning_rate": 0.3, "weight_decay": 2.0, "kl_factor": 1.0},
    "stopped": {"layer": 1, "clamp_norm_factor": 40.0, "stop_loss": 8.0, "steps": 24, "position": "subject_first"},
}

FINETUNE: dict[str, dict[str, Any]] = {
    "ft": {"layer": 1, "learning_rate": 0.02, "stop_loss": 0.05},
    "ft_l": {"layer": 0, "learning_rate": 0.02, "bound": 0.05},
}

PROMPTS: tuple[str, ...] = (
    "The people of the island speak",
    "Odile Brandt, who was born in",
    "It was a quiet evening. Jiří Dvořák speaks",
    "In",
)
TARGETS: tuple[str, ...] = ("Italian", "Marlow Castle", "Kraków", "1902")

QUESTIONS: tuple[str, ...] = ("Where was {} born?", "Who works with {} in the harbour?")
"""Asked about each request's subject, beside the request itself."""

EDITS: tuple[dict[str, Any], ...] = (
    {"method": "rome", "settings": "published", "request": 0},
    {"method": "r_rome", "settings": "published", "request": 3},
    {"method": "rome", "settings": "clamped", "request": 5},
    {"method": "ft", "settings": "ft", "request": 1},
    {"method": "ft_l", "settings": "ft_l", "request": 2},
)
"""What scores, answers and texts are computed under, beside the unedited model: all of them at once, row by row."""

GENERATION: tuple[str, ...] = ("The ferry to", "Anna Ferrand speaks", "Kraków, Zürich and", "In the evening, she")
LENGTH = 40

TEXTS: tuple[str, ...] = (
    "The bridge is closed. The bridge is closed. The bridge is closed on Sunday, they said.",
    "Dr. Reed came back from the U.S. in 1902; nobody asked why.",
    "so so so so so so",
    "He didn't say \"no\" - it wasn't needed! (Nor was the piano.)",
    "Łucja Ångström speaks Czech,\nFrench and Italian.\tShe can't sing, though.",
)

REFERENCES: tuple[dict[str, tuple[str, ...]], ...] = (
    {"generated": TEXTS[:2], "reference": CORPUS[:3]},
    {"generated": TEXTS[2:], "reference": (CORPUS[2], CORPUS[13])},
    {"generated": (CORPUS[4], CORPUS[15]), "reference": (CORPUS[15],)},
)
"""Sets of generated and reference texts; the weights are fitted on the corpus."""
