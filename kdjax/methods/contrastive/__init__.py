"""Methods that tell the teacher's view of an example from its view of others."""
