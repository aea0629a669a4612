"""The text that every published model's loss is measured on, so that families with different tokenizers share an axis.

It was written for this program, so no model was trained on it before this program was published, and none has it by
heart. It is ordinary prose of several kinds: a story, news, instructions, explanation, talk. A change of a character
makes losses incomparable with those of older results, which :data:`REFERENCE_FINGERPRINT` would tell.
"""

from __future__ import annotations

from emergence.files import content_digest

REFERENCE_TEXT = (
    "The ferry that crossed the estuary twice a day had been painted green so many times that nobody remembered its "
    "first colour. Marta, who sold the tickets, kept a tin of the paint under her bench and touched up the railings "
    "whenever the fog came in and there was nothing to see.",
    "On the morning of the third, a man in a grey coat asked her whether the boat would carry a piano. She told him "
    "that it had carried a bride, two cows and most of a chapel, and that a piano would only have to wait its turn.",
    "He had bought the instrument from a widow in the next valley, who had given it to him for less than it was worth "
    "because he had promised to play it every day. Her husband had never let anyone else touch the keys.",
    "When the crane lifted the crate from the quay, one of the ropes slipped and the whole load swung out over the "
    "water. The boy who held the other rope did not let go. Afterwards his palms were raw, and the man paid the "
    "doctor before anyone could ask who should.",
    "The town council voted on Tuesday to close the upper bridge for repairs that are expected to last until the end "
    "of October. Engineers found cracks in two of the supports in spring, and a second inspection, which was carried "
    "out last month by an outside firm, confirmed that heavy lorries could no longer be allowed to use it.",
    "Shop owners on the east bank said that they had been told of the decision only a day before. The mayor replied "
    "that letters had been sent to every address in August and that a shuttle bus would run every twenty minutes.",
    "The cost of the work, estimated at 4.2 million, will be shared by the county and the state. Opponents of the "
    "plan argued that a new bridge would have been cheaper in the long run; supporters pointed out that the old one "
    "has carried traffic since 1931 and that people are fond of it.",
    "To mend a torn sail you need a strong needle, waxed thread, a palm to push the needle with, and patience. Lay the "
    "cloth flat and pull the edges of the tear together without stretching them. Begin a hand's width before the "
    "damage and make each stitch as long as your thumbnail is wide.",
    "If the cloth has been burnt, cut away the hard edge first, because thread pulls through it. A patch should be "
    "sewn on both sides, and the one that faces the wind should be the larger of the two.",
    "Never store a sail wet. Mould grows between the folds within days, and although it can be bleached, the fibres "
    "that it has eaten are gone.",
    "Rivers carry more than water. Every flood moves sand and gravel downstream, and where the current slows, the load "
    "is dropped: the coarse stones first, then the sand, and at last the mud that makes the flat fields near the sea "
    "so fertile. A dam interrupts this. The lake behind it fills with what the river brings, while below it the banks "
    "are worn away and not replaced.",
    "Some of the effects can be undone. Gates near the bottom of a dam, opened for a few days each year, let the mud "
    "through, and fish that had not been seen for decades have come back within a season or two. Whether this is worth "
    "the electricity that is lost depends on whom you ask.",
    "Glass is not quite a liquid and not quite a crystal. Its atoms are locked in place as firmly as those of a rock, "
    "but they lie in no order, as if a crowd had been told to stand still in the middle of a dance. That old windows "
    "are thicker at the bottom is due to the way the panes were made and not to any slow flow.",
    '"You gave the keys to whom?" asked Ines. "To the woman from the agency," said her brother. "She showed me a '
    'card." "Anyone can print a card. Did you at least write down her name?" He had not, but the neighbour\'s '
    "daughter, who noticed everything, had taken a photograph of the car.",
    "It turned out that the woman was exactly who she had said she was. She had measured the rooms, fed the cat, "
    "watered the fern that Ines had given up on, and left the keys with the baker, as she had been asked to do by "
    "somebody who then forgot to mention it.",
    "The committee received eleven proposals. Four were rejected because they arrived late, and two more were "
    "withdrawn by their authors. Of those that remained, the reviewers preferred the one from the smallest group, "
    "which asked for half the money and explained in plain words what would be done if the first experiment failed.",
    "In the experiment, seedlings were grown under red, blue or white lamps for six weeks. Those under blue light were "
    "shorter but had thicker stems, and when a fan was switched on for an hour a day the difference disappeared. The "
    "authors suggest that plants may use the colour of light to guess how exposed they are.",
    "My grandmother counted in three languages: in one for money, in another for stitches, and in the third for the "
    "seconds between lightning and thunder. When I asked her why, she said that each of them had been taught to her by "
    "somebody who was good at that one thing.",
    "The goalkeeper had been bought from a club in the second division for almost nothing. By the end of the season he "
    "had saved five penalties, been interviewed by everybody, and learned to answer every question by praising the "
    "defenders in front of him, two of whom he secretly could not stand.",
    "Dear Mr Halloran, thank you for the parcel, which reached us on Friday. The lamp is whole, but the shade was "
    "crushed on one side and the screws that should hold it are missing. Could you send us new ones, or tell us which "
    "size we should ask for? We would rather repair it than return it. Yours sincerely, A. and T. Okafor",
    "Before maps were printed they were copied by hand, and every copyist corrected what he took for mistakes. An "
    "island that one sailor had sketched from memory was moved, enlarged, given a harbour and a king, and remained on "
    "the charts for two hundred years after somebody had sailed straight through the place where it should have been.",
    "The recipe calls for six lemons, but it was written down by a person who grew small ones. Four are enough. Warm "
    "the milk slowly, and stir in the juice only after the pan has been taken off the stove, or it will curdle and "
    "you will have made cheese, which is a different recipe on the next page.",
)

#: Identity of the text.
REFERENCE_FINGERPRINT = content_digest(list(REFERENCE_TEXT))
