"""The mannequin's measures: where its joints are, and the solids that its surface melts from.

Metres; x to its left, y up, z to the front; the numbers of left parts, which are mirrored. It
stands as SMPL's template does: arms stretched out sideways, palms down, about 1.72 m tall.
"""

import numpy as np

from mannequin.signed_distance import (
    ImplicitSolid,
    above_floor,
    both,
    cone,
    ellipsoid,
    loft,
    smooth_union,
)
from projects.metro.body.skeleton import H36M_JOINTS, SMPL_JOINTS

FLOOR = -1.178

# Middle and left joints by SMPL's names.
JOINT_PLACES = {
    "Pelvis": (0, -0.225, 0.005),
    "L_Hip": (0.078, -0.315, 0.005),
    "Spine1": (0, -0.115, -0.005),
    "L_Knee": (0.108, -0.700, 0.008),
    "Spine2": (0, 0.015, -0.008),
    "L_Ankle": (0.115, -1.095, -0.030),
    "Spine3": (0, 0.075, -0.008),
    "L_Foot": (0.135, -1.150, 0.085),
    "Neck": (0, 0.275, -0.022),
    "L_Collar": (0.070, 0.200, -0.015),
    "Head": (0, 0.360, 0.005),
    "L_Shoulder": (0.175, 0.222, -0.018),
    "L_Elbow": (0.435, 0.215, -0.028),
    "L_Wrist": (0.680, 0.213, -0.022),
    "L_Hand": (0.765, 0.208, -0.018),
}

# Where Human3.6M's joints lie, by its names.
H36M_PLACES = {
    "Pelvis": (0, -0.245, 0.005),
    "L_Hip": (0.100, -0.300, 0.005),
    "L_Knee": (0.108, -0.695, 0.008),
    "L_Ankle": (0.115, -1.095, -0.030),
    "Torso": (0, 0.005, -0.010),
    "Neck": (0, 0.255, -0.015),
    "Nose": (0, 0.408, 0.095),
    "Head": (0, 0.475, 0.005),
    "L_Shoulder": (0.165, 0.215, -0.018),
    "L_Elbow": (0.433, 0.215, -0.028),
    "L_Wrist": (0.678, 0.213, -0.022),
}


def both_sides(places: dict[str, tuple[float, float, float]], names: tuple[str, ...]) -> np.ndarray:
    """Places (len(names), 3) of joints, of which right ones mirror left ones."""
    found = []
    for name in names:
        x, y, z = places[name.replace("R_", "L_")]
        found.append((-x if name.startswith("R_") else x, y, z))
    return np.array(found)


def smpl_places() -> np.ndarray:
    """Places (24, 3) of SMPL's joints."""
    return both_sides(JOINT_PLACES, SMPL_JOINTS)


def h36m_places() -> np.ndarray:
    """Places (17, 3) of Human3.6M's joints."""
    return both_sides(H36M_PLACES, H36M_JOINTS)


