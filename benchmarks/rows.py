"""The rows of the published tables that take long: which recipe, for how long, with which flags."""

import sys
from pathlib import Path
from typing import NamedTuple

EVALUATION = "--evaluation."


class Row(NamedTuple):
    """One run.

    Attributes:
        recipe: its recipe.
        iterations: after how many it is done.
        seed: its seed.
        flags: further flags of `innerloop train`.
        label: distinguishes rows of the same recipe, algorithm and seed.
        algorithm: the row of the table of algorithms; the recipe's own if empty.
    """

    recipe: str
    iterations: int
    seed: int = 0
    flags: tuple[str, ...] = ()
    label: str = ""
    algorithm: str = ""

    @property
    def name(self) -> str:
        """The name of its run directory and result."""
        return "-".join(part for part in (self.recipe, self.algorithm, self.label, f"seed{self.seed}") if part)

    @property
    def may_end_early(self) -> bool:
        """Whether it ends where validation gets no better."""
        return any(flag.startswith("--log.patience") for flag in self.flags)

    @property
    def evaluation(self) -> dict[str, str]:
        """What its flags ask of the evaluation, by the names of the settings."""
        pairs = [flag.removeprefix(EVALUATION).split("=", 1) for flag in self.flags if flag.startswith(EVALUATION)]
        return {pair[0].replace("-", "_"): pair[1] for pair in pairs if len(pair) == 2}

    def command(self, runs: Path) -> list[str]:
        """What trains, evaluates and reports it, from wherever it stands."""
        places = [f"--seed={self.seed}", f"--outer.iterations={self.iterations}", f"--run-dir={runs / self.name}"]
        algorithm = [f"--algorithm={self.algorithm}"] if self.algorithm else []
        return [sys.executable, "-m", "innerloop", "train", self.recipe, *algorithm, *self.flags, *places]

    def evaluation_command(self, runs: Path) -> list[str]:
        """What evaluates it as its flags ask, where it is trained and was evaluated with other settings."""
        asked = [flag for flag in self.flags if flag.startswith(EVALUATION)]
        return [sys.executable, "-m", "innerloop", "evaluate", str(runs / self.name), *asked]


