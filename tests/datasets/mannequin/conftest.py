import pytest
from mannequin import make_mannequin

SMALL = {"sizes": (1000, 300, 100), "cell": 0.0105, "rounds": 3}


@pytest.fixture(scope="session")
def small_mannequin():
    """The mannequin with fewer vertices; four seconds."""
    return make_mannequin(**SMALL)
