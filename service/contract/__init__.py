"""The contract with callers: schemas, bodies, problems, the OpenAPI document."""
