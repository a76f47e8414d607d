"""`python -m llmft.compose`: the command of `llmft.pipelines.compose`."""
