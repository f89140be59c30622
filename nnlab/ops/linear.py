"""The linear layer u = x Wᵀ + b, dropout, the L2 penalty, and the step of gradient descent."""

from nnlab.validation import NI, NO, OI, AnyShape, NotNegative, O, Scalar, op


@op
def linear_forward(x: NI, weight: OI, bias: O) -> NO:
    """u = x Wᵀ + b (eqs. 3.1 and 3.3)."""
    return x @ weight.T + bias


@op
def linear_backward(delta: NO, x: NI, weight: OI) -> tuple[NI, OI, O]:
    """With δ = ∂E/∂u: ∂E/∂x = δ W (the sum in eq. 3.17), ∂E/∂W = δᵀ x (eq. 3.9), ∂E/∂b = Σₙ δₙ."""
    return delta @ weight, delta.T @ x, delta.sum(0)


@op
def linear_backward_parameters(delta: NO, x: NI) -> tuple[OI, O]:
    """``linear_backward`` without ∂E/∂x, which the first layer has no use for."""
    return delta.T @ x, delta.sum(0)


@op
def dropout_forward(z: AnyShape, mask: AnyShape) -> AnyShape:
    """z · m, where m is 0 for a dropped unit and 1 / (1 − p) for a kept one (Srivastava et al., 2014)."""
    return z * mask


@op
def dropout_backward(grad_output: AnyShape, mask: AnyShape) -> AnyShape:
    """∂E/∂z = ∂E/∂(z · m) · m."""
    return grad_output * mask


@op
def l2_penalty_forward(weight: OI, l2: NotNegative) -> Scalar:
    """E_w = λ/2 Σ w², for weights and not for biases.

    The chapter (section 3.4) prints λ Σ w² and updates with λ w, which is the gradient of this form.
    """
    return l2 / 2 * (weight * weight).sum()


@op
def l2_penalty_backward(grad_E: Scalar, weight: OI, l2: NotNegative) -> OI:
    """∂E/∂w = λ w."""
    return grad_E * l2 * weight


@op
def gradient_descent(parameter: AnyShape, gradient: AnyShape, lr: NotNegative) -> AnyShape:
    """w − η ∇E(w), a new tensor (section 3.3.2)."""
    return parameter - lr * gradient
