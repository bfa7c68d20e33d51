"""Small dense least squares: non-negative solutions, and diagnostics of their columns and rows."""

from collections.abc import Sequence
from operator import mul

Matrix = Sequence[Sequence[float]]
EPSILON = 1e-12


def nnls(rows: Matrix, targets: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The x ≥ 0 that minimises the weighted squares of rows·x − targets.

    rows: one per target, each as long as x. Columns may differ in scale by orders of magnitude.
    Source: Lawson and Hanson, Solving Least Squares Problems (1974), chapter 23, on the normal
    equations of scaled columns. Accurate for a dozen unknowns whose columns are independent.
    """
    scales = [_norm(rows, weights, j) or 1.0 for j in range(len(rows[0]))]
    gram, moments = _normal_equations(rows, targets, weights, scales)
    count = len(scales)
    free: list[int] = []
    x = [0.0] * count
    for _ in range(3 * count):
        slope = [moments[j] - dot(gram[j], x) for j in range(count)]
        rising = [j for j in range(count) if j not in free and slope[j] > EPSILON]
        if not rising:
            break
        free.append(max(rising, key=lambda j: slope[j]))
        x, free = _restricted(gram, moments, x, free)
    return [value / scale for value, scale in zip(x, scales, strict=True)]


def independence(rows: Matrix, weights: Sequence[float]) -> list[float]:
    """For each column, the share that other columns cannot explain: 1 − R²; 0 if it is empty.

    Source: the diagonal of the inverse of the columns' correlation matrix is 1 / (1 − R²).
    """
    count = len(rows[0])
    norms = [_norm(rows, weights, j) for j in range(count)]
    full = [j for j in range(count) if norms[j] > 0]
    scales = [norms[j] for j in full]
    picked = [[row[j] for j in full] for row in rows]
    gram, _ = _normal_equations(picked, [0.0] * len(rows), weights, scales)
    shares = dict.fromkeys(range(count), 0.0)
    for position, column in enumerate(full):
        others = [k for k in range(len(full)) if k != position]
        shares[column] = _unexplained(gram, position, others)
    return [shares[j] for j in range(count)]


def leverages(rows: Matrix, weights: Sequence[float]) -> list[float]:
    """For each row, how far its own target moves its fitted value: w·rᵀ(RᵀWR)⁻¹r."""
    scales = [_norm(rows, weights, j) or 1.0 for j in range(len(rows[0]))]
    gram, _ = _normal_equations(rows, [0.0] * len(rows), weights, scales)
    for i in range(len(gram)):
        gram[i][i] += EPSILON
    answers = []
    for row, weight in zip(rows, weights, strict=True):
        scaled = [value / scale for value, scale in zip(row, scales, strict=True)]
        solution = solve(gram, scaled)
        answers.append(weight * dot(scaled, solution))
    return answers


def solve(matrix: Matrix, targets: Sequence[float]) -> list[float]:
    """Solve a small square system by Gaussian elimination with row pivoting."""
    n = len(targets)
    rows = [[*row, target] for row, target in zip(matrix, targets, strict=True)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda k: abs(rows[k][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        head = rows[i][i] or EPSILON
        for k in range(i + 1, n):
            factor = rows[k][i] / head
            rows[k] = [a - factor * b for a, b in zip(rows[k], rows[i], strict=True)]
    x = [0.0] * n
    for i in reversed(range(n)):
        rest = rows[i][n] - dot(rows[i][i + 1 : n], x[i + 1 :])
        x[i] = rest / (rows[i][i] or EPSILON)
    return x


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """Dot product of two rows of the same length."""
    return float(sum(map(mul, a, b)))


def _restricted(
    gram: Matrix, moments: Sequence[float], x: list[float], free: list[int]
) -> tuple[list[float], list[int]]:
    """Solve for the free unknowns; step back to the boundary until none is negative."""
    while free:
        solution = solve([[gram[a][b] for b in free] for a in free], [moments[a] for a in free])
        if min(solution) > 0:
            moved = dict(zip(free, solution, strict=True))
            return [moved.get(j, 0.0) for j in range(len(x))], free
        low = [(j, v) for j, v in zip(free, solution, strict=True) if v <= 0]
        step = min(x[j] / (x[j] - v) if x[j] > v else 0.0 for j, v in low)
        for j, v in zip(free, solution, strict=True):
            x[j] += step * (v - x[j])
        boundary = {j for j, _ in low if x[j] <= EPSILON}
        free = [j for j in free if j not in boundary]
        x = [0.0 if j in boundary else value for j, value in enumerate(x)]
    return x, free


def _unexplained(gram: Matrix, column: int, others: list[int]) -> float:
    if not others:
        return 1.0
    square = [[gram[a][b] for b in others] for a in others]
    side = [gram[a][column] for a in others]
    for i in range(len(others)):
        square[i][i] += EPSILON  # keeps it solvable if the others depend on each other
    solution = solve(square, side)
    return max(0.0, 1.0 - dot(side, solution))


def _norm(rows: Matrix, weights: Sequence[float], j: int) -> float:
    return float(sum(w * row[j] ** 2 for row, w in zip(rows, weights, strict=True)) ** 0.5)


def _normal_equations(
    rows: Matrix, targets: Sequence[float], weights: Sequence[float], scales: Sequence[float]
) -> tuple[list[list[float]], list[float]]:
    scaled = [[row[j] / scale for row in rows] for j, scale in enumerate(scales)]
    weighted = [list(map(mul, column, weights)) for column in scaled]
    gram = [[dot(left, right) for right in scaled] for left in weighted]
    return gram, [dot(left, targets) for left in weighted]
