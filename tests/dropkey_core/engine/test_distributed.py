import os

import pytest
from omegaconf import OmegaConf

from dropkey_core.engine import UserError
from dropkey_core.engine.distributed import Processes, is_first_process, started_by
from dropkey_core.engine.launch import launch

pytestmark = pytest.mark.slow

VARIABLES = (
    "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "RANK", "WORLD_SIZE", "GROUP_RANK",
    "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE",
    "SLURM_NODEID", "SLURM_LOCALID",
    "SLURM_NNODES", "SLURM_PROCID", "SLURM_JOB_NAME",
)  # fmt: skip
URL = "tcp://10.0.0.1:29500"
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8", "RANK": "5"}
SLURM = {
    "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "5",
    "SLURM_JOB_NAME": "detr",
}  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    """Sets variables; all that say something about processes are gone otherwise, and afterwards."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)

    def put(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_gpus": 0}, "--num-gpus must be at least 1, got 0"),
        ({"num_machines": -1}, "--num-machines must be at least 1, got -1"),
        ({"timeout": 0.0}, "--dist-timeout must be above 0 seconds, got 0"),
        ({"timeout": float("nan")}, "--dist-timeout must be above 0 seconds, got nan"),
        ({"machine_rank": 1}, r"--machine-rank must be in 0..0 with --num-machines 1, got 1"),
        ({"num_machines": 2, "machine_rank": 2, "dist_url": URL}, r"must be in 0..1 .* got 2"),
        ({"num_machines": 2, "machine_rank": -1, "dist_url": URL}, r"must be in 0..1 .* got -1"),
        ({"num_machines": 2, "dist_url": URL}, "--num-machines 2 needs --machine-rank: 0 on the"),
        ({"num_machines": 2, "machine_rank": 0}, "--num-machines 2 needs --dist-url tcp://.*:29500"),
        *(
            ({"dist_url": url}, "--dist-url must be tcp://HOST:PORT of machine 0, .* got")
            for url in (
                "10.0.0.1:29500", "tcp://10.0.0.1", "tcp://:29500", "tcp://host:port", "auto", "",
                "tcp://host:0", "tcp://host:70000", "http://host:1", "tcp://host:1/path", "tcp://[",
            )
        ),
    ],
)  # fmt: skip
def test_bad_options_are_one_line(environment, arguments, message):
    with pytest.raises(UserError, match=message) as raised:
        Processes(**arguments).announce()
    assert "\n" not in str(raised.value)


def test_machines_are_told_where_to_meet(environment):
    environment()
    Processes(2, 2, 1, URL).announce()
    found = [os.environ.get(name) for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")]
    assert found == ["1", "10.0.0.1", "29500"]
    assert not is_first_process()
    Processes(2, 2, 1, "tcp://[fe80::1]:80").announce()
    assert [os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT")] == ["fe80::1", "80"]


def test_the_numbers_are_those_of_who_started_the_processes(environment):
    assert Processes().counted() == (1, 1)
    assert not started_by()
    environment(**TORCHRUN)
    assert Processes().counted() == Processes(4, 2).counted() == (4, 2)
    with pytest.raises(UserError, match="--dist-url: torchrun sees to that; leave it out"):
        Processes(dist_url=URL).announce()


def test_slurm(environment):
    environment(**SLURM)
    assert Processes().counted() == (4, 2)
    with pytest.raises(UserError, match="--machine-rank, --dist-url: SLURM sees to that"):
        Processes(machine_rank=0).announce()
    environment(SLURM_JOB_NAME="interactive")
    assert Processes(8).counted() == (8, 1)
    environment(SLURM_JOB_NAME="detr", SLURM_NTASKS="1")  # one task that starts the others
    assert Processes(8).counted() == (8, 1)


@pytest.mark.parametrize(
    ("variables", "processes", "message"),
    [
        (TORCHRUN, Processes(8), r"`devices=8` and `num_nodes=2` .* the world size \(8\)"),
        (TORCHRUN, Processes(4, 1), r"`num_nodes=1` .* the world size \(8\)"),
        (SLURM, Processes(8), "`devices=8` .*`--ntasks-per-node=4` does not match"),
        ({**SLURM, "SLURM_NTASKS_PER_NODE": None}, Processes(), ".* Use `--ntasks-per-node=8`"),
    ],
)
def test_other_numbers_than_were_started_are_one_line(environment, variables, processes, message):
    environment(LOCAL_RANK="1", SLURM_NODEID="1", SLURM_LOCALID="1")
    environment(**{name: value for name, value in variables.items() if value})
    train = OmegaConf.create({"device": "cpu", "amp": {"enabled": False}, "ddp": {}})
    with pytest.raises(UserError, match=rf"^the processes of this run cannot meet: .*{message}"):
        launch(train, processes)


@pytest.mark.parametrize(
    ("variables", "is_first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        (TORCHRUN, False),
        ({**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0"}, True),
        (SLURM, False),
        ({**SLURM, "SLURM_PROCID": "0"}, True),
        # one task of SLURM that starts others: they inherit its number
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False),
    ],
)
def test_first_process(environment, variables, is_first):
    environment(**variables)
    assert is_first_process() is is_first
