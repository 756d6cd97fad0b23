"""Shared stage: what the parts of a line found, and the line's constants, become its verdicts."""

import cv2

from flawline.errors import ArtefactError
from flawline.scoring.fusion import Evidence
from flawline.scoring.picture import Geometry
from flawline.scoring.settings import LineSettings
from flawline.scoring.verdict import judge
from flawline.serving import triton
from flawline.serving.answers import respond


class TritonPythonModel:
    """SETTINGS, CALIBRATION, GEOMETRY, and DISCREPANCY or RATIO_MAP and RATIO_SCORE or all -> tensors of a line."""

    def initialize(self, args):
        cv2.setNumThreads(triton.threads(args))

    def execute(self, requests):
        return [self.respond(request) for request in requests]

    def respond(self, request):
        try:
            return respond([judge(*picture) for picture in self.pictures(request)])
        except ArtefactError as error:  # of this request alone: those beside it are answered
            return triton.fail(str(error))

    def pictures(self, request):
        """Evidence, Geometry, LineSettings and calibration of each picture of a request."""
        constants = [triton.array(request, name) for name in ("SETTINGS", "CALIBRATION", "GEOMETRY")]
        count = len(constants[0])
        maps, scores, discrepancies = (
            [None] * count if values is None else values
            for values in (
                triton.optional_array(request, name) for name in ("RATIO_MAP", "RATIO_SCORE", "DISCREPANCY")
            )
        )
        for values, calibration, (width, height), ratio_map, score, discrepancy in zip(
            *constants, maps, scores, discrepancies, strict=True
        ):
            settings = LineSettings.from_array(values)
            if (ratio_map is None) != (score is None):
                msg = "RATIO_MAP and RATIO_SCORE go together; send both or neither"
                raise ArtefactError(msg)
            evidence = Evidence(ratio_map, 0.0 if score is None else float(score[0]), discrepancy)
            yield evidence, Geometry.fit(int(width), int(height), settings.size), settings, calibration
