"""The prox operators are what method.md says they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from prosma_core.config.model import ONE_SIDED
from prosma_core.model.prox import THRESHOLDS, bounded_threshold, nonnegative_threshold, soft_threshold

FINITE = st.floats(-50, 50, allow_nan=False, width=32)
TAU = st.floats(0, 20, width=32)


def scalar(operator, z: float, tau: float) -> float:
    return float(operator(torch.tensor(z, dtype=torch.float64), torch.tensor(tau, dtype=torch.float64)))


@given(FINITE, TAU)
def test_soft_threshold_is_the_minimiser_it_claims_to_be(z: float, tau: float) -> None:
    found = minimize_scalar(lambda p: 0.5 * (p - z) ** 2 + tau * abs(p), bounds=(-60, 60), options={"xatol": 1e-9})
    assert scalar(soft_threshold, z, tau) == pytest.approx(found.x, abs=1e-4)


@given(FINITE, TAU)
def test_nonnegative_threshold_is_the_minimiser_over_the_nonnegative(z: float, tau: float) -> None:
    found = minimize_scalar(
        lambda p: 0.5 * (p - z) ** 2 + tau * abs(p), bounds=(0, 60), method="bounded", options={"xatol": 1e-9}
    )
    assert scalar(nonnegative_threshold, z, tau) == pytest.approx(found.x, abs=1e-4)


@pytest.mark.parametrize("form", sorted(THRESHOLDS))
@given(a=FINITE, b=FINITE, tau=TAU)
def test_every_form_is_non_expansive(form: str, a: float, b: float, tau: float) -> None:
    operator = THRESHOLDS[form]
    assert abs(scalar(operator, a, tau) - scalar(operator, b, tau)) <= abs(a - b) + 1e-9


@given(FINITE, TAU)
def test_signed_and_bounded_forms_are_odd(z: float, tau: float) -> None:
    for operator in (soft_threshold, bounded_threshold):
        assert scalar(operator, -z, tau) == -scalar(operator, z, tau)


@given(FINITE)
def test_threshold_zero_is_the_identity(z: float) -> None:
    assert scalar(soft_threshold, z, 0.0) == z
    assert scalar(nonnegative_threshold, z, 0.0) == max(z, 0.0)
    assert scalar(bounded_threshold, z, 0.0) == pytest.approx(np.tanh(z))


@pytest.mark.parametrize("form", sorted(THRESHOLDS))
@given(seed=st.integers(0, 2**31), low=TAU, high=TAU)
def test_zeros_never_decrease_when_the_threshold_grows(form: str, seed: int, low: float, high: float) -> None:
    z = 10 * torch.randn(200, generator=torch.Generator().manual_seed(seed))
    low, high = sorted((low, high))
    zero_low = THRESHOLDS[form](z, torch.tensor(low)) == 0
    zero_high = THRESHOLDS[form](z, torch.tensor(high)) == 0
    assert bool((zero_low <= zero_high).all())


@pytest.mark.parametrize("form", sorted(THRESHOLDS))
@given(z=FINITE, tau=TAU)
def test_a_value_is_removed_exactly_at_or_below_the_threshold(form: str, z: float, tau: float) -> None:
    size = z if form in ONE_SIDED else abs(z)
    assert (scalar(THRESHOLDS[form], z, tau) == 0) == (size <= tau)


@given(FINITE, TAU)
def test_bounded_form_stays_within_one(z: float, tau: float) -> None:
    assert abs(scalar(bounded_threshold, z, tau)) <= 1
