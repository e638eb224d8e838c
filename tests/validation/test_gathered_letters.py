import itertools
import random

from tfslim_core.validation.gathered_letters import GatheredLetters
from tfslim_core.validation.records import Letter


def letter(number):
    return Letter("test", number, f"error {number % 3}", f"input {number}", ends=number % 50 == 0)


def gathered(letters, most=10):
    found = GatheredLetters(most)
    for one in letters:
        found.add(one)
    return found


def test_the_first_are_kept_and_the_rest_is_counted_by_error():
    told = gathered(letter(number) for number in range(1, 100)).all()
    assert told[:10] == [letter(number) for number in range(1, 11)]
    assert [(one.place, one.error, one.count, one.shown) for one in told[10:13]] == [
        (11, "error 2", 29, None),
        (12, "error 0", 30, None),
        (13, "error 1", 29, None),
    ]
    assert told[13:] == [letter(50)]
    assert sum(one.count for one in told) == 99


def test_any_split_merged_in_any_order_is_the_whole():
    letters = [letter(number) for number in range(300)]
    whole = gathered(letters).all()
    for seed in range(10):
        mixed = random.Random(seed)
        shuffled = mixed.sample(letters, len(letters))
        cuts = [0, *sorted(mixed.sample(range(300), 5)), 300]
        total = GatheredLetters(10)
        for start, stop in itertools.pairwise(cuts):
            total.merge(gathered(shuffled[start:stop]))
        assert total.all() == whole


def test_errors_that_all_differ_take_no_more_room():
    told = gathered(Letter("test", number, f"at {number}") for number in range(5000)).all()
    assert len(told) == 10 + 1000 + 1
    assert sum(one.count for one in told) == 5000
    assert told[-1].error == "errors of further kinds"
