"""The learner: a guest process that takes part in one training run and leaves.

Started by the agent with an invitation, it joins Flower with the device's key, answers the questions of
`protocol.questions` from the local sample buffer, and ends with the run. It never touches inference, and it runs no code that came from
a server: questions are data, the model is the one whose bundle this device verified.

::

    __main__ ─► enrolled files (bundle, buffer, key) ─► LocalLearner ─► ClientApp ─┐
             ─► FlowerClient (HTTPS, node key) ──────────────────────► participation ┴─► answers

Read first: `local_learner` (what is answered), `participation` (how a run is survived), `flower_client` (the wire).
"""
