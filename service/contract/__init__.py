"""What goes over the wire: schemas, bodies, problems, the OpenAPI document."""
