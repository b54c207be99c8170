"""Which images of a class: any, sure or unsure ones, typical ones, or different ones."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from debride.errors import DebrideError
from debride.reference.registry import Floats, Integers, Members, register_strategy


@register_strategy("random")
def random(members: Members, count: int, rng: np.random.Generator) -> Integers:
    """Take any images."""
    return rng.permutation(len(members))[:count]


@register_strategy("most_confident")
def most_confident(members: Members, count: int, rng: np.random.Generator) -> Integers:
    """Take the images of whose class the network is most sure."""
    return np.argsort(-members.confidence, kind="stable")[:count]


@register_strategy("least_confident")
def least_confident(members: Members, count: int, rng: np.random.Generator) -> Integers:
    """Take the images of whose class the network is least sure; wrong ones come first."""
    return np.argsort(members.confidence, kind="stable")[:count]


@register_strategy("prototypical")
def prototypical(members: Members, count: int, rng: np.random.Generator) -> Integers:
    """Take the images nearest to the mean of their class, in the network's features."""
    features = members.features
    return np.argsort(_distances(features, features.mean(0)), kind="stable")[:count]


@register_strategy("clustered")
def clustered(members: Members, count: int, rng: np.random.Generator) -> Integers:
    """Take the medoid of each of `count` clusters in the network's features (k-means)."""
    features = members.features
    clusters = min(count, len(features))
    means = KMeans(clusters, n_init=1, random_state=int(rng.integers(2**31)))
    with warnings.catch_warnings():  # images that are alike leave clusters empty
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = means.fit_predict(features)
    medoids = []
    for cluster in np.unique(found):
        inside = np.flatnonzero(found == cluster)
        distances = _distances(features[inside], means.cluster_centers_[cluster])
        medoids.append(inside[np.argmin(distances)])
    return np.array(medoids, dtype=np.int64)


@register_strategy("by_group")
def by_group(members: Members, count: int, rng: np.random.Generator) -> Integers:
    """Take one image of every patient, lesion or site in turn."""
    if all(group is None for group in members.groups):
        raise DebrideError(
            "the images name no patients or other groups (index.csv, or a column of the "
            "manifest): take another --reference-strategy"
        )
    held: dict[str, list[int]] = {}
    for place in rng.permutation(len(members)):
        # an image without a group is one of its own
        held.setdefault(members.groups[place] or f"\0{place}", []).append(int(place))
    turns = [
        (turn, order, place)
        for order, places in enumerate(held.values())
        for turn, place in enumerate(places)
    ]
    return np.array([place for _, _, place in sorted(turns)[:count]], dtype=np.int64)


def _distances(features: Floats, centre: Floats) -> Floats:
    found: Floats = np.square(features - centre).sum(1)
    return found
