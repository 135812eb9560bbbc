"""Gradients against finite differences, Lipschitz constants against them, and Adam against its definition."""

import numpy as np
import pytest

from analysis import models

LOSSES = [models.birthwt_linear, models.birthwt_logistic, models.digits_multinomial]


def value(loss, w):
    scores = loss.design @ w
    if loss.kind == "least-squares":
        return 0.5 * np.mean((scores - loss.target) ** 2)
    if loss.kind == "logistic":
        return np.mean(np.logaddexp(0.0, scores) - loss.target * scores)
    return np.mean(np.log(np.exp(scores).sum(axis=1)) - (loss.target * scores).sum(axis=1))


@pytest.mark.parametrize("make", LOSSES)
def test_gradient_is_the_slope_of_the_loss(make):
    loss, rng = make(), np.random.default_rng(1)
    w, along = 0.3 * rng.normal(size=loss.shape), rng.normal(size=loss.shape)
    slope = (value(loss, w + 1e-5 * along) - value(loss, w - 1e-5 * along)) / 2e-5
    assert np.sum(loss.value_and_grad(w)[1] * along) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("make", LOSSES)
def test_gradient_changes_no_faster_than_the_lipschitz_constant(make):
    loss, rng = make(), np.random.default_rng(2)
    for _ in range(20):
        w, other = rng.normal(size=(2, *loss.shape))
        change = np.linalg.norm(loss.value_and_grad(w)[1] - loss.value_and_grad(other)[1])
        assert change <= loss.lipschitz * np.linalg.norm(w - other)


def test_minibatches_that_make_up_the_sample_average_to_the_gradient():
    loss = models.birthwt_logistic()
    w = np.random.default_rng(3).normal(size=loss.shape)
    parts = np.arange(189).reshape(3, 63)
    np.testing.assert_allclose(
        np.mean([loss.value_and_grad(w, p)[1] for p in parts], axis=0), loss.value_and_grad(w)[1]
    )


def test_perceptron_gradient_is_the_slope_of_its_loss():
    network = models.Perceptron(8, np.random.default_rng(4))
    rows = np.arange(100)

    def loss():
        p = network.parameters
        hidden = np.maximum(network.inputs[rows] @ p["hidden"].T + p["hidden_bias"], 0.0)
        scores = hidden @ p["output"].T + p["output_bias"]
        return np.mean(np.log(np.exp(scores).sum(axis=1)) - (network.onehot[rows] * scores).sum(axis=1))

    gradient = network.gradient(rows)
    for name, parameter in network.parameters.items():
        along = np.random.default_rng(5).normal(size=parameter.shape)
        network.parameters[name] = parameter + 1e-6 * along
        above = loss()
        network.parameters[name] = parameter - 1e-6 * along
        slope = (above - loss()) / 2e-6
        network.parameters[name] = parameter
        assert np.sum(gradient[name] * along) == pytest.approx(slope, rel=1e-5)


def test_adam_corrects_its_bias():
    adam, g = models.Adam(eps=1e-8), np.array([2.0, -0.5])
    for _ in range(3):
        direction, metric = adam.step({"w": g})["w"]
        np.testing.assert_allclose(direction, g)
        np.testing.assert_allclose(metric, np.abs(g) + 1e-8)
