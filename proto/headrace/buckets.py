"""Upper bounds of the histograms that workers fill and the coordinator serves: both must count by the same ones.

Numbers are inclusive bounds; one more bucket counts what is above the last. A change of them is a change of the
protocol between workers and coordinator.
"""

BATCH_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
BATCH_ROWS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
