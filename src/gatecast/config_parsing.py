"""Plain values into the configuration, or one line that says what is wrong with them."""

import re
from typing import Any

from pydantic import BaseModel, ValidationError

from gatecast.config import Config
from gatecast.errors import ConfigurationError


def parse_config(values: object, origin: str) -> Config:
    """The configuration in a mapping of sections.

    Args:
        values: What a YAML file holds, plain types.
        origin: What to call the source in an error.

    Raises:
        ConfigurationError: One line that names key, value and what is allowed.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError(f"{origin}: {_first_line(error)}") from None


def _first_line(error: ValidationError) -> str:
    first: Any = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    message = first["msg"].removeprefix("Value error, ").replace("tuple", "list")  # YAML has lists
    if first["type"] == "extra_forbidden":
        return f"{key} is not a key of the configuration{_known_keys(first['loc'])}{more}"
    if first["type"] == "missing":
        return f"{key} is missing{more}"
    given = "" if isinstance(first["input"], dict | BaseModel) else f" = {_without_user(repr(first['input']))}"
    return f"{key or 'configuration'}{given}: {message[0].lower() + message[1:]}{_meaning(first['loc'])}{more}"


def _without_user(value: str) -> str:
    """An address may hold a password, which no error shows."""
    return re.sub(r"//[^/\s]*@", "//***@", value)


def _model_at(path: tuple[str | int, ...]) -> type[BaseModel] | None:
    model: type[BaseModel] | None = Config
    for part in path:
        fields = model.model_fields if model else {}
        field = next((f for name, f in fields.items() if part in (name, f.alias)), None)
        annotation = field.annotation if field else None
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    return model


def _known_keys(path: tuple[str | int, ...]) -> str:
    model = _model_at(path[:-1])
    return (
        f"; known here: {', '.join(field.alias or name for name, field in model.model_fields.items())}" if model else ""
    )


def _meaning(path: tuple[str | int, ...]) -> str:
    named = [part for part in path if isinstance(part, str)]
    model = _model_at(tuple(named[:1]))
    field = model.model_fields.get(named[1]) if model and len(named) > 1 else None
    return f" ({named[1]}: {field.description})" if field and field.description else ""
