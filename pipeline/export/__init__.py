"""A merged model as a folder that other programs load: `python -m stages.export`. Not a stage.

selection   which merge: suite, method, seed and task, checked before any work
lineage     the stages behind a merge, from its name
portable    the plain encoder of a merge, its heads, and tensors that plain classes cannot hold
images      a CLIP image tower in the names and configurations of transformers and open_clip
texts       BERT and GPT-2 in those of transformers, and the tokeniser
origins     base and experts, and the base's text tower
card        the model card: origins, parameters, protocol, accuracies
upload      to the Hugging Face hub
folder      all of it in one folder, which appears complete or not at all
"""
