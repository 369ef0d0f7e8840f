"""Every key of a config with its value, meaning and place, read from the signatures and docstrings it belongs to."""

import inspect
import textwrap
from pathlib import Path

from ml_collections import ConfigDict

import vision
from vision import schema, sections
from vision.config import freeze


def explain(config: ConfigDict, width: int = 110) -> str:
    """A text of all sections: file, keys, values, meanings. The config is completed and checked first.

    Args:
        config: as a config file gave it, overrides applied.
        width: columns.
    """
    config = sections.complete(config, needs_weights=False)
    lines = []
    for section in sections.sections(config):
        file = Path(inspect.getsourcefile(schema.unwrap(section.function))).resolve()
        package = Path(vision.__file__).resolve().parent.parent
        name = section.values.get("name") if section.path != "config" else None
        lines.append(f"{section.path}   ({file.relative_to(package)})")
        if name and "name" not in section.keys:
            lines.append(f"  --{section.path}.name={name!r}   [str]")
            lines += _paragraph(f"one of {', '.join(section.names)}.", width)
        for key, description in section.keys.items():
            value = freeze(section.values.get(key))
            lines.append(f"  --{section.path}.{key}={value!r}   [{schema.type_name(description.type)}]")
            if description.meaning:
                lines += _paragraph(description.meaning, width)
        lines.append("")
    return "\n".join(lines)


def _paragraph(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent="      ", subsequent_indent="      ")
