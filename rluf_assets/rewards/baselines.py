"""What a reward model must beat on the same rows: length alone, and a bag of words (scikit-learn)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix, hstack, vstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

MAX_BASELINE_ROWS = 20_000
MAX_WORDS = 20_000


class BagOfWords:
    """TF-IDF of the reply and of the last user message, and a logistic regression on both."""

    def __init__(self) -> None:
        options = {"sublinear_tf": True, "max_features": MAX_WORDS, "ngram_range": (1, 2)}
        self._reply, self._asked = TfidfVectorizer(**options), TfidfVectorizer(**options)
        self._model = LogisticRegression(C=1.0, max_iter=300)

    def fit_labelled(self, rows: pl.DataFrame) -> BagOfWords:
        """Fit on rows with prompt, completion and label."""
        words = self._features(rows["prompt"], rows["completion"], fit=True)
        self._model.fit(words, rows["label"].to_numpy() > 0.5)
        return self

    def score_labelled(self, rows: pl.DataFrame) -> np.ndarray:
        return np.asarray(self._model.decision_function(self._features(rows["prompt"], rows["completion"])))

    def fit_pairs(self, rows: pl.DataFrame) -> BagOfWords:
        """Fit on differences of a pair's replies, each both ways round, without intercept."""
        self._reply.fit([*rows["chosen"], *rows["rejected"]])
        difference = self._difference(rows)
        self._model.set_params(fit_intercept=False)
        self._model.fit(vstack([difference, -difference]), np.repeat([1, 0], len(rows)))
        return self

    def score_pairs(self, rows: pl.DataFrame) -> np.ndarray:
        """Score difference, chosen minus rejected."""
        return np.asarray(self._model.decision_function(self._difference(rows)))

    def _difference(self, rows: pl.DataFrame) -> csr_matrix:
        return self._reply.transform(rows["chosen"]) - self._reply.transform(rows["rejected"])

    def _features(self, prompts: pl.Series, replies: Sequence[str] | pl.Series, fit: bool = False) -> csr_matrix:
        asked = prompts.list.last().struct.field("content")
        if fit:
            return hstack([self._reply.fit_transform(replies), self._asked.fit_transform(asked)]).tocsr()
        return hstack([self._reply.transform(replies), self._asked.transform(asked)]).tocsr()


def length_features(replies: pl.Series) -> np.ndarray:
    """Characters of each reply, plain and logarithmic, shape (rows, 2)."""
    length = replies.str.len_chars().to_numpy().astype(np.float64)
    return np.stack([length / 100, np.log1p(length)], axis=1)


def length_scores(train: pl.DataFrame, rows: pl.DataFrame) -> np.ndarray:
    """Scores of a logistic regression on reply length alone, fitted on `train`."""
    model = LogisticRegression(max_iter=300).fit(length_features(train["completion"]), train["label"].to_numpy() > 0.5)
    return np.asarray(model.decision_function(length_features(rows["completion"])))


def length_pair_scores(train: pl.DataFrame, rows: pl.DataFrame) -> np.ndarray:
    """Differences of a Bradley-Terry model on reply length alone, fitted on `train` pairs."""

    def difference(pairs: pl.DataFrame) -> np.ndarray:
        return length_features(pairs["chosen"]) - length_features(pairs["rejected"])

    features = difference(train)
    model = LogisticRegression(max_iter=300, fit_intercept=False)
    model.fit(np.concatenate([features, -features]), np.repeat([1, 0], len(features)))
    return np.asarray(model.decision_function(difference(rows)))