# ---- parts ---------------------------------------------------------------------------------------
# From the crotch to the base of the neck.
TORSO = loft(
    1,
    [
        # y, x, z, left, right, front, back
        (-0.360, 0, 0.000, 0.105, 0.105, 0.062, 0.072),
        (-0.300, 0, 0.000, 0.142, 0.142, 0.080, 0.094),
        (-0.240, 0, 0.000, 0.152, 0.152, 0.092, 0.100),
        (-0.170, 0, 0.000, 0.143, 0.143, 0.095, 0.084),
        (-0.100, 0, 0.000, 0.131, 0.131, 0.091, 0.076),
        (-0.040, 0, 0.000, 0.131, 0.131, 0.090, 0.080),
        (0.030, 0, 0.000, 0.145, 0.145, 0.099, 0.094),
        (0.100, 0, 0.000, 0.161, 0.161, 0.107, 0.106),
        (0.160, 0, 0.000, 0.166, 0.166, 0.099, 0.110),
        (0.210, 0, -0.005, 0.146, 0.146, 0.076, 0.095),
        (0.245, 0, -0.012, 0.095, 0.095, 0.055, 0.070),
    ],
    caps=(0.060, 0.03),
)
# From between the shoulders into the skull.
NECK = cone((0, 0.225, -0.025), (0, 0.390, -0.002), (0.056, 0.050))
# The muscle from the neck to the shoulder.
SHOULDER_SLOPE = cone((0.035, 0.268, -0.032), (0.150, 0.240, -0.022), (0.034, 0.036))
# From inside the shoulder to the wrist.
ARM = loft(
    0,
    [
        # x, y, z, up, down, front, back
        (0.150, 0.212, -0.018, 0.050, 0.062, 0.058, 0.058),
        (0.200, 0.216, -0.018, 0.050, 0.060, 0.057, 0.057),
        (0.270, 0.217, -0.020, 0.044, 0.050, 0.050, 0.048),
        (0.350, 0.217, -0.024, 0.041, 0.044, 0.045, 0.044),
        (0.420, 0.216, -0.027, 0.037, 0.038, 0.040, 0.039),
        (0.455, 0.215, -0.028, 0.036, 0.037, 0.041, 0.039),
        (0.500, 0.215, -0.027, 0.037, 0.038, 0.043, 0.041),
        (0.560, 0.214, -0.025, 0.034, 0.034, 0.039, 0.037),
        (0.630, 0.213, -0.023, 0.027, 0.027, 0.032, 0.030),
        (0.680, 0.213, -0.022, 0.0225, 0.0225, 0.029, 0.028),
        (0.700, 0.212, -0.021, 0.021, 0.021, 0.030, 0.029),
    ],
    caps=(0.05, 0.015),
)
# Palm and fingers in one, like a mitten, and the thumb.
PALM = loft(
    0,
    [
        # x, y, z, up, down, front, back
        (0.690, 0.212, -0.021, 0.0190, 0.0190, 0.028, 0.028),
        (0.720, 0.210, -0.019, 0.0175, 0.0175, 0.037, 0.036),
        (0.760, 0.208, -0.018, 0.0165, 0.0165, 0.042, 0.041),
        (0.785, 0.207, -0.018, 0.0155, 0.0155, 0.041, 0.041),
        (0.830, 0.204, -0.018, 0.0140, 0.0140, 0.034, 0.036),
        (0.855, 0.202, -0.018, 0.0130, 0.0130, 0.026, 0.028),
    ],
    caps=(0.02, 0.022),
)
THUMB_BALL = cone((0.708, 0.205, -0.004), (0.742, 0.201, 0.034), (0.0175, 0.0150))
THUMB_TIP = cone((0.742, 0.201, 0.034), (0.778, 0.198, 0.052), (0.0140, 0.0105))
HAND = smooth_union([PALM, THUMB_BALL, THUMB_TIP], blend=0.006)
# From the ankle to inside the hip; outer is to the left.
LEG = loft(
    1,
    [
        # y, x, z, outer, inner, front, back
        (-1.110, 0.115, -0.030, 0.032, 0.031, 0.040, 0.036),
        (-1.080, 0.115, -0.029, 0.032, 0.031, 0.037, 0.034),
        (-1.020, 0.114, -0.025, 0.032, 0.032, 0.034, 0.036),
        (-0.940, 0.113, -0.018, 0.040, 0.040, 0.037, 0.046),
        (-0.860, 0.112, -0.011, 0.049, 0.048, 0.041, 0.058),
        (-0.800, 0.111, -0.004, 0.051, 0.050, 0.044, 0.060),
        (-0.740, 0.109, 0.004, 0.049, 0.049, 0.050, 0.053),
        (-0.700, 0.108, 0.008, 0.050, 0.050, 0.054, 0.052),
        (-0.640, 0.106, 0.006, 0.055, 0.055, 0.060, 0.058),
        (-0.570, 0.103, 0.004, 0.062, 0.062, 0.069, 0.067),
        (-0.480, 0.098, 0.002, 0.070, 0.070, 0.078, 0.078),
        (-0.400, 0.092, 0.000, 0.075, 0.073, 0.082, 0.086),
        (-0.330, 0.084, 0.000, 0.079, 0.070, 0.083, 0.096),
        (-0.280, 0.078, 0.000, 0.072, 0.062, 0.074, 0.086),
        (-0.230, 0.072, 0.000, 0.056, 0.050, 0.060, 0.066),
    ],
    caps=(0.03, 0.06),
)
# From the heel to the toes, flat below.
FOOT = loft(
    2,
    [
        # z, x, y, outer, inner, up, down
        (-0.060, 0.116, -1.140, 0.030, 0.030, 0.040, 0.045),
        (-0.020, 0.117, -1.140, 0.031, 0.031, 0.046, 0.045),
        (0.020, 0.120, -1.142, 0.035, 0.034, 0.036, 0.045),
        (0.060, 0.125, -1.148, 0.040, 0.039, 0.024, 0.040),
        (0.100, 0.130, -1.155, 0.043, 0.043, 0.016, 0.032),
        (0.135, 0.134, -1.159, 0.038, 0.040, 0.010, 0.025),
    ],
    caps=(0.038, 0.032),
)


