"""``nnlab check FILE.py``: a learner's file, run in a process of its own, and graded function by function."""

from pathlib import Path
from typing import Any, NamedTuple

from nnlab.validation import ArgumentError, check_positive
from nnlab.verify.child import FUNCTIONS
from nnlab.verify.lessons import LESSONS, Grade
from nnlab.verify.sandbox import LearnerError, Sandbox


class FileReport(NamedTuple):
    """The grades of a file, and the beginning of what it printed."""

    path: str
    grades: tuple[Grade, ...]
    printed: str

    @property
    def ok(self) -> bool:
        """Whether every function is right."""
        return all(grade.ok for grade in self.grades)

    def text(self) -> str:
        """The report to read."""
        width = max(len(grade.function) for grade in self.grades)
        lines = []
        for grade in self.grades:
            first, *more = grade.words.splitlines() or [""]
            lines.append(f"{'ok   ' if grade.ok else 'WRONG'}  {grade.function:{width}}  {first}")
            lines += [f"{'':{width + 9}}{line}" for line in more]
        if self.printed:
            lines.append(f"(the file printed {self.printed.strip()[:60]!r}…)")
        right = sum(grade.ok for grade in self.grades)
        lines.append(f"{Path(self.path).name}: {right} of {len(self.grades)} right")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON knows."""
        grades = [grade._asdict() for grade in self.grades]
        return {"file": self.path, "ok": self.ok, "functions": grades, "printed": self.printed}


def grade_file(path: Path, timeout: float = 10.0) -> FileReport:
    """Grade every function of the interfaces that a file defines.

    Args:
        path: the file.
        timeout: seconds that loading it may take, and grading each of its functions.

    Returns:
        the grades; a file that cannot be loaded has one, for the file.

    Raises:
        ValueError: there is no such file, it defines none of the functions, or the timeout is not positive.
    """
    check_positive("timeout", timeout)
    if not path.is_file():
        raise ArgumentError("FILE", f"must be a Python file, and there is none at {path}")
    try:
        sandbox = Sandbox(path, timeout)
    except LearnerError as error:
        return FileReport(str(path), (Grade("the file", False, str(error), error.line, "raises"),), "")
    grades: list[Grade] = []
    printed = ""
    names = sandbox.functions
    try:
        for name in names:
            if not sandbox.alive:  # the function before took the process with it
                sandbox.close()
                sandbox = Sandbox(path, timeout)
            sandbox.start_clock()
            grades.append(_grade(name, sandbox))
            printed = printed or sandbox.printed
    except LearnerError as error:
        grades.append(Grade("the file", False, str(error), error.line, "raises"))
    finally:
        sandbox.close()
    if not names:
        raise ArgumentError("FILE", f"must define one of {', '.join(FUNCTIONS)}, and {path} has none of them")
    return FileReport(str(path), tuple(grades), printed)


def _grade(name: str, sandbox: Sandbox) -> Grade:
    lines: list[int] = []

    def call(*arguments: Any) -> Any:
        try:
            return sandbox.call(*arguments)
        except LearnerError as error:
            lines.extend([error.line] if error.line else [])
            raise

    try:
        grade = LESSONS[name](call)
    except LearnerError as error:
        return Grade(name, False, str(error), error.line, "raises")
    return grade._replace(line=lines[-1]) if lines else grade
