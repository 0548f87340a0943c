"""The gate of fine-tuned models: whether a candidate may take the champion's place. Every check is looked at and told.

It must load, be the model that was measured, be better than its floor, have forgotten no more than its recipe allows, and not be
worse than the champion on the champion's own test examples, none of which it has learned. Thresholds: `promote` of the recipe.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gpt.code import code_hash
from gpt.errors import UserError
from gpt.evaluation.comparison import Difference
from gpt.files import sha256_json
from gpt.finetuning.judging.again import judge_again
from gpt.finetuning.judging.outcomes import Outcomes, against_floor, against_other
from gpt.finetuning.methods.saving import load_answering, load_classifier
from gpt.finetuning.registering.judged_on import JudgedOn, judging_identity, read_judged_on
from gpt.model.storage import default_device
from gpt.params.finetuning import Recipe
from gpt.registry.gate.judge import describe_standing, has_same_weights, regression
from gpt.registry.gate.reasons import TEST_DATA, CannotJudge, Reason
from gpt.registry.record import read_record
from gpt.registry.versions import ROLLED_BACK_TAG, model_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from gpt.registry.gate.scores import Comparison

_PACKAGE = Path(__file__).parents[2]
# A verdict by other code is another one.
_CODE = (
    Path(__file__),
    Path(__file__).with_name("judged_on.py"),
    _PACKAGE / "finetuning" / "judging" / "again.py",
    _PACKAGE / "finetuning" / "judging" / "outcomes.py",
    _PACKAGE / "evaluation" / "comparison.py",
    _PACKAGE / "registry" / "gate" / "judge.py",
)


@dataclass(frozen=True)
class FineTunedCase:
    """A candidate, beside the champion if there is one, by the thresholds of a recipe."""

    client: "MlflowClient"
    candidate: "ModelVersion"
    champion: "ModelVersion | None"
    recipe: Recipe
    "As it is now: of it the thresholds and the seed of the intervals count."
    other_data: bool = False
    "A person has decided that the champion's examples do not matter: floor and forgetting do, as for the first model."

    def depends_on(self) -> str:
        """Return a hash of what the verdict depends on: with another one, the question is asked again."""
        champion = None if self.champion is None else [self.champion.version, self.champion.tags.get("weights_sha256")]
        code = {path.name: code_hash(path) for path in _CODE}
        settings = [self.recipe.promote.model_dump(mode="json"), self.recipe.seed, judging_identity()]
        held_back = ROLLED_BACK_TAG in self.candidate.tags
        return sha256_json([self.candidate.version, champion, settings, code, self.other_data, held_back])

    @cached_property
    def own(self) -> JudgedOn:
        """Return what the candidate was judged on when it was registered."""
        found = read_judged_on(self.client, self.candidate)
        if found is None:
            raise CannotJudge(f"{_name(self.candidate)}: does not hold what it was judged on; register it again")
        return found

    @cached_property
    def champions(self) -> JudgedOn:
        assert self.champion is not None, "asked only where there is one"
        found = read_judged_on(self.client, self.champion)
        if found is None:
            raise CannotJudge(
                f"{_name(self.champion)}: does not hold what it was judged on; register it again, or decide without a comparison:"
                f" `gpt promote --name {self.champion.name} --other-data`"
            )
        return found

    def compare(self, reasons: tuple[Reason, ...]) -> "Comparison | None":
        """Return None: the figures of a comparison are in the reasons, and no page is drawn of it."""
        return None

    def judge(self) -> Iterator[Reason]:
        """Yield everything that the gate looks at; raises `CannotJudge` if a version does not hold what it was judged on."""
        yield from describe_standing(self.candidate)
        yield from self._is_whole()
        seed, confidence = self.recipe.seed, self.recipe.promote.confidence
        for measure in self.own.outcomes.measures:
            if found := against_floor(self.own.outcomes.of(measure), seed=seed, confidence=confidence):
                yield self._above_floor(measure, found)
        yield from self._forgetting()
        if self.champion is None or self.other_data:
            return
        if has_same_weights(self.candidate, self.champion):
            text = f"no improvement: the weights are those of champion version {self.champion.version}"
            yield Reason("other_weights", False, text)
            return
        yield from self._against_champion(self.champion)

    def _is_whole(self) -> Iterator[Reason]:
        weights = self.candidate.tags.get("weights_sha256")
        same = self.own.evaluation["weights_sha256"] == weights
        yield Reason(
            "evaluation", same, f"it was measured with {'its' if same else 'other'} weights, {str(weights)[:12]}"
        )
        folder = model_folder(self.client, self.candidate)
        try:
            (load_classifier if self.own.evaluation["task"] == "classify" else load_answering)(folder)
        except UserError as error:
            yield Reason("loads", False, f"it does not load: {error}")
        else:
            yield Reason("loads", True, "it loads")

    def _above_floor(self, measure: str, found: Difference) -> Reason:
        least = self.recipe.promote.min_gain
        passed = found.mean > least
        interval = f"{found.confidence:.0%} interval {found.low:+.4f} to {found.high:+.4f}"
        chance = ", so chance may have done it" if found.low <= least else ""
        text = (
            f"{found.candidate:.4f} against its floor's {found.champion:.4f} on {found.pieces} test examples: a gain of"
            f" {found.mean:+.4f}, {f'above {least:g} ({interval}{chance})' if passed else f'not above {least:g} ({interval})'}"
        )
        return Reason(f"{measure}.floor", passed, text, found.candidate, found.champion + least, *_limits(found))

    def _forgetting(self) -> Iterator[Reason]:
        if forgetting := self.own.evaluation.get("forgetting"):
            more, most = forgetting["after"] - forgetting["before"], self.recipe.promote.max_forgetting
            text = f"the base model's held-out text costs {more:+.4f} bits per byte, at most {most:g} more"
            yield Reason("forgetting", more <= most, text, more, most)

    def _against_champion(self, champion: "ModelVersion") -> Iterator[Reason]:
        whose = f"champion version {champion.version}"
        examples, theirs = self.champions.examples, self.champions
        if theirs.evaluation["task"] != self.own.evaluation["task"]:
            text = f"{whose} has learned another kind of task; `gpt promote --name {champion.name} --other-data` decides so by name"
            yield Reason(TEST_DATA, False, text)
            return
        learned = self.own.has_learned(examples)
        text = f"it has learned {learned} of the {len(examples)} test questions of {whose}, at most 0"
        yield Reason("contamination", learned == 0, text, learned, 0)
        own, others = self._outcomes(champion)
        seed, confidence = self.recipe.seed, self.recipe.promote.confidence
        for measure in others.measures:
            found = against_other(own.of(measure), others.of(measure), seed=seed, confidence=confidence)
            yield regression(
                f"{measure}.kept", found, self.recipe.promote.max_regression, "test examples", f"{whose} alone has it"
            )

    def _outcomes(self, champion: "ModelVersion") -> tuple[Outcomes, Outcomes]:
        """Return what came of the champion's test examples, by the candidate and by the champion: stored, or judged again."""
        now = judging_identity()
        others = self.champions.outcomes
        if self.champions.scored_with != now:
            others = self._again(champion)
        own = self.own.outcomes
        if self.own.scored_with != now or not _rows(others) <= _rows(own):
            own = self._again(self.candidate)
        return own, others

    def _again(self, version: "ModelVersion") -> Outcomes:
        try:
            values = read_record(self.client, version).values["recipe"]["values"]
            recipe = Recipe.model_validate(values)
            return judge_again(recipe, model_folder(self.client, version), self.champions.examples, default_device())
        except (KeyError, ValueError) as error:
            raise CannotJudge(f"{_name(version)}: its recipe is none that this release reads ({error})") from None
        except UserError as error:
            raise CannotJudge(
                f"{_name(version)}: cannot be judged on the champion's test examples ({error}); to decide without:"
                f" `gpt promote --name {version.name} --other-data`"
            ) from None


def _rows(outcomes: Outcomes) -> set[tuple[str, str]]:
    return set(zip(outcomes.example.tolist(), outcomes.measure.tolist(), strict=True))


def _limits(found: Difference) -> tuple[float | None, float | None]:
    values = found.to_dict()
    return values["low"], values["high"]


def _name(version: "ModelVersion") -> str:
    return f"models:/{version.name}/{version.version}"
