"""Pictures drawn by formula, on which the built-in teacher is trained: no photograph, no label by hand.

Everything is drawn in batches on the device of a `Dice`, cheap beside the training step itself. `draw_episode`
puts together a few production lines (`formula`, `structure`), plants irregularities into some of their pictures
(`irregular`) and photographs them (`camera`).
"""

from flawline.teachers.generator.dice import Dice
from flawline.teachers.generator.episode import Episode, draw_episode

__all__ = ["Dice", "Episode", "draw_episode"]
