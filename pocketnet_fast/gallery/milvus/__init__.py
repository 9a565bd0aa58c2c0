"""Galleries on Milvus: the same people, faces and answers, beyond one machine."""
