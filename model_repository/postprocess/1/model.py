"""Shared stage: what the parts of a line found becomes its verdicts, by the rules of its artefact."""

import cv2

from flawline.artefact.rules import Rules
from flawline.artefact.shelf import Shelf
from flawline.scoring.finding import ROLES, Finding
from flawline.scoring.verdict import judge, rule
from flawline.serving import triton
from flawline.serving.answers import respond, shows, wanted_by
from flawline.serving.checks import check_finding

LINES = 1024
"""Lines whose rules are kept; they are a few kilobytes each, and S x S bytes more with regions to ignore."""


class TritonPythonModel:
    """ARTEFACT_KEY, GEOMETRY and for each part MAP_n, SCORE_n or BOXES_n -> the output tensors of a line."""

    def initialize(self, args):
        cv2.setNumThreads(triton.threads(args))
        self.shelf = Shelf(triton.repository(args), Rules.load, most=LINES)

    def execute(self, requests):
        return [triton.answered(self.respond, request) for request in requests]

    def respond(self, request):
        wanted = wanted_by(request)
        return respond(list(self.rulings(request, judge if shows(wanted) else rule)), wanted)

    def rulings(self, request, ruled):
        """What `ruled`, which is judge or rule, says of each picture of a request."""
        rules = self.shelf.get(triton.key(request))
        settings, calibration = rules.settings, rules.calibration.scores
        sent = [
            {
                role: values
                for role in ROLES
                if (values := triton.optional_array(request, f"{role.upper()}_{number}")) is not None
            }
            for number in range(1, len(settings.parts) + 1)
        ]
        geometries = triton.geometries(request, rules)
        for row, geometry in enumerate(geometries):
            for number, part in enumerate(sent, start=1):
                for role, values in part.items():
                    check_finding(f"{role.upper()}_{number}", values[row], geometry)
            findings = [
                Finding.of(
                    {role: values[row] for role, values in part.items()}, {role: role for role in part}
                )
                for part in sent
            ]
            yield ruled(findings, geometry, settings, calibration)
