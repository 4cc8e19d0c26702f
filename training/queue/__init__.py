"""Redis and RQ: queues, workers, the schedule, and what starts a round of learning."""
