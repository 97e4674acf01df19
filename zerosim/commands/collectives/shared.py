"""What the parts of the command share: which algorithm, for which verb and how many ranks."""

from zerosim.collectives import AUTO, NATIVE, VERBS, Algorithm, find, prove
from zerosim.errors import InputError


def algorithm_and_verb(name: str, verb: str | None) -> tuple[Algorithm, str]:
    """Return an algorithm and the verb to look at: the one that is asked for, or else the most that it can do.

    Raises InputError if there is no such algorithm or verb.
    """
    checked_verb(verb)
    if name == NATIVE:
        raise InputError("native is the MPI library's own: its exchanges cannot be seen; train and bench can use it")
    if name == AUTO:
        raise InputError("auto is none of its own: it picks one by size; train and bench can use it")
    try:
        algorithm = find(name, verb)
    except ValueError as error:
        raise InputError(f"algorithm: {error}") from None
    if verb is None:
        alone = list(algorithm.own) == ["all_gather"] or (not algorithm.proven and len(algorithm.own) == 1)
        verb = next(iter(algorithm.own)) if alone else "all_reduce"
    return algorithm, verb


def checked_verb(verb: str | None) -> str:
    """Return the verb, by default all_reduce. Raises InputError if there is no such verb."""
    if verb is not None and verb not in VERBS:
        raise InputError(f"verb: {verb!r} is not known; choose from {', '.join(VERBS)}")
    return verb or "all_reduce"


def right_algorithm(name: str, N: int) -> Algorithm:
    """Return an algorithm; a reader's own is proved first. Raises InputError if it is wrong or there is none."""
    algorithm, _ = algorithm_and_verb(name, None)
    try:
        if not algorithm.proven:
            prove(algorithm, N)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None
    return algorithm


def short_name(name: str) -> str:
    """An algorithm's name for a narrow column: that of the function alone."""
    return name.rpartition(":")[2] if ".py:" in name else name


def checked_ranks(N: int, most: int, least: int = 1) -> int:
    """Return N. Raises InputError if it is not `least` to `most`."""
    if not least <= N <= most:
        raise InputError(f"ranks: {N} must be {least} to {most:,}")
    return N


def checked_seed(seed: int) -> int:
    """Return the seed. Raises InputError if it is less than 0."""
    if seed < 0:
        raise InputError(f"seed: {seed} must be 0 or more")
    return seed
