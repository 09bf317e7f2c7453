"""Which facts may enter the slice, and which of them may be edited: rules on labels and on what else the table says."""

import re
from dataclasses import dataclass
from typing import Literal

from world.table import Table, is_clean

LANGUAGES = ("P37", "P103", "P364", "P407", "P1412")
COUNTRIES = ("P17", "P27", "P495")
CITIES = ("P19", "P20", "P159", "P740", "P937")
OF_PERSONS = frozenset({"P19", "P20", "P27", "P39", "P103", "P106", "P108", "P413", "P937"})
MOSTLY_OF_PERSONS = frozenset({"P101", "P140", "P463", "P1303", "P1412"})
NOT_OF_PERSONS = frozenset(
    {
        "P17",
        "P30",
        "P31",
        "P36",
        "P37",
        "P127",
        "P131",
        "P159",
        "P176",
        "P178",
        "P190",
        "P276",
        "P364",
        "P407",
        "P449",
        "P495",
        "P740",
    }
)
UNITED_NATIONS = "Q1065"

# Countries whose name wants an article ("born in the Netherlands"), which the templates do not have.
ARTICLE = re.compile(
    r"(The|United) .*|.*\b(Republic|Netherlands|Philippines|Emirates|Islands|Union|Kingdom|Empire|Bahamas)\b.*"
)
# What is not to be said of people by a program that edits facts.
SENSITIVE = re.compile(
    r"\b(nazi|schutzstaffel|gestapo|sturmabteilung|hamas|ku klux|terror|drug|murder|killer|criminal|porn|sex|erotic"
    r"|prostitut|slave|rape|massacre|shooting|bombing|attack|assassin|suicide|holocaust"
    r"|scientology|republican army|black panthers)",
    re.IGNORECASE,
)
# Names of people where a thing is asked for: "botanist" as a field of work.
AGENT = re.compile(r".*(ist|er|or|ian|eer|ect|ant|piper)s?")
LOWER = re.compile(r"[a-z][a-z -]*")
UPPER = re.compile(r"[A-Z0-9].*")

Kind = Literal["any", "country", "city", "place", "language", "business", "employer"]


@dataclass(frozen=True)
class Rule:
    """What the object of a relation must be.

    Attributes:
        kind: what the table must show it to be, before it may be the true object of a record.
        label: what its label must look like, in every fact.
        agent: whether the label may be that of a kind of person.
        fewest: subjects with no other object that it must have to be the true object of a record.
        scarce: whether one such subject will do beside others that have more objects.
    """

    kind: Kind = "any"
    label: re.Pattern[str] = UPPER
    agent: bool = True
    fewest: int = 6
    scarce: bool = False


RULES = {
    "P17": Rule("country"),
    "P19": Rule("city"),
    "P20": Rule("city"),
    "P27": Rule("country"),
    "P30": Rule(fewest=10),
    "P36": Rule("city", scarce=True),
    "P37": Rule("language"),
    "P39": Rule(label=LOWER),
    "P101": Rule(label=LOWER, agent=False),
    "P103": Rule("language"),
    "P106": Rule(label=LOWER),
    "P108": Rule("employer"),
    "P127": Rule("business"),
    "P131": Rule("place"),
    "P136": Rule(label=LOWER, agent=False),
    "P138": Rule(scarce=True),
    "P140": Rule(label=re.compile(r"[A-Za-z ]*([a-z]ism|Islam|Christianity|Orthodoxy|Shinto)")),
    "P159": Rule("city"),
    "P176": Rule("business"),
    "P178": Rule("business"),
    "P190": Rule("city", scarce=True),
    "P264": Rule(label=re.compile(r".* Records|Motown|EMI|ECM|4AD|Sub Pop|Parlophone|Deutsche Grammophon")),
    "P276": Rule(label=re.compile(r"(?!.*(District|Gallery|Forum|Museum|Parish))[A-Z].*"), fewest=5),
    "P364": Rule("language"),
    "P407": Rule("language"),
    "P413": Rule(label=LOWER),
    "P449": Rule(),
    "P463": Rule(label=re.compile(r".*\b(Academy|Society|Association|Institute|Union|League|Committee)\b.*")),
    "P495": Rule("country"),
    "P641": Rule(label=re.compile(r"[A-Za-z ]+"), agent=False, scarce=True),
    "P740": Rule("city"),
    "P937": Rule("city"),
    "P1303": Rule(label=LOWER, agent=False),
    "P1412": Rule("language"),
}
RELATIONS = tuple(RULES)


