"""One line on stderr per error: what happened, and what to do next."""

from __future__ import annotations

from tinyfleet_compiler.errors import CompilerError, Problem
from tinyfleet_service.errors import FleetError

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_ROLLED_BACK = 3
EXIT_HELD = 4
EXIT_TIMEOUT = 5
EXIT_CODES = "Exit codes: 0 done or promoted, 1 error, 2 wrong usage, 3 rolled back, 4 held or paused, 5 timeout."


def known_errors() -> tuple[type[Exception], ...]:
    """Errors that are the user's to mend; anything else is a bug and keeps its traceback."""
    from tinyfleet_ota import OtaError  # asked for when something was raised: a command without it starts faster

    return (FleetError, CompilerError, OtaError, OSError)


def describe_error(error: BaseException) -> str:
    """The error as `error: ...` with its next step, and every problem it carries, one per line."""
    if isinstance(error, OSError) and error.filename:
        return f"error: {error.filename}: {error.strerror}"
    lines = [f"error: {error.message if isinstance(error, FleetError) else error}"]
    problems = getattr(error, "problems", None) or getattr(error, "data", {}).get("problems") or []
    lines += [f"  - {text}" for text in map(describe_problem, problems) if text not in lines[0]]
    if isinstance(error, FleetError) and error.next:
        lines.append(f"next:  {error.next}")
    return "\n".join(lines)


def describe_problem(problem: object) -> str:
    """One problem in one line, whether it comes from the compiler here or as JSON from a service."""
    if isinstance(problem, dict):
        problem = Problem(*(str(problem.get(key) or "") for key in ("node", "operator", "reason", "help")))
    return str(problem)
