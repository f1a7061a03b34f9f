"""The engine that draws charts runs in a process of its own, whose death takes no report with it.

Run as a program, this file is that process: it reads a line of JSON for each thing to do and writes one in answer. It imports
nothing of this package, so that it is there at once.
"""

import base64
import json
import sys
from typing import Any


def main() -> None:
    """Answer every line on standard input until there are no more."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # of whatever is printed nothing must stand among them
    for line in sys.stdin:
        try:
            answer = {"done": _do(**json.loads(line))}
        except Exception as error:  # of whatever the engine refuses
            answer = {"refused": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _do(what: str, **values: Any) -> Any:
    import vl_convert

    match what:
        case "svg":
            return vl_convert.vegalite_to_svg(values["spec"], vl_version=values["version"], allowed_base_urls=[])
        case "print":
            files = vl_convert.svg_to_pdf(values["svg"]), vl_convert.svg_to_png(values["svg"], ppi=values["dpi"])
            return [base64.b64encode(file).decode() for file in files]
        case _:
            return vl_convert.javascript_bundle(snippet=values["snippet"], vl_version=values["version"])


if __name__ == "__main__":
    main()