# Baselines do not depend on what was trained but for the seed: the first seed of a recipe has them, those of the robots
# trained for longer. Of the ants the oracle alone: no policy that does not observe the direction can be good in all.
ALONE = ("--evaluation.no-baselines",)
ANTS = ("--evaluation.baseline-iterations=300", "--evaluation.oracle-iterations=2000")
# The published schedule of all supervised rows is 60,000 meta-steps, and validation may end it.
SCHEDULE = 60_000
PATIENT = ("--log.patience=20",)
TOGETHER = ("--evaluation.ensemble=5", *PATIENT)
SUPERVISED = (
    Row("omniglot-5way-1shot", SCHEDULE, 0, TOGETHER, algorithm="fomaml"),
    Row("omniglot-5way-5shot", SCHEDULE, 0, TOGETHER),
    *(Row("omniglot-20way-1shot", SCHEDULE, 0, TOGETHER, algorithm=each) for each in ("maml++", "fomaml", "")),
    *(Row("omniglot-20way-5shot", SCHEDULE, 0, TOGETHER, algorithm=each) for each in ("maml++", "")),
    *(
        Row(f"miniimagenet-5way-{shots}shot", SCHEDULE, 0, TOGETHER, algorithm=each)
        for shots in (1, 5)
        for each in ("fomaml", "")
    ),
)
# What two cores can do in an hour: a part of the schedule, which the cosine knows of, and five queries of a class,
# closer to the one that the statistics of the query set come from at test.
BRIEF = (
    "--tasks.queries=5", "--outer.schedule=cosine", "--log.validate-every=100",
    "--evaluation.ensemble=5", "--evaluation.no-baselines",
)  # fmt: skip
IN_AN_HOUR = (
    Row("miniimagenet-5way-1shot", 10_000, 0, BRIEF, "brief", "fomaml"),
    Row("miniimagenet-5way-5shot", 2_000, 0, BRIEF, "brief", "protonet"),
)
# Tasks of more classes in training than at test, and pools, on both cores: a part of the published schedule in an hour.
MANY_WAYS = ("--published", "--outer.meta-batch=2", "--evaluation.ensemble=5", "--evaluation.no-baselines")
PROTOTYPES = (
    Row("omniglot-20way-5shot", 3_000, 0, MANY_WAYS, "published", "protonet"),
    Row("omniglot-20way-1shot", 3_000, 0, MANY_WAYS, "published", "protonet"),
)
ALONE_AS_PUBLISHED = ("--published", *ALONE, *PATIENT)
AS_PUBLISHED = (
    Row("omniglot-5way-1shot", 100_000, 0, ALONE_AS_PUBLISHED, "published", "reptile"),
    Row("omniglot-5way-1shot", 20_000, 0, ALONE_AS_PUBLISHED, "published", "imaml"),
    Row("omniglot-5way-1shot", SCHEDULE, 0, ALONE_AS_PUBLISHED, "published", "meta-sgd"),
    Row("omniglot-5way-1shot", SCHEDULE, 0, ALONE_AS_PUBLISHED, "published", "boil"),
    Row("omniglot-20way-1shot", SCHEDULE, 0, (*ALONE, *PATIENT), algorithm="anil"),
)
# The same within ten minutes each on two cores: a part of the schedule, over which the step size falls. Not iMAML:
# with 16 inner steps, a meta-step takes 1.5 s.
FALLING = ("--outer.schedule=cosine", *ALONE)
IN_MINUTES = (
    Row("omniglot-5way-1shot", 12_000, 0, ("--published", *ALONE), "brief", "reptile"),
    Row("omniglot-5way-1shot", 8_000, 0, ("--published", *FALLING), "brief", "meta-sgd"),
    Row("omniglot-5way-1shot", 6_000, 0, ("--published", *FALLING), "brief", "boil"),
    Row("omniglot-20way-1shot", 3_000, 0, FALLING, "brief", "anil"),
)
# What a user should take at 20 ways is found on validation tasks: each for a twentieth of the schedule, which its
# annealing and its cosine know of.
SEARCHED = 3_000
RATES_AT_TWENTY = (0.1, 0.5, 2.0)
TWENTY_WAYS = (
    *(
        Row(
            "omniglot-20way-1shot",
            SEARCHED,
            0,
            (f"--inner.learning-rate={rate}", "--evaluation.no-baselines", *flags),
            "-".join(part for part in ("short", f"rate{rate:g}", *(flag.split("=")[1] for flag in flags)) if part),
            algorithm,
        )
        for rate in RATES_AT_TWENTY
        for algorithm, flags in (
            ("", ()),
            ("", ("--outer.schedule=cosine",)),
            ("maml+da", ()),
            ("maml+da", ("--outer.schedule=cosine",)),
            ("fomaml", ()),
        )
    ),
)
REINFORCEMENT = (
    *(Row("rl-navigation-2d", 100, seed) for seed in range(3)),
    *(Row("rl-cheetah-direction", 100, seed, ALONE) for seed in range(3)),
    Row("rl-cheetah-velocity", 475, 0, ALONE),
    Row("rl-ant-velocity", 375, 0, ALONE),
    Row("rl-ant-direction", 575, 0, ALONE),
    Row("rl-navigation-2d", 1, 0, (), "baselines"),
    Row("rl-cheetah-direction", 1, 0, ("--evaluation.baseline-iterations=1000",), "baselines"),
    Row("rl-cheetah-velocity", 1, 0, ("--evaluation.baseline-iterations=1000",), "baselines"),
    Row("rl-ant-direction", 1, 0, ANTS, "baselines"),
    Row("rl-ant-velocity", 1, 0, ANTS, "baselines"),
)


ROWS = (*REINFORCEMENT, *IN_AN_HOUR, *SUPERVISED, *PROTOTYPES, *IN_MINUTES, *AS_PUBLISHED, *TWENTY_WAYS)
