"""Companions of CKA: known answers and invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes

from emergence.measures.similarity import (
    angular_procrustes,
    excess_over_random,
    mutual_neighbours,
    nearest_neighbours,
)


def test_procrustes_known_answer() -> None:
    raw = np.random.default_rng(1).normal(size=(40, 2))
    x = np.linalg.qr(raw - raw.mean(axis=0))[0]
    angle = angular_procrustes(x, x * [1.0, 2.0])
    assert angle == pytest.approx(0.3217506, abs=1e-7)
    assert math.cos(angle) == pytest.approx(0.9486833, abs=1e-7)
    assert 2 - 2 * math.cos(angle) == pytest.approx(0.1026334, abs=1e-7)


def test_procrustes_against_scipy() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(30, 5)), rng.normal(size=(30, 5))
    units = [(z - z.mean(axis=0)) / np.linalg.norm(z - z.mean(axis=0)) for z in (x, y)]
    rotation, nuclear = orthogonal_procrustes(*units)
    assert math.cos(angular_procrustes(x, y)) == pytest.approx(nuclear, abs=1e-12)
    assert np.linalg.norm(units[0] @ rotation - units[1]) ** 2 == pytest.approx(2 - 2 * nuclear, abs=1e-12)


def test_rotation_scale_and_shift_change_nothing() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(60, 6)), rng.normal(size=(60, 9))
    moved = 2.5 * x @ np.linalg.qr(rng.normal(size=(6, 6)))[0] - 4.0
    assert angular_procrustes(moved, y) == pytest.approx(angular_procrustes(x, y), abs=1e-12)
    assert angular_procrustes(x, moved) == pytest.approx(0.0, abs=1e-6)
    neighbours, others = nearest_neighbours(x, 5), nearest_neighbours(moved, 5)
    assert mutual_neighbours(neighbours, others) == 1.0


def test_procrustes_says_when_it_cannot() -> None:
    x = np.random.default_rng(4).normal(size=(20, 3))
    assert math.isnan(angular_procrustes(x, np.full((20, 2), 0.1)))
    assert math.isnan(angular_procrustes(x, np.where(x > 2, np.nan, x) + np.nan))


def test_neighbours_by_brute_force() -> None:
    x = np.random.default_rng(5).normal(size=(50, 4))
    distances = np.linalg.norm(x[:, None] - x[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    found = nearest_neighbours(x, 7)
    assert [set(row) for row in found] == [set(row) for row in distances.argsort(axis=1)[:, :7]]


def test_ties_go_to_the_first_row_whatever_the_rounding() -> None:
    rng = np.random.default_rng(7)
    x = np.repeat(rng.normal(size=(10, 6)), 8, axis=0)
    rotated = 3.0 * x @ np.linalg.qr(rng.normal(size=(6, 6)))[0] + 1.0
    left, right = nearest_neighbours(x, 5), nearest_neighbours(rotated, 5)
    assert mutual_neighbours(left, right) == 1.0
    assert set(left[0]) == {1, 2, 3, 4, 5} and set(left[7]) == {0, 1, 2, 3, 4}


def test_chance_of_mutual_neighbours() -> None:
    rng = np.random.default_rng(6)
    found = [
        mutual_neighbours(*(nearest_neighbours(rng.normal(size=(101, 5)), 10) for _ in range(2))) for _ in range(30)
    ]
    assert np.mean(found) == pytest.approx(10 / 100, abs=0.01)


def test_mutual_neighbours_counted_by_hand() -> None:
    assert mutual_neighbours(np.array([[1, 2], [0, 2]]), np.array([[2, 3], [2, 0]])) == 0.75


def test_number_of_neighbours_is_checked() -> None:
    with pytest.raises(ValueError, match="5 neighbours of 5 rows"):
        nearest_neighbours(np.zeros((5, 2)), 5)


def test_excess() -> None:
    found = excess_over_random([0.9, 0.4, 0.99, 0.2], [0.8, 0.4, 0.96, 0.6])
    assert found[:2] == pytest.approx([0.5, 0.0])
    assert math.isnan(found[2]) and found[3] == pytest.approx(-1.0)
