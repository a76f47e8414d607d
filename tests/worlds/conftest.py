import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Matrices this small gain nothing from more threads, and one gives the same bits every time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
