"""segmenter: the teacher's backbone, tuned from end to end to mark synthetic defects."""
