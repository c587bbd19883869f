import pytest

from trainables import cluster, growth

HEAD = {"resources": {"CPU": 0}, "min_workers": 0, "max_workers": 0}
GPU = {"resources": {"CPU": 4, "GPU": 1, "memory": 10**10}, "min_workers": 0, "max_workers": 8}


@pytest.fixture(scope="module")
def gcs():
    import ray

    context = ray.init(address="local", num_cpus=0, include_dashboard=False)
    yield context.address_info["gcs_address"]
    ray.shutdown()


def test_a_cluster_without_nodes_to_train_on_has_room_for_what_it_can_grow_to(gcs):
    assert not growth.has_workers(gcs)
    config = {"head_node_type": "head", "max_workers": 4, "available_node_types": {"head": HEAD, "gpu": GPU}}
    own = {"head_node_type": "own", "max_workers": 4, "available_node_types": {"own": HEAD | {"resources": {}}}}
    assert growth.announce(gcs, own) is False and cluster.growth() is None
    assert growth.announce(gcs, config) is True
    assert cluster.growth() == {"CPU": 16, "GPU": 4, "memory": 4 * 10**10}
    room = cluster.Room({}, workers=1, gpus=None, jobs=None, largest=cluster.growth())
    assert room.resources == {"CPU": 1.0, "GPU": 1.0} and room.slots({}) == 4
