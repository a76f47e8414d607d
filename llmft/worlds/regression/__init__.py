"""The embedded world of task diversity (Raventos et al. 2023, arXiv:2306.15063): linear regression tasks (`tasks`), the two
Bayesian estimators that solve them (`estimators`), and small transformers pretrained on few or many of them
(`python -m llmft.worlds.regression.pretrain`), compared with the estimators (`measure`) and distilled (`distill`).
"""
