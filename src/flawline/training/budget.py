"""One budget of time for everything that a build trains."""

from flawline.training.loop import Training


class Budget:
    """Shares a number of seconds among the trainings of a build, one after the other.

    Each training gets an equal part of what those before it left. A training that ends early leaves its rest to
    those after it, and a build that goes on from checkpoints gives the same shares as an unbroken one.

    Attributes:
        before: seconds that trainings spent in earlier, interrupted runs.

    """

    def __init__(self, seconds: float | None = None, trainings: int = 1) -> None:
        """Begin with everything left.

        Args:
            seconds: seconds for all trainings together, above 0; None sets no limit.
            trainings: number of trainings that the build is going to do.

        Raises:
            ValueError: `seconds` is not above 0, or `trainings` is negative.

        """
        if (seconds is not None and not seconds > 0) or trainings < 0:
            msg = f"a budget has more than 0 seconds for 0 or more trainings, not {seconds} for {trainings}"
            raise ValueError(msg)
        self._left, self._to_come = seconds, trainings
        self.before = 0.0

    def share(self) -> float | None:
        """Give the seconds for the next training, 0 or more; None without a limit.

        A training does at least one step, even with a share of 0.
        """
        if self._left is None:
            return None
        return max(self._left, 0.0) / max(self._to_come, 1)

    def spend(self, training: Training | None) -> None:
        """Take off what a training took, its earlier, interrupted runs included; None took nothing."""
        self._to_come -= 1
        if training is None:
            return
        self.before += training.seconds_before
        if self._left is not None:
            self._left -= training.seconds
