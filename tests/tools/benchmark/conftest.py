import pytest
import torch


@pytest.fixture(autouse=True)
def _threads():
    """Commands set the number of threads; other tests keep theirs."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
