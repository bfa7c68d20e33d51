"""What `data` holds in the JSON of every verb, as types that `pdctl schema` turns into a schema."""

VERBS_WITH_DATA = ()
DATA: dict[str, object] = {}
