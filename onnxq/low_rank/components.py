"""One matrix as a sum of components, each the product of a column and a row, the largest first.

Owns the truncated singular value decomposition, plain and weighted. Singular vectors come from the
eigenvectors of the smaller Gram matrix, and the other side by projection: the sum of all components
is the matrix to within rounding, however the small singular values fare, and what is left out is
known to about 1e-15 of the whole. All sums are float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

Array = np.ndarray[Any, np.dtype[Any]]
_BLOCK = 4096
"""Columns of a long matrix that are converted to float64 at a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Components:
    """Hold the components of a matrix of rows x columns, in order of what they contribute.

    `energies` [min(rows, columns)] are their squared norms, weighted as the matrix was; the sum of
    those left out is the squared distance. `forward` [columns, n] and `dual` [n, columns] are there
    where there are more rows than columns, else `basis` [rows, n] is.
    """

    matrix: Array
    energies: Array
    basis: Array | None = None
    forward: Array | None = None
    dual: Array | None = None

    @property
    def power(self) -> float:
        """The weighted square of the whole matrix."""
        return float(self.lost(0)[0])

    def lost(self, ranks: int) -> Array:
        """Return what is lost at each rank from 0 to `ranks`: [ranks + 1]."""
        return np.append(np.cumsum(self.energies[::-1])[::-1], 0.0)[: ranks + 1]

    def pair(self, rank: int) -> tuple[Array, Array]:
        """Return (left [rows, rank], right [rank, columns]), float64, whose product is nearest."""
        if self.basis is not None:
            left = self.basis[:, :rank]
            return left, _product(left.T, self.matrix)
        assert self.forward is not None
        assert self.dual is not None
        return _product(self.forward[:, :rank].T, self.matrix.T).T, self.dual[:rank]


def components(matrix: Array, moment: Array | None = None) -> Components:
    """Return the components of a matrix W, nearest by |W|^2, or tr(W C W^T) with a moment C.

    With U the first eigenvectors of W C W^T, U U^T W is the nearest matrix of their number: it is
    the truncation of W C^(1/2), mapped back (Zhang et al. 2015, section 3.1). Where there are fewer
    columns, the same is found with C = G G^T from the eigenvectors of G^T W^T W G.

    Args:
        matrix: [rows, columns], any float type.
        moment: positive definite [columns, columns] or its diagonal [columns], float64.
    """
    rows, columns = matrix.shape
    if rows <= columns:
        energies, basis = _eigen(_row_gram(matrix, moment))
        return Components(matrix=matrix, energies=energies, basis=basis)
    gram = _row_gram(matrix.T, None)
    if moment is None:
        energies, vectors = _eigen(gram)
        return Components(matrix=matrix, energies=energies, forward=vectors, dual=vectors.T)
    if moment.ndim == 1:
        root = np.sqrt(moment)
        energies, vectors = _eigen(gram * root * root[:, None])
        forward, dual = vectors * root[:, None], (vectors / root[:, None]).T
        return Components(matrix=matrix, energies=energies, forward=forward, dual=dual)
    root = scipy.linalg.cholesky(moment, lower=True)
    energies, vectors = _eigen(root.T @ gram @ root)
    dual = scipy.linalg.solve_triangular(root, vectors, lower=True, trans="T").T
    return Components(matrix=matrix, energies=energies, forward=root @ vectors, dual=dual)


def balanced(left: Array, right: Array) -> tuple[Array, Array]:
    """Return a pair with the same product, both sides of each component of one norm.

    The signs are fixed: the largest value of each row of `right` is positive, the first of equals.
    """
    norms = np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1)
    is_there = (norms[0] > 0) & (norms[1] > 0)
    scale = np.sqrt(np.divide(norms[1], norms[0], where=is_there, out=np.ones(len(right))))
    largest = np.abs(right).argmax(axis=1)
    scale[right[np.arange(len(right)), largest] < 0] *= -1
    return left * scale, right / scale[:, None]


def _eigen(gram: Array) -> tuple[Array, Array]:
    """Return the eigenvalues of a symmetric matrix, largest first, >= 0, and its eigenvectors."""
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    return np.maximum(values[::-1], 0.0), np.ascontiguousarray(vectors[:, ::-1])


def _row_gram(matrix: Array, moment: Array | None) -> Array:
    """Return W C W^T, float64."""
    if moment is not None and moment.ndim == 2:
        wide = matrix.astype(np.float64)
        return np.asarray(wide @ moment @ wide.T)
    total = np.zeros((len(matrix), len(matrix)))
    for start in range(0, matrix.shape[1], _BLOCK):
        block = matrix[:, start : start + _BLOCK].astype(np.float64)
        weighted = block if moment is None else block * moment[start : start + _BLOCK]
        total += weighted @ block.T
    return total


def _product(left: Array, matrix: Array) -> Array:
    """Return left @ matrix in float64, the matrix converted a part at a time."""
    found = np.empty((len(left), matrix.shape[1]))
    for start in range(0, matrix.shape[1], _BLOCK):
        block = matrix[:, start : start + _BLOCK].astype(np.float64)
        found[:, start : start + _BLOCK] = left @ block
    return found
