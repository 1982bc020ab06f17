"""What tests share: small problems and suites, replicas of the hub, a finished run, a pretended GPU."""
