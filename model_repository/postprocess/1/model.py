"""Shared stage: patch scores and a line's constants become its verdicts."""

import cv2

from flawline.stages import triton
from flawline.stages.picture import Geometry
from flawline.stages.postprocess import LineSettings, judge
from flawline.stages.verdicts import respond


class TritonPythonModel:
    """RATIO_MAP, RATIO_SCORE, SETTINGS, CALIBRATION, GEOMETRY -> the output tensors of a line."""

    def initialize(self, args):
        cv2.setNumThreads(triton.threads(args))

    def execute(self, requests):
        return [self.respond(request) for request in requests]

    def respond(self, request):
        names = ("RATIO_MAP", "RATIO_SCORE", "SETTINGS", "CALIBRATION", "GEOMETRY")
        verdicts = []
        for patch_map, score, values, calibration, (width, height) in zip(
            *(triton.array(request, name) for name in names), strict=True
        ):
            settings = LineSettings.from_array(values)
            geometry = Geometry.fit(int(width), int(height), settings.size)
            verdicts.append(judge(patch_map, float(score[0]), geometry, settings, calibration))
        return respond(verdicts)
