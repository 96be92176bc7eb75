import numpy as np
import torch

from projects.metro.body import skeleton


def test_metros_joints_are_those_of_the_official_order():
    legs = ["R_Ankle", "R_Knee", "R_Hip", "L_Hip", "L_Knee", "L_Ankle"]
    arms = ["R_Wrist", "R_Elbow", "R_Shoulder", "L_Shoulder", "L_Elbow", "L_Wrist"]
    assert list(skeleton.JOINTS) == [*legs, *arms, "Neck", "Head"]


def test_mirrors_swap_left_and_right():
    # Both as the official code has them.
    fourteen, smpl = skeleton.JOINTS_MIRROR, skeleton.SMPL_MIRROR
    assert fourteen == (5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 12, 13)
    assert smpl[:12] == (0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10)
    assert smpl[12:] == (12, 14, 13, 15, 17, 16, 19, 18, 21, 20, 23, 22)


def test_smpls_tree_leads_from_every_joint_to_the_root():
    names, parents = skeleton.SMPL_JOINTS, skeleton.SMPL_PARENTS
    assert len(names) == len(set(names)) == len(parents) == 24
    assert all(parent < joint for joint, parent in enumerate(parents))
    chain, joint = [], names.index("L_Hand")
    while joint != -1:
        chain.append(names[joint])
        joint = parents[joint]
    assert chain[:5] == ["L_Hand", "L_Wrist", "L_Elbow", "L_Shoulder", "L_Collar"]
    assert chain[5:] == ["Spine3", "Spine2", "Spine1", "Pelvis"]


def test_root_relative_joints_have_the_mid_hip_at_the_origin():
    joints = np.random.default_rng(0).normal(size=(2, 14, 3))
    joints[1, 2], joints[1, 3], joints[1, 5] = (0.1, 0.9, 0), (-0.3, 0.7, 0.2), (1, 1, 1)
    relative = skeleton.root_relative(joints)
    np.testing.assert_allclose(relative[1, 5], [1.1, 0.2, 0.9])
    np.testing.assert_allclose(relative[0, 2], -relative[0, 3])
    torch.testing.assert_close(
        skeleton.root_relative(torch.from_numpy(joints)), torch.from_numpy(relative)
    )
