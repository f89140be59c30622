"""The chapter's two classes in NumPy, as printed, with what the lab leaves to the student filled in.

Nothing here is shared with nnlab. What differs from the page: ``astype(float)`` for ``np.float``, which no longer
exists; log σ(z) in a form that does not meet log(0), equal where the printed form is finite; no progress line.
"""

import numpy as np


class ReferencePerceptron:
    """Section 3.2.2."""

    def __init__(self, eta=0.01, n_iter=50, random_state=1):
        self.eta, self.n_iter, self.random_state = eta, n_iter, random_state

    def fit(self, X, y):
        rgen = np.random.RandomState(self.random_state)
        self.w_ = rgen.normal(loc=0.0, scale=0.01, size=1 + X.shape[1])
        self.errors_ = []
        for _ in range(self.n_iter):
            errors = 0
            for xi, target in zip(X, y, strict=True):
                update = self.eta * (target - self.predict(xi))
                self.w_[1:] += update * xi
                self.w_[0] += update
                errors += int(update != 0.0)
            self.errors_.append(errors)
        return self

    def net_input(self, X):
        return np.dot(X, self.w_[1:]) + self.w_[0]

    def predict(self, X):
        return np.where(self.net_input(X) >= 0.0, 1, -1)


class ReferenceMLP:
    """Section 3.4."""

    def __init__(self, n_hidden=30, l2=0.0, epochs=100, eta=0.001, shuffle=True, minibatch_size=1, seed=None):
        self.random = np.random.RandomState(seed)
        self.n_hidden, self.l2, self.epochs, self.eta = n_hidden, l2, epochs, eta
        self.shuffle, self.minibatch_size = shuffle, minibatch_size

    def _onehot(self, y, n_classes):
        onehot = np.zeros((n_classes, y.shape[0]))
        for idx, val in enumerate(y.astype(int)):
            onehot[val, idx] = 1.0
        return onehot.T

    def _sigmoid(self, z):
        return 1.0 / (1.0 + np.exp(-np.clip(z, -250, 250)))

    def _forward(self, X):
        z_h = np.dot(X, self.w_h) + self.b_h
        a_h = self._sigmoid(z_h)
        z_out = np.dot(a_h, self.w_out) + self.b_out
        return z_h, a_h, z_out, self._sigmoid(z_out)

    def _compute_cost(self, y_enc, z_out):
        l2_term = self.l2 * (np.sum(self.w_h**2.0) + np.sum(self.w_out**2.0))
        term1 = y_enc * np.logaddexp(0.0, -z_out)  # −log σ(z)
        term2 = (1.0 - y_enc) * np.logaddexp(0.0, z_out)  # −log(1 − σ(z))
        return np.sum(term1 + term2) + l2_term

    def predict(self, X):
        return np.argmax(self._forward(X)[2], axis=1)

    def fit(self, X_train, y_train, X_valid, y_valid):
        n_output = np.unique(y_train).shape[0]
        n_features = X_train.shape[1]
        self.b_h = np.zeros(self.n_hidden)
        self.w_h = self.random.normal(loc=0.0, scale=0.1, size=(n_features, self.n_hidden))
        self.b_out = np.zeros(n_output)
        self.w_out = self.random.normal(loc=0.0, scale=0.1, size=(self.n_hidden, n_output))
        self.eval_ = {"cost": [], "train_acc": [], "valid_acc": []}
        y_train_enc = self._onehot(y_train, n_output)
        for _ in range(self.epochs):
            indices = np.arange(X_train.shape[0])
            if self.shuffle:
                self.random.shuffle(indices)
            for start_idx in range(0, indices.shape[0] - self.minibatch_size + 1, self.minibatch_size):
                batch_idx = indices[start_idx : start_idx + self.minibatch_size]
                _, a_h, _, a_out = self._forward(X_train[batch_idx])
                # the student's part: δ_out = a − y, for the logistic cost of sigmoid outputs, and its propagation back
                delta_out = a_out - y_train_enc[batch_idx]
                delta_h = np.dot(delta_out, self.w_out.T) * (a_h * (1.0 - a_h))
                grad_w_h = np.dot(X_train[batch_idx].T, delta_h)
                grad_b_h = np.sum(delta_h, axis=0)
                grad_w_out = np.dot(a_h.T, delta_out)
                grad_b_out = np.sum(delta_out, axis=0)
                # the page again
                delta_w_h = grad_w_h + self.l2 * self.w_h
                delta_b_h = grad_b_h
                self.w_h -= self.eta * delta_w_h
                self.b_h -= self.eta * delta_b_h
                delta_w_out = grad_w_out + self.l2 * self.w_out
                delta_b_out = grad_b_out
                self.w_out -= self.eta * delta_w_out
                self.b_out -= self.eta * delta_b_out
            cost = self._compute_cost(y_enc=y_train_enc, z_out=self._forward(X_train)[2])
            train_acc = np.sum(y_train == self.predict(X_train)).astype(float) / X_train.shape[0]
            valid_acc = np.sum(y_valid == self.predict(X_valid)).astype(float) / X_valid.shape[0]
            self.eval_["cost"].append(cost)
            self.eval_["train_acc"].append(train_acc)
            self.eval_["valid_acc"].append(valid_acc)
        return self
