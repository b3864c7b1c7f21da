"""What answers cost: from GPU price, number of GPUs and the throughput of a full queue. Pure functions."""

S_PER_HOUR = 3600.0


def usd_per_1k_questions(
    usd_per_gpu_hour: float, tokens_per_question: float, tokens_per_s: float, num_gpus: int = 1
) -> float:
    """Price of 1,000 answers of that mean length.

    tokens_per_s: completion tokens of all the GPUs together, measured with the queue full. Raises ValueError for a
    throughput that is not above 0.
    """
    if tokens_per_s <= 0:
        raise ValueError(f"tokens_per_s is {tokens_per_s}, must be above 0")
    return 1000 * tokens_per_question / tokens_per_s * num_gpus * usd_per_gpu_hour / S_PER_HOUR


def usd_per_correct_answer(usd_per_1k: float, accuracy: float) -> float | None:
    """Price of one right answer, wrong ones paid too; None where none is right."""
    return usd_per_1k / 1000 / accuracy if accuracy > 0 else None