def head() -> ImplicitSolid:
    """Skull, jaw, nose, brow and ears."""
    skull = smooth_union(
        [
            ellipsoid((0, 0.452, -0.008), (0.071, 0.084, 0.090)),
            ellipsoid((0, 0.435, 0.020), (0.062, 0.078, 0.066)),
            ellipsoid((0, 0.371, 0.038), (0.048, 0.040, 0.048)),
            *both(ellipsoid((0.033, 0.400, 0.062), (0.024, 0.024, 0.020))),  # cheeks
        ],
        blend=0.012,
    )
    nose = smooth_union(
        [
            cone((0, 0.436, 0.083), (0, 0.407, 0.100), (0.007, 0.011)),
            cone((0.009, 0.404, 0.090), (-0.009, 0.404, 0.090), (0.0085, 0.0085)),
        ],
        blend=0.006,
    )
    lips = cone((0.014, 0.3765, 0.0775), (-0.014, 0.3765, 0.0775), (0.0085, 0.0085))
    chin = ellipsoid((0, 0.346, 0.071), (0.019, 0.013, 0.016))
    brow = cone((0.010, 0.449, 0.079), (0.040, 0.449, 0.063), (0.0065, 0.0065))
    ear = ellipsoid((0.073, 0.416, -0.006), (0.0075, 0.027, 0.016))
    return smooth_union([skull, nose, lips, chin, *both(brow, ear)], blend=0.006)


def person() -> ImplicitSolid:
    """The whole mannequin, left and right alike."""
    trunk = smooth_union([TORSO, NECK, *both(SHOULDER_SLOPE, ARM, LEG)], blend=0.020)
    foot = above_floor(FOOT, FLOOR, rounding=0.004)
    return smooth_union([trunk, head(), *both(HAND, foot)], blend=0.010)


def fineness(points: np.ndarray) -> np.ndarray:
    """How long edges should be at points (n, 3), as a share of those on the trunk: (n,)."""
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]

    def step(value: np.ndarray, width: float) -> np.ndarray:
        return 1 / (1 + np.exp(-value / width))

    head_share = step(y - 0.32, 0.02) * step(0.13 - x, 0.01)
    shares = {
        "arm": 0.25 * step(x - 0.24, 0.03),
        "hand": 0.30 * step(x - 0.66, 0.02),
        "head": 0.35 * head_share,
        "face": 0.20 * head_share * step(z - 0.03, 0.015) * step(0.46 - y, 0.015),
        "leg": 0.20 * step(-0.60 - y, 0.05),
        "foot": 0.20 * step(-1.08 - y, 0.02),
    }
    return 1 - sum(shares.values())
