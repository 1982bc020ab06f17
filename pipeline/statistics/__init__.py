"""Integer counts of right answers -> accuracies, intervals and comparisons.

accuracy     counts -> accuracies and what tables show of them
bootstrap    intervals that count every source of chance: test images, seeds, tasks, trainings of the experts
contrasts    differences between the settings of a study
"""
