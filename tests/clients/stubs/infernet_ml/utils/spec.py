"""The one name that infernet-client takes, as the type of an answer."""

ServiceResources = dict
