"""HICO-DET's 80 objects, which are COCO's, and its 117 verbs; QPIC's files only number them."""

from projects.detr.coco import COCO_CATEGORY_IDS

OBJECTS = """
person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign
parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella
handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard
surfboard tennis_racket bottle wine_glass cup fork knife spoon bowl banana apple sandwich orange
broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed dining_table toilet tv laptop
mouse remote keyboard cell_phone microwave oven toaster sink refrigerator book clock vase scissors
teddy_bear hair_drier toothbrush
"""
VERBS = """
adjust assemble block blow board break brush_with buy carry catch chase check clean control cook cut
cut_with direct drag dribble drink_with drive dry eat eat_at exit feed fill flip flush fly greet
grind groom herd hit hold hop_on hose hug hunt inspect install jump kick kiss lasso launch lick
lie_on lift light load lose make milk move no_interaction open operate pack paint park pay peel pet
pick pick_up point pour pull push race read release repair ride row run sail scratch serve set shear
sign sip sit_at sit_on slide smell spin squeeze stab stand_on stand_under stick stir stop_at
straddle swing tag talk_on teach text_on throw tie toast train turn type_on walk wash watch wave
wear wield zip
"""

# By category id, in the order of the ids; the names as HICO-DET spells them.
COCO_OBJECTS = dict(zip(sorted(COCO_CATEGORY_IDS), OBJECTS.split(), strict=True))
HICO_VERBS = tuple(VERBS.split())  # in alphabetical order, which is that of their ids 1 to 117
