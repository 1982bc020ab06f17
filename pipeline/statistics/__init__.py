"""From counts of correct answers to accuracies, intervals and comparisons; and the seeded draws of everything random.

accuracy     counts -> accuracies and the derived values of the tables
intervals    over every source of chance: test examples, seeds, tasks, trainings of the experts
contrasts    differences between the settings of a study
ranks        whether a rank correlation of few points can be chance
pac_bayes    bounds of a risk from a sample, PAC-Bayes
sampling     seeded generators, samples of examples, batches
"""
