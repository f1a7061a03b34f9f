"""PEFT finds modules by the ends of their names: what it would find for given names, and names by which it finds the right ones."""

import re
from collections.abc import Collection, Mapping, Sequence

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of every key of a file
INNER = ("base_layer", "lora_dropout", "lora_dropout.default", "lora_A", "lora_A.default", "lora_B", "lora_B.default")
INNER_OF_TABLES = ("lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
MOST_REPEATS = 3  # in a pattern that is matched: each raises the degree of the time that it may take
LONGEST_PATTERN = 512


def target_modules(targets: Collection[str], modules: Sequence[str]) -> list[str] | str:
    """Return what has PEFT adapt these modules and no others: their names, or where these end others, a regular expression.

    Example:
        >>> target_modules(["a.fc"], ["a", "a.fc", "b.fc"]), target_modules(["fc"], ["fc", "a.fc"])
        (['a.fc'], '(fc)')
    """
    names = sorted(targets)
    found = {name for name in modules if any(name == each or name.endswith(f".{each}") for each in names)}
    return names if found == set(names) else f"({'|'.join(map(re.escape, names))})"


def by_name(values: Mapping[str, int]) -> dict[str, int]:
    """Return a pattern of PEFT that gives each module its value: of two names of which one ends the other the longer comes first.

    Example:
        >>> by_name({"fc": 2, "a.fc": 3})
        {'a.fc': 3, 'fc': 2}
    """
    ordered = sorted(values, key=lambda name: (-len(name), name))
    return {re.sub(r"([\\^$*+?{}\[\]|()])", r"\\\1", name): values[name] for name in ordered}


def saved_whole(wanted: Collection[str], targets: Collection[str], modules: Sequence[str]) -> tuple[set[str], str]:
    """Return the modules that PEFT saves whole where these are wanted, or why it cannot.

    It takes all whose names end as a wanted one does, even within a word, and what it puts into the targets counts too.
    """
    inner = {f"{target}.{each}" for target in targets for each in (*INNER, *INNER_OF_TABLES)} | set(targets)
    found = {name for name in modules if any(name.endswith(each) for each in wanted)}
    for name in sorted(found | {each for each in inner if any(each.endswith(end) for end in wanted)}):
        if name in inner:
            return set(), f"their names end that of {name!r}, which is adapted"
        if any(other.startswith(f"{name}.") for other in (*targets, *found)):
            return set(), f"PEFT saves modules whole, and {name!r} has others in it that are adapted or saved"
    shadowed = [each for each in targets if any(re.match(rf"(^|.*\.){re.escape(name)}($|\..*)", each) for name in wanted)]
    return (set(), f"PEFT would leave out {shadowed[0]!r}, whose name holds theirs") if shadowed else (found, "")


def matching(patterns: Mapping[str, float], name: str) -> float | None:
    """Return the value of the first pattern that matches the end of a name, as PEFT does it; None without one.

    Raises:
        ValueError: a pattern is no regular expression, or one whose matching may take very long.
    """
    for text, value in patterns.items():
        if len(text) > LONGEST_PATTERN or len(re.findall(r"[*+{]", text)) > MOST_REPEATS or re.search(r"\)\s*[*+?{]", text):
            raise ValueError(f"the pattern {text[:40]!r} is too involved: write names of modules there")
        try:
            if re.match(rf"(.*\.)?({text})$", name):
                return value
        except re.error as error:
            raise ValueError(f"the pattern {text[:40]!r} is no regular expression: {error}") from error
    return None
