"""What a learner's functions are held to: the chapter's perceptron rule, and its network's two passes."""

from collections.abc import Callable

from nnlab.verify.lessons.grade import Call, Grade
from nnlab.verify.lessons.network import grade_backward, grade_forward
from nnlab.verify.lessons.rule import grade_perceptron

LESSONS: dict[str, Callable[[Call], Grade]] = {
    "perceptron_update": grade_perceptron,
    "forward": grade_forward,
    "backward": grade_backward,
}
"""How each function of a learner's file is graded."""

__all__ = ["LESSONS", "Call", "Grade"]
