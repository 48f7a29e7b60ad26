"""Fixtures of the end-to-end tests."""

import pytest

from tests.end_to_end.peers import NodeProcess, Orthanc, free_port


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Orthanc and a node that know each other; both are ended with the module."""
    node_port, folder = free_port(), tmp_path_factory.mktemp("site")
    orthanc = Orthanc(folder / "orthanc", node_port)
    node = NodeProcess(folder / "node", node_port, ("ORTHANC", orthanc.dicom))
    try:
        node.start()
        yield orthanc, node
    finally:
        node.stop()
        orthanc.stop()
