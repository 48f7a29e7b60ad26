"""Fixtures of the end-to-end tests."""

import pytest

from tests.end_to_end.peers import NodeProcess, Orthanc, free_port


@pytest.fixture
def site(tmp_path):
    """Orthanc and a node that know each other; both are ended with the test."""
    node_port = free_port()
    orthanc = Orthanc(tmp_path / "orthanc", node_port)
    node = NodeProcess(tmp_path / "node", node_port, ("ORTHANC", orthanc.dicom))
    try:
        node.start()
        yield orthanc, node
    finally:
        node.stop()
        orthanc.stop()
