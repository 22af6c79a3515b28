"""Clusters on this machine, started and ended by the tests themselves: `make test-cluster`, and not `make test`."""


def pytest_ignore_collect(collection_path, config):
    return None if any("cluster" in str(word) for word in config.args) else True
