"""How each mistake of the catalogue is made: in a random subject, in a random layer or in all of them.

``MUTANTS[fault](subject, draw)`` is a wrong backward of the subject, or None where the mistake cannot be made in it.
What makes a mistake here is plain backpropagation with one step replaced; what recognises it, in
``nnlab.verify.hypotheses``, never sees that code.
"""

from nnlab.verify.mutants.activations import ACTIVATION_MUTANTS
from nnlab.verify.mutants.calls import CALL_MUTANTS
from nnlab.verify.mutants.draw import Make
from nnlab.verify.mutants.layers import LAYER_MUTANTS
from nnlab.verify.mutants.losses import LOSS_MUTANTS

MUTANTS: dict[str, Make] = {**ACTIVATION_MUTANTS, **LAYER_MUTANTS, **LOSS_MUTANTS, **CALL_MUTANTS}
"""How to make each mistake."""

__all__ = ["MUTANTS", "Make"]
