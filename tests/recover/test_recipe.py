import json
from typing import Any

import pytest

from kronexport.errors import UserInputError
from kronexport.recover.recipe import Recipe


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, r"epochs: got 0, expected a whole number of at least 1"),
        ({"batch": True}, r"batch: got True"),
        ({"optimizer": "lbfgs"}, r"optimizer: got 'lbfgs', expected one of adamw, muon, sgd"),
        ({"learning_rate": float("nan")}, r"learning_rate: got nan, expected a finite number above 0"),
        ({"features": -1.0}, r"features: got -1.0"),
        ({"mixed": -0.1}, r"mixed: got -0.1, expected a part, 0 to 1"),
        ({"mixed": 0.5, "cross_entropy": 0.1}, r"mixed: got 0.5, expected 0 where cross_entropy is above 0"),
        ({"cross_entropy": 1.5}, r"cross_entropy: got 1.5, expected a part, 0 to 1"),
        ({"ema": 1.0}, r"ema: got 1.0"),
        ({"stop_at": "0.9"}, r"stop_at: got '0.9', expected a finite score, or None"),
        ({"stop_at": float("nan")}, r"stop_at: got nan"),
        ({"epochs": 2, "block_epochs": 3}, r"block_epochs: got 3, expected at most epochs, which is 2"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        Recipe(**wrong)


def test_a_recipe_is_written_whole() -> None:
    recipe = Recipe(epochs=3, cross_entropy=0.1)
    assert Recipe(**json.loads(json.dumps(recipe.to_json()))) == recipe
