"""The chapter's pictures as displays in scikit-learn's style.

A display keeps the values it shows as attributes. ``from_estimator(…)`` computes and draws them at once;
``plot(ax=None)`` draws them again, into given axes or a new figure, and returns the display, whose ``ax_`` and
``figure_`` are then set. An estimator is anything with the right attributes, nnlab's or another's.
"""

from nnlab.displays.activation import ActivationDisplay
from nnlab.displays.curves import ErrorsPerEpochDisplay, TrainingCurvesDisplay
from nnlab.displays.regions import DecisionRegionsDisplay
from nnlab.displays.style import Display, save_picture
from nnlab.displays.tiles import DistortedDigitsDisplay, WeightTilesDisplay, WrongDigitsDisplay

__all__ = [
    "ActivationDisplay",
    "DecisionRegionsDisplay",
    "Display",
    "DistortedDigitsDisplay",
    "ErrorsPerEpochDisplay",
    "TrainingCurvesDisplay",
    "WeightTilesDisplay",
    "WrongDigitsDisplay",
    "save_picture",
]
