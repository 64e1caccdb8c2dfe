"""Types of the numbers in a record, and the reader that checks JSON against a dataclass."""

from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import AllowInfNan, Field, Strict, TypeAdapter, ValidationError

T = TypeVar("T")

Count = Annotated[int, Strict(), Field(ge=0)]
"""An integer that isn't negative; `true` and `1.0` are refused."""

Number = Annotated[float, Strict(), AllowInfNan(False)]
"""A finite number; integers are taken, texts and booleans are not."""

Positive = Annotated[float, Strict(), AllowInfNan(False), Field(gt=0)]
"""A finite number above 0."""

Flag = Annotated[bool, Strict()]


class ForeignRecord(ValueError):  # noqa: N818 - it is no failure of this program
    """A file that isn't a record of this schema."""


def parse(kind: type[T], content: Any) -> T:
    """Return parsed JSON as an object of the dataclass `kind`; unknown keys are ignored.

    Raises `ForeignRecord` with the first field that is missing or wrong.
    """
    try:
        return _adapter(kind).validate_python(content)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise ForeignRecord(f"{path}: {message}" if path else message) from error


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