def is_country(table: Table, entity: str) -> bool:
    """Whether it has a continent and belongs to the United Nations."""
    member = UNITED_NATIONS in table.objects.get((entity, "P463"), ())
    return "P30" in table.relations[entity] and member


def is_place(table: Table, entity: str) -> bool:
    """Whether something lies, was born or works in it."""
    return any(table.uses[entity, relation] >= 2 for relation in (*CITIES, *COUNTRIES, "P131"))


def is_city(table: Table, entity: str) -> bool:
    """Whether people are born or die there, and it has no capital, as regions and countries have."""
    people = table.uses[entity, "P19"] + table.uses[entity, "P20"]
    return people >= 3 and not table.relations[entity] & {"P36", "P463"}


def is_language(table: Table, entity: str) -> bool:
    """Whether it is an object of two relations of languages, three times each."""
    return sum(table.uses[entity, relation] >= 3 for relation in LANGUAGES) >= 2


def is_business(table: Table, entity: str) -> bool:
    """Whether it owns, makes, develops or broadcasts things and is no place."""
    business = sum(table.uses[entity, relation] for relation in ("P127", "P176", "P178", "P449"))
    return business >= 5 and not is_place(table, entity)


def is_of_kind(table: Table, entity: str, kind: Kind) -> bool:
    """Whether the table shows an entity to be of a kind."""
    match kind:
        case "any":
            return True
        case "country":
            return is_country(table, entity) and not ARTICLE.fullmatch(table.label[entity])
        case "city":
            return is_city(table, entity) and not ARTICLE.fullmatch(table.label[entity])
        case "place":
            return (
                is_place(table, entity) and not is_country(table, entity) and not ARTICLE.fullmatch(table.label[entity])
            )
        case "language":
            return is_language(table, entity)
        case "business":
            return is_business(table, entity)
        case "employer":
            return table.label[entity].endswith(" University") or is_business(table, entity)


def is_sound_object(table: Table, relation: str, entity: str) -> bool:
    """Whether a fact with this object may be in the slice at all, be it of a record or beside one."""
    label, rule = table.label[entity], RULES[relation]
    return (
        entity in table.named
        and is_clean(label, 4)
        and bool(rule.label.fullmatch(label))
        and (rule.agent or not AGENT.fullmatch(label))
        and not SENSITIVE.search(label)
        and (rule.kind != "country" or is_country(table, entity))
        and (rule.kind != "language" or is_language(table, entity))
    )


def is_person(table: Table, entity: str) -> bool:
    """Whether what the table says of an entity is said of people."""
    relations = table.relations[entity]
    return bool(relations & OF_PERSONS or (relations & MOSTLY_OF_PERSONS and not relations & NOT_OF_PERSONS))


def may_be_edited(table: Table, subject: str, relation: str) -> bool:
    """Whether a subject has one object, so that an edit has one truth; of religion, if it is not known as living."""
    relations = table.relations[subject]
    living = bool(relations & (OF_PERSONS | {"P69", "P102", "P172"})) and "P20" not in relations
    return table.only_object(subject, relation) is not None and not (relation == "P140" and living)


def is_sound_subject(table: Table, entity: str) -> bool:
    """Whether an entity has a proper name of its own and the table does not take it for two kinds of thing."""
    label, relations = table.label[entity], table.relations[entity]
    return (
        entity in table.named
        and is_clean(label, 5)
        and len(label) >= 3
        and bool(UPPER.match(label))
        and any(letter.isupper() for letter in label)
        and not SENSITIVE.search(label)
        and not (relations & OF_PERSONS and relations & NOT_OF_PERSONS)
        and (" " in label or not is_person(table, entity))
    )


def overlap(one: str, other: str) -> bool:
    """Whether one label holds the other, in whatever case.

    >>> overlap("Google China", "google"), overlap("Paris", "London")
    (True, False)
    """
    one, other = one.casefold(), other.casefold()
    return one in other or other in one
