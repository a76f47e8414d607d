"""`python -m llmft.self_study`: the command of `llmft.pipelines.self_study`."""
