"""A simulated fleet in virtual time: the coordinator's real decision code, workers whose speed comes and goes.

    speeds   how fast each worker is, when; what no sharing can beat, and what simple ones take
    worker   one sidecar: reads ahead, computes, stages, commits, publishes, speaks when the real one speaks
    run      the events, and the coordinator as the workers see it

Nothing here waits or reads a clock: the same seed gives the same job, to the last row.
"""
