"""YAML 1.2 to plain values: an unquoted 2:4 is text (a sparsity pattern), 1e-4 a number, `no` and `on` are text."""

from __future__ import annotations

from typing import Any


class UnreadableYaml(ValueError):  # noqa: N818 - it always becomes an error of who reads the file
    """What is wrong, to be written behind the file's name: "line 3 is not readable as YAML 1.2: ..."."""


def parse_yaml(text: str) -> Any:
    """Raises UnreadableYaml for text that is no YAML 1.2, or asks for another version of it."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if any(line.startswith("%YAML") and line.split()[1:] != ["1.2"] for line in text.splitlines()):
        raise UnreadableYaml("asks for another YAML version, must be YAML 1.2 (leave the %YAML line out)")
    try:
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1} " if mark else ""
        problem = " ".join(str(error.problem or error.context).split())
        raise UnreadableYaml(f"{line}is not readable as YAML 1.2: {problem}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise UnreadableYaml(f"is not readable as YAML 1.2: {' '.join(str(error).split())}") from None
