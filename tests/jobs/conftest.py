"""A cluster of Ray on this machine."""

from collections.abc import Iterator
from typing import Any

import pytest

from robust_lowrank.jobs.executors import find_executor


@pytest.fixture(scope="session")
def nodes() -> Iterator[Any]:
    """Return a cluster of two nodes, of a core each; its start takes ten seconds and more, so that slow tests share it."""
    find_executor("ray")  # before ray itself is imported: it has Ray be quiet
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def cluster(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return the cluster, which the executor joins."""
    import ray

    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    yield nodes
    ray.shutdown()
