"""The table of all keys in docs/configuration.md.

    python tests/tools/docs_tools.py

writes it anew, from configs.yaml and keys.yaml; a test sees whether it is the same.
"""

from pathlib import Path

from dreamerv2.common.config import Config, format_value, load_presets, type_name
from dreamerv2.common.settings.help import meaning
from dreamerv2.common.settings.rules import rule_of

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
BEGIN = "<!-- Made by tests/tools/docs_tools.py. -->\n"


def keys_table():
    """Every key with its meaning, default, type and bounds, in Markdown."""
    config = Config(load_presets()["defaults"])
    lines = ["| key | meaning | default | type |", "|---|---|---|---|"]
    for key, value in config.flat.items():
        kind = ": ".join(filter(None, (type_name(value), rule_of(key).allowed())))
        cells = f"`{key}`", meaning(key), f"`{format_value(value)}`", kind
        lines.append(
            "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = PAGE.read_text().partition(BEGIN)[0]
    PAGE.write_text(text + BEGIN + "\n" + keys_table())
