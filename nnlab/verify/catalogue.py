"""The catalogue of known wrong gradients: an id and a student's words for each.

The order is that of the diagnosis: of two mistakes that explain as much, the one listed first is named first.
``nnlab.verify.hypotheses`` recognises them, ``nnlab.verify.mutants`` makes them, and the tests hold the two together.
"""

CATALOGUE = {
    # a factor
    "zero": "the gradient is zero: nothing flows back here",
    "sign": "the sign is wrong (t − y for y − t, or −= for +=)",
    "bias-averaged": "the bias gradient is averaged over the batch, not summed",
    "batch-mean-missing": "the mean was taken in the loss and not in the gradient (1/N is missing)",
    "batch-mean-extra": "averaged over the batch in the gradient, but not in the loss (1/N too much)",
    "factor-two": "a factor of 2 too much: the square's 2 was kept where the loss has ½, or a term is counted twice",
    "factor-half": "a factor of 2 is missing: ½ in the gradient that the loss does not have",
    "outputs-mean-missing": "the mean over the outputs was taken in the loss and not in the gradient (1/K is missing)",
    "outputs-mean-extra": "averaged over the K outputs in the gradient, but not in the loss (1/K too much)",
    "weighted-mean": "the mean divides by N in the one, loss or gradient, and by the sum of the weights in the other",
    "constant-factor": "a constant factor is wrong: a learning rate, a λ or a 1/n that belongs elsewhere",
    # the cotangent
    "cotangent-ignored": "the gradient ignores grad_output: multiply by it (the chain rule's first factor)",
    "cotangent-summed": "grad_output was collapsed to one number before it was used: each output has its own",
    "cotangent-twice": "grad_output enters twice (squared), not once",
    "cotangent-masked": "grad_output is cut where it is negative; the mask must look at u, not at grad_output",
    "cotangent-transposed": "grad_output is transposed before it is used",
    # which samples
    "first-sample": "only one sample of the batch counts: sum over all of them",
    "sample-dropped": "the last or first sample of the batch is left out (a loop that is one short)",
    # what was remembered
    "stale-cache": "stale cache: right for the previous input, not for this one",
    "not-zeroed": "gradients add up from call to call: set them to zero before each backward",
    # activations
    "derivative-missing": "h'(u) is missing",
    "derivative-at-output": "h' taken at h(u) instead of u",
    "derivative-fed-u": "the formula for h' in terms of z = h(u) was given u (u saved in place of z)",
    "derivative-twice": "h'(u) enters twice",
    "derivative-divided": "divided by h'(u) instead of multiplied",
    "derivative-of-other": "the derivative of another activation was used",
    "value-for-derivative": "multiplied by h(u) instead of h'(u)",
    "square-missing": "1 − z where 1 − z² belongs (the square is missing)",
    "mask-inverted": "the mask is the wrong way round: the gradient passes where u ≤ 0",
    "at-zero": "right except where u = 0: h'(0) of relu is 0, as in torch; > and >= are mixed up",
    "derivative-other-layer": "h' is taken at another layer's values (off by one layer)",
    "softmax-diagonal": "only the diagonal of the softmax's Jacobian, z (1 − z): every output depends on every input",
    "extra-factor": "a factor too much or too little, entry by entry",
    # layouts
    "transposed": "the gradient is transposed",
    "weight-not-transposed": "δ is pulled back through Wᵀ where W belongs (or the other way round)",
    "weight-skipped": "δ is passed down without the weights",
    "other-layer-input": "δ is multiplied by another layer's output (off by one layer)",
    "preactivation": "δ is multiplied by the net input u of the layer below, not by its output z = h(u)",
    "bias-wrong-axis": "the bias gradient is summed over the wrong axis, or not over the batch alone",
    "not-summed": "not summed over the batch: one gradient per sample came back",
    "summed-too-much": "summed (or averaged) over too much: one number where each entry has its own",
    "keepdims": "the numbers are right and the shape is not (keepdims, or a missing squeeze)",
    "order": "the gradients come in another order than the inputs",
    "reversed": "the entries are reversed or shifted by one",
    # losses
    "onehot-missing": "the target is not subtracted: y where y − t belongs (the one-hot is missing)",
    "softmax-for-sigmoid": "the softmax was used where the loss has a sigmoid",
    "sigmoid-for-softmax": "the sigmoid was used where the loss has a softmax",
    "softmax-axis": "the softmax is taken over the batch, not over the classes",
    "label-shifted": "the labels are off by one class",
    "logits-for-probabilities": "the logits u were used where the probabilities belong (u − t)",
    "label-entry-only": "only the label's own entry is right, the others are zero",
    "derivative-not-cancelled": "a factor h'(u) too much: with cross-entropy it cancels, δ = y − t",
    "positive-term-only": "only the term t·log y was differentiated, not (1 − t)·log(1 − y)",
    "target-rounded": "the target was rounded to 0 or 1",
    "sample-weight-ignored": "the sample weights are ignored",
    "sample-weight-twice": "the sample weights enter twice",
    "broadcast": "(N, 1) and (N,) were combined to (N, N): a broadcast mixes the samples",
    # terms and paths
    "penalty-missing": "the gradient of the l2 penalty is missing, or half of it",
    "penalty-extra": "an l2 penalty too much: counted twice, or not in the loss at all",
    "penalty-on-bias": "an l2 penalty on the bias, which the loss does not have",
    "not-accumulated": "the input is used more than once and only some of the uses are counted: add them up",
    "detached": "one path from the input to the output is not counted",
    "weights-updated-first": "δ is pulled back through weights that were already updated",
    # numbers
    "normalised": "the gradient was divided by its own length",
    "clipped": "the gradient is clipped",
    "absolute": "the signs were lost: absolute values",
    "overflow": "right except for large values: exp or log overflows there; use a stable form",
    "at-ties": "right except where values are equal",
    "rounded": "right but for rounding: computed in a lower precision, or by differences",
    # the call itself
    "in-place": "an argument is changed in place, which spoils it for everyone else who uses it",
    "random": "another gradient every time for the same input: a random number (dropout mask?) is drawn again",
    "not-finite": "the gradient holds NaN or infinity",
    "shape": "the gradient must have the shape of its input",
    "raises": "backward raises an exception",
    "count": "backward must return one gradient per input, in the order of the inputs",
    "nothing": "backward returned None for everything",
    "forward": "forward cannot be judged",
    "random-forward": "forward gives another result every time",
    "unknown": "differs from the right gradient in a way that no known mistake explains",
}
"""Words by id."""

PRIORITY = {fault: rank for rank, fault in enumerate(CATALOGUE)}
"""The rank of each id, the first guess of equals lowest."""
