"""English names of WikiData's properties, as pages show them (labels of WikiData, CC0 1.0)."""

NAMES = dict(
    line.split("|")
    for line in """
P6|head of government
P17|country
P19|place of birth
P20|place of death
P22|father
P25|mother
P26|spouse
P27|country of citizenship
P30|continent
P31|instance of
P35|head of state
P36|capital
P37|official language
P38|currency
P39|position held
P40|child
P47|shares border with
P50|author
P54|member of sports team
P57|director
P58|screenwriter
P69|educated at
P84|architect
P86|composer
P101|field of work
P102|member of political party
P103|native language
P106|occupation
P108|employer
P112|founded by
P115|home venue
P118|league
P119|place of burial
P127|owned by
P131|located in the administrative territorial entity
P135|movement
P136|genre
P138|named after
P140|religion or worldview
P155|follows
P156|followed by
P159|headquarters location
P161|cast member
P162|producer
P166|award received
P169|chief executive officer
P170|creator
P172|ethnic group
P175|performer
P176|manufacturer
P178|developer
P190|twinned administrative body
P264|record label
P276|location
P279|subclass of
P286|head coach
P355|has subsidiary
P361|part of
P364|original language of film or TV show
P407|language of work or name
P413|position played on team / speciality
P449|original broadcaster
P451|unmarried partner
P452|industry
P463|member of
P488|chairperson
P495|country of origin
P509|cause of death
P527|has part(s)
P530|diplomatic relation
P551|residence
P641|sport
P737|influenced by
P740|location of formation
P749|parent organization
P840|narrative location
P937|work location
P1001|applies to jurisdiction
P1037|director / manager
P1303|instrument
P1376|capital of
P1412|languages spoken, written or signed
P1830|owner of
P2348|time period
P3373|sibling
""".strip().splitlines()
)
"""By property."""


def relation_name(relation: str) -> str:
    """Return a relation's name with its property; what has no name here stays as it is.

    >>> relation_name("P19"), relation_name("P999999"), relation_name("–")
    ('place of birth (P19)', 'P999999', '–')
    """
    return f"{NAMES[relation]} ({relation})" if relation in NAMES else relation
